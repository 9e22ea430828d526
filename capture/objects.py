"""Objects into a store: local files by this thread, everything else through zarr.

zarr hands each file to a thread of its own, through an event loop. For a sample's tens of small
files this takes three times as long as writing them, while a small model has ended and waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from zarr.abc.buffer import Buffer
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

__all__ = ["put_object", "put_objects"]


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
