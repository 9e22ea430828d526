"""Maps as bytes in a page: quantised, deflated, in base64, on a grid that fits the room there is.

A page holds hundreds of maps of a sample. One byte a cell between the lowest and the highest value of
its own map is what a screen shows, and browsers inflate it themselves.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid

__all__ = ["LEVELS", "NO_VALUE", "area_means", "encode_stack", "fit_stack", "grid_within"]

# Bytes from 0 to this one are values; the last is none.
LEVELS: Final = 254
NO_VALUE: Final = 255
# Of the ends of a map's values: a hundredth of a level.
_DIGITS: Final = 5
_SIDES: Final = (64, 48, 40, 32, 28, 24, 20, 16, 14, 12, 10, 8, 6, 4, 2)
# Attention is smooth, but no map is deflated to less than a sixth: no need to try.
_BEST_RATIO: Final = 6
_BASE64: Final = 4 / 3


def encode_stack(maps: NDArray[Any], dims: Sequence[str]) -> dict[str, Any]:
    """Return maps as what a page's script reads.

    Parameters
    ----------
    maps : array (…, y, x), floating point
        NaN is no value.
    dims : sequence of str
        Names of the leading dimensions.

    Returns
    -------
    dict
        ``dims``, ``shape`` (…, y, x), ``encoding``, ``data`` (bytes, row-major, deflated without a
        header, in base64), and ``low`` and ``high``, one of each map: a value is low + (high - low) *
        byte / 254, and 255 is none.

    Examples
    --------
    >>> stack = encode_stack(np.array([[0.0, 0.5], [np.nan, 1.0]]), [])
    >>> zlib.decompress(base64.b64decode(stack["data"]), -15).hex(" ")
    '00 7f ff fe'
    >>> stack["shape"], stack["low"], stack["high"]
    ([2, 2], [0.0], [1.0])
    """
    flat = maps.astype(np.float64).reshape(-1, maps.shape[-2] * maps.shape[-1])
    is_value = np.isfinite(flat)
    low = _rounded(np.where(is_value, flat, np.inf).min(axis=1))
    high = _rounded(np.where(is_value, flat, -np.inf).max(axis=1))
    span = np.where(high > low, high - low, 1.0)[:, None]
    levels = np.rint((np.where(is_value, flat, 0.0) - low[:, None]) / span * LEVELS)
    levels = np.where(is_value, levels.clip(0, LEVELS), NO_VALUE).astype(np.uint8)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(levels.tobytes()) + deflate.flush()
    return {
        "dims": list(dims),
        "shape": list(maps.shape),
        "encoding": "deflate-raw",
        "data": base64.b64encode(packed).decode("ascii"),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def fit_stack(maps: NDArray[Any], dims: Sequence[str], max_bytes: int) -> dict[str, Any]:
    """Return maps as `encode_stack` does, on the finest grid that fits into a number of bytes.

    Parameters
    ----------
    maps : array (…, y, x), floating point
    dims : sequence of str
    max_bytes : int
        Of the data in base64; the coarsest grid is taken where none fits.
    """
    grid = maps.shape[-2], maps.shape[-1]
    count = max(1, int(np.prod(maps.shape[:-2])))
    sides = [max(grid), *(side for side in _SIDES if side < max(grid))]
    found: dict[str, Any] = {}
    for side in sides:
        height, width = grid_within(grid, side)
        if count * height * width * _BASE64 > max_bytes * _BEST_RATIO and side != sides[-1]:
            continue
        found = encode_stack(area_means(maps, (height, width)), dims)
        if len(found["data"]) <= max_bytes:
            break
    return found


def grid_within(grid: Grid, side: int) -> Grid:
    """Return a grid of the same shape whose longer side is at most so long.

    Examples
    --------
    >>> grid_within((64, 48), 16), grid_within((8, 4), 16)
    ((16, 12), (8, 4))
    """
    share = min(1.0, side / max(grid))
    return max(1, round(grid[0] * share)), max(1, round(grid[1] * share))


def area_means(maps: NDArray[Any], grid: Grid) -> NDArray[np.float64]:
    """Return maps on a coarser grid: each cell holds the mean over its area, so that means stay.

    Parameters
    ----------
    maps : array (…, y, x)
    grid : (height, width)

    Examples
    --------
    >>> area_means(np.array([[1.0, 0.0, 0.0]]), (1, 2))
    array([[0.66666667, 0.        ]])
    """
    maps = maps.astype(np.float64)
    if maps.shape[-2:] == grid:
        return maps
    rows, columns = (_means(own, wanted) for own, wanted in zip(maps.shape[-2:], grid, strict=True))
    found: NDArray[np.float64] = rows @ maps @ columns.T
    return found


def _means(size: int, wanted: int) -> NDArray[np.float64]:
    """Return the matrix (wanted, size) of the share that each position has in each wanted cell."""
    ends = np.arange(wanted + 1)[:, None] * (size / wanted)
    covered = np.clip(ends - np.arange(size), 0, 1)
    shares: NDArray[np.float64] = np.diff(covered, axis=0) * (wanted / size)
    return shares


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers with few digits; 0 for those of maps without a value."""
    known = np.where(np.isfinite(values), values, 0.0)
    return np.array([float(f"{value:.{_DIGITS}g}") for value in known])
