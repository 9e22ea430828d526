"""The SRAM figure: picked patches of the generated image, and where each looks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import absence
from i2am.analysis.figures.heat import Pixels
from i2am.analysis.figures.overlay import DEFAULT_STYLE, MapStyle
from i2am.analysis.figures.panels import (
    Marker,
    Panel,
    PanelGroup,
    compute_together,
    draw,
    heat_panels,
    image_size,
    inpainting_mask,
    stored_image,
)
from i2am.analysis.maps.sram import sram
from i2am.analysis.stores.layers import layers_with_reference_grid, sram_layers
from i2am.schemas import AnalysisError

__all__ = ["default_points", "sram_grid"]


def sram_grid(
    sample: xr.DataTree,
    points: Sequence[tuple[int, int]] | None = None,
    style: MapStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw picked generated patches, and where on the reference each of them looks.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    points : sequence of (y, x), optional
        Pixel positions in the generated image; `default_points` if none are given.
    style : MapStyle
    **selection
        ``layers``, ``steps`` and ``heads``, as in `sram`.

    Raises
    ------
    AnalysisError
        If no layer can be shown on the reference, or a point lies outside the image.
    """
    if points is None:
        points = default_points(sample)
    image = stored_image(sample, "generated")
    patches = [_patch(point, image, _finest_grid(sample)) for point in points]
    markers = tuple(Marker(str(number), *patch) for number, patch in enumerate(patches, start=1))
    main_panel = Panel(
        "generated, with the patches at (y, x)",
        image_size(image),
        image,
        markers=markers,
    )
    maps = [sram(sample, generated=point, **selection) for point in points]
    titles = [f"{number}: at ({y}, {x})" for number, (y, x) in enumerate(points, start=1)]
    reference = stored_image(sample, maps[0].attrs["reference_image"])
    shown, colorbar = heat_panels(
        reference, compute_together(maps), titles, style, "attention per token"
    )
    heading = "SRAM: where on the reference a generated patch looks"
    return draw(
        (PanelGroup(heading, shown, colorbar, main_panel=main_panel, columns=min(3, len(points))),)
    )


def default_points(sample: xr.DataTree) -> list[tuple[int, int]]:
    """Return a grid of three by three of points (y, x) in the inpainting mask's box, or in the whole image.

    Where the box is so small that points share a patch, each patch is named once.
    """
    image = stored_image(sample, "generated")
    mask = inpainting_mask(sample)
    inside = np.ones(image_size(image), bool) if mask is None or not mask.any() else mask > 127
    ends = [np.flatnonzero(inside.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    rows, columns = (
        [int(low + (high + 1 - low) * share / 6) for share in (1, 3, 5)] for low, high in ends
    )
    grid = _finest_grid(sample)
    points: dict[object, tuple[int, int]] = {}
    for point in itertools.product(rows, columns):
        points.setdefault(_patch(point, image, grid), point)
    return list(points.values())


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
    point: tuple[int, int], image: Pixels, grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the box (top, left, height, width) in pixels of the patch that holds a point."""
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    row, column = int(point[0] / height), int(point[1] / width)
    # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
    return row * height - 0.5, column * width - 0.5, height, width


def sram_of_default_points(
    sample: xr.DataTree, _maps: xr.DataTree, style: MapStyle = DEFAULT_STYLE
) -> Figure:
    """Draw `sram_grid` of the points that it chooses itself."""
    return sram_grid(sample, None, style)
