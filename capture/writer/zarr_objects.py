"""Zarr metadata and objects as they are written; the one file of capture that uses zarr's core.

Local files are written by the calling thread, everything else through zarr. zarr writes each file
on a thread of its own, through an event loop. For a sample's tens of small files this takes three
times as long, and a small model, which is done by then, has to wait for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.group import AsyncGroup, GroupMetadata
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

__all__ = [
    "Array",
    "NodeMetadata",
    "array_metadata",
    "bytes_codec",
    "delete_object",
    "delete_tree",
    "group_at",
    "group_metadata",
    "put_object",
    "put_objects",
    "read_object",
    "single_chunk_metadata",
    "write_nodes",
]

Array = np.ndarray[Any, np.dtype[Any]]
NodeMetadata = GroupMetadata | ArrayV3Metadata


def group_metadata(attributes: Mapping[str, Any] | None = None) -> GroupMetadata:
    """Return the metadata of a group."""
    return GroupMetadata(attributes=dict(attributes or {}))


def group_at(path: StorePath, metadata: GroupMetadata) -> zarr.Group:
    """Return a group that was written with `write_nodes`, without reading it again."""
    return zarr.Group(AsyncGroup(metadata, path))


def read_object(path: StorePath) -> Buffer | None:
    """Return an object's bytes; None where there is none."""
    return sync(path.get())


def delete_object(path: StorePath) -> None:
    """Delete one object."""
    sync(path.delete())


def delete_tree(path: StorePath) -> None:
    """Delete everything below a path."""
    sync(path.delete_dir())


def write_nodes(
    path: StorePath, nodes: Mapping[str, NodeMetadata], values: Mapping[str, Array] | None = None
) -> None:
    """Write groups and arrays below a group, with two round trips to the store for all of them.

    Parameters
    ----------
    path : StorePath
        Of the group.
    nodes : mapping of str to NodeMetadata
        By path below `path`, where nothing may exist yet. Written after the values.
    values : mapping of str to Array, optional
        Of arrays with a single chunk, by the same paths.
    """
    chunks = [
        (path / name / "/".join(["c", *("0" for _ in array.shape)]), _to_buffer(array))
        for name, array in (values or {}).items()
    ]
    prototype = default_buffer_prototype()
    metadata = [
        (path / name / key, buffer)
        for name, node in nodes.items()
        for key, buffer in node.to_buffer_dict(prototype).items()
    ]
    put_objects(chunks)
    put_objects(metadata)


def single_chunk_metadata(
    values: Array, dims: Sequence[str], attributes: Mapping[str, Any] | None = None
) -> ArrayV3Metadata:
    """Return the metadata of an array of numbers that is stored uncompressed in a single chunk."""
    codec = bytes_codec(values.dtype)
    return array_metadata(values.shape, values.dtype, values.shape, [codec], dims, attributes)


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


def _to_buffer(values: Array) -> Buffer:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return cpu.Buffer(little.reshape(-1).view(np.uint8))


def put_objects(objects: Iterable[tuple[StorePath, Buffer]]) -> None:
    """Write or replace objects of one store, together; readers see each one whole or not at all."""
    objects = list(objects)
    if objects and type(objects[0][0].store) is LocalStore:
        for path, buffer in objects:
            _write_file(path, buffer)
        return

    async def write() -> None:
        await asyncio.gather(*(path.set(buffer) for path, buffer in objects))

    sync(write())


def put_object(path: StorePath, buffer: Buffer) -> None:
    """Write or replace a large object, as `put_objects`, and start writing it to disk."""
    if type(path.store) is LocalStore:
        _start_writing_out(_write_file(path, buffer))
    else:
        sync(path.set(buffer))


def _write_file(path: StorePath, buffer: Buffer) -> Path:
    file_path = Path(path.store.root) / path.path  # type: ignore[attr-defined]
    # zarr's own suffix for unfinished files.
    partial = file_path.with_name(f"{file_path.name}.{uuid4().hex}.partial")
    try:
        try:
            file = partial.open("wb")
        except FileNotFoundError:
            file_path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        with file:
            file.write(buffer.as_buffer_like())
        partial.replace(file_path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return file_path


def _start_writing_out(path: Path) -> None:
    """Ask the kernel to start writing: otherwise it collects gigabytes first, and then stalls.

    Called after the file got its name: to rename a file that is being written would wait.
    """
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
