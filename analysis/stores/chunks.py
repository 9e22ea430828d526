"""A store's arrays, lazily by chunk or by block, and directly in parts."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final
from weakref import WeakValueDictionary

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from i2am.schemas.dims import CHANNEL, GENERATED, GUIDANCE, HEAD, REFERENCE, STEP

__all__ = [
    "DirectReads",
    "chunk_lengths",
    "in_blocks",
    "in_chunks",
    "stored_arrays",
    "touched_bytes",
]

# Of what a task reads of one array: a task has a price, and so has its memory.
_CHUNKS_BYTES: Final = 32 * 2**20


_BLOCK_BYTES: Final = 64 * 2**20


_WHOLE: Final = (HEAD, GENERATED, REFERENCE, CHANNEL)


# What the lazy arrays of `in_chunks` read, by their names, as long as one of these is there.
stored_arrays: WeakValueDictionary[str, zarr.Array[Any]] = WeakValueDictionary()


def in_chunks(array: zarr.Array[Any], dims: tuple[str, ...]) -> da.Array:
    """Return a stored array lazily, chunk by chunk, several steps together when they are small.

    Chunks, not the shards that hold them: a question about one patch is to read its tiles alone.

    Parameters
    ----------
    array : zarr.Array
    dims : tuple of str
        Its dimensions.
    """
    chunks = dict(zip(dims, array.chunks, strict=True))
    if STEP in chunks and array.size:
        sizes = dict(zip(dims, array.shape, strict=True))
        most = _CHUNKS_BYTES // _step_bytes(array, sizes)
        chunks[STEP] = min(max(1, most // chunks[STEP]) * chunks[STEP], sizes[STEP])
    lazy = _from_array(array, chunks)
    stored_arrays[lazy.name] = array
    return lazy


def in_blocks(lazy: da.Array, dims: tuple[str, ...]) -> da.Array:
    """Return the same values in blocks that a task can take whole: a few steps of one layer.

    Parameters
    ----------
    lazy : dask array
        What `in_chunks` returned: then blocks are read from the store as such. Any other is
        rechunked.
    dims : tuple of str
        Its dimensions.
    """
    sizes = dict(zip(dims, lazy.shape, strict=True))
    whole = {dim: sizes[dim] for dim in _WHOLE if dim in sizes}
    array = stored_arrays.get(lazy.name)
    if array is None or not array.size:
        return lazy.rechunk({dims.index(dim): -1 for dim in whole})
    chunks = dict(zip(dims, array.chunks, strict=True)) | whole
    if STEP in chunks:
        shards = dict(zip(dims, array.shards or array.chunks, strict=True))
        most = _BLOCK_BYTES // _step_bytes(array, chunks)
        chunks[STEP] = min(_block_steps(most, chunks[STEP], shards[STEP]), sizes[STEP])
    return _from_array(array, chunks)


def _from_array(array: zarr.Array[Any], chunks: Mapping[str, int]) -> da.Array:
    # The read is part of the task that uses it; names need not be alike between two openings.
    return da.from_array(array, chunks=tuple(chunks.values()), name=False, inline_array=True)


def _step_bytes(array: zarr.Array[Any], sizes: Mapping[str, int]) -> int:
    """Return the bytes of one step, at least 1, of an array or a part of one."""
    return max(1, array.dtype.itemsize * math.prod(sizes.values()) // sizes[STEP])


def _block_steps(most: int, chunk: int, shard: int) -> int:
    """Return how many steps a block takes: whole shards, or else whole chunks, where they fit.

    Half a chunk costs as much to read as all of it, so one may be twice as large as it should be.

    Examples
    --------
    >>> _block_steps(12, 5, 10), _block_steps(60, 5, 25), _block_steps(12, 5, 50)
    (10, 50, 10)
    >>> _block_steps(3, 5, 10), _block_steps(1, 5, 10)
    (5, 1)
    """
    unit = shard if shard <= most else chunk
    if unit > 2 * most:
        return max(1, most)
    return max(unit, most // unit * unit)


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
