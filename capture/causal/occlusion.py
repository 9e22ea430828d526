"""Hiding a region of a picture: it is filled from its surroundings, as smoothly as can be.

A grey patch would be an object of its own. The fill is the harmonic one: inside the region every pixel
is the mean of its neighbours, so no edge and no texture is left.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2am.schemas import Box

__all__ = ["occluded"]

Matrix = NDArray[np.float64]


def occluded(picture: Image.Image, box: Box) -> Image.Image:
    """Return a picture of which a region is filled from its surroundings.

    Parameters
    ----------
    picture : PIL image, RGB
    box : Box
        In its pixels: those whose centre lies in it are filled. At the picture's border the fill goes
        on level; of a whole picture it is the mean.

    Examples
    --------
    >>> ramp = Image.fromarray(np.arange(0, 250, 10, np.uint8)[None].repeat(4, 0)).convert("RGB")
    >>> np.array_equal(occluded(ramp, Box(0, 5, 4, 20)), ramp)
    True
    """
    values = np.array(picture.convert("RGB"))
    rows, columns = _pixels(box.y0, box.y1, len(values)), _pixels(box.x0, box.x1, values.shape[1])
    if rows.start < rows.stop and columns.start < columns.stop:
        filled = _harmonic(values.astype(np.float64), rows, columns)
        values[rows, columns] = np.clip(np.rint(filled), 0, 255)
    return Image.fromarray(values)


def _pixels(start: float, end: float, count: int) -> slice:
    """Return the pixels whose centre lies between two corners."""
    first, last = (min(max(ceil(edge - 0.5), 0), count) for edge in (start, end))
    return slice(first, last)


def _harmonic(values: NDArray[Any], rows: slice, columns: slice) -> Matrix:
    """Return the fill of a rectangle, dims (y, x, channel): it solves Laplace's equation there."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    border = np.zeros((height, width, values.shape[2]))
    above, below = rows.start > 0, rows.stop < values.shape[0]
    left, right = columns.start > 0, columns.stop < values.shape[1]
    if above:
        border[0] += values[rows.start - 1, columns]
    if below:
        border[-1] += values[rows.stop, columns]
    if left:
        border[:, 0] += values[rows, columns.start - 1]
    if right:
        border[:, -1] += values[rows, columns.stop]
    if not (above or below or left or right):
        return np.broadcast_to(values.mean(axis=(0, 1)), border.shape)
    # The rectangle's operator is a sum of one along y and one along x: their eigenvectors solve it.
    along_y, along_x = _differences(height, above, below), _differences(width, left, right)
    (own_y, vectors_y), (own_x, vectors_x) = np.linalg.eigh(along_y), np.linalg.eigh(along_x)
    found = np.einsum("yi,xj,yxc->ijc", vectors_y, vectors_x, border, optimize=True)
    found /= (own_y[:, None] + own_x)[..., None]
    filled: Matrix = np.einsum("yi,xj,ijc->yxc", vectors_y, vectors_x, found, optimize=True)
    return filled


def _differences(count: int, has_start: bool, has_end: bool) -> Matrix:
    """Return minus the second difference along a line, with known or level ends."""
    found = 2 * np.eye(count) - np.eye(count, k=1) - np.eye(count, k=-1)
    found[0, 0] -= not has_start
    found[-1, -1] -= not has_end
    return found
