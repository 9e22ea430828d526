"""Zarr metadata and objects as they are written; the one file of capture that uses zarr's core.

Local files are written by the calling thread, everything else through zarr. zarr hands each file to
a thread of its own, through an event loop. For a sample's tens of small files this takes three times
as long as writing them, while a small model has ended and waits.
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
    "Node",
    "array_metadata",
    "bytes_codec",
    "delete_object",
    "delete_tree",
    "group_at",
    "group_metadata",
    "put_object",
    "put_objects",
    "read_object",
    "whole_array",
    "write_nodes",
]

Array = np.ndarray[Any, np.dtype[Any]]
Node = GroupMetadata | ArrayV3Metadata


def group_metadata(attributes: Mapping[str, Any] | None = None) -> GroupMetadata:
    """Describe a group."""
    return GroupMetadata(attributes=dict(attributes or {}))


def group_at(place: StorePath, metadata: GroupMetadata) -> zarr.Group:
    """Return a group that was written with `write_nodes`, without reading it again."""
    return zarr.Group(AsyncGroup(metadata, place))


def read_object(place: StorePath) -> Buffer | None:
    """Return an object's bytes; None where there is none."""
    return sync(place.get())


def delete_object(place: StorePath) -> None:
    """Delete one object."""
    sync(place.delete())


def delete_tree(place: StorePath) -> None:
    """Delete everything below a path."""
    sync(place.delete_dir())


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
    codec = bytes_codec(values.dtype)
    return array_metadata(values.shape, values.dtype, values.shape, [codec], dims)


def array_metadata(
    shape: Sequence[int],
    dtype: np.dtype[Any],
    chunk_shape: Sequence[int],
    codecs: Sequence[dict[str, Any]],
    dims: Sequence[str],
) -> ArrayV3Metadata:
    """Describe an array on a regular grid of chunks, filled with zeros."""
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


def bytes_codec(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Describe little-endian bytes of a dtype, as a codec of Zarr's."""
    endian = {"configuration": {"endian": "little"}} if dtype.itemsize > 1 else {}
    return {"name": "bytes", **endian}


def _to_buffer(values: Array) -> Buffer:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return cpu.Buffer(little.reshape(-1).view(np.uint8))


def put_objects(objects: Iterable[tuple[StorePath, Buffer]]) -> None:
    """Write or replace objects of one store, together; readers see each one whole or not at all."""
    objects = list(objects)
    if objects and type(objects[0][0].store) is LocalStore:
        for place, buffer in objects:
            _write_file(place, buffer)
        return

    async def write() -> None:
        await asyncio.gather(*(place.set(buffer) for place, buffer in objects))

    sync(write())


def put_object(place: StorePath, buffer: Buffer) -> None:
    """Write or replace a large object, as `put_objects`, and let the disk begin with it."""
    if type(place.store) is LocalStore:
        _start_writing_out(_write_file(place, buffer))
    else:
        sync(place.set(buffer))


def _write_file(place: StorePath, buffer: Buffer) -> Path:
    path = Path(place.store.root) / place.path  # type: ignore[attr-defined]
    # zarr's own suffix for what is being written: listings know it.
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        try:
            file = partial.open("wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        with file:
            file.write(buffer.as_buffer_like())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return path


def _start_writing_out(path: Path) -> None:
    """Let the disk begin: left alone, the kernel collects gigabytes first, and then stalls.

    After the file has got its name: renaming one that is being written out would wait.
    """
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
