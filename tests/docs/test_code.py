"""The code of the documentation runs as it stands, or says why it does not.

Python of a page runs from the top down, in one namespace and one folder. Commands are parsed by the
parser of the command line, and run where that is cheap (`preparations.py`). A block that is not run is
preceded by ``<!-- Not run: REASON. -->``, or its page says so once for all of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from i2am.capture.families.lookup import known_profiles
from i2am.capture.profiles import profile as profiles
from i2am.cli import build_parser, main
from tests.docs.blocks import ROOT, Block, blocks, commands, pages
from tests.docs.preparations import PREPARATIONS, TESTED_BY, Preparation

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree")

# What Sphinx and MyST-NB do with a fence, they check themselves.
_DIRECTIVE = re.compile(r"\{[\w:-]+\}")
_SHOWN = ("", "bash", "console", "sh", "text")
_CHECKED = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
_COMMANDS = {
    name: {option for action in command._actions for option in action.option_strings}
    for parsers in build_parser()._actions
    if isinstance(parsers, argparse._SubParsersAction)
    for name, command in parsers.choices.items()
}
_PAGES = pages() if (ROOT / "docs").is_dir() else []
_WITH_CODE = [
    page
    for page in _PAGES
    if page not in TESTED_BY
    and (
        any(block.language == "python" and not block.reason for block in blocks(page))
        or PREPARATIONS.get(page, Preparation()).runs
    )
]


def test_every_preparation_is_of_a_page() -> None:
    assert set(PREPARATIONS) <= set(_WITH_CODE)
    assert set(TESTED_BY) <= set(_PAGES)
    for page, test in TESTED_BY.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", _PAGES)
def test_every_block_is_checked_or_says_why_not(page: str) -> None:
    for block in blocks(page):
        if block.language in _CHECKED:
            _CHECKED[block.language](block.text)
        elif block.language == "py":
            assert block.reason, f"{block}: say why it is not run, or make it python"
            ast.parse(block.text)
        elif not _DIRECTIVE.match(block.language):
            assert block.language in (*_SHOWN, "python"), f"{block}: {block.language}"


@pytest.mark.parametrize("page", _WITH_CODE)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    known_profiles()  # All of them are there before a page registers its own.
    monkeypatch.setattr(profiles, "_profiles", dict(profiles._profiles))
    preparation = PREPARATIONS.get(page, Preparation())
    names = {"__name__": "page", **preparation.make(tmp_path)}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python" and preparation.as_file:
            _run_as_file(block, tmp_path)
        elif block.language == "python":
            exec(compile("\n" * block.line + block.text, str(ROOT / page), "exec"), names)
        for words in commands(block):
            if words[0] == "i2am" and words[1] in preparation.runs:
                assert main(words[1:]) == 0, f"{block}: {' '.join(words)}"
    preparation.after(tmp_path, capsys.readouterr().out)


def _run_as_file(block: Block, folder: Path) -> None:
    """Run code that starts processes, which look for the file that they come from."""
    body = block.text.replace("\n", "\n    ")
    script = folder / "page.py"
    script.write_text(f"if __name__ == '__main__':\n    {body}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], check=False, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, f"{block}: {done.stderr}"


@pytest.mark.parametrize("page", _PAGES)
def test_every_command_is_a_right_call(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        for words in commands(block):
            wrong = _fault(words, capsys)
            assert not wrong, f"{block}: {' '.join(words)}: {wrong}"


@pytest.mark.parametrize("page", _PAGES)
def test_what_prose_says_of_a_command_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, rest in re.findall(r"`i2am ([a-z]+)( [^`]*)?`", text):
        if any(known.startswith(name) and known != name for known in _COMMANDS):
            continue  # A shell completes it.
        assert name in _COMMANDS, f"{page}: i2am {name}"
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", rest):
            known = [one for one in _COMMANDS[name] if one.startswith(option)]
            assert known, f"{page}: i2am {name} {option}"


def _fault(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is wrong with a command; of others' programs nothing is known."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return "".join(w for w in words[1:] if re.fullmatch(r"[a-z-]+", w) and w not in targets)
    if words[:2] == ["pip", "install"]:
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        asked = re.findall(r"i2am\[([\w,-]+)\]", " ".join(words))
        extras = {extra for one in asked for extra in one.split(",")}
        return ", ".join(sorted(extras - set(known["optional-dependencies"])))
    # By itself, or started by another program.
    starts = [i for i, word in enumerate(words) if word == "i2am"]
    starts = [i for i in starts if i == 0 or words[i - 1] in {"-m", "srun"}]
    if not starts:
        return ""
    call = words[starts[0] + 1 :]
    # A part in brackets or capitals stands for what the reader gives.
    if not call or call[0].isupper() or any("…" in word or "[" in word for word in call):
        return ""
    for _ in range(2):
        try:
            build_parser().parse_args(call)
        except SystemExit as stopped:
            told = capsys.readouterr().err.strip()
            if not stopped.code:
                return ""
            _make_inputs(call)
        else:
            return ""
    return told


def _make_inputs(call: list[str]) -> None:
    """Make the stores and files that a call names: the parser asks whether they are there."""
    for option, word in zip(["", *call], call, strict=False):
        path = Path(word)
        if "://" in word or path.is_absolute() or path.exists():
            continue
        if path.suffix == ".zarr" or (option == "--quality" and not path.suffix):
            path.mkdir(parents=True)
        elif path.suffix in {".csv", ".jsonl", ".parquet"}:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
