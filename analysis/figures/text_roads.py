"""Figures of the roads: what comes of the reference directly, what through the text, and what else is read."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.overlay import value_range
from i2am.analysis.figures.panels import (
    ColorBar,
    Panel,
    PanelGroup,
    compute_together,
    heat_panel,
    heat_panels,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.maps.roads import source_mass, two_hop
from i2am.analysis.stores.layers import reference_image
from i2am.schemas.dims import LAYER, SOURCE, STEP

__all__ = ["roads", "sources"]

_SHARE = "share of attention"
_NAMES = {"own": "own picture", "text and own": "text and own picture"}


def roads(
    sample: xr.DataTree, maps: xr.DataTree, style: FigureStyle = DEFAULT_STYLE, **selection: Any
) -> Figure:
    """Draw the direct road and the one through the text, on both images.

    Parameters
    ----------
    sample, maps : DataTree
        One sample of a run that holds the roads, and its maps.
    style : FigureStyle
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If the sample does not hold the roads through the text.
    """
    found = two_hop(sample, **selection)
    groups = []
    images = {"r2g": "generated", "g2r": reference_image(sample, maps)}
    for direction, heading in (
        ("r2g", "By which road the reference reaches each patch"),
        ("g2r", "Which parts of the reference are read by each road"),
    ):
        if direction not in found.children:
            continue
        own = found[direction].to_dataset()
        levels = [own[road].mean((LAYER, STEP)) for road in ("direct", "through_text")]
        if "share" in own:
            levels.append(own["share"])
        groups.append(_group(sample, images[direction], levels, heading, style))
    return draw(groups, style, figure_title(sample, "the two roads of the reference", selection))


def _group(
    sample: xr.DataTree, name: str, levels: list[xr.DataArray], heading: str, style: FigureStyle
) -> PanelGroup:
    image, seen = stored_image(sample, name), seen_part(sample, name)
    values = compute_together(levels)
    limits = 0.0, value_range(values[:2])[1]  # The two roads are read against each other.
    titles = ("directly", "through the text, in two hops", "of both, what comes through the text")
    panels: list[Panel] = []
    for title, one in zip(titles, values, strict=False):
        is_road = len(panels) < 2
        own_limits, label = (limits, _SHARE) if is_road else ((0.0, 1.0), "share")
        colorbar = ColorBar(own_limits, style, label)
        panels.append(heat_panel(image, one, title, colorbar, seen=seen))
    return PanelGroup(heading, tuple(panels), columns=3)


def sources(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw how the attention of each patch is shared among text, its own picture and each reference.

    Parameters
    ----------
    sample : DataTree
        One sample of a run with layers whose softmax is shared.
    maps : DataTree, optional
        Not used: the shares come from the sample itself.
    style : FigureStyle
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If no layer's softmax is shared.
    """
    mass = source_mass(sample, **selection).mean((LAYER, STEP))
    image, seen = stored_image(sample, "generated"), seen_part(sample, "generated")
    titles = [_NAMES.get(label, label.replace("_", " ")) for label in mass[SOURCE].values.tolist()]
    values = list(compute_together([mass])[0])
    shown, colorbar = heat_panels(image, values, titles, style, _SHARE, seen)
    heading = "What each patch reads: the shares sum to 1"
    title = figure_title(sample, "sources", selection)
    return draw((PanelGroup(heading, shown, colorbar),), style, title)
