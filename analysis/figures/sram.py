"""The SRAM figure: picked patches of the generated image, and where each looks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import absence, figure_title
from i2am.analysis.figures.panels import (
    Marker,
    PanelGroup,
    compute_together,
    heat_panels,
    image_size,
    inpainting_mask,
    seen_panel,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.maps.sram import sram
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import layers_with_reference_grid, sram_layers
from i2am.schemas import AnalysisError, Box

__all__ = ["default_points", "sram_grid"]


def sram_grid(
    sample: xr.DataTree,
    points: Sequence[tuple[float, float]] | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw picked generated patches, and where on the reference each of them looks.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    points : sequence of (y, x), optional
        Places in the generated image, in its pixels; `default_points` if none are given.
    style : FigureStyle
    **selection
        ``layers``, ``steps`` and ``heads``, as in `sram`.

    Raises
    ------
    AnalysisError
        If no layer can be shown on the reference, or a point lies outside the image, or where the
        model saw nothing of it.
    """
    if points is None:
        points = default_points(sample)
    maps = [sram(sample, generated=point, **selection) for point in points]
    patches = [
        _patch(point, image_box(sample, "generated"), _finest_grid(sample)) for point in points
    ]
    markers = tuple(Marker(str(number), *patch) for number, patch in enumerate(patches, start=1))
    main_panel = seen_panel(sample, "generated", "generated, and the patches", markers)
    titles = [f"{number}: at ({y:g}, {x:g})" for number, (y, x) in enumerate(points, start=1)]
    under = maps[0].attrs["reference_image"]
    shown, colorbar = heat_panels(
        stored_image(sample, under),
        compute_together(maps),
        titles,
        style,
        "attention per token",
        seen_part(sample, under),
    )
    heading = "SRAM: where on the reference a generated patch looks"
    group = PanelGroup(heading, shown, colorbar, main_panel=main_panel, columns=min(3, len(points)))
    return draw((group,), style, figure_title(sample, "SRAM"))


def default_points(sample: xr.DataTree) -> list[tuple[int, int]]:
    """Return a grid of three by three of points (y, x) in the inpainting mask's box, or in the whole image.

    Of what the model saw alone. Where the box is so small that points share a patch, each patch is
    named once.
    """
    image = stored_image(sample, "generated")
    box = image_box(sample, "generated")
    seen = np.zeros(image_size(image), bool)
    seen[_pixels_between(box.y0, box.y1), _pixels_between(box.x0, box.x1)] = True
    mask = inpainting_mask(sample)
    inside = seen if mask is None else seen & (mask > 127)
    inside = inside if inside.any() else seen
    ends = [np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    rows, columns = (
        [int(low + (high + 1 - low) * share / 6) for share in (1, 3, 5)] for low, high in ends
    )
    grid = _finest_grid(sample)
    points: dict[object, tuple[int, int]] = {}
    for point in itertools.product(rows, columns):
        points.setdefault(_patch(point, box, grid), point)
    return list(points.values())


def _pixels_between(low: float, high: float) -> slice:
    """Return the pixels of an image that begin within two ends."""
    return slice(max(0, math.ceil(low)), max(0, math.ceil(high)))


def _finest_grid(sample: xr.DataTree) -> tuple[int, int]:
    """Return the finest generated grid of the layers with SRAM: it has the smallest patches."""
    grids = [attributes.generated_grid for attributes in sram_layers(sample).values()]
    if not grids:
        msg = "Expected a layer with logits and a grid of reference tokens, got none, "
        if layers_with_reference_grid(sample):
            hint = "Its layers were reduced to maps: capture with representation 'auto'."
        else:
            hint = absence(sample, "g2r")
        msg += f"at the captured sample. {hint}"
        raise AnalysisError(msg)
    return max(grids, key=lambda grid: grid[0] * grid[1])


def _patch(
    point: tuple[float, float], box: Box, grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return top, left, height and width in pixels of the patch of a grid over a box that holds a point."""
    height, width = box.height / grid[0], box.width / grid[1]
    row = max(0, min(int((point[0] - box.y0) / height), grid[0] - 1))
    column = max(0, min(int((point[1] - box.x0) / width), grid[1] - 1))
    # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
    return box.y0 + row * height - 0.5, box.x0 + column * width - 0.5, height, width


def sram_of_default_points(
    sample: xr.DataTree, _maps: xr.DataTree, style: FigureStyle = DEFAULT_STYLE
) -> Figure:
    """Draw `sram_grid` of the points that it chooses itself."""
    return sram_grid(sample, None, style)
