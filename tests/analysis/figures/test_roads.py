"""The figures of the roads: every panel shows what `two_hop` and `source_mass` give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, open_run
from i2am.analysis.figures import existing_kinds, load_figure
from i2am.cli import main
from tests.analysis.maps.test_roads import captured, random_reads
from tests.support.figure_reading import check_words, panels_of, texts_of
from tests.support.synthetic_run import write_run

KINDS = ("roads", "sources")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    return captured(tmp_path_factory.mktemp("roads") / "run.zarr")


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("roads", ["directly", "through the text, in two hops", "of both, what comes"] * 2),
        ("sources", ["text", "own picture", "reference", "reference 1"]),
    ],
)
def test_each_road_and_each_source_has_its_panel_and_words_fit(
    kind: str, titles: list[str], sample: xr.DataTree
) -> None:
    figure = load_figure(kind)(sample, analyze(sample))
    shown = [axes.get_title() for axes in panels_of(figure)]
    for title, wanted in zip(shown, titles, strict=False):
        assert title.startswith(wanted)
    assert len(shown) == (5 if kind == "roads" else 4)
    check_words(figure)


def test_the_road_through_the_text_is_bright_where_the_text_reads(sample: xr.DataTree) -> None:
    figure = load_figure("roads")(sample, analyze(sample))
    direct, through = (
        np.asarray(axes.images[0].get_array()).sum(-1).astype(float)
        for axes in panels_of(figure)[3:]
    )
    # The text reads the first cell of 3 × 2, the patches themselves read the last.
    for picture, place in ((through, (0, 0)), (direct, (-1, -1))):
        assert picture[place] == picture.max() > picture.min()


def drawn(figure: Any) -> list[Any]:
    """Return the pixels of all panels, and the numbers at all scales."""
    pixels = [np.asarray(one.get_array()).tobytes() for a in figure.axes for one in a.images]
    return [*pixels, *(label.get_text() for a in figure.axes for label in a.get_xticklabels())]


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_sample_is_drawn_and_named(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sample = captured(tmp_path / "run.zarr", [random_reads(0), random_reads(1)])
    first = next(iter(sample["layers"].children))
    whole = load_figure(kind)(sample, analyze(sample))
    part = load_figure(kind)(sample, analyze(sample), layers=first, steps=[0])
    assert f"layers {first}, step 0" in texts_of(part).replace("\n", " ")
    assert "step 0" not in texts_of(whole)
    assert drawn(whole) != drawn(part)
    monkeypatch.chdir(tmp_path)
    assert main(f"figure run.zarr --kinds {kind} --steps 0 --layers {first}".split()) == 0
    assert [path.name for path in Path("figures").iterdir()] == [f"a-{kind}.png"]


def test_they_exist_where_their_layers_hold_what_they_need(
    sample: xr.DataTree, tmp_path: Path
) -> None:
    assert existing_kinds(sample, KINDS) == list(KINDS)
    without = captured(tmp_path / "run.zarr", edges=())
    assert existing_kinds(without, KINDS) == ["sources"]
    plain = open_run(write_run(tmp_path / "plain.zarr"))["first"]
    assert existing_kinds(plain, KINDS) == []
