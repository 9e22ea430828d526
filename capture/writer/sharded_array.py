"""An array with a step dimension, stored shard by shard, in any order.

A shard is one object in the store and holds all tokens of many steps; the chunks inside are tiles
of patches over several steps, so that to read one patch at every step takes few bytes.
Shards are encoded here rather than by zarr, in the standard layout (Zarr's ``sharding_indexed``, with
the index first): several times as fast, and any Zarr reader opens them. Each chunk ends in its
checksum (Zarr's ``crc32c``), and the shard in one over its index and these, as every object of a sample
ends in its own (see `i2am.storage.inventory`). They are not compressed: the last bits of
attention's floats are noise, and the tenth that bit-shuffling and lz4 take off costs more time than
writing it (``benchmarks/results/store.md``).

A shard may come from any thread. What depends on all of them (the length, whether the values ever
changed, whether one of them did not fit into float16) is known at the end: `ShardedArray.finalize`
does the remaining work, and the array's metadata are written last.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import crc32c
import numpy as np
import torch
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.codecs import Crc32cCodec, ShardingCodecIndexLocation

from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.zarr_objects import (
    CHECKSUM,
    Array,
    NodeMetadata,
    array_metadata,
    bytes_codec,
    checksum_bytes,
    single_chunk_metadata,
)
from i2am.schemas import CaptureError
from i2am.schemas.dims import GUIDANCE, STEP
from i2am.storage.integrity import ABSENT, shard_checksum
from i2am.storage.inventory import CHECKSUM_BYTES
from i2am.storage.objects import put_objects

__all__ = ["ShardLayout", "ShardedArray", "decode_shard", "encode_shard", "plan_shards"]

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK_BYTES = 320 * 2**10
# Usual numbers of steps are 20, 25, 30 and 50: few chunks are padded.
MAX_CHUNK_STEPS = 5
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class ShardedArray:
    """An array with a step dimension, and with a guidance dimension where there are several branches.

    Parameters
    ----------
    folder : ObjectFolder
        Of the array.
    dims : sequence of str
        Dimensions of one step: head, token[, channel].
    layout : ShardLayout
    order : tuple of str
        The guidance branches.
    may_be_constant : bool
        Whether steps that are all the same are stored once, without a step dimension.
    """

    folder: ObjectFolder
    dims: Sequence[str]
    layout: ShardLayout
    order: tuple[str, ...]
    may_be_constant: bool
    # By guidance branch and index of the shard: the dtype it was stored as; None where it was not
    # stored, because all its steps are equal to the branch's constant.
    _shards: dict[tuple[str, int], np.dtype[Any] | None] = field(default_factory=dict)
    _constants: dict[str, torch.Tensor] = field(default_factory=dict)
    # Writers store shards at once: a branch's constant is there as long as a shard that relies on it.
    _lock: Lock = field(default_factory=Lock)

    def store(
        self,
        branch: str,
        shard: int,
        values: torch.Tensor,
        dtype: np.dtype[Any],
        scratch: Array | None = None,
    ) -> None:
        """Store a shard, or remember its one step if all are equal.

        Parameters
        ----------
        branch : str
            Label of the guidance branch.
        shard : int
            Index of the shard along the steps.
        values : Tensor, dims (step, head, token[, channel]), on the host
            All of its steps; fewer for the last shard. A shard that was stored before is replaced.
        dtype : dtype
            float16 or float32: what they are stored as.
        scratch : Array of bytes, optional
            See `encode_shard`.
        """
        with self._lock:
            replaced = self._shards.pop((branch, shard), None)
            if not any(label == branch for label, _ in self._shards):
                self._constants.pop(branch, None)
        if self.may_be_constant and self._relies_on_constant(branch, shard, values):
            if replaced is not None:
                self.folder.delete(self._shard_name(branch, shard))
            return
        self._store(branch, shard, values, dtype, scratch)
        with self._lock:
            self._shards[branch, shard] = dtype

    def finalize(self, steps: int, dtype: np.dtype[Any]) -> list[Callable[[Array], None]]:
        """Return the remaining work once all shards were stored; each takes scratch memory.

        Parameters
        ----------
        steps : int
            Number of steps of each guidance branch.
        dtype : dtype
            Of the whole array; shards that were stored as another one are converted.
        """
        if self._never_changed():
            return []
        left: list[Callable[[Array], None]] = []
        for (branch, shard), stored in self._shards.items():
            count = min(self.layout.steps, steps - shard * self.layout.steps)
            if stored is None:
                slab = self._constants[branch]
                values = slab.expand(count, *slab.shape)
                left.append(partial(self._store, branch, shard, values, dtype))
            elif stored != dtype:
                left.append(partial(self._convert, branch, shard, count, stored, dtype))
        return left

    def metadata(
        self, steps: int, slab_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[NodeMetadata, Array | None]:
        """Return the array's metadata, and its values if they never change.

        Parameters
        ----------
        steps : int
        slab_shape : tuple of int
            Of one step.
        dtype : dtype
            As for `finalize`.
        """
        guidance, branches = self._guidance_dims(), len(self.order)
        lead, one = ((branches,), (1,)) if guidance else ((), ())
        codec, dims = bytes_codec(dtype), (*guidance, *self.dims)
        if self._never_changed():
            constants = [self._constants[branch] for branch in self.order]
            values = torch.stack(constants) if guidance else constants[0]
            whole = values.float().numpy().astype(dtype)
            return single_chunk_metadata(whole, dims), whole
        sharding = {
            "chunk_shape": [*one, *self.layout.chunk],
            "codecs": [codec, CHECKSUM],
            "index_codecs": [bytes_codec(np.dtype(np.uint64)), CHECKSUM],
            "index_location": "start",
        }
        node = array_metadata(
            (*lead, steps, *slab_shape),
            dtype,
            (*one, *self.layout.shape),
            [{"name": "sharding_indexed", "configuration": sharding}],
            (*guidance, STEP, *self.dims),
        )
        return node, None

    def _relies_on_constant(self, branch: str, shard: int, values: torch.Tensor) -> bool:
        """Note a shard whose steps are all equal to the branch's first constant one; return whether it is."""
        first, *others = _bits(values)
        if any(not np.array_equal(slab, first) for slab in others):
            return False
        with self._lock:
            constant = self._constants.get(branch)
            if constant is None:
                copied = torch.from_numpy(first.copy()).view(values.dtype)
                constant = self._constants[branch] = copied
            is_equal = np.array_equal(_bits(constant), first)
            if is_equal:
                self._shards[branch, shard] = None
        return is_equal

    def _never_changed(self) -> bool:
        return all(stored is None for stored in self._shards.values())

    def _guidance_dims(self) -> tuple[str, ...]:
        return (GUIDANCE,) if len(self.order) > 1 else ()

    def _store(
        self,
        branch: str,
        shard: int,
        values: torch.Tensor,
        dtype: np.dtype[Any],
        scratch: Array | None,
    ) -> None:
        if self.folder.keeps_buffers:
            scratch = None
        encoded = encode_shard(values, dtype, self.layout, scratch)
        self.folder.put(self._shard_name(branch, shard), cpu.Buffer(encoded))

    def _convert(
        self,
        branch: str,
        shard: int,
        count: int,
        stored: np.dtype[Any],
        dtype: np.dtype[Any],
        scratch: Array,
    ) -> None:
        name = self._shard_name(branch, shard)
        if (encoded := self.folder.read(name)) is None:
            msg = f"Expected a shard that was just stored, got none, at {self.folder.path}/{name}. "
            raise CaptureError(msg + "Run the sample again.")
        values = decode_shard(encoded, stored, self.layout)
        self._store(branch, shard, torch.from_numpy(values)[:count], dtype, scratch)

    def _shard_name(self, branch: str, shard: int) -> str:
        lead = [self.order.index(branch)] if self._guidance_dims() else []
        return "/".join(map(str, ["c", *lead, shard, *(0 for _ in self.dims)]))


