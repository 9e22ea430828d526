"""One hot patch of pictures that are not square lies at the right pixel, in every kind of figure."""

from __future__ import annotations

import re
import zlib
from typing import Any, Final

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i2am.analysis import analyze
from i2am.analysis.figures import FIGURES, existing_kinds, load_figure, render
from i2am.analysis.figures.style import FigureStyle
from tests.support.figure_reading import brightest, check_words, font_sizes, panels_of
from tests.support.hot_patch import (
    GENERATED_PX,
    GRIDS,
    HEADS,
    OTHER_PATCH,
    REFERENCE_PX,
    SAMPLE,
    STEPS,
    hot_box,
    hot_sample,
)

# Heat alone, in greys: the brightest pixel is the hottest. Each map reaches its own white.
HEAT = FigureStyle(base="none", colormap="gray", contrast="panel")
SIZES = {"generated": GENERATED_PX, "reference": REFERENCE_PX}
# Panels of heat by kind: how many lie over each image.
PANELS: Final = {
    "overview": (2, 2),  # R2G and the mass; G2R of the painted part and of the whole
    "tlam": (STEPS, STEPS),
    "hlam": (HEADS, HEADS),
    "llam": (len(GRIDS), len(GRIDS)),
    "guidance": (2, 2),
    "sram": (1, 1),
    "before-after": (0, 2),
    "sources": (1, 0),  # that of the first reference; the others are elsewhere
}
TILES: Final = {"matrix": (2, 1, HEADS), "time-heads": (1, HEADS, STEPS)}
WITHOUT_HEAT: Final = {"flow", "references", "evolution"}


@pytest.fixture(scope="module")
def sample() -> xr.DataTree:
    return hot_sample()


@pytest.fixture(scope="module")
def maps(sample: xr.DataTree) -> xr.DataTree:
    found: xr.DataTree = analyze(sample).compute()
    return found


