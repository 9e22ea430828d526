"""A map laid over a picture: pixels in, pixels out.

What changes a map for the eye alone (min-max, polarity, threshold, colours, opacity) happens here
and nowhere else, so stored maps keep their values and every figure shows them by the same rules.
Heat is the more opaque the higher its value, so the picture stays readable where the map is low.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2am.schemas import AnalysisError
from i2am.schemas.choices import CONTRASTS, POLARITIES, Contrast, Polarity, check_choice

__all__ = [
    "DEFAULT_STYLE",
    "Style",
    "colour_key",
    "enlarge",
    "heat_of",
    "limits_of",
    "overlay",
]

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float64]
Limits = tuple[float, float]

# Small pictures are repeated up to this size, so that heat is smooth over crisp pixels.
_CANVAS_PX: Final = 384


@dataclass(frozen=True)
class Style:
    """How maps are shown; values are never changed by it.

    Parameters
    ----------
    polarity : {"direct", "inverted"}
        Whether high or low attention is hot. The authors' code shows R2G inverted.
    threshold : float, in [0, 1)
        Heat at or below it is not drawn; 0 is a figure's lowest value, 1 its highest.
    colormap : str
        A matplotlib colormap; perceptually uniform ones tell the truth.
    opacity : float, in (0, 1]
        Opacity of the hottest place.
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
                f"Expected a threshold in [0, 1), got {self.threshold}, at Style. "
                "Give it as a share of the figure's range."
            )
            raise AnalysisError(msg)
        if not 0 < self.opacity <= 1:
            msg = (
                f"Expected an opacity in (0, 1], got {self.opacity}, at Style. "
                "1 hides the picture under the hottest place."
            )
            raise AnalysisError(msg)


DEFAULT_STYLE: Final = Style()


def overlay(
    picture: Pixels, values: npt.ArrayLike, limits: Limits, style: Style = DEFAULT_STYLE
) -> Pixels:
    """Return the picture with the map's heat over it.

    Parameters
    ----------
    picture : ndarray, dims (y, x, rgb), uint8
    values : array_like, dims (map_y, map_x)
        A map that covers the whole picture, on whatever grid; NaN is not drawn.
    limits : tuple of float
        Values shown as the two ends of the scale, see `limits_of`.
    style : Style

    Returns
    -------
    ndarray, dims (y, x, rgb), uint8
        The picture's size, or a whole multiple of it when the picture is small.

    Examples
    --------
    >>> black = np.zeros((2, 2, 3), np.uint8)
    >>> overlay(black, [[0.0, 1.0]], (0.0, 1.0)).shape
    (384, 384, 3)
    """
    canvas = enlarge(picture)
    height, width = canvas.shape[:2]
    return _blend(canvas, heat_of(_upsample(values, (height, width)), limits, style), style)


def limits_of(maps: Iterable[npt.ArrayLike]) -> Limits:
    """Return the lowest and the highest finite value of all the maps; (0, 0) if there is none."""
    finite = [values[np.isfinite(values)] for values in map(np.asarray, maps)]
    kept = [values for values in finite if values.size]
    if not kept:
        return 0.0, 0.0
    return float(min(v.min() for v in kept)), float(max(v.max() for v in kept))


def heat_of(values: npt.ArrayLike, limits: Limits, style: Style = DEFAULT_STYLE) -> Heat:
    """Return how hot each value is, in [0, 1]: min-max, then polarity, then threshold.

    NaN is cold, and so is everything when the limits leave no range.

    Examples
    --------
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), Style(threshold=0.5)).tolist()
    [0.0, 0.0, 1.0]
    >>> heat_of([0.0, 1.0, 4.0], (0.0, 4.0), Style(polarity="inverted")).tolist()
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


def colour_key(style: Style = DEFAULT_STYLE, count: int = 256) -> npt.NDArray[np.float64]:
    """Return the colours of a colour bar, from the lowest value to the highest.

    They are what the heat looks like over mid-grey, so that the bar shows the opacity as well.

    Returns
    -------
    ndarray, dims (value, rgb), float64, in [0, 1]
    """
    grey = np.full((1, count, 3), 128, np.uint8)
    ramp = heat_of(np.linspace(0, 1, count)[None], (0.0, 1.0), style)
    colours: npt.NDArray[np.float64] = _blend(grey, ramp, style)[0] / 255.0
    return colours


def enlarge(picture: Pixels) -> Pixels:
    """Repeat the pixels of a small picture a whole number of times; a mask is welcome too."""
    times = -(-_CANVAS_PX // min(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _upsample(values: npt.ArrayLike, shape: tuple[int, int]) -> Heat:
    """Resize bilinearly, half a cell at the rim extended (align_corners False)."""
    values = np.asarray(values, np.float64)
    factors = [wanted / came for wanted, came in zip(shape, values.shape, strict=True)]
    resized: Heat = ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)
    return resized


def _blend(canvas: Pixels, heat: Heat, style: Style) -> Pixels:
    colours: Any = mpl.colormaps[style.colormap](heat)[..., :3] * 255
    opacity = style.opacity * heat[..., None]
    blended: Pixels = np.rint(canvas * (1 - opacity) + colours * opacity).astype(np.uint8)
    return blended
