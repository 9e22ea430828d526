"""The guide to the page names every option."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from i2am.cli import build_parser

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "page.md"

pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="needs the source tree")


# What is exported in other formats has a guide of its own.
OTHER_FORMATS = {
    *("--ome-zarr", "--netcdf", "--numpy", "--table", "--pictures", "--animation"),
    *("--levels", "--layers", "--steps", "--heads", "--guidance", "--within", "--time-groups"),
    *("--ome-version", "--frames-per-second"),
}


@pytest.mark.parametrize("command", ["report", "serve", "export"])
def test_the_guide_names_every_option(command: str) -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {
        option
        for action in commands.choices[command]._actions
        for option in action.option_strings
        if option.startswith("--") and option not in {"--help", "--debug", *OTHER_FORMATS}
    }
    text = GUIDE.read_text(encoding="utf-8")
    assert {option for option in options if f"{option}" not in text} == set()
