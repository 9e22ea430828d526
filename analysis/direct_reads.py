"""Parts of captured arrays, read from the store itself: no graph, no more chunks than are needed.

Zarr's own codec pipeline takes longer to plan the reads of a few chunks than the disk to answer them;
that of the package zarrs takes a sixth of the time, for stores on disk.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from i2am.analysis.lazy_arrays import stored_arrays
from i2am.schemas.dims import GUIDANCE

__all__ = ["DirectReads", "chunk_lengths", "touched_bytes"]

_KEPT_BYTES: Final = 64 * 2**20
_QUICK: Final = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
_HAS_QUICK: Final = importlib.util.find_spec("zarrs") is not None


def chunk_lengths(array: xr.DataArray) -> dict[str, int]:
    """Return the lengths of what is read at once, by dimension."""
    stored = _stored_array(array)
    lengths: Sequence[int]
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


class DirectReads:
    """What is read of one sample, by any thread; what is opened once stays open."""

    def __init__(self) -> None:
        self._opened: dict[str, zarr.Array[Any]] = {}
        self._keys: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def part(self, array: xr.DataArray, index: Mapping[str, Sequence[int]]) -> NDArray[Any]:
        """Return a part of a captured array, read from the store itself where it lies in one."""
        stored = self._open(array)
        if stored is None:
            here = {dim: at for dim, at in index.items() if dim in array.dims}
            values = array.isel(here).to_numpy()
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

    def key(self, layer: str, key: xr.DataArray, half: int) -> NDArray[Any]:
        """Return a layer's keys (head, reference, channel) of one half, of all its heads.

        For keys that are the same at every step: each question needs them, so they are kept in
        memory up to a bound.
        """
        found = self._keys.get(layer)
        if found is None:
            found = self.part(key, {GUIDANCE: [half]})
            with self._lock:
                if sum(one.nbytes for one in self._keys.values()) + found.nbytes > _KEPT_BYTES:
                    self._keys.clear()
                self._keys[layer] = found
        return found

    def _open(self, array: xr.DataArray) -> zarr.Array[Any] | None:
        stored = _stored_array(array)
        if stored is None or not (_HAS_QUICK and isinstance(stored.store, LocalStore)):
            return stored
        name = array.variable.data.name
        with self._lock:
            if name not in self._opened:
                with zarr.config.set(_QUICK):
                    self._opened[name] = stored.with_config(stored.config)
            return self._opened[name]


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


def _stored_array(array: xr.DataArray) -> zarr.Array[Any] | None:
    lazy = array.variable.data if array.chunks is not None else None
    return None if lazy is None else stored_arrays.get(lazy.name)
