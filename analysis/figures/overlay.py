"""A map over an image, in a style: pixels in, pixels out.

Everything that changes the look of a map alone (min-max, polarity, threshold, colors, opacity)
happens here, so stored maps keep their values and every figure shows them by the same rules. The
higher a value, the more opaque its heat, so the image stays readable where the map is low.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from i2am.analysis.figures.heat import (
    CANVAS_PX,
    Heat,
    Pixels,
    blend,
    dim_unseen,
    enlarge,
    frame_of,
    in_grey,
    place,
    upsample,
)
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.schemas import Box

__all__ = ["Limits", "colorbar_colors", "heat_of", "overlay", "under_heat", "value_range"]

Limits = tuple[float, float]

# Dark greys: the hottest colors of a map are light, and stand out against no others.
_UNDER_HEAT: Final = (0.15, 0.6)
# Where heat is shown alone, and there is no value or it is below the threshold.
_NO_VALUE: Final = 200


def overlay(
    image: Pixels,
    values: npt.ArrayLike,
    limits: Limits,
    style: FigureStyle = DEFAULT_STYLE,
    box: Box | None = None,
    min_px: int = CANVAS_PX,
) -> Pixels:
    """Return the image with the map's heat over it.

    Parameters
    ----------
    image : ndarray, dims (y, x, rgb), uint8
    values : array_like, dims (map_y, map_x)
        A map that covers the whole image, or the box, on whatever grid; NaN is not drawn.
    limits : tuple of float
        Values shown as the two ends of the scale, see `value_range`.
    style : FigureStyle
    box : Box, optional
        The part of the image that the model saw, in pixels; what lies outside is dimmed.
    min_px : int
        What the shorter side has at least.

    Returns
    -------
    ndarray, dims (y, x, rgb), uint8
        The image's size, or a whole multiple of it when the image is small. Where the box reaches
        beyond the image, the size of both, as `frame_of` gives it.

    Examples
    --------
    >>> black = np.zeros((2, 2, 3), np.uint8)
    >>> overlay(black, [[0.0, 1.0]], (0.0, 1.0)).shape
    (384, 384, 3)
    """
    size = image.shape[0], image.shape[1]
    if box is None or box.is_whole(*size):
        canvas = enlarge(image, min_px)
        placed = upsample(values, (canvas.shape[0], canvas.shape[1]))
    else:
        canvas = dim_unseen(image, box, min_px)
        placed = place(values, (canvas.shape[0], canvas.shape[1]), frame_of(size, box), box)
    heat = heat_of(placed, limits, style)
    if style.base == "none":
        return _alone(placed, heat, style)
    canvas = under_heat(canvas, style)
    # The root, as heat that is half of the highest must not look like a tint.
    return blend(canvas, _colors(heat, style), style.opacity * np.sqrt(heat))


def under_heat(canvas: Pixels, style: FigureStyle) -> Pixels:
    """Return what lies under heat: the image in dark greys, as it is, or a white ground."""
    if style.base == "grey":
        return in_grey(canvas, *_UNDER_HEAT)
    return canvas if style.base == "picture" else np.full_like(canvas, 255)


def value_range(maps: Iterable[npt.ArrayLike]) -> Limits:
    """Return the lowest and the highest finite value of all the maps; (0, 0) if there is none."""
    finite = [values[np.isfinite(values)] for values in map(np.asarray, maps)]
    kept = [values for values in finite if values.size]
    if not kept:
        return 0.0, 0.0
    return float(min(v.min() for v in kept)), float(max(v.max() for v in kept))


def heat_of(values: npt.ArrayLike, limits: Limits, style: FigureStyle = DEFAULT_STYLE) -> Heat:
    """Return how hot each value is, in [0, 1]: min-max, then polarity, then threshold.

    NaN is cold, and so is everything when the limits leave no range.

    Examples
    --------
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), FigureStyle(threshold=0.5)).tolist()
    [0.0, 0.0, 1.0]
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), FigureStyle(polarity="inverted")).tolist()
    [1.0, 0.75, 0.0]
    """
    low, high = limits
    if not high > low:
        return np.zeros(np.shape(values))
    heat: Heat = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    if style.polarity == "inverted":
        heat = 1 - heat
    heat[~(heat > style.threshold)] = 0  # NaN is not above it either.
    return heat


def colorbar_colors(
    style: FigureStyle = DEFAULT_STYLE, count: int = 256
) -> npt.NDArray[np.float64]:
    """Return the colors of a color bar, from the lowest value to the highest.

    They are the colormap's own, whatever the opacity; grey below the threshold, where nothing is drawn.

    Returns
    -------
    ndarray, dims (value, rgb), float64, in [0, 1]
    """
    ramp = np.linspace(0, 1, count)[None]
    colors: npt.NDArray[np.float64] = _alone(ramp, heat_of(ramp, (0.0, 1.0), style), style)[0] / 255
    return colors


def _alone(values: Heat, heat: Heat, style: FigureStyle) -> Pixels:
    """Return heat without a picture; grey where there is no value, or none above the threshold."""
    is_shown = np.isfinite(values) & ((heat > 0) | (style.threshold == 0))
    shown: Pixels = np.rint(_colors(heat, style)).astype(np.uint8)
    shown[~is_shown] = _NO_VALUE
    return shown


def _colors(heat: Heat, style: FigureStyle) -> Any:
    return mpl.colormaps[style.colormap](heat)[..., :3] * 255