def _bits(values: torch.Tensor) -> Array:
    """Return values as integers: as numbers, NaN would never be equal."""
    integers: Array = values.view(_INTEGERS[values.itemsize]).numpy()
    return integers


@dataclass(frozen=True)
class ShardLayout:
    """Shape of a shard and its chunks.

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
        """Shape of a shard, without guidance; a multiple of the chunk's, as Zarr requires."""
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
    chunk_steps = min(steps, MAX_CHUNK_STEPS)
    step_batch_bytes = chunk_steps * math.prod(slab_shape) * item_bytes
    tiles = min(tokens, math.ceil(step_batch_bytes / CHUNK_BYTES))
    chunk = (chunk_steps, heads, math.ceil(tokens / tiles), *channels)
    return ShardLayout(math.ceil(steps / chunk_steps) * chunk_steps, chunk, tokens)


def encode_shard(
    values: torch.Tensor, dtype: np.dtype[Any], layout: ShardLayout, scratch: Array | None = None
) -> Array:
    """Return a shard as Zarr stores it: the index, then chunk after chunk, all with checksums.

    Parameters
    ----------
    values : Tensor, dims (step, head, token[, channel]), on the host
        All of the shard's steps, or fewer where the run has ended.
    dtype : dtype
        float16 or float32: what the values are stored as.
    layout : ShardLayout
    scratch : Array of bytes, optional
        Memory to use if it is large enough: to touch new pages costs more than everything
        else here.

    Returns
    -------
    Array, dims (byte,), uint8
        Chunks and index are little-endian; chunks that hold no step at all are absent. The last four
        bytes are the shard's own checksum, which no Zarr reader looks at.
    """
    chunk_steps = layout.chunk[0]
    step_batches = math.ceil(len(values) / chunk_steps)
    filled = step_batches * layout.tiles
    chunk_bytes = math.prod(layout.chunk) * dtype.itemsize
    stored_bytes = chunk_bytes + CHECKSUM_BYTES
    index = np.full((layout.steps // chunk_steps * layout.tiles, 2), ABSENT, "<u8")
    start = index.nbytes + CHECKSUM_BYTES
    index[:filled, 0] = start + np.arange(filled) * stored_bytes
    index[:filled, 1] = stored_bytes
    size_bytes = start + filled * stored_bytes + CHECKSUM_BYTES
    if scratch is None or len(scratch) < size_bytes:
        scratch = np.empty(size_bytes, np.uint8)
    shard = scratch[:size_bytes]
    shard[: index.nbytes] = index.reshape(-1).view(np.uint8)
    shard[index.nbytes : start] = checksum_bytes(crc32c.crc32c(shard[: index.nbytes].data))
    rows = shard[start : size_bytes - CHECKSUM_BYTES].reshape(filled, stored_bytes)
    plain, seals = rows[:, :chunk_bytes], np.empty(filled, "<u4")
    chunks = plain.view(dtype).reshape(step_batches, layout.tiles, *layout.chunk)
    converted = torch.empty((chunk_steps, *values.shape[1:]), dtype=_TORCH_DTYPES[dtype.name])
    for batch, tiles in enumerate(chunks):
        steps = values[batch * chunk_steps : (batch + 1) * chunk_steps]
        steps_as_stored = _convert(steps, converted[: len(steps)]).numpy()
        for number, tile in enumerate(tiles):
            _fill(tile, steps_as_stored[:, :, number * layout.chunk[2] :])
            at = batch * layout.tiles + number
            seals[at] = crc32c.crc32c(plain[at].data)  # While it is in the processor's cache.
    rows[:, chunk_bytes:] = seals.view(np.uint8).reshape(filled, CHECKSUM_BYTES)
    own = shard_checksum([shard[:start], seals.view(np.uint8)])
    shard[-CHECKSUM_BYTES:] = checksum_bytes(own)
    return shard


def decode_shard(shard: Buffer, dtype: np.dtype[Any], layout: ShardLayout) -> Array:
    """Return what a shard holds, dims (step, head, token[, channel]); missing steps are 0.

    Zarr itself reads it, from an array in memory.
    """
    heads, _width, *channels = layout.chunk[1:]
    array = zarr.create_array(
        {},
        shape=(layout.steps, heads, layout.tokens, *channels),
        chunks=layout.chunk,
        shards={"shape": layout.shape, "index_location": ShardingCodecIndexLocation.start},
        dtype=dtype,
        compressors=[Crc32cCodec()],
    )
    origin = "/".join(["c", *("0" for _ in layout.chunk)])
    put_objects([(array.store_path / origin, shard)])
    return np.asarray(array[...])


def _convert(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if values.dtype == target.dtype:
        return values
    return target.copy_(values)


def _fill(tile: Array, values: Array) -> None:
    """Copy the first tokens of steps (step, head, token, …) into a chunk; what is left of it is 0."""
    steps, _heads, tokens = values.shape[:3]
    width = tile.shape[2]
    tile[:steps, :, :tokens] = values[:, :, :width]
    tile[:steps, :, tokens:] = 0
    tile[steps:] = 0
    if sys.byteorder == "big":
        tile.byteswap(inplace=True)
