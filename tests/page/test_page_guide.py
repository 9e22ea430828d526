"""The guide to the page: its commands run, and it names every option."""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

import pytest

from i2am.analysis import analyze_run, score_maps
from i2am.cli import build_parser, main
from tests.support.synthetic_run import LAYERS, write_run

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "page.md"

pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="needs the source tree")


@pytest.mark.parametrize("command", ["report", "serve", "export"])
def test_the_guide_names_every_option(command: str) -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {
        option
        for action in commands.choices[command]._actions
        for option in action.option_strings
        if option.startswith("--") and option not in {"--help", "--debug"}
    }
    text = GUIDE.read_text(encoding="utf-8")
    assert {option for option in options if f"{option}" not in text} == set()


def test_the_commands_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run.zarr"), ["shirt-001", "shirt-002"], LAYERS[:1], steps=1)
    analyze_run("run.zarr", "maps.zarr", progress=False)
    score_maps("maps.zarr", out="scores.csv")
    text = GUIDE.read_text(encoding="utf-8").replace("\\\n", "")
    calls = re.findall(r"^    i2am ((?:report|export) [^#\n]*)", text, flags=re.MULTILINE)
    assert len(calls) == 5
    for call in calls:
        shutil.rmtree("page", ignore_errors=True)
        effects = " --effects effects.zarr"  # Measured by a model; the report finds none here.
        assert main(call.replace(effects, "").split()) == 0
    assert Path("report.html").is_file()
    assert Path("two.html").is_file()
    assert Path("page/index.html").is_file()
