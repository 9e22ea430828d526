"""A map over an image, in a style: pixels in, pixels out.

Everything that changes the look of a map alone (min-max, polarity, threshold, colors, opacity)
happens here, so stored maps keep their values and every figure shows them by the same rules. The
higher a value, the more opaque its heat, so the image stays readable where the map is low.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from i2am.analysis.figures.heat import (
    Heat,
    Pixels,
    blend,
    dim_unseen,
    enlarge,
    frame_of,
    place,
    upsample,
)
from i2am.schemas import AnalysisError, Box
from i2am.schemas.choices import CONTRASTS, POLARITIES, Contrast, Polarity, check_choice

__all__ = [
    "DEFAULT_STYLE",
    "MapStyle",
    "colorbar_colors",
    "heat_of",
    "overlay",
    "value_range",
]

Limits = tuple[float, float]


@dataclass(frozen=True)
class MapStyle:
    """How maps are shown; values are never changed by it.

    Parameters
    ----------
    polarity : {"direct", "inverted"}
        Whether high or low attention is hot. The authors' code shows R2G inverted.
    threshold : float, in [0, 1)
        Heat at or below it is not drawn; 0 is a figure's lowest value, 1 its highest.
    colormap : str
        A matplotlib colormap; a perceptually uniform one does not distort the values.
    opacity : float, in (0, 1]
        Opacity of the hottest pixel.
    contrast : {"shared", "panel"}
        Whether one scale spans the panels of a direction, or each panel has its own.

    Raises
    ------
    AnalysisError
        If a value is none of these.
    """

    polarity: Polarity = "direct"
    threshold: float = 0.0
    colormap: str = "inferno"
    opacity: float = 0.7
    contrast: Contrast = "shared"

    def __post_init__(self) -> None:
        check_choice("polarity", self.polarity, POLARITIES, AnalysisError)
        check_choice("contrast", self.contrast, CONTRASTS, AnalysisError)
        check_choice("colormap", self.colormap, list(mpl.colormaps), AnalysisError)
        if not 0 <= self.threshold < 1:
            msg = (
                f"Expected a threshold in [0, 1), got {self.threshold}, at MapStyle. "
                "Give it as a share of the figure's range."
            )
            raise AnalysisError(msg)
        if not 0 < self.opacity <= 1:
            msg = (
                f"Expected an opacity in (0, 1], got {self.opacity}, at MapStyle. "
                "1 hides the image under the hottest pixel."
            )
            raise AnalysisError(msg)


DEFAULT_STYLE: Final = MapStyle()


def overlay(
    image: Pixels,
    values: npt.ArrayLike,
    limits: Limits,
    style: MapStyle = DEFAULT_STYLE,
    box: Box | None = None,
) -> Pixels:
    """Return the image with the map's heat over it.

    Parameters
    ----------
    image : ndarray, dims (y, x, rgb), uint8
    values : array_like, dims (map_y, map_x)
        A map that covers the whole image, or the box, on whatever grid; NaN is not drawn.
    limits : tuple of float
        Values shown as the two ends of the scale, see `value_range`.
    style : MapStyle
    box : Box, optional
        The part of the image that the model saw, in pixels; what lies outside is dimmed.

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
        canvas = enlarge(image)
        placed = upsample(values, (canvas.shape[0], canvas.shape[1]))
    else:
        canvas = dim_unseen(image, box)
        placed = place(values, (canvas.shape[0], canvas.shape[1]), frame_of(size, box), box)
    return _blend(canvas, heat_of(placed, limits, style), style)


def value_range(maps: Iterable[npt.ArrayLike]) -> Limits:
    """Return the lowest and the highest finite value of all the maps; (0, 0) if there is none."""
    finite = [values[np.isfinite(values)] for values in map(np.asarray, maps)]
    kept = [values for values in finite if values.size]
    if not kept:
        return 0.0, 0.0
    return float(min(v.min() for v in kept)), float(max(v.max() for v in kept))


def heat_of(values: npt.ArrayLike, limits: Limits, style: MapStyle = DEFAULT_STYLE) -> Heat:
    """Return how hot each value is, in [0, 1]: min-max, then polarity, then threshold.

    NaN is cold, and so is everything when the limits leave no range.

    Examples
    --------
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), MapStyle(threshold=0.5)).tolist()
    [0.0, 0.0, 1.0]
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), MapStyle(polarity="inverted")).tolist()
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


def colorbar_colors(style: MapStyle = DEFAULT_STYLE, count: int = 256) -> npt.NDArray[np.float64]:
    """Return the colors of a color bar, from the lowest value to the highest.

    They are what the heat looks like over mid-grey, so that the bar shows the opacity as well.

    Returns
    -------
    ndarray, dims (value, rgb), float64, in [0, 1]
    """
    grey = np.full((1, count, 3), 128, np.uint8)
    ramp = heat_of(np.linspace(0, 1, count)[None], (0.0, 1.0), style)
    colors: npt.NDArray[np.float64] = _blend(grey, ramp, style)[0] / 255.0
    return colors


def _blend(canvas: Pixels, heat: Heat, style: MapStyle) -> Pixels:
    colors: Any = mpl.colormaps[style.colormap](heat)[..., :3] * 255
    opacity = style.opacity * heat
    return blend(canvas, colors, opacity)
