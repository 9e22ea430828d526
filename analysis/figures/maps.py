"""Figures of a sample's maps: overview, TLAM, HLAM, LLAM."""

from __future__ import annotations

from collections.abc import Iterator

import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import (
    absence,
    layer_titles,
    similarity_note,
    time_titles,
    unit,
)
from i2am.analysis.figures.heat import Pixels
from i2am.analysis.figures.overlay import DEFAULT_STYLE, MapStyle, value_range
from i2am.analysis.figures.panels import (
    ColorBar,
    Panel,
    PanelGroup,
    compute_together,
    draw,
    heat_panel,
    heat_panels,
    image_panel,
    image_size,
    inpainting_mask,
    seen_part,
    stored_image,
)
from i2am.analysis.stores.layers import image_under, reference_image
from i2am.schemas import AnalysisError, dims
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["hlam", "llam", "overview", "tlam"]


def overview(sample: xr.DataTree, maps: xr.DataTree, style: MapStyle = DEFAULT_STYLE) -> Figure:
    """Draw the images and the unified maps in one row, each map with its own scale.

    A direction that does not exist has a panel that says why.

    Parameters
    ----------
    sample : DataTree
        One sample of a run, with images (y, x, rgb) and masks (y, x), uint8.
    maps : DataTree
        The sample's maps.
    style : MapStyle
    """
    images = sample.children["images"].dataset
    mask = inpainting_mask(sample)
    reference = reference_image(sample, maps)
    shown = [image_panel(sample, reference, reference.replace("_", " "))]
    if "source" in images:
        title = "source and the mask's outline" if mask is not None else "source"
        shown.append(image_panel(sample, "source", title, mask))
    shown.append(image_panel(sample, "generated"))
    shown.extend(_unified_panels(sample, maps, style, mask))
    return draw((PanelGroup("", tuple(shown), columns=len(shown)),))


def tlam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName | None = None,
    style: MapStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per time group, noisiest first.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run, and its maps.
    direction : {"r2g", "g2r"}, optional
        None draws every direction that the maps hold, one below the other.
    style : MapStyle

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
    style: MapStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per head; parameters as in `tlam`."""
    return _level(sample, maps, "hlam", direction, style)


def llam(
    sample: xr.DataTree,
    maps: xr.DataTree,
    direction: DirectionName | None = None,
    style: MapStyle = DEFAULT_STYLE,
) -> Figure:
    """Draw one map per layer; parameters as in `tlam`."""
    return _level(sample, maps, "llam", direction, style)


def _unified_panels(
    sample: xr.DataTree, maps: xr.DataTree, style: MapStyle, mask: Pixels | None
) -> Iterator[Panel]:
    for direction, own in DIRECTIONS.items():
        under = image_under(sample, maps, direction)
        image, seen = stored_image(sample, under), seen_part(sample, under)
        if direction not in maps.children:
            sentence = absence(sample, direction)
            yield Panel(direction.upper(), image_size(image), sentence=sentence)
            continue
        note = similarity_note(sample, maps) if direction == "r2g" else ""
        shown = [("ulam", f"{own.meaning}\n({note})" if note else own.meaning, unit(maps))]
        if "mass" in maps.children[direction].dataset:
            shown.append(
                ("mass", "reference mass: share of attention\nthat goes to the reference", "share")
            )
        outline = mask if direction == "r2g" else None
        for level, title, label in shown:
            values = compute_together([maps.children[direction].dataset[level]])
            limits = value_range(values)
            colorbar = ColorBar(limits, style, label)
            yield heat_panel(image, values[0], title, colorbar, outline, seen=seen)


def _level(
    sample: xr.DataTree,
    maps: xr.DataTree,
    level: str,
    direction: DirectionName | None,
    style: MapStyle,
) -> Figure:
    present = [known for known in DIRECTIONS if known in maps.children]
    wanted = present if direction is None else [direction]
    for name in wanted:
        if name not in present:
            msg = f"Expected maps of direction {name!r}, got {present}, at {level}. "
            raise AnalysisError(msg + absence(sample, name))
    return draw(tuple(_level_group(sample, maps, level, name, style) for name in wanted))


def _level_group(
    sample: xr.DataTree, maps: xr.DataTree, level: str, direction: DirectionName, style: MapStyle
) -> PanelGroup:
    values = maps.children[direction].dataset[level]
    if level == "tlam":
        titles = time_titles(sample, values)
    elif level == "llam":
        titles = layer_titles(sample, [str(name) for name in values[dims.LAYER].values], direction)
    else:
        titles = [f"head {int(head)}" for head in values[dims.HEAD].values]
    under = image_under(sample, maps, direction)
    image, seen = stored_image(sample, under), seen_part(sample, under)
    note = similarity_note(sample, maps) if direction == "r2g" else ""
    shown, colorbar = heat_panels(
        image, list(compute_together([values])[0]), titles, style, unit(maps), seen
    )
    return PanelGroup(DIRECTIONS[direction].meaning, shown, colorbar, note)
