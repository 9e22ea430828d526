"""Stored arrays as lazy ones: in their own chunks for questions, in blocks for a pass over all.

Chunks are tiles of patches, so that a question about one of them reads a hundredth; a pass over all
of them reads whole shards, which takes a fifth of the time that their tiles would, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import dask.array as da
import zarr

from i2am.schemas.dims import CHANNEL, GENERATED, HEAD, REFERENCE, STEP

__all__ = ["in_blocks", "in_chunks", "stored_arrays"]

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
