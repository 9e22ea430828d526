"""Zarr metadata and small arrays as they are written; with `i2am.storage` all that uses zarr's core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import crc32c
import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu, default_buffer_prototype
from zarr.codecs import Crc32cCodec
from zarr.core.group import GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from i2am.capture.writer.object_folder import ObjectFolder

__all__ = [
    "CHECKSUM",
    "Array",
    "NodeMetadata",
    "array_metadata",
    "bytes_codec",
    "checksum_bytes",
    "group_metadata",
    "single_chunk_metadata",
    "write_nodes",
    "write_text_array",
]

Array = np.ndarray[Any, np.dtype[Any]]
NodeMetadata = GroupMetadata | ArrayV3Metadata
# The last codec of every array, of a shard's chunks, too: a reader then sees a damaged chunk.
CHECKSUM = {"name": "crc32c"}


def group_metadata(attributes: Mapping[str, Any] | None = None) -> GroupMetadata:
    """Return the metadata of a group."""
    return GroupMetadata(attributes=dict(attributes or {}))


def write_nodes(
    folder: ObjectFolder,
    nodes: Mapping[str, NodeMetadata],
    values: Mapping[str, Array] | None = None,
) -> None:
    """Write groups and arrays below a group, with two round trips to the store for all of them.

    Parameters
    ----------
    folder : ObjectFolder
        Of the group.
    nodes : mapping of str to NodeMetadata
        By path below `folder`, where nothing may exist yet. Written after the values.
    values : mapping of str to Array, optional
        Of arrays with a single chunk, by the same paths.
    """
    folder.put_all(
        {
            "/".join([name, "c", *("0" for _ in array.shape)]): _to_chunk(array)
            for name, array in (values or {}).items()
        }
    )
    prototype = default_buffer_prototype()
    folder.put_all(
        {
            f"{name}/{key}" if name else key: buffer
            for name, node in nodes.items()
            for key, buffer in node.to_buffer_dict(prototype).items()
        }
    )


def write_text_array(folder: ObjectFolder, name: str, values: Sequence[str], dim: str) -> None:
    """Write a short array of texts, encoded by zarr itself, below a group."""
    memory = MemoryStore()
    zarr.create_array(
        memory,
        name=name,
        data=np.array(list(values), dtype=np.dtypes.StringDType()),
        compressors=[Crc32cCodec()],
        dimension_names=[dim],
    )

    async def objects() -> dict[str, Buffer]:
        found = {key: await memory.get(key) async for key in memory.list_prefix(f"{name}/")}
        return {key: buffer for key, buffer in found.items() if buffer is not None}

    found = sync(objects())
    # Values before metadata, as everywhere.
    folder.put_all({key: found[key] for key in sorted(found)})


def single_chunk_metadata(
    values: Array, dims: Sequence[str], attributes: Mapping[str, Any] | None = None
) -> ArrayV3Metadata:
    """Return the metadata of an array of numbers that is stored uncompressed in a single chunk."""
    codecs = [bytes_codec(values.dtype), CHECKSUM]
    return array_metadata(values.shape, values.dtype, values.shape, codecs, dims, attributes)


def array_metadata(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunk_shape: Sequence[int],
    codecs: Sequence[dict[str, Any]],
    dims: Sequence[str],
    attributes: Mapping[str, Any] | None = None,
) -> ArrayV3Metadata:
    """Return the metadata of an array on a regular grid of chunks, with fill value 0."""
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}
    node: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": grid,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": list(codecs),
        "dimension_names": list(dims),
        "attributes": dict(attributes or {}),
    }
    return ArrayV3Metadata.from_dict(node)


def bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return Zarr's bytes codec for a dtype, little-endian."""
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return {"name": "bytes", **endian}


def _to_chunk(values: Array) -> Buffer:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    content = little.reshape(-1).view(np.uint8)
    return cpu.Buffer(np.concatenate([content, checksum_bytes(crc32c.crc32c(content.data))]))


def checksum_bytes(checksum: int) -> Array:
    """Return a checksum as its four bytes, little-endian, as Zarr's ``crc32c`` stores it."""
    return np.array([checksum], "<u4").view(np.uint8)
