"""Read a store's arrays: lazily, by chunk or by block, or parts of them at once."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from i2am.analysis.stores.stored_array import StoredArray
from i2am.schemas.dims import CHANNEL, GENERATED, GUIDANCE, HEAD, REFERENCE, STEP, TEXT
from i2am.storage.sample_state import SampleState

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = [
    "StoreReads",
    "chunk_lengths",
    "in_blocks",
    "in_chunks",
    "touched_bytes",
]

# What a task reads of one array: each task costs time, and each byte memory.
_MAX_TASK_BYTES: Final = 32 * 2**20
_MAX_BLOCK_BYTES: Final = 64 * 2**20
_WHOLE_DIMS: Final = (HEAD, GENERATED, REFERENCE, TEXT, CHANNEL)
# In a variable's encoding: what its lazy array reads.
_SOURCE: Final = "i2am_source"
CACHED_KEY_BYTES: Final = 64 * 2**20
HAS_ZARRS: Final = importlib.util.find_spec("zarrs") is not None


@dataclass(frozen=True)
class _Source:
    """A stored array, and the name of the lazy array that reads all of it.

    A variable keeps its encoding when it is cut to a part of itself; the name then differs.
    """

    name: str
    array: StoredArray

    def __deepcopy__(self, memo: object) -> _Source:
        return self


def in_chunks(
    array: zarr.Array[Any], dims: tuple[str, ...], state: SampleState | None = None
) -> xr.Variable:
    """Return a stored array lazily, chunk by chunk, several steps together if they are small.

    Chunks, not the shards that hold them: a request for one patch has to read that patch's chunks alone.

    Parameters
    ----------
    array : zarr.Array
    dims : tuple of str
        Its dimensions.
    state : SampleState, optional
        Of the sample that it belongs to.
    """
    import xarray as xr

    chunks = dict(zip(dims, array.chunks, strict=True))
    if STEP in chunks and array.size:
        sizes = dict(zip(dims, array.shape, strict=True))
        max_steps = _MAX_TASK_BYTES // _step_bytes(array, sizes)
        chunks[STEP] = min(max(1, max_steps // chunks[STEP]) * chunks[STEP], sizes[STEP])
    stored = StoredArray(array, state)
    lazy = _from_array(stored, chunks)
    return xr.Variable(dims, lazy, encoding={_SOURCE: _Source(lazy.name, stored)})


def in_blocks(lazy: xr.DataArray) -> xr.DataArray:
    """Return the same values in blocks of a few steps, whole in every other dimension but head.

    Parameters
    ----------
    lazy : DataArray
        Of a variable that `in_chunks` returned: a task then reads a block from the store. Any other
        is rechunked.
    """
    dims = tuple(map(str, lazy.dims))
    sizes = dict(zip(dims, lazy.shape, strict=True))
    whole = {dim: sizes[dim] for dim in _WHOLE_DIMS if dim in sizes}
    stored = _stored_array(lazy)
    if stored is None or not stored.array.size:
        return lazy.copy(data=lazy.data.rechunk({dims.index(dim): -1 for dim in whole}))
    array = stored.array
    chunks = dict(zip(dims, array.chunks, strict=True)) | whole
    if STEP in chunks:
        shards = dict(zip(dims, array.shards or array.chunks, strict=True))
        max_steps = _MAX_BLOCK_BYTES // _step_bytes(array, chunks)
        chunks[STEP] = min(_block_steps(max_steps, chunks[STEP], shards[STEP]), sizes[STEP])
    return lazy.copy(data=_from_array(stored, chunks))


def _from_array(array: StoredArray, chunks: Mapping[str, int]) -> da.Array:
    import dask.array as da

    # The read is part of the task that uses it; names need not be alike between two openings. Without
    # `meta`, Dask would read a part to learn the type.
    nothing = np.empty((0,) * array.array.ndim, array.array.dtype)
    return da.from_array(
        array, chunks=tuple(chunks.values()), name=False, inline_array=True, meta=nothing
    )


def _step_bytes(array: zarr.Array[Any], sizes: Mapping[str, int]) -> int:
    """Return the bytes of one step, at least 1, of an array or a part of one."""
    return max(1, array.dtype.itemsize * math.prod(sizes.values()) // sizes[STEP])


def _block_steps(max_steps: int, chunk: int, shard: int) -> int:
    """Return how many steps a block takes: whole shards, or else whole chunks, where they fit.

    Half a chunk costs as much to read as all of it, so one may be twice as large as it should be.

    Examples
    --------
    >>> _block_steps(12, 5, 10), _block_steps(60, 5, 25), _block_steps(12, 5, 50)
    (10, 50, 10)
    >>> _block_steps(3, 5, 10), _block_steps(1, 5, 10)
    (5, 1)
    """
    unit = shard if shard <= max_steps else chunk
    if unit > 2 * max_steps:
        return max(1, max_steps)
    return max(unit, max_steps // unit * unit)


def chunk_lengths(array: xr.DataArray) -> dict[str, int]:
    """Return the length of a chunk along each dimension."""
    stored = _stored_array(array)
    lengths: Sequence[int]
    if stored is not None:
        lengths = stored.array.chunks
    else:
        lengths = array.shape if array.chunks is None else [max(own) for own in array.chunks]
    return dict(zip(map(str, array.dims), lengths, strict=True))


def touched_bytes(
    array: xr.DataArray, chunks: Mapping[str, int], index: Mapping[str, Sequence[int]]
) -> int:
    """Return the bytes of the chunks that hold a part of an array, at least 1.

    Parameters
    ----------
    array : DataArray
    chunks : mapping of dimension to int
        As `chunk_lengths` returns them.
    index : mapping of dimension to sequence of int
        The positions of the part; all of a dimension that is not named.
    """
    lengths = [
        length * len({at // length for at in index[dim]}) if dim in index else array.sizes[dim]
        for dim, length in chunks.items()
    ]
    return max(1, array.dtype.itemsize * math.prod(lengths))


class StoreReads:
    """Reads parts of one sample's arrays, from any thread; arrays that were opened stay open.

    Parameters
    ----------
    cached_key_bytes : int
        Limit for the keys in memory.
    use_zarrs : bool
        Read a local store without zarr, several times as fast: arrays with checksums by NumPy, others
        by zarrs. Default: if zarrs is installed.
    """

    def __init__(
        self, *, cached_key_bytes: int = CACHED_KEY_BYTES, use_zarrs: bool = HAS_ZARRS
    ) -> None:
        self._cached_key_bytes, self._use_zarrs = cached_key_bytes, use_zarrs
        self._keys: dict[str, NDArray[Any]] = {}
        self._lock = Lock()

    def read(self, array: xr.DataArray, index: Mapping[str, Sequence[int]]) -> NDArray[Any]:
        """Return a part of a captured array, read from the store itself if the array lies in one.

        Parameters
        ----------
        array : DataArray
            As `open_run` gives it.
        index : mapping of dimension to sequence of int
            Positions, ascending; all of a dimension that is not named. One of GUIDANCE.

        Returns
        -------
        array
            The dimensions of `array` without GUIDANCE; the dtype that is stored.
        """
        stored = _stored_array(array)
        if stored is None:
            here = {dim: at for dim, at in index.items() if dim in array.dims}
            values = array.isel(here).to_numpy()
        else:
            indexers = [
                _slice_or_index(index[dim], length) if dim in index else (slice(None), None)
                for dim, length in chunk_lengths(array).items()
            ]
            selection = tuple(read for read, _ in indexers)
            values = stored.read(lambda own: own.oindex[selection], natively=self._use_zarrs)
            for axis, (_, kept) in enumerate(indexers):
                if kept is not None:
                    values = values.take(kept, axis=axis)
        return values[0] if GUIDANCE in array.dims else values

    def key(self, layer: str, key: xr.DataArray, guidance_index: int) -> NDArray[Any]:
        """Return a layer's keys (head, reference, channel) of one guidance branch, of all its heads.

        For keys that are the same at every step: each request needs them, so they stay in memory up
        to a bound.
        """
        found = self._keys.get(layer)
        if found is None:
            found = self.read(key, {GUIDANCE: [guidance_index]})
            with self._lock:
                held = sum(one.nbytes for one in self._keys.values())
                if held + found.nbytes > self._cached_key_bytes:
                    self._keys.clear()
                self._keys[layer] = found
        return found


def _slice_or_index(
    positions: Sequence[int], length: int
) -> tuple[slice | NDArray[np.intp], NDArray[np.intp] | None]:
    """Return what to read of a dimension with chunks of a length, and what of that to keep, if less.

    A slice reads many times faster than an index, so it is a slice if that touches no other chunk.
    """
    wanted = np.asarray(positions)
    first, last = int(wanted[0]), int(wanted[-1])
    if len(np.unique(wanted // length)) < last // length - first // length + 1:
        return wanted, None
    kept = None if last - first + 1 == len(wanted) else wanted - first
    return slice(first, last + 1), kept


def _stored_array(array: xr.DataArray) -> StoredArray | None:
    source = array.variable.encoding.get(_SOURCE)
    if not isinstance(source, _Source) or array.chunks is None:
        return None
    return source.array if array.variable.data.name == source.name else None
