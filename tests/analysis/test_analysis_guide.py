"""The guide to the analysis names every option, and the gallery shows every kind of figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from i2am.analysis.figures import FIGURES
from i2am.cli import main

GALLERY = Path(__file__).parents[2] / "docs" / "gallery" / "figures.md"
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "analysis.md"


@pytest.mark.parametrize("command", ["analyze", "figure"])
def test_the_guide_names_every_option_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    named = set(re.findall(r"(--[\w-]+)", GUIDE.read_text(encoding="utf-8")))
    assert options - named == {"--debug"}


def test_the_gallery_shows_every_kind_of_figure() -> None:
    text = GALLERY.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(FIGURES)
    pictures = [GALLERY.parent / path for path in re.findall(r"!\[.*?\]\((.*?)\)", text)]
    assert sorted(pictures) == sorted((GALLERY.parent / "figures").iterdir())
    assert sum(path.stat().st_size for path in pictures) < 2.5e6
    shown = {path.stem.partition("-")[2] for path in pictures}
    assert shown == set(FIGURES)
    for kind, own in FIGURES.items():
        assert own.caption in text, kind
