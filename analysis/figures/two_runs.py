"""The same patches in two runs: what each reads before a change, and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.overlay import value_range
from i2am.analysis.figures.panels import (
    compute_together,
    image_size,
    stored_image,
)
from i2am.analysis.figures.patch_maps import Place, default_points, looks, places
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.maps.sram import sram
from i2am.schemas import AnalysisError

__all__ = ["before_after"]


def before_after(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    *,
    other: xr.DataTree,
    at: Sequence[Place] | Place | None = None,
    **selection: Any,
) -> Figure:
    """Draw what picked patches read in a sample and in the same sample of another run, on one scale.

    Parameters
    ----------
    sample : DataTree
        One sample of a run: before.
    maps : DataTree, optional
        Not used: SRAM comes from the samples themselves.
    style : FigureStyle
    other : DataTree
        The same sample of another run: after.
    at : sequence of (y, x), or one (y, x), optional
        Places in both generated images, in their pixels; four by default.
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If the generated images differ in size, or as `sram`.
    """
    both = {"before": sample, "after": other}
    sizes = [image_size(stored_image(one, "generated")) for one in both.values()]
    if sizes[0] != sizes[1]:
        msg = (
            f"Expected generated images of one size, got {sizes[0]} and {sizes[1]}, at "
            f"{sample.name or 'sample'}. Capture both runs at the same size: their places are pixels."
        )
        raise AnalysisError(msg)
    points = default_points(sample, 2) if at is None else places(at)
    maps_of = {
        when: [sram(one, generated=point, **selection) for point in points]
        for when, one in both.items()
    }
    computed = iter(compute_together([one for own in maps_of.values() for one in own]))
    shown = {when: [one.copy(data=next(computed)) for one in own] for when, own in maps_of.items()}
    limits = value_range([one for own in shown.values() for one in own])
    groups = [
        looks(
            one,
            points,
            shown[when],
            style,
            title=f"generated {when}",
            heading=f"{when.capitalize()}: where each patch looks",
            limits=limits,
        )
        for when, one in both.items()
    ]
    # One scale for both, named once.
    groups = [replace(groups[0], colorbar=None), *groups[1:]]
    groups = [replace(group, columns=None) for group in groups]
    return draw(groups, style, figure_title(sample, "the same patches in two runs", selection))
