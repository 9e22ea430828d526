"""Maps with and without the condition: each branch of classifier-free guidance."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import figure_title, similarity_note, unit
from i2am.analysis.figures.panels import (
    PanelGroup,
    heat_panels,
    inpainting_mask,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.maps.analyze import analyze
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.analysis.stores.layers import image_under
from i2am.schemas import AnalysisError
from i2am.schemas.dims import CONDITIONAL, GUIDANCE
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["guidance"]


def guidance(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw the unified maps of each branch of guidance, on one scale.

    The titles tell the share of attention inside the mask, where one is stored, so that the branches can
    be compared in numbers, too.

    Parameters
    ----------
    sample : DataTree
        One sample of a run that was captured with both branches.
    maps : DataTree, optional
        Not used: all branches are made from the sample in the same way.
    style : FigureStyle
    **selection
        ``layers``, ``steps`` and ``heads``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If the sample holds one branch alone.
    """
    branches = _branches(sample)
    analyzed = {branch: analyze(sample, guidance=branch, **selection) for branch in branches}
    first = analyzed[branches[0]]
    groups = [
        _group(sample, analyzed, direction, style)
        for direction in DIRECTIONS
        if direction in first.children
    ]
    return draw(groups, style, figure_title(sample, "with and without the condition", selection))


def _branches(sample: xr.DataTree) -> list[str]:
    """Return the sample's branches, the conditional one first."""
    known = sample.coords.get(GUIDANCE)
    branches = [CONDITIONAL] if known is None else [str(label) for label in known.values]
    if len(branches) < 2:
        msg = (
            f"Expected the branches of classifier-free guidance, got {branches[0]!r} alone, at "
            f"{sample.name or 'sample'}. Capture with guidance='both'."
        )
        raise AnalysisError(msg)
    return sorted(branches, key=lambda branch: branch != CONDITIONAL)


def _group(
    sample: xr.DataTree,
    analyzed: dict[str, xr.DataTree],
    direction: DirectionName,
    style: FigureStyle,
) -> PanelGroup:
    lazy = [maps[direction].dataset["ulam"] for maps in analyzed.values()]
    unified: tuple[xr.DataArray, ...] = dask.compute(*lazy)
    first = next(iter(analyzed.values()))
    mask = masks_of(sample, first).get(direction)
    titles, note = list(analyzed), ""
    if mask is not None:
        inside = [float(spread(values, mask)["inside"]) for values in unified]
        titles = [
            f"{name}\n{share:.0%} inside the mask"
            for name, share in zip(titles, inside, strict=True)
        ]
        note = f"The mask has {np.mean(mask):.0%} of the area."
    alone = similarity_note(sample, first) if direction == "r2g" else ""
    under = image_under(sample, first, direction)
    shown, colorbar = heat_panels(
        stored_image(sample, under),
        [values.to_numpy() for values in unified],
        titles,
        style,
        unit(first),
        seen_part(sample, under),
        inpainting_mask(sample) if direction == "r2g" else None,
    )
    heading = DIRECTIONS[direction].meaning
    return PanelGroup(heading, shown, colorbar, "; ".join(filter(None, (note, alone))))
