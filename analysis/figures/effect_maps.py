"""The figure of maps beside measured effects: what is read of each region, and what cutting it changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from i2am.analysis.effects.faithfulness import ComparedSample, compare_with_effects
from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.effect_words import agreement_note
from i2am.analysis.figures.overlay import value_range
from i2am.analysis.figures.panels import (
    ColorBar,
    Marker,
    Panel,
    PanelGroup,
    heat_panel,
    image_panel,
    inpainting_mask,
    seen_panel,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import sram_layers
from i2am.schemas import Box

__all__ = ["effects"]

# Cells along a side in which regions are drawn.
_MOST_CELLS: Final = 512
_SHOWN_PATCHES: Final = 2
# Of the object's shorter side: patches that lie nearer show the same.
_APART: Final = 0.5

Floats = NDArray[np.float64]


def effects(
    sample: xr.DataTree, measured: xr.Dataset, style: FigureStyle = DEFAULT_STYLE
) -> Figure:
    """Draw what the object and two of its patches read of each region, beside the measured effects.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    measured : Dataset
        This sample of `open_effects`.
    style : FigureStyle

    Raises
    ------
    AnalysisError
        If no layer has SRAM, or the regions were not measured.
    """
    compared = compare_with_effects(sample, measured)
    patches = _telling_patches(compared)
    outline = inpainting_mask(sample)
    title = "generated" if outline is None else "generated, and the object"
    first = image_panel(sample, "generated", title, outline)
    inside = compared.inside
    of_object = tuple(_panels(compared, lambda plane: plane[:, inside].mean(1), style))
    groups = [
        PanelGroup(
            "The object: what it reads of the reference, and what matters to it",
            (first, *of_object),
            columns=1 + len(of_object),
            note=agreement_note(compared),
        )
    ]
    for number, (row, column) in enumerate(patches, start=1):
        marker = _marker(sample, compared, str(number), row, column)
        place = seen_panel(sample, "generated", "generated, and the patch", (marker,))
        own = tuple(_panels(compared, lambda plane, at=(row, column): plane[:, *at], style))
        groups.append(PanelGroup(f"Patch {number}", (place, *own), columns=1 + len(own)))
    return draw(groups, style, figure_title(sample, "attention beside measured effects"))


def _panels(compared: ComparedSample, values_of: Any, style: FigureStyle) -> Iterator[Panel]:
    """Yield the maps and then the effect on the reference, each on a scale of its own."""
    image = next(iter(sram_layers(compared.sample).values())).reference_image()
    picture, seen = stored_image(compared.sample, image), seen_part(compared.sample, image)
    box = image_box(compared.sample, image)
    shown = [("reads, mean over layers", "mean", "share of attention")]
    if "causal" in compared.maps:
        shown.append(("reads, layers by effect", "causal", "share of attention"))
    for title, name, label in shown:
        yield _heat(
            picture, values_of(compared.maps[name]), compared, box, seen, title, label, style
        )
    effect = values_of(compared.effect)
    yield _heat(
        picture,
        effect,
        compared,
        box,
        seen,
        "changes when it is cut",
        "change of the latent",
        style,
    )


def _heat(
    picture: Any,
    values: Floats,
    compared: ComparedSample,
    box: Box,
    seen: Box | None,
    title: str,
    label: str,
    style: FigureStyle,
) -> Panel:
    raster = _raster(values, compared.boxes, box)
    return heat_panel(
        picture, raster, title, ColorBar(value_range([raster]), style, label), seen=seen
    )


def _raster(values: Floats, boxes: Floats, box: Box) -> Floats:
    """Return regions as an even grid over a box, NaN between them.

    Regions of other sizes count by their area: a region that is four times as large has four times as
    much attention without being brighter.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    smallest = sizes.min(axis=0)
    rows, columns = (
        int(np.clip(round(length / edge), 1, _MOST_CELLS))
        for length, edge in zip((box.height, box.width), smallest, strict=True)
    )
    y, x = (np.asarray(axis) for axis in box.cell_centres((rows, columns)))
    density = values * np.prod(smallest) / np.prod(sizes, axis=1)
    raster = np.full((rows, columns), np.nan)
    for (y0, x0, y1, x1), value in zip(boxes, density, strict=True):
        raster[np.ix_((y0 <= y) & (y < y1), (x0 <= x) & (x < x1))] = value
    return raster


def _telling_patches(compared: ComparedSample) -> list[tuple[int, int]]:
    """Return the object's patches that a single region changes most, apart from one another."""
    strongest = np.where(compared.inside, compared.effect.max(axis=0), -np.inf)
    extent = [int(compared.inside.any(axis=axis).sum()) for axis in (0, 1)]
    apart = max(1.0, _APART * min(extent))
    found: list[tuple[int, int]] = []
    for index in np.argsort(-strongest, axis=None, kind="stable"):
        row, column = (int(one) for one in np.unravel_index(index, strongest.shape))
        if not np.isfinite(strongest[row, column]) or len(found) == _SHOWN_PATCHES:
            break
        if all(np.hypot(row - y, column - x) >= apart for y, x in found):
            found.append((row, column))
    return found


def _marker(
    sample: xr.DataTree, compared: ComparedSample, label: str, row: int, column: int
) -> Marker:
    box = image_box(sample, "generated")
    height = box.height / compared.inside.shape[0]
    width = box.width / compared.inside.shape[1]
    # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
    top, left = box.y0 + row * height - 0.5, box.x0 + column * width - 0.5
    return Marker(label, top, left, height, width)
