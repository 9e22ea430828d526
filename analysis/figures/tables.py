"""Tables of maps: each head of each layer, and each head as time goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import dask
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from i2am.analysis.figures.captions import (
    figure_title,
    layer_grids,
    layer_titles,
    map_options,
    similarity_note,
    unit,
)
from i2am.analysis.figures.overlay import value_range
from i2am.analysis.figures.panels import (
    ColorBar,
    TileGroup,
    heat_tiles,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.stores.layers import image_under
from i2am.schemas.dims import FIRST_STEP, HEAD, LAST_STEP, LAYER, LAYER_WEIGHT, STEP, TIME
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["matrix", "time_heads"]

_STEPS: Final = "denoising steps"


def matrix(sample: xr.DataTree, maps: xr.DataTree, style: FigureStyle = DEFAULT_STYLE) -> Figure:
    """Draw a map for each head of each layer, the mean over the steps.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps with their volume.
    style : FigureStyle
        With contrast "shared" the layers of one grid have one scale; the values of layers of other
        grids are no equal shares. A head that a layer lacks is white.
    """
    means = _compute(maps, lambda levels: levels["volume"].mean(STEP))
    groups = [
        group
        for direction, of_direction in means.items()
        for group in _by_grid(sample, maps, direction, of_direction, style)
    ]
    title = figure_title(sample, "each head of each layer", map_options(maps))
    return draw(groups, style, title)


def time_heads(
    sample: xr.DataTree, maps: xr.DataTree, style: FigureStyle = DEFAULT_STYLE
) -> Figure:
    """Draw a map for each head and time group, the mean over the layers.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps with their volume and time groups.
    style : FigureStyle
    """
    means = _compute(maps, _over_time)
    groups = []
    for direction, of_direction in means.items():
        ends = zip(of_direction[FIRST_STEP].values, of_direction[LAST_STEP].values, strict=True)
        steps = [f"{first}" if first == last else f"{first}–{last}" for first, last in ends]
        heads = [f"head {int(head)}" for head in of_direction[HEAD].values]
        planes = of_direction.transpose(HEAD, TIME, ...)
        heading = DIRECTIONS[direction].meaning
        groups.append(
            _group(
                sample, maps, direction, planes.to_numpy(), (heading, heads, steps, _STEPS), style
            )
        )
    title = figure_title(sample, "each head as time goes on", map_options(maps))
    return draw(groups, style, title)


def _compute(
    maps: xr.DataTree, mean_of: Callable[[xr.Dataset], xr.DataArray]
) -> dict[DirectionName, xr.DataArray]:
    """Return a mean of each direction's volume; computed together, as they share what they read."""
    present: list[DirectionName] = [d for d in DIRECTIONS if d in maps.children]
    lazy = [mean_of(maps.children[direction].to_dataset()) for direction in present]
    return dict(zip(present, dask.compute(*lazy), strict=True))


def _over_time(levels: xr.Dataset) -> xr.DataArray:
    """Return the mean over layers, and over the steps of each time group: (time, head, plane)."""
    volume = levels["volume"]
    if LAYER_WEIGHT in volume.coords:
        volume = volume.weighted(volume[LAYER_WEIGHT]).mean(LAYER)
    else:
        volume = volume.mean(LAYER)
    ends = levels["tlam"].coords
    spans = zip(ends[FIRST_STEP].values, ends[LAST_STEP].values, strict=True)
    groups = [volume.sel({STEP: slice(first, last)}).mean(STEP) for first, last in spans]
    coordinates = {name: (TIME, ends[name].values) for name in (FIRST_STEP, LAST_STEP)}
    return xr.concat(groups, TIME).assign_coords(coordinates)


def _by_grid(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName,
    planes: xr.DataArray,
    style: FigureStyle,
) -> Iterator[TileGroup]:
    """Yield a table of layers and heads for each grid that layers have."""
    names = [str(name) for name in planes[LAYER].values]
    titles = [title.partition("\n")[0] for title in layer_titles(sample, names, direction)]
    grids = layer_grids(sample, names, direction)
    heads = [str(int(head)) for head in planes[HEAD].values]
    values = planes.transpose(LAYER, HEAD, ...).to_numpy()
    for grid in dict.fromkeys(grids):
        own = [index for index, other in enumerate(grids) if other == grid]
        heading = DIRECTIONS[direction].meaning
        heading += f"; layers of {grid[0]}×{grid[1]}" if grid else ""
        rows = [titles[index] for index in own]
        yield _group(sample, maps, direction, values[own], (heading, rows, heads, HEAD), style)


def _group(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName,
    values: NDArray[Any],
    words: tuple[str, list[str], list[str], str],
    style: FigureStyle,
) -> TileGroup:
    """Return maps (row, column, plane) as a table; words are heading, rows, columns, their title."""
    heading, rows, columns, title = words
    under = image_under(sample, maps, direction)
    is_shared = style.contrast == "shared"
    limits = value_range([values]) if is_shared else None
    tiles = heat_tiles(stored_image(sample, under), values, style, limits, seen_part(sample, under))
    bar = ColorBar(limits, style, unit(maps)) if limits else None
    note = similarity_note(sample, maps) if direction == "r2g" else ""
    note += "" if is_shared else "; " * bool(note) + "each map has its own scale"
    return TileGroup(heading, tiles, tuple(rows), tuple(columns), title, bar, note)
