"""Resize maps from one grid to another.

Bicubic interpolation is linear and separable, so it is two small matrices, and resizing a whole
block of maps is two matrix products.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Grid", "bicubic_matrix", "largest_grid", "resize", "resize_to_grid"]

Grid = tuple[int, int]
# The cubic kernel's free parameter, as image libraries for neural networks have it.
_CUBIC_A: Final = -0.75


def resize(maps: NDArray[Any], grid: Grid, frames: int = 1) -> NDArray[Any]:
    """Resize maps bicubically; nothing is clamped.

    Parameters
    ----------
    maps : array (..., y, x)
        Floating point.
    grid : (height, width)
        The grid to resize to.
    frames : int
        How many frames of a video lie above one another in each map, so that none bleeds into its
        neighbour; both heights are multiples of it.

    Returns
    -------
    array (..., height, width)
        Of the same dtype; the same array when the grid is the same.

    Notes
    -----
    Cubic convolution with a = -0.75, half-pixel centres, edges repeated, no antialiasing: what
    ``torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`` does.

    Examples
    --------
    >>> resize(np.array([[0.0, 1.0]]), (1, 4)).round(3)
    array([[-0.105,  0.227,  0.773,  1.105]])
    """
    *lead, height, width = maps.shape
    if (height, width) == grid:
        return maps
    rows = bicubic_matrix(height // frames, grid[0] // frames).astype(maps.dtype)
    columns = bicubic_matrix(width, grid[1]).astype(maps.dtype)
    each = maps.reshape(*lead, frames, height // frames, width)
    resized: NDArray[Any] = rows @ (each @ columns.T)
    return resized.reshape(*lead, *grid)


@lru_cache(maxsize=256)
def bicubic_matrix(size: int, wanted: int) -> NDArray[np.float64]:
    """Return the matrix (wanted, size) that resizes a line; each row sums to 1."""
    centres = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((wanted, size))
    for offset in range(-1, 3):
        weights = _cubic(np.abs(centres - (first + offset)))
        np.add.at(matrix, (np.arange(wanted), np.clip(first + offset, 0, size - 1)), weights)
    matrix.flags.writeable = False  # shared by the cache
    return matrix


def largest_grid(grids: Iterable[Grid]) -> Grid:
    """Return the grid with the most positions; the first of several.

    Examples
    --------
    >>> largest_grid([(4, 4), (8, 6)])
    (8, 6)
    """
    return max(grids, key=lambda grid: grid[0] * grid[1])


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
    far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def resize_to_grid(
    flat: NDArray[Any],
    own: Grid,
    wanted: Grid,
    shape: tuple[int, ...],
    factor: int,
    frames: int = 1,
) -> NDArray[Any]:
    """Resize flat maps to a grid and clamp them at 0.

    Parameters
    ----------
    flat : array (n, positions), float32
    own, wanted : (height, width)
        The grid of the maps, and the one to resize to.
    shape : tuple of int
        Leading dimensions to return, of n maps.
    factor : int
        Multiply the maps by it.
    frames : int
        As in `resize`.

    Returns
    -------
    array (*shape, height, width), float32, at least 0
    """
    maps = flat.reshape(math.prod(shape), *own)
    if factor != 1:
        maps = maps * np.float32(factor)
    resized: NDArray[Any] = np.maximum(resize(maps, wanted, frames), 0).reshape(*shape, *wanted)
    return resized