def drawn(kind: str, sample: xr.DataTree, maps: xr.DataTree, style: FigureStyle) -> Figure:
    draw = load_figure(kind)
    box = hot_box("generated")
    middle = [((box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2)]
    if FIGURES[kind].is_of_run:
        return draw({SAMPLE: sample}, {SAMPLE: maps}, style=style)
    options: dict[str, Any] = {"at": middle} if "at" in FIGURES[kind].takes else {}
    if FIGURES[kind].needs_other:
        options["other"] = sample
    return draw(sample, maps, style=style, **options)


def image_below(axes: Axes) -> str:
    """Return which image a panel lies over, by its width."""
    left, right = axes.get_xlim()
    return next(name for name, size in SIZES.items() if size[1] == round(right - left))


def is_heat(axes: Axes) -> bool:
    """Return whether a panel shows greys alone: the sample's own pictures have colors."""
    return bool(np.ptp(np.asarray(axes.images[0].get_array()), axis=-1).max() == 0)


def check_inside(image: str, share: tuple[float, float]) -> None:
    """Check that a place, in shares of an image's sides, lies in the hot patch or its coarse neighbour."""
    height, width = SIZES[image]
    box, (y, x) = hot_box(image), (share[0] * height, share[1] * width)
    # A coarser layer's patch holds two finer ones along each side.
    reach = 0.5
    assert box.y0 - reach * box.height <= y <= box.y1 + reach * box.height
    assert box.x0 - reach * box.width <= x <= box.x1 + reach * box.width


def test_every_kind_that_this_sample_has_is_looked_at(sample: xr.DataTree) -> None:
    kinds = set(existing_kinds(sample, FIGURES, has_other=True))
    assert kinds == set(PANELS) | set(TILES) | WITHOUT_HEAT
    assert set(FIGURES) - kinds == {"roads", "effects", "curves", "layer_effects"}


@pytest.mark.parametrize("kind", PANELS)
def test_heat_lies_at_the_hot_patch(kind: str, sample: xr.DataTree, maps: xr.DataTree) -> None:
    figure = drawn(kind, sample, maps, HEAT)
    panels = [axes for axes in panels_of(figure) if is_heat(axes)]
    if kind == "sources":
        panels = [axes for axes in panels if axes.get_title() == "reference"]
    found = {"generated": 0, "reference": 0}
    for axes in panels:
        image = image_below(axes)
        height, width = SIZES[image]
        shown = np.asarray(axes.images[0].get_array())
        assert shown.shape[0] / shown.shape[1] == height / width
        check_inside(image, brightest(axes))
        found[image] += 1
    assert tuple(found.values()) == PANELS[kind]


@pytest.mark.parametrize("kind", TILES)
def test_heat_lies_at_the_hot_patch_of_every_tile(
    kind: str, sample: xr.DataTree, maps: xr.DataTree
) -> None:
    figure = drawn(kind, sample, maps, HEAT)
    groups, rows, columns = TILES[kind]
    tables = [axes for axes in figure.axes if axes.images]
    assert len(tables) == 2 * groups
    for number, axes in enumerate(tables):
        image = "generated" if number < groups else "reference"
        table = np.asarray(axes.images[0].get_array()).sum(axis=-1)
        height, width = table.shape[0] // rows, table.shape[1] // columns
        for row in range(rows):
            for column in range(columns):
                cell = table[row * height :, column * width :][:height, :width]
                # Without the white between tiles, which is as bright as the hottest pixel.
                rim = [int(np.flatnonzero((cell < 765).any(axis=1 - axis))[0]) for axis in (0, 1)]
                tile = cell[rim[0] : height - rim[0], rim[1] : width - rim[1]]
                assert tile.shape[0] / tile.shape[1] == pytest.approx(
                    SIZES[image][0] / SIZES[image][1], rel=0.02
                )
                y, x = np.argwhere(tile == tile.max()).mean(axis=0)
                check_inside(image, ((y + 0.5) / tile.shape[0], (x + 0.5) / tile.shape[1]))


def test_the_flow_gives_the_hot_patch_the_color_of_its_place(
    sample: xr.DataTree, maps: xr.DataTree
) -> None:
    figure = drawn("flow", sample, maps, FigureStyle(base="none", opacity=1))
    reference, generated = (
        np.asarray(axes.images[0].get_array(), int) for axes in panels_of(figure)
    )
    strength = np.ptp(generated, axis=-1)
    y, x = np.argwhere(strength == strength.max()).mean(axis=0)
    check_inside("generated", (y / generated.shape[0], x / generated.shape[1]))
    # The places of the reference are over white at 0.6 of the strength.
    place, times = hot_box("reference"), reference.shape[0] // REFERENCE_PX[0]
    at = reference[int((place.y0 + place.y1) / 2 * times), int((place.x0 + place.x1) / 2 * times)]
    own = generated[int(y), int(x)]
    np.testing.assert_allclose(255 + (own - 255) * 0.6, at, atol=14)
    assert abs(own - generated[0, 0]).max() > 40


def test_each_patch_has_the_color_of_the_reference_that_it_reads(
    sample: xr.DataTree, maps: xr.DataTree
) -> None:
    figure = drawn("references", sample, maps, FigureStyle(base="none", opacity=1))
    generated = np.asarray(panels_of(figure)[-1].images[0].get_array(), int)
    orange, blue = np.array([230, 159, 0]), np.array([86, 180, 233])
    hot, y, x = hot_box("generated"), GENERATED_PX[0] // 12, GENERATED_PX[1] // 16
    at_hot = generated[int(hot.y0) + y // 2, int(hot.x0) + x // 2]
    at_other = generated[OTHER_PATCH[0] * y + y // 2, OTHER_PATCH[1] * x + x // 2]
    assert abs(at_hot - orange).sum() < abs(at_hot - blue).sum()
    assert abs(at_other - blue).sum() < abs(at_other - orange).sum()
    assert np.ptp(generated[5, 5]) < 5  # It reads both alike.


@pytest.mark.parametrize("width", [None, 3.3, 7.0])
def test_words_have_their_place_at_every_width(
    width: float | None, sample: xr.DataTree, maps: xr.DataTree
) -> None:
    style = FigureStyle(width=width)
    for kind in (*TILES, *WITHOUT_HEAT, "guidance", "sram", "before-after", "overview"):
        figure = drawn(kind, sample, maps, style)
        check_words(figure)
        first = figure.texts[0].get_text()
        assert first.startswith(f"{SAMPLE}: "), kind
        if width:
            assert figure.get_size_inches()[0] == width
            assert font_sizes(figure) == {7}, kind


def text_of_pdf(content: bytes) -> str:
    """Return the text of a PDF whose fonts name their letters' own code points."""
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            page = zlib.decompress(stream)
        except zlib.error:  # A font.
            continue
        for block in re.findall(rb"BT\n(.*?)ET\n", page, re.DOTALL):
            pieces = re.findall(rb"\(((?:\\.|[^\\)])*)\)", block, re.DOTALL)
            codes = b"".join(re.sub(rb"\\(.)", rb"\1", piece) for piece in pieces)
            found.append(codes.replace(b"\0", b"").decode("latin-1"))
    return "\n".join(found)


def test_text_in_pdf_and_svg_is_text(sample: xr.DataTree, maps: xr.DataTree) -> None:
    for kind in ("tlam", "matrix", "sram", "evolution"):
        figure = drawn(kind, sample, maps, FigureStyle(width=3.3))
        words = [line for text in figure.texts for line in text.get_text().split("\n")]
        svg = render(figure, "svg").decode()
        pdf = render(figure, "pdf")
        assert b"/FontFile2" in pdf
        assert b"/ToUnicode" in pdf
        assert b"/Type3" not in pdf
        drawn_words = text_of_pdf(pdf)
        for line in words:
            assert line in svg
            assert line in drawn_words
        assert SAMPLE in drawn_words
        # The same bytes for the same figure: no date, no random name.
        assert render(figure, "pdf") == pdf
        assert render(figure, "svg").decode() == svg
