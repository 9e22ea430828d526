"""What is told where packages are missing: every command names the extra that brings them."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from i2am.cli import build_parser
from i2am.cli.arguments import explain
from i2am.schemas.optional import EXTRA_PACKAGES

# By what the packages of an extra are called when they are imported.
IMPORTED = {"pillow": "PIL", "scikit-image": "skimage"}
COMMANDS = {
    "demo": "demo --out new",
    "tokens": "tokens m",
    "capture": "capture --model m --out new.zarr --manifest rows.csv",
    "analyze": "analyze run.zarr",
    "causal": "causal run.zarr --model m --out new.zarr",
    "score": "score run.zarr",
    "average": "average run.zarr",
    "compare": "compare run.zarr run.zarr",
    "figure": "figure run.zarr",
    "figure --kinds": "figure run.zarr --kinds tlam",
    "report": "report run.zarr",
    "serve": "serve run.zarr --no-open",
    "export": "export run.zarr --page new",
    "view": "view run.zarr",
    "info": "info run.zarr",
    "validate": "validate run.zarr",
    "repair": "repair run.zarr",
}
CAPTURE = ("tokens", "capture", "causal")
ANALYSIS = [c for c in COMMANDS if c not in ("demo", "view", *CAPTURE)]
# Which extra each command must name, by what is installed.
NAMED = {
    "nothing": {"demo": "capture,analysis", "view": "viewer"}
    | dict.fromkeys(CAPTURE, "capture")
    | dict.fromkeys(ANALYSIS, "analysis"),
    "capture": {"demo": "analysis", "view": "viewer"} | dict.fromkeys(ANALYSIS, "analysis"),
    "analysis": {"demo": "capture", "view": "viewer"} | dict.fromkeys(CAPTURE, "capture"),
}
PROCESS = """
import contextlib, io, json, sys
missing, calls, stages = json.loads(sys.argv[1])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from i2am.cli import main
told = {}
for name, call in calls.items():
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = main(call.split())
        except SystemExit as e:
            code = e.code
    told[name] = [code, out.getvalue(), error.getvalue()]
for stage in stages:
    try:
        __import__(f"i2am.{stage}")
    except ImportError as e:
        told[f"import {stage}"] = [type(e).__name__, "", str(e)]
print(json.dumps(told))
"""


def packages(extra: str) -> set[str]:
    """Return the names by which an extra's packages are imported, as pyproject.toml has them."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    found: set[str] = set()
    for requirement in project["optional-dependencies"][extra]:
        name = re.split(r"[\[><=!;]", requirement)[0]
        if name == "i2am":
            found |= packages("analysis")
        else:
            found.add(IMPORTED.get(name, name.replace("-", "_")))
    return found


@pytest.mark.parametrize("installed", NAMED)
def test_every_command_names_the_extra_that_is_missing(installed: str, tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "rows.csv").write_text("sample,source,mask,reference\n")
    everything = packages("capture") | packages("viewer")
    missing = everything - (set() if installed == "nothing" else packages(installed))
    calls = {name: COMMANDS[name] for name in NAMED[installed]}
    stages = sorted({"capture", "analysis"} - {installed})
    work = json.dumps([sorted(missing), calls, stages])
    call = [sys.executable, "-W", "ignore", "-c", PROCESS, work]
    answer = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    told: dict[str, list[Any]] = json.loads(answer.stdout.splitlines()[-1])
    for name, extra in NAMED[installed].items():
        code, out, error = told[name]
        assert (code, out) == (1, ""), name
        assert error.count("\n") == 1
        assert error.startswith("i2am: The "), name
        assert error.endswith(f"install with pip install 'i2am[{extra}]'.\n"), name
    for stage in stages:
        kind, _, error = told[f"import {stage}"]
        assert kind == "MissingExtra"
        assert error.endswith(f"install with pip install 'i2am[{stage}]'.")
    assert {path.name for path in tmp_path.iterdir()} == {"run.zarr", "rows.csv"}


def test_every_command_says_which_extras_it_needs() -> None:
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    assert set(commands.choices) <= set(COMMANDS)
    for name, command in commands.choices.items():
        assert command.get_default("command") == name
        assert set(command.get_default("extras")) <= set(EXTRA_PACKAGES)


@pytest.mark.parametrize("extra", EXTRA_PACKAGES)
def test_what_a_command_cannot_do_without_comes_with_its_extra(extra: str) -> None:
    needed = set(EXTRA_PACKAGES[extra]) - {"numpy"}  # which torch and zarr bring along
    assert needed <= packages(extra)


def test_a_package_that_fails_later_is_told_with_the_commands_extra() -> None:
    options = build_parser().parse_args(["report", str(Path(__file__).parent)])
    error = ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
    assert explain(error, options) == (
        "Expected the packages of 'i2am report', got ModuleNotFoundError: No module named 'jinja2'. "
        "Install with pip install 'i2am[analysis]'."
    )
