"""The SRAM figures: picked patches of the generated image, where each looks, and what looks there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import absence, figure_title
from i2am.analysis.figures.overlay import Limits
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
from i2am.analysis.kernel.resize import largest_grid
from i2am.analysis.maps.sram import sram as ask
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import layers_with_reference_grid, sram_layers
from i2am.schemas import AnalysisError, Box

__all__ = ["Place", "default_points", "looks", "places", "sram", "sram_grid"]

Place = tuple[float, float]


def sram(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    *,
    at: Sequence[Place] | Place | None = None,
    **selection: Any,
) -> Figure:
    """Draw where picked patches look on the reference, and which patches look at these places.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    maps : DataTree, optional
        Not used: SRAM comes from the sample itself.
    style : FigureStyle
    at : sequence of (y, x), or one (y, x), optional
        Places in the generated image, in its pixels; `default_points` if none are given.
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        As `sram_grid`.
    """
    # On a page fewer patches are shown larger.
    points = default_points(sample, 3 if style.width is None else 2) if at is None else places(at)
    maps_of_points = _computed([ask(sample, generated=point, **selection) for point in points])
    peaks = [_peak(values) for values in maps_of_points]
    there = _merged(peaks)
    back = _computed([ask(sample, reference=place, **selection) for place in there.values()])
    groups = (
        looks(sample, points, maps_of_points, style),
        _looked_at(sample, there, back, maps_of_points[0], style),
    )
    return draw(groups, style, figure_title(sample, "SRAM, from both sides", selection))


def sram_grid(
    sample: xr.DataTree,
    points: Sequence[Place] | Place | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw picked generated patches, and where on the reference each of them looks.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    points : sequence of (y, x), or one (y, x), optional
        Places in the generated image, in its pixels; `default_points` if none are given.
    style : FigureStyle
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If no layer can be shown on the reference, or a point lies outside the image, or where the
        model saw nothing of it.

    Examples
    --------
    ::

        figure = sram_grid(open_run("run.zarr")["shirt-001"], [(20, 12), (40, 30)])
    """
    points = default_points(sample) if points is None else places(points)
    maps = _computed([ask(sample, generated=point, **selection) for point in points])
    title = figure_title(sample, "SRAM", selection)
    return draw((looks(sample, points, maps, style),), style, title)


def places(at: Sequence[Place] | Place) -> list[Place]:
    """Return the places to ask, where one may be given as it is."""
    several: Any = [at] if len(at) == 2 and not any(map(np.ndim, at)) else at
    return [tuple(place) for place in several]


def looks(
    sample: xr.DataTree,
    points: Sequence[Place],
    maps: Sequence[xr.DataArray],
    style: FigureStyle,
    *,
    title: str = "generated: patches at (y, x)",
    heading: str = "SRAM: where on the reference a generated patch looks",
    limits: Limits | None = None,
) -> PanelGroup:
    """Return the generated image with its numbered patches, and where each looks.

    Parameters
    ----------
    sample : DataTree
    points : sequence of (y, x)
        Places in the generated image.
    maps : sequence of DataArray
        What `sram` gives for each, in memory.
    style : FigureStyle
    title, heading : str
        Of the generated image, and of the group.
    limits : (low, high), optional
        Of the scale; by default those of the maps.
    """
    markers = _patch_markers(sample, points)
    main_panel = seen_panel(sample, "generated", title, markers)
    titles = [f"{number}: ({y:g}, {x:g})" for number, (y, x) in enumerate(points, start=1)]
    under = maps[0].attrs["reference_image"]
    shown, colorbar = heat_panels(
        stored_image(sample, under),
        [values.to_numpy() for values in maps],
        titles,
        style,
        "attention per token",
        seen_part(sample, under),
        limits=limits,
    )
    columns = min(3, len(points)) if style.width is None else None
    return PanelGroup(heading, shown, colorbar, main_panel=main_panel, columns=columns)


def _looked_at(
    sample: xr.DataTree,
    there: dict[str, Place],
    maps: Sequence[xr.DataArray],
    forward: xr.DataArray,
    style: FigureStyle,
) -> PanelGroup:
    """Return the reference with the places that the patches look at, and what else looks there."""
    under = forward.attrs["reference_image"]
    box, grid = image_box(sample, under), _reference_grid(forward)
    markers = tuple(Marker(name, *_patch(place, box, grid)) for name, place in there.items())
    title = f"{under.replace('_', ' ')}, and where they look most"
    main_panel = seen_panel(sample, under, title, markers)
    titles = [f"{name}: ({y:.4g}, {x:.4g})" for name, (y, x) in there.items()]
    shown, colorbar = heat_panels(
        stored_image(sample, "generated"),
        [values.to_numpy() for values in maps],
        titles,
        style,
        "attention per patch",
        seen_part(sample, "generated"),
        inpainting_mask(sample),
    )
    heading = "And back: which generated patches look at that place of the reference"
    columns = min(3, len(maps)) if style.width is None else None
    return PanelGroup(heading, shown, colorbar, main_panel=main_panel, columns=columns)


def _patch_markers(sample: xr.DataTree, points: Sequence[Place]) -> tuple[Marker, ...]:
    """Return a numbered box around the patch of each place, in pixels of the generated image."""
    box, grid = image_box(sample, "generated"), _finest_grid(sample)
    return tuple(
        Marker(str(number), *_patch(point, box, grid))
        for number, point in enumerate(points, start=1)
    )


def _computed(maps: Sequence[xr.DataArray]) -> list[xr.DataArray]:
    values = compute_together(maps)
    return [own.copy(data=data) for own, data in zip(maps, values, strict=True)]


def _reference_grid(values: xr.DataArray) -> tuple[int, int]:
    return values.shape[0], values.shape[1]


def _peak(values: xr.DataArray) -> Place:
    """Return where a map is highest, in pixels of its image."""
    row, column = np.unravel_index(int(values.to_numpy().argmax()), values.shape)
    y, x = (values[dim].to_numpy() for dim in values.dims)
    return float(y[row]), float(x[column])


def _merged(peaks: Sequence[Place]) -> dict[str, Place]:
    """Return places once, named by the numbers of the patches that look there."""
    numbers: dict[Place, list[int]] = {}
    for number, peak in enumerate(peaks, start=1):
        numbers.setdefault(peak, []).append(number)
    return {",".join(map(str, own)): peak for peak, own in numbers.items()}


def default_points(sample: xr.DataTree, side: int = 3) -> list[tuple[int, int]]:
    """Return a grid of points (y, x) in the inpainting mask's box, or in the whole image.

    Of what the model saw alone. Where the box is so small that points share a patch, each patch is
    named once.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    side : int
        How many points there are in a row, and how many rows.
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
        [int(low + (high + 1 - low) * (n + 0.5) / side) for n in range(side)] for low, high in ends
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
    return largest_grid(grids)


def _patch(
    point: tuple[float, float], box: Box, grid: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return top, left, height and width in pixels of the patch of a grid over a box that holds a point."""
    height, width = box.height / grid[0], box.width / grid[1]
    row = max(0, min(int((point[0] - box.y0) / height), grid[0] - 1))
    column = max(0, min(int((point[1] - box.x0) / width), grid[1] - 1))
    # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
    return box.y0 + row * height - 0.5, box.x0 + column * width - 0.5, height, width
