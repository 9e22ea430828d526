"""The guide to the analysis: its commands and its code run as they stand, from the top down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from i2am.analysis.figures import FIGURES
from i2am.cli import main
from tests.support import reference_maps
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.store_reads import run_guide
from tests.support.synthetic_run import SyntheticLayer, write_run

GALLERY = Path(__file__).parents[2] / "docs" / "gallery" / "figures.md"
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "analysis.md"
LAYERS = (SyntheticLayer("down", (4, 4), (4, 4)), SyntheticLayer("up", (8, 8), (2, 2)))


def test_the_commands_and_the_code_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run.zarr", ["shirt", "skirt"], LAYERS)
    for sample in ("shirt", "skirt"):
        reference_maps.change_attributes(
            tmp_path / "run.zarr" / sample, labels={"category": sample}
        )
    arrays = effect_arrays(layers=[layer.name for layer in LAYERS], orders=("map", "random"))
    write_effects(tmp_path / "effects.zarr", dict.fromkeys(("shirt", "skirt"), arrays))
    commands = ["analyze", "figure", "score", "figure", "analyze", "average"]
    assert run_guide(GUIDE) == (commands, 6)


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
