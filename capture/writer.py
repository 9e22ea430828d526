"""Arrays in a Zarr store: small ones at once, a layer's shard by shard, in any order.

A shard may come from any thread. What can only be told from all of them (the length, whether the
values ever changed, whether one of them did not fit into float16) is settled at the end, and the
array's metadata are written last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from zarr.buffer import default_buffer_prototype
from zarr.buffer.cpu import Buffer
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore, StorePath

from i2am.capture.codec import Array, ShardLayout, decode_shard, encode_shard
from i2am.capture.objects import put_object, put_objects
from i2am.schemas import CaptureError
from i2am.schemas.dims import GUIDANCE, STEP

__all__ = ["Node", "ShardedArray", "whole_array", "write_nodes"]

Node = GroupMetadata | ArrayV3Metadata
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def write_nodes(
    place: StorePath, nodes: Mapping[str, Node], values: Mapping[str, Array] | None = None
) -> None:
    """Write groups and arrays below a group, with two round trips to the store for all of them.

    Parameters
    ----------
    place : StorePath
    nodes : mapping of str to Node
        By path below `place`; nothing may be there. Described to readers after the values.
    values : mapping of str to Array, optional
        Of arrays that are one chunk, by the same paths.
    """
    chunks = [
        (place / path / "/".join(["c", *("0" for _ in array.shape)]), _to_buffer(array))
        for path, array in (values or {}).items()
    ]
    prototype = default_buffer_prototype()
    described = [
        (place / path / name, buffer)
        for path, node in nodes.items()
        for name, buffer in node.to_buffer_dict(prototype).items()
    ]
    put_objects(chunks)
    put_objects(described)


def whole_array(values: Array, dims: Sequence[str]) -> ArrayV3Metadata:
    """Describe an array of numbers that is stored as one chunk, as it is."""
    codec = _bytes_codec(values.dtype)
    return _array_metadata(values.shape, values.dtype, values.shape, [codec], dims)


@dataclass
class ShardedArray:
    """An array with a step dimension, and with a guidance dimension where there are two halves.

    Parameters
    ----------
    place : zarr.StorePath
        Where the array is to be.
    dims : sequence of str
        Dimensions of one step: head, token[, channel].
    layout : ShardLayout
    order : tuple of str
        The guidance halves.
    may_be_constant : bool
        Whether steps that are all the same are stored once, without a step dimension.
    """

    place: StorePath
    dims: Sequence[str]
    layout: ShardLayout
    order: tuple[str, ...]
    may_be_constant: bool
    # By guidance half and number of the shard: the dtype it was stored as, None where it was not,
    # because all its steps are the half's constant.
    _shards: dict[tuple[str, int], np.dtype[Any] | None] = field(default_factory=dict)
    _constants: dict[str, torch.Tensor] = field(default_factory=dict)

    def store(
        self,
        half: str,
        shard: int,
        values: torch.Tensor,
        dtype: np.dtype[Any],
        scratch: Array | None = None,
    ) -> None:
        """Store a shard, or remember the one value that all its steps have.

        Parameters
        ----------
        half : str
        shard : int
        values : Tensor, dims (step, head, token[, channel]), on the host
            All of its steps; fewer for the last one. What was stored before is replaced.
        dtype : dtype
            float16 or float32: what they are stored as.
        scratch : Array of bytes, optional
            See `encode_shard`.
        """
        replaced = self._shards.pop((half, shard), None)
        if not any(label == half for label, _ in self._shards):
            self._constants.pop(half, None)
        if self.may_be_constant and self._is_constant(half, values):
            self._shards[half, shard] = None
            if replaced is not None:
                sync(self._shard_place(half, shard).delete())
            return
        self._store(half, shard, values, dtype, scratch)
        self._shards[half, shard] = dtype

    def settle(self, steps: int, dtype: np.dtype[Any]) -> list[Callable[[Array], None]]:
        """Return the work that is left when all shards have come; it takes scratch memory.

        Parameters
        ----------
        steps : int
            Of each guidance half.
        dtype : dtype
            Of the whole array; shards that were stored as another one are converted.
        """
        if self._never_changed():
            return []
        left: list[Callable[[Array], None]] = []
        for (half, shard), stored in self._shards.items():
            count = min(self.layout.steps, steps - shard * self.layout.steps)
            if stored is None:
                slab = self._constants[half]
                values = slab.expand(count, *slab.shape)
                left.append(partial(self._store, half, shard, values, dtype))
            elif stored != dtype:
                left.append(partial(self._convert, half, shard, count, stored, dtype))
        return left

    def describe(
        self, steps: int, slab_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> tuple[ArrayV3Metadata, Array | None]:
        """Return what makes it an array for readers, and its values if they never changed.

        Parameters
        ----------
        steps : int
        slab_shape : tuple of int
            Of one step.
        dtype : dtype
            As it was settled.
        """
        guidance, halves = self._guidance_dims(), len(self.order)
        lead, one = ((halves,), (1,)) if guidance else ((), ())
        codec, dims = _bytes_codec(dtype), (*guidance, *self.dims)
        if self._never_changed():
            constants = [self._constants[half] for half in self.order]
            values = torch.stack(constants) if guidance else constants[0]
            whole = values.float().numpy().astype(dtype)
            return whole_array(whole, dims), whole
        sharding = {
            "chunk_shape": [*one, *self.layout.chunk],
            "codecs": [codec],
            "index_codecs": [_bytes_codec(np.dtype(np.uint64)), {"name": "crc32c"}],
            "index_location": "end",
        }
        described = _array_metadata(
            (*lead, steps, *slab_shape),
            dtype,
            (*one, *self.layout.shape),
            [{"name": "sharding_indexed", "configuration": sharding}],
            (*guidance, STEP, *self.dims),
        )
        return described, None

    def _is_constant(self, half: str, values: torch.Tensor) -> bool:
        """Return whether all steps are what the half's first constant shard was."""
        first, *others = _bits(values)
        if any(not np.array_equal(slab, first) for slab in others):
            return False
        constant = self._constants.get(half)
        if constant is None:  # Another thread may be as far.
            copied = torch.from_numpy(first.copy()).view(values.dtype)
            constant = self._constants.setdefault(half, copied)
        return np.array_equal(_bits(constant), first)

    def _never_changed(self) -> bool:
        return all(stored is None for stored in self._shards.values())

    def _guidance_dims(self) -> tuple[str, ...]:
        return (GUIDANCE,) if len(self.order) > 1 else ()

    def _store(
        self,
        half: str,
        shard: int,
        values: torch.Tensor,
        dtype: np.dtype[Any],
        scratch: Array | None,
    ) -> None:
        place = self._shard_place(half, shard)
        if not isinstance(place.store, LocalStore | ObjectStore):
            scratch = None  # A store in memory keeps what it is given.
        put_object(place, Buffer(encode_shard(values, dtype, self.layout, scratch)))

    def _convert(
        self,
        half: str,
        shard: int,
        count: int,
        stored: np.dtype[Any],
        dtype: np.dtype[Any],
        scratch: Array,
    ) -> None:
        place = self._shard_place(half, shard)
        if (encoded := sync(place.get())) is None:
            msg = f"Expected a shard that was just stored, got none, at {place}. "
            raise CaptureError(msg + "Run the sample again.")
        values = decode_shard(encoded, stored, self.layout)
        self._store(half, shard, torch.from_numpy(values)[:count], dtype, scratch)

    def _shard_place(self, half: str, shard: int) -> StorePath:
        lead = [self.order.index(half)] if self._guidance_dims() else []
        return self.place / "/".join(map(str, ["c", *lead, shard, *(0 for _ in self.dims)]))


def _array_metadata(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunk_shape: Sequence[int],
    codecs: Sequence[dict[str, Any]],
    dims: Sequence[str],
) -> ArrayV3Metadata:
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}
    described: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": list(codecs),
        "dimension_names": list(dims),
        "attributes": {},
    }
    return ArrayV3Metadata.from_dict(described)


def _bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return {"name": "bytes", **endian}


def _to_buffer(values: Array) -> Buffer:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return Buffer(little.reshape(-1).view(np.uint8))


def _bits(values: torch.Tensor) -> Array:
    """Return values as integers: as numbers, NaN would never be equal."""
    integers: Array = values.view(_INTEGERS[values.itemsize]).numpy()
    return integers
