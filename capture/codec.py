"""How the steps of an array become the bytes of a Zarr shard.

A shard is one object in the store and holds all tokens of many steps; the chunks inside are tiles
of patches over several steps, so that a reader who wants one patch at every step reads little.
Shards are encoded here rather than by zarr, in the standard layout (Zarr's ``sharding_indexed``):
several times as fast, and any Zarr reader opens them. They are not compressed: the last bits of
attention's floats are noise, and the tenth that bit-shuffling and lz4 take off costs more time than
writing it (``benchmarks/results/store.md``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import torch
import zarr
from zarr.abc.buffer import Buffer
from zarr.core.sync import sync

__all__ = ["Array", "ShardLayout", "decode_shard", "encode_shard", "plan_shards"]

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_BYTES = 320 * 2**10
# People ask for 20, 25, 30 or 50 steps: few chunks end in steps that never were.
MOST_CHUNK_STEPS = 5
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_ABSENT = np.iinfo(np.uint64).max


@dataclass(frozen=True)
class ShardLayout:
    """What a shard holds.

    Parameters
    ----------
    steps : int
        Steps of a shard; a multiple of the chunk's.
    chunk : tuple of int
        Shape of a chunk: step, head, token[, channel].
    tokens : int
        Tokens of the array; the chunks of the last tile may reach beyond.
    """

    steps: int
    chunk: tuple[int, ...]
    tokens: int

    @property
    def tiles(self) -> int:
        """Chunks along the tokens."""
        return math.ceil(self.tokens / self.chunk[2])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a shard, without guidance; a multiple of the chunk's, as Zarr wants it."""
        return (self.steps, self.chunk[1], self.tiles * self.chunk[2], *self.chunk[3:])


def plan_shards(steps: int, slab_shape: Sequence[int], item_bytes: int) -> ShardLayout:
    """Return the layout of shards of about so many steps.

    Parameters
    ----------
    steps : int
        Rounded up to whole chunks.
    slab_shape : sequence of int
        Shape of one step: head, token[, channel].
    item_bytes : int

    Examples
    --------
    >>> plan_shards(15, (8, 4096, 40), 2)
    ShardLayout(steps=15, chunk=(5, 8, 103, 40), tokens=4096)
    >>> plan_shards(3, (4, 256, 16), 2).shape
    (3, 4, 256, 16)
    """
    heads, tokens, *channels = slab_shape
    chunk_steps = min(steps, MOST_CHUNK_STEPS)
    row_bytes = chunk_steps * math.prod(slab_shape) * item_bytes
    tiles = min(tokens, math.ceil(row_bytes / CHUNK_BYTES))
    chunk = (chunk_steps, heads, math.ceil(tokens / tiles), *channels)
    return ShardLayout(math.ceil(steps / chunk_steps) * chunk_steps, chunk, tokens)


def encode_shard(
    values: torch.Tensor, dtype: np.dtype[Any], layout: ShardLayout, scratch: Array | None = None
) -> Array:
    """Return a shard as Zarr stores it: chunk after chunk, then the index and its checksum.

    Parameters
    ----------
    values : Tensor, dims (step, head, token[, channel]), on the host
        All of the shard's steps, or fewer where the run has ended.
    dtype : dtype
        float16 or float32: what the values are stored as.
    layout : ShardLayout
    scratch : Array of bytes, optional
        Memory to use if it is large enough: pages that are touched for the first time cost more
        than everything else here.

    Returns
    -------
    Array, dims (byte,), uint8
        Chunks and index are little-endian; chunks that hold no step at all are absent.
    """
    chunk_steps = layout.chunk[0]
    rows = math.ceil(len(values) / chunk_steps)
    chunk_bytes = math.prod(layout.chunk) * dtype.itemsize
    filled = rows * layout.tiles
    index = np.full((layout.steps // chunk_steps * layout.tiles, 2), _ABSENT, "<u8")
    index[:filled, 0] = np.arange(filled) * chunk_bytes
    index[:filled, 1] = chunk_bytes
    tail = index.tobytes()
    tail += google_crc32c.value(tail).to_bytes(4, "little")
    size_bytes = filled * chunk_bytes + len(tail)
    if scratch is None or len(scratch) < size_bytes:
        scratch = np.empty(size_bytes, np.uint8)
    shard = scratch[:size_bytes]
    shard[filled * chunk_bytes :] = np.frombuffer(tail, np.uint8)
    chunks = shard[: filled * chunk_bytes].view(dtype).reshape(rows, layout.tiles, *layout.chunk)
    converted = torch.empty((chunk_steps, *values.shape[1:]), dtype=_TORCH_DTYPES[dtype.name])
    for row, tiles in enumerate(chunks):
        steps = values[row * chunk_steps : (row + 1) * chunk_steps]
        _fill(tiles, _convert(steps, converted[: len(steps)]).numpy())
    if sys.byteorder == "big":
        chunks.byteswap(inplace=True)
    return shard


def decode_shard(shard: Buffer, dtype: np.dtype[Any], layout: ShardLayout) -> Array:
    """Return what a shard holds, dims (step, head, token[, channel]); steps that never were are 0.

    Through an array of its own in memory, so that Zarr itself reads it.
    """
    heads, _width, *channels = layout.chunk[1:]
    array = zarr.create_array(
        {},
        shape=(layout.steps, heads, layout.tokens, *channels),
        chunks=layout.chunk,
        shards=layout.shape,
        dtype=dtype,
        compressors=None,
    )
    origin = "/".join(["c", *("0" for _ in layout.chunk)])
    sync((array.store_path / origin).set(shard))
    return np.asarray(array[...])


def _convert(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if values.dtype == target.dtype:
        return values
    return target.copy_(values)


def _fill(tiles: Array, values: Array) -> None:
    """Copy steps (step, head, token, …) into their tiles (tile, step, head, token, …)."""
    steps, heads, tokens = values.shape[:3]
    width = tiles.shape[3]
    whole = tokens // width
    split = values[:, :, : whole * width].reshape(steps, heads, whole, width, *values.shape[3:])
    tiles[:whole, :steps] = np.moveaxis(split, 2, 0)
    if rest := tokens - whole * width:
        tiles[-1, :steps, :, :rest] = values[:, :, whole * width :]
        tiles[-1, :steps, :, rest:] = 0
    tiles[:, steps:] = 0
