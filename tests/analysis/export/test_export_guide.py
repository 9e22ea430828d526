"""The guide to exports names every option; its code is run with that of the other pages."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from i2am.cli import build_parser

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "export.md"

pytestmark = pytest.mark.skipif(not GUIDE.is_file(), reason="needs the source tree")


def test_the_guide_names_every_option_but_those_of_the_page() -> None:
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    options = {
        option
        for action in commands.choices["export"]._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    named = set(re.findall(r"--[\w-]+", GUIDE.read_text(encoding="utf-8")))
    assert options - named == {"--help", "--debug", "--url", "--maps-url"}
