"""Heat over an image, pixel by pixel. NumPy and SciPy alone: a window that shows maps needs no Matplotlib."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = ["Heat", "Pixels", "blend", "enlarge", "upsample"]

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float64]

# Small images are repeated up to this size, so that heat is smooth over crisp pixels.
_CANVAS_PX: Final = 384


def blend(image: Pixels, colors: npt.NDArray[np.floating], opacity: Heat) -> Pixels:
    """Return an image with colors over it.

    Parameters
    ----------
    image : array (y, x, rgb), uint8
    colors : array (y, x, rgb), 0..255
    opacity : array (y, x), 0..1

    Returns
    -------
    array (y, x, rgb), uint8

    Examples
    --------
    >>> black, red = np.zeros((1, 2, 3), np.uint8), np.array([[[255.0, 0, 0]] * 2])
    >>> blend(black, red, np.array([[0.0, 0.5]]))[0, :, 0]
    array([  0, 128], dtype=uint8)
    """
    alpha = opacity[..., None]
    blended: Pixels = np.rint(image * (1 - alpha) + colors * alpha).astype(np.uint8)
    return blended


def enlarge(image: Pixels, min_px: int = _CANVAS_PX) -> Pixels:
    """Repeat the pixels of a small image, or of a mask, until its shorter side has `min_px`.

    Parameters
    ----------
    image : array (y, x, …)
    min_px : int

    Returns
    -------
    array (y, x, …)
        A whole multiple of the image's size.
    """
    times = -(-min_px // min(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def upsample(values: npt.ArrayLike, shape: tuple[int, int]) -> Heat:
    """Resize a map bilinearly to an image's size, with half a position extended at the border.

    Parameters
    ----------
    values : array_like (map_y, map_x)
    shape : (height, width)

    Returns
    -------
    array (height, width), float64
    """
    values = np.asarray(values, np.float64)
    factors = [wanted / own for wanted, own in zip(shape, values.shape, strict=True)]
    resized: Heat = ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)
    return resized
