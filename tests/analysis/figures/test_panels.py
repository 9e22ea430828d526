"""Sheets stay readable whatever the pictures' shape and the number of panels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from i2am.analysis.figures import FIGURES, existing_kinds, load_figure
from i2am.analysis.figures.maps import llam
from i2am.analysis.figures.patch_maps import sram_grid
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.schemas.directions import DIRECTIONS
from tests.support.figure_reading import check_words, font_sizes, panels_of
from tests.support.pictured import Pictured, pictured

# Of any sample; the others have tests of their own.
KINDS = [
    kind
    for kind in existing_kinds(pictured(tokens="one").sample, FIGURES)
    if not FIGURES[kind].is_of_run
]


@pytest.mark.parametrize(
    ("tokens", "style"),
    [
        pytest.param("grid", FigureStyle(), id="screen"),
        pytest.param("one", FigureStyle(contrast="panel"), id="own scales"),
        pytest.param("grid", FigureStyle(width=3.3), id="column"),
        pytest.param("one", FigureStyle(width=3.3, contrast="panel"), id="column, own scales"),
        pytest.param("grid", FigureStyle(width=7), id="page"),
    ],
)
def test_words_neither_overlap_nor_leave_the_figure(tokens: str, style: FigureStyle) -> None:
    case = pictured(tokens=tokens)
    for kind in KINDS:
        figure = load_figure(kind)(*case.both, style=style)
        check_words(figure)
        if style.width:
            assert figure.get_size_inches()[0] == style.width
            assert font_sizes(figure) == {7}


def test_words_of_portrait_pictures_and_many_layers_fit() -> None:
    case = _portrait_with_many_layers()
    for kind in KINDS:
        for style in (DEFAULT_STYLE, FigureStyle(width=3.3)):
            check_words(load_figure(kind)(case.sample, case.maps, style=style))
    check_words(sram_grid(pictured().sample))


def test_pictures_keep_their_shape() -> None:
    figure = llam(*_portrait_with_many_layers().both)
    for axes in panels_of(figure):
        box = axes.get_position()
        width, height = figure.get_size_inches()
        assert box.height * height / (box.width * width) == pytest.approx(96 / 64)


def _portrait_with_many_layers() -> Pictured:
    """Return 96×64 pictures and 16 layers whose long names differ early and late."""
    case = pictured()
    images = case.sample["images"].to_dataset()
    taller = {"y": np.arange(96) * 2 // 3, "reference_y": np.arange(96) * 2 // 3}
    sample = case.sample.assign({})
    sample["images"] = xr.DataTree(images.isel(taller))
    maps: dict[str, xr.Dataset] = {}
    for direction in DIRECTIONS:
        levels = case.maps[direction].to_dataset().isel(layer=[0, 1] * 8)
        names = [f"diffusion_model.warp_flow_blks.{n}.blocks.{n}.attn2" for n in range(16)]
        maps[direction] = levels.assign_coords(layer=names)
    return Pictured(sample, xr.DataTree.from_dict(maps))
