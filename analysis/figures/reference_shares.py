"""Which reference each generated patch reads, where a model is given several."""

from __future__ import annotations

from typing import Any, Final

import dask
import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.heat import blend
from i2am.analysis.figures.panels import (
    Panel,
    PanelGroup,
    ground,
    patches_panel,
    placing,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.maps.roads import most_read, source_mass
from i2am.schemas.dims import LAYER, SOURCE, STEP

__all__ = ["references"]

# Okabe and Ito's colors, which also people who are blind to some colors tell apart.
_COLORS: Final = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
_REFERENCE_OPACITY: Final = 0.45


def references(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw each patch in the color of the reference that it reads most.

    Parameters
    ----------
    sample : DataTree
        One sample of a run with two references or more that share a softmax.
    maps : DataTree, optional
        Not used: the shares come from the sample itself.
    style : FigureStyle
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If there is one reference alone, or no layer's softmax is shared.

    Notes
    -----
    The color of a patch is the stronger, the further the entropy of its shares, divided by that of
    equal shares, is below 1.
    """
    mass = source_mass(sample, **selection).mean((LAYER, STEP))
    most, computed = dask.compute(most_read(mass), mass)
    names = [str(name) for name in computed[SOURCE].values if str(name).startswith("reference")]
    numbers = [int(name.partition("_")[2] or 0) for name in names]
    palette = {number: _rgb(index) for index, number in enumerate(numbers)}
    read = most["reference"].to_numpy()
    colors = np.zeros((*read.shape, 3))
    panels = []
    for name, number in zip(names, numbers, strict=True):
        is_most = read == number
        colors[is_most] = palette[number]
        share = float(computed.sel({SOURCE: name}).mean())
        title = f"{name.replace('_', ' ')}\n{share:.0%} of all attention"
        panels.append(_reference_panel(sample, name, title, palette[number], style))
    sure = np.clip(1 - most["entropy"].to_numpy(), 0, 1)
    highest = float(sure.max()) or 1.0
    title = "generated: the reference read most"
    panels.append(patches_panel(sample, title, colors, sure / highest, style))
    note = f"At full strength the entropy of a patch's shares is {highest:.0%} below that of equal ones."
    group = PanelGroup("", tuple(panels), note=note)
    title = figure_title(sample, "which reference each patch reads", selection)
    return draw((group,), style, title)


def _reference_panel(
    sample: xr.DataTree, name: str, title: str, color: np.ndarray[Any, Any], style: FigureStyle
) -> Panel:
    image, seen = stored_image(sample, name), seen_part(sample, name)
    canvas, _, _ = ground(image, seen, style)
    pixels = blend(canvas, color, np.full(canvas.shape[:2], _REFERENCE_OPACITY))
    return Panel(title, pixels=pixels, **placing(image, seen))


def _rgb(index: int) -> np.ndarray[Any, Any]:
    return np.array(mpl.colors.to_rgb(_COLORS[index % len(_COLORS)])) * 255
