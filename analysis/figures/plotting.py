"""A map by xarray's own plot, with y downwards as in the image that it lies over.

xarray draws y upwards unless each call says ``yincrease=False``: it is the default of its functions, and no
attribute or coordinate of an array changes it. So ``maps["r2g/ulam"].plot()`` stands on its head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.schemas import AnalysisError
from i2am.schemas.dims import PIXEL_UNITS

__all__ = ["plot_map"]

_OPACITY_OVER_IMAGE = 0.6


def plot_map(
    attention: xr.DataArray, *, image: xr.DataArray | NDArray[Any] | None = None, **options: Any
) -> Any:
    """Plot a map, or one panel for each of several, the same way up as its image, y downwards.

    For a look in a notebook; the figures of `i2am.analysis.figures` are for a paper.

    Parameters
    ----------
    attention : DataArray, dims ([…,] y, x) or ([…,] reference_y, reference_x)
        A map of any level, in memory or lazy; with one or two dimensions more that `options` name as
        ``col`` and ``row``.
    image : array (y, x, rgb), uint8, optional
        The stored image that the map lies over, drawn below it: ``run["a"]["images/generated"]``.
    **options
        Of ``xarray.DataArray.plot.imshow``: ax, cmap, vmin, vmax, col, row, col_wrap, size, alpha …

    Returns
    -------
    AxesImage or FacetGrid
        As xarray returns it; ``.axes`` of the first is the Matplotlib Axes.

    Raises
    ------
    AnalysisError
        If it is no map, has more dimensions than `options` name, or an image is given and the map does
        not tell where on it it lies.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")  # no window
    >>> from i2am import DEMO_RUN, analyze, open_run
    >>> sample = open_run(DEMO_RUN)["truck"]
    >>> drawn = plot_map(analyze(sample)["r2g/ulam"], image=sample["images/generated"])
    >>> bool(drawn.axes.yaxis_inverted())
    True
    """
    _check_map(attention, options)
    y, x = (str(dim) for dim in attention.dims[-2:])
    if image is not None and any(
        attention.coords.get(dim, attention).attrs.get("units") != PIXEL_UNITS for dim in (y, x)
    ):
        msg = (
            f"Expected a map whose coordinates are pixels of the image, got none of {(y, x)}, at "
            "attention. Analyze a sample with stored images, or leave out image."
        )
        raise AnalysisError(msg)
    given: dict[str, Any] = {"yincrease": False} | options
    if image is not None:
        given = {"alpha": _OPACITY_OVER_IMAGE} | given
    if "col" in options or "row" in options:
        ratio = attention.sizes[x] / attention.sizes[y]
        drawn: Any = attention.plot.imshow(x=x, y=y, **({"aspect": ratio, "size": 3} | given))
        panels = [axes for axes in drawn.axs.flat if axes.images]
    else:
        drawn = attention.plot.imshow(x=x, y=y, **given)
        panels = [drawn.axes]
    for axes in panels:
        if image is not None:
            values = np.asarray(image)
            height, width = values.shape[:2]
            axes.imshow(values, extent=(0, width, height, 0), zorder=-1)
        axes.set_aspect("equal")
    return drawn


def _check_map(attention: object, options: dict[str, Any]) -> None:
    if isinstance(attention, xr.DataArray):
        named = [options[key] for key in ("row", "col") if options.get(key) is not None]
        left = [dim for dim in attention.dims[:-2] if dim not in named]
        if attention.ndim >= 2 and not left:
            return
        got = f"one of dims {attention.dims}"
        remedy = (
            f"Select from {left}, or name it: col={left[0]!r}." if left else "Take a map (y, x)."
        )
    else:
        got = f"a {type(attention).__name__}"
        remedy = "Give one of its maps: maps['r2g/ulam']."
    msg = f"Expected one map (y, x), got {got}, at attention. {remedy}"
    raise AnalysisError(msg)
