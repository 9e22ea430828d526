"""Heat over an image, pixel by pixel. NumPy and SciPy alone: a window that shows maps needs no Matplotlib."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from i2am.schemas import Box

__all__ = [
    "CANVAS_PX",
    "Heat",
    "Pixels",
    "blend",
    "dim_unseen",
    "enlarge",
    "frame_of",
    "in_grey",
    "place",
    "upsample",
]

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float64]

# Small images are repeated up to this size, so that heat is smooth over crisp pixels.
CANVAS_PX: Final = 384
# What a model saw beyond an image's edge: no picture, so an even grey.
_PADDING: Final = 200
_VEIL_OPACITY: Final = 0.65
# How light red, green and blue look (ITU-R BT.601).
_LUMA: Final = (0.299, 0.587, 0.114)


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


def enlarge(image: Pixels, min_px: int = CANVAS_PX) -> Pixels:
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


def frame_of(size: tuple[int, int], box: Box) -> Box:
    """Return the whole pixels to draw: those of the image, and beyond it where the box reaches.

    Examples
    --------
    >>> frame_of((32, 32), Box(-4.5, 8, 20, 40))
    Box(y0=-5, x0=0, y1=32, x1=40)
    """
    return Box(
        min(0, math.floor(box.y0)),
        min(0, math.floor(box.x0)),
        max(size[0], math.ceil(box.y1)),
        max(size[1], math.ceil(box.x1)),
    )


def in_grey(image: Pixels, low: float, high: float) -> Pixels:
    """Return an image without its colors, as greys between two ends: any color over it is seen.

    Parameters
    ----------
    image : array (y, x, rgb), uint8
    low, high : float, 0..1
        The greys of black and of white.

    Returns
    -------
    array (y, x, rgb), uint8

    Examples
    --------
    >>> in_grey(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), 0.2, 0.6)[0].tolist()
    [[51, 51, 51], [153, 153, 153]]
    """
    light = image @ np.array(_LUMA)
    grey: Pixels = np.rint(255 * low + (high - low) * light).astype(np.uint8)
    return grey[..., None].repeat(3, axis=-1)


def dim_unseen(image: Pixels, box: Box, min_px: int = CANVAS_PX) -> Pixels:
    """Return what is drawn of an image of which a model saw the box: the rest lies under a veil.

    Parameters
    ----------
    image : array (y, x, rgb), uint8
    box : Box
        In pixels of the image.
    min_px : int
        As in `enlarge`.

    Returns
    -------
    array (y, x, rgb), uint8
        Of the frame of `frame_of`, enlarged as in `enlarge`; grey beyond the image.
    """
    frame = frame_of((image.shape[0], image.shape[1]), box)
    top, left = -int(frame.y0), -int(frame.x0)
    framed = np.full((int(frame.height), int(frame.width), 3), _PADDING, np.uint8)
    framed[top : top + image.shape[0], left : left + image.shape[1]] = image
    canvas = enlarge(framed, min_px)
    rows, columns = (
        _positions(canvas.shape[axis], frame[axis], frame[axis + 2], box[axis], box[axis + 2])
        for axis in (0, 1)
    )
    seen = ((rows >= 0) & (rows < 1))[:, None] & ((columns >= 0) & (columns < 1))
    return blend(canvas, np.zeros(3), np.where(seen, 0.0, _VEIL_OPACITY))


def place(values: npt.ArrayLike, shape: tuple[int, int], frame: Box, box: Box) -> Heat:
    """Resize a map bilinearly to its box on a canvas; NaN outside the box.

    Parameters
    ----------
    values : array_like (map_y, map_x)
    shape : (height, width)
        Of the canvas.
    frame, box : Box
        What the canvas shows, and what the map covers, in pixels of one image.

    Returns
    -------
    array (height, width), float64

    Examples
    --------
    >>> place([[0.0, 1.0]], (1, 4), Box(0, 0, 1, 4), Box(0, 1, 1, 3)).tolist()
    [[nan, 0.0, 1.0, nan]]
    """
    values = np.asarray(values, np.float64)
    rows, columns = (
        _positions(shape[axis], frame[axis], frame[axis + 2], box[axis], box[axis + 2])
        for axis in (0, 1)
    )
    inside = [np.flatnonzero((at >= 0) & (at < 1)) for at in (rows, columns)]
    found: Heat = np.full(shape, np.nan)
    cells = [
        at[own] * count - 0.5
        for at, own, count in zip((rows, columns), inside, values.shape, strict=True)
    ]
    grid = np.meshgrid(*cells, indexing="ij")
    found[np.ix_(*inside)] = ndimage.map_coordinates(values, grid, order=1, mode="nearest")
    return found


def _positions(count: int, low: float, high: float, begin: float, end: float) -> Heat:
    """Return where the centres of pixels that fill low to high lie between two places, as shares."""
    centres = low + (np.arange(count) + 0.5) * (high - low) / count
    shares: Heat = (centres - begin) / (end - begin)
    return shares
