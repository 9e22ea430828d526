"""How the steps of an array become the bytes of a Zarr shard.

A shard is one object in the store and holds all tokens of many steps; the chunks inside are tiles
of patches over several steps, so that a reader who wants one patch at every step reads little.
Shards are encoded here rather than by zarr, in the standard layout (Zarr's ``sharding_indexed``):
several times as fast, and without a second copy of the steps. Any Zarr reader opens them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc  # type: ignore[import-untyped]
from zarr.codecs import BloscCodec

__all__ = ["COMPRESSOR", "Array", "ShardLayout", "encode_shard", "plan_shards"]

Array = np.ndarray[Any, np.dtype[Any]]
# Attention's floats are noise in their last bits: this takes an eighth off, at the disk's speed.
COMPRESSOR = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
_encoder = Blosc("lz4", 5, Blosc.BITSHUFFLE)

CHUNK_BYTES = 512 * 2**10
MOST_CHUNK_STEPS = 8
_ABSENT = np.iinfo(np.uint64).max
_MOST_OVERHEAD_BYTES = 16  # of Blosc, when a chunk cannot be compressed


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
    >>> plan_shards(16, (8, 4096, 40), 2)
    ShardLayout(steps=16, chunk=(8, 8, 103, 40), tokens=4096)
    >>> plan_shards(3, (4, 256, 16), 2).shape
    (3, 4, 256, 16)
    """
    heads, tokens, *channels = slab_shape
    chunk_steps = min(steps, MOST_CHUNK_STEPS)
    row_bytes = chunk_steps * math.prod(slab_shape) * item_bytes
    tiles = min(tokens, math.ceil(row_bytes / CHUNK_BYTES))
    chunk = (chunk_steps, heads, math.ceil(tokens / tiles), *channels)
    return ShardLayout(math.ceil(steps / chunk_steps) * chunk_steps, chunk, tokens)


def encode_shard(slabs: Sequence[Array], layout: ShardLayout) -> Array:
    """Return the bytes of a shard: its chunks, where each of them is, and a checksum of that.

    Parameters
    ----------
    slabs : sequence of arrays, dims (head, token[, channel]), all of one dtype
        The steps, as many as the shard holds or fewer.
    layout : ShardLayout

    Returns
    -------
    Array, dims (byte,), uint8
        Chunks and index are little-endian, the chunks compressed by `COMPRESSOR`; chunks that
        hold no step at all are absent.
    """
    chunk_steps = layout.chunk[0]
    firsts = range(0, len(slabs), chunk_steps)
    index = np.full((layout.steps // chunk_steps * layout.tiles, 2), _ABSENT, "<u8")
    # One allocation for all chunks: pages that are touched for the first time are what costs most.
    item_bytes = slabs[0].itemsize if slabs else 0
    chunk_bytes = math.prod(layout.chunk) * item_bytes + _MOST_OVERHEAD_BYTES
    shard = np.empty(len(firsts) * layout.tiles * chunk_bytes + index.nbytes + 4, np.uint8)
    end = 0
    for number, (first, tile) in enumerate(itertools.product(firsts, range(layout.tiles))):
        encoded = _encode_chunk(slabs[first : first + chunk_steps], tile, layout)
        index[number] = end, len(encoded)
        end = _append(shard, end, encoded)
    places = index.tobytes()
    end = _append(shard, end, places)
    end = _append(shard, end, google_crc32c.value(places).to_bytes(4, "little"))
    return shard[:end]


def _append(shard: Array, end: int, piece: bytes) -> int:
    shard[end : end + len(piece)] = np.frombuffer(piece, np.uint8)
    return end + len(piece)


def _encode_chunk(slabs: Sequence[Array], tile: int, layout: ShardLayout) -> bytes:
    width = layout.chunk[2]
    values = np.zeros(layout.chunk, slabs[0].dtype.newbyteorder("<"))
    for place, slab in enumerate(slabs):
        part = slab[:, tile * width : (tile + 1) * width]
        values[place, :, : part.shape[1]] = part
    encoded: bytes = _encoder.encode(values)
    return encoded
