"""Figures of a sample's maps: overview, TLAM, HLAM, LLAM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import (
    absence,
    figure_title,
    layer_grids,
    layer_titles,
    map_options,
    register_note,
    similarity_note,
    time_titles,
    unit,
)
from i2am.analysis.figures.heat import Pixels
from i2am.analysis.figures.overlay import value_range
from i2am.analysis.figures.painted import painted_g2r
from i2am.analysis.figures.panels import (
    ColorBar,
    Panel,
    PanelGroup,
    compute_together,
    heat_panel,
    heat_panels,
    image_panel,
    image_size,
    inpainting_mask,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.kernel.resize import Grid
from i2am.analysis.stores.layers import image_under, reference_image
from i2am.schemas import AnalysisError, dims
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["hlam", "llam", "maps_by_scale", "overview", "tlam"]

_LEVEL_TITLES: Final = {
    "tlam": "TLAM, attention by denoising steps",
    "hlam": "HLAM, attention by heads",
    "llam": "LLAM, attention by layers",
}


def overview(sample: xr.DataTree, maps: xr.DataTree, style: FigureStyle = DEFAULT_STYLE) -> Figure:
    """Draw the images and the unified maps in one row, each map with its own scale.

    A direction that does not exist has a panel that says why. Where an inpainting mask divides the image,
    G2R is shown twice: of the painted part, which is what the model used, and of the whole image.

    Parameters
    ----------
    sample : DataTree
        One sample of a run, with images (y, x, rgb) and masks (y, x), uint8.
    maps : DataTree
        The sample's maps.
    style : FigureStyle
    """
    images = sample.children["images"].dataset
    mask = inpainting_mask(sample)
    reference = reference_image(sample, maps)
    shown = [image_panel(sample, reference, reference.replace("_", " "))]
    if "source" in images:
        title = "source and the mask's outline" if mask is not None else "source"
        shown.append(image_panel(sample, "source", title, mask))
    shown.append(image_panel(sample, "generated"))
    painted = painted_g2r(sample, maps)
    shown.extend(_unified_panels(sample, maps, style, mask, painted))
    title = figure_title(sample, "overview", map_options(maps))
    group = PanelGroup("", tuple(shown), note=register_note(sample, maps), columns=len(shown))
    return draw((group,), style, title)


def tlam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName | None = None,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per time group, noisiest first.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps.
    direction : {"r2g", "g2r"}, optional
        None draws every direction that the maps hold, one below the other.
    style : FigureStyle

    Raises
    ------
    AnalysisError
        If the maps do not hold that direction.
    """
    return _level(sample, maps, "tlam", direction, style)


def hlam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName | None = None,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per head; parameters as in `tlam`."""
    return _level(sample, maps, "hlam", direction, style)


def llam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName | None = None,
    style: FigureStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per layer; parameters as in `tlam`."""
    return _level(sample, maps, "llam", direction, style)


def _unified_panels(
    sample: xr.DataTree,
    maps: xr.DataTree,
    style: FigureStyle,
    mask: Pixels | None,
    painted: xr.DataArray | None,
) -> Iterator[Panel]:
    for direction, own in DIRECTIONS.items():
        under = image_under(sample, maps, direction)
        image, seen = stored_image(sample, under), seen_part(sample, under)
        if direction not in maps.children:
            sentence = absence(sample, direction)
            yield Panel(direction.upper(), image_size(image), sentence=sentence)
            continue
        note = similarity_note(sample, maps) if direction == "r2g" else ""
        levels = maps.children[direction].dataset
        shown = [(levels["ulam"], f"{own.meaning}\n({note})" if note else own.meaning, unit(maps))]
        if direction == "g2r" and painted is not None:
            parts = (painted, "painted part"), (levels["ulam"], "whole image")
            shown = [
                (one, own.meaning.replace(":", f" of the {part}:"), unit(maps))
                for one, part in parts
            ]
        if "mass" in levels:
            title = "reference mass: share of attention\nthat goes to the reference"
            shown.append((levels["mass"], title, "share"))
        outline = mask if direction == "r2g" else None
        for level, title, label in shown:
            values = compute_together([level])
            limits = value_range(values)
            colorbar = ColorBar(limits, style, label)
            yield heat_panel(image, values[0], title, colorbar, outline, seen=seen)


def _level(
    sample: xr.DataTree,
    maps: xr.DataTree,
    level: str,
    direction: DirectionName | None,
    style: FigureStyle,
) -> Figure:
    present = [known for known in DIRECTIONS if known in maps.children]
    wanted = present if direction is None else [direction]
    for name in wanted:
        if name not in present:
            msg = f"Expected maps of direction {name!r}, got {present}, at {level}. "
            raise AnalysisError(msg + absence(sample, name))
    groups = [g for name in wanted for g in _level_groups(sample, maps, level, name, style)]
    return draw(groups, style, figure_title(sample, _LEVEL_TITLES[level], map_options(maps)))


def _level_groups(
    sample: xr.DataTree, maps: xr.DataTree, level: str, direction: DirectionName, style: FigureStyle
) -> Iterator[PanelGroup]:
    """Yield the maps of a direction under one scale; those of layers under one for each grid."""
    values = maps.children[direction].dataset[level]
    under = image_under(sample, maps, direction)
    image, seen = stored_image(sample, under), seen_part(sample, under)
    note = similarity_note(sample, maps) if direction == "r2g" else ""
    (planes,) = compute_together([values])
    heading = DIRECTIONS[direction].meaning
    for grid, members in maps_by_scale(sample, values, direction).items():
        titles = _titles(sample, values, level, direction)
        shown, colorbar = heat_panels(
            image,
            [planes[index] for index in members],
            [titles[index] for index in members],
            style,
            unit(maps),
            seen,
        )
        name = f"{heading}; layers of {grid[0]}×{grid[1]}" if grid else heading
        yield PanelGroup(name, shown, colorbar, note)


def maps_by_scale(
    sample: xr.DataTree, values: xr.DataArray, direction: DirectionName
) -> dict[Grid | None, list[int]]:
    """Return which maps of a level share a scale, by the grid of their layers where that matters.

    A softmax over four times as many positions has a quarter of the value at each, so layers of
    other grids cannot be read against each other.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    values : DataArray, dims (time | head | layer, y, x)
    direction : "r2g" or "g2r"
    """
    if dims.LAYER not in values.dims:
        return {None: list(range(len(values)))}
    grids = layer_grids(sample, [str(name) for name in values[dims.LAYER].values], direction)
    if len(set(grids)) == 1:
        return {None: list(range(len(values)))}
    found: dict[Grid | None, list[int]] = {}
    for index, grid in enumerate(grids):
        found.setdefault(grid, []).append(index)
    return found


def _titles(
    sample: xr.DataTree, values: xr.DataArray, level: str, direction: DirectionName
) -> list[str]:
    if level == "tlam":
        return time_titles(sample, values)
    if level == "llam":
        return layer_titles(sample, [str(name) for name in values[dims.LAYER].values], direction)
    return [f"head {int(head)}" for head in values[dims.HEAD].values]
