"""Parts of captured arrays, read from the store itself: no graph, no more chunks than are needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.lazy_arrays import stored_arrays
from i2am.schemas.dims import GUIDANCE

__all__ = ["KeptKeys", "chunk_lengths", "read_part", "touched_bytes"]

_KEPT_BYTES: Final = 64 * 2**20


def read_part(array: xr.DataArray, index: Mapping[str, Sequence[int]]) -> NDArray[Any]:
    """Return a part of a captured array, read from the store itself where it lies in one."""
    stored = _stored_array(array)
    if stored is None:
        values = array.isel({dim: at for dim, at in index.items() if dim in array.dims}).to_numpy()
    else:
        ways = [
            _way(index[dim], length) if dim in index else (slice(None), None)
            for dim, length in chunk_lengths(array).items()
        ]
        values = np.asarray(stored.oindex[tuple(read for read, _ in ways)])
        for axis, (_, kept) in enumerate(ways):
            if kept is not None:
                values = values.take(kept, axis=axis)
    return values[0] if GUIDANCE in array.dims else values


def chunk_lengths(array: xr.DataArray) -> dict[str, int]:
    """Return the lengths of what is read at once, by dimension."""
    stored = _stored_array(array)
    if stored is not None:
        lengths = stored.chunks
    else:
        lengths = array.shape if array.chunks is None else [max(own) for own in array.chunks]
    return dict(zip(map(str, array.dims), lengths, strict=True))


def touched_bytes(
    array: xr.DataArray, chunks: Mapping[str, int], index: Mapping[str, Sequence[int]]
) -> int:
    """Return the bytes of the chunks that hold a part of an array, at least 1."""
    lengths = [
        length * len({at // length for at in index[dim]}) if dim in index else array.sizes[dim]
        for dim, length in chunks.items()
    ]
    return max(1, array.dtype.itemsize * math.prod(lengths))


class KeptKeys:
    """Keys that are the same at every step, kept in memory up to a bound: each question needs them."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def get(self, layer: str, key: xr.DataArray, half: int) -> NDArray[Any]:
        """Return a layer's keys (head, reference, channel) of one half, of all its heads."""
        found = self._kept.get(layer)
        if found is None:
            found = read_part(key, {GUIDANCE: [half]})
            with self._lock:
                if sum(one.nbytes for one in self._kept.values()) + found.nbytes > _KEPT_BYTES:
                    self._kept.clear()
                self._kept[layer] = found
        return found


def _way(
    positions: Sequence[int], length: int
) -> tuple[slice | NDArray[np.intp], NDArray[np.intp] | None]:
    """Return what to read of a dimension with chunks of a length, and what of that to keep, if less.

    A slice is read many times faster, so it is one where that touches no further chunk.
    """
    wanted = np.asarray(positions)
    first, last = int(wanted[0]), int(wanted[-1])
    if len(np.unique(wanted // length)) < last // length - first // length + 1:
        return wanted, None
    kept = None if last - first + 1 == len(wanted) else wanted - first
    return slice(first, last + 1), kept


def _stored_array(array: xr.DataArray) -> Any:
    lazy = array.variable.data if array.chunks is not None else None
    return None if lazy is None else stored_arrays.get(lazy.name)
