"""Objects of a store: written whole, made durable, moved, listed and removed.

Local files are written by the calling thread, everything else through zarr. zarr writes each file
on a thread of its own, through an event loop. For a sample's tens of small files this takes three
times as long, and a small model, which is done by then, has to wait for it.

A file is durable once it was written out (`fsync`) and so was the folder that holds its name. The
stages write a sample's values first, make them durable, and only then mark it as complete: so a
power cut at any moment leaves complete samples whole.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from zarr.abc.buffer import Buffer
from zarr.abc.store import Store, SuffixByteRequest
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore, StorePath

from i2am.disk import write_out
from i2am.storage.failures import reported_as_store_error, storage_error
from i2am.storage.guard.guarded_store import GuardedStore

__all__ = [
    "create_object",
    "delete_object",
    "delete_others",
    "delete_tree",
    "folder_names",
    "list_sizes",
    "local_path",
    "make_durable",
    "move_objects",
    "put_object",
    "put_objects",
    "read_object",
    "read_objects",
    "to_buffer",
]

_PARTIAL: Final = ".partial"  # zarr's own suffix of files that are not whole yet
_SYNC_THREADS: Final = 8
# Something else lies there than an object: the store is wrong, its disk is not.
_WRONG_KIND: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_CREATE_ATTEMPTS: Final = 20


def to_buffer(content: bytes) -> Buffer:
    """Return bytes as zarr takes them."""
    return cpu.Buffer.from_bytes(content)


def local_path(path: StorePath) -> Path | None:
    """Return where an object or a folder lies on a disk; None elsewhere."""
    store = path.store.local if isinstance(path.store, GuardedStore) else path.store
    return Path(store.root) / path.path if isinstance(store, LocalStore) else None


def read_object(path: StorePath) -> Buffer | None:
    """Return an object's bytes; None where there is none."""
    if isinstance(path.store, GuardedStore):
        return sync(path.store.get_as_stored(path.path))
    return sync(path.get())


def read_objects(
    root: StorePath, names: Sequence[str], *, last_bytes: int | None = None
) -> list[bytes | None]:
    """Return the bytes of objects below a path, or their last ones; None for each that is absent.

    Parameters
    ----------
    root : StorePath
    names : sequence of str
        Below `root`.
    last_bytes : int, optional
        How many of each object's last bytes; all by default.
    """
    wanted = None if last_bytes is None else SuffixByteRequest(last_bytes)
    if isinstance(root.store, GuardedStore):
        keys = [(root / name).path for name in names]
        return root.store.read_as_stored(keys, wanted)
    if (folder := local_path(root)) is not None:
        return [_read_file(folder / name, last_bytes) for name in names]

    async def read() -> list[Buffer | None]:
        prototype = default_buffer_prototype()
        return await asyncio.gather(
            *((root / name).get(prototype=prototype, byte_range=wanted) for name in names)
        )

    return [None if found is None else found.to_bytes() for found in sync(read())]


def _read_file(path: Path, last_bytes: int | None) -> bytes | None:
    try:
        with path.open("rb", buffering=0) as file:
            if last_bytes is not None:
                file.seek(max(0, os.fstat(file.fileno()).st_size - last_bytes))
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def create_object(path: StorePath, content: bytes) -> bool:
    """Write an object where there is none; return whether it was this call that wrote it.

    Of several processes that try at once, one succeeds; their contents must differ.
    """

    async def create() -> Buffer | None:
        await path.store.set_if_not_exists(path.path, to_buffer(content))
        return await path.get()

    for _ in range(_CREATE_ATTEMPTS):
        try:
            found = sync(create())
        except FileNotFoundError:
            if local_path(path) is None:
                raise
            continue  # Another process has just removed the empty folder.
        if found is not None:
            stored = found.to_bytes()
            if len(stored) == len(content) or not content.startswith(stored):
                return stored == content
            sync(path.set(to_buffer(content)))  # A bucket took half of ours for all of it.
    msg = f"cannot create {path}"
    raise FileNotFoundError(msg)


def put_objects(objects: Iterable[tuple[StorePath, Buffer]], *, durable: bool = False) -> None:
    """Write or replace objects of one store, together; readers see each one whole or not at all.

    Parameters
    ----------
    objects : iterable of (StorePath, Buffer)
    durable : bool
        Whether those on a disk have to outlive a power cut once this returns.
    """
    objects = list(objects)
    if objects and isinstance(objects[0][0].store, LocalStore):
        for path, buffer in objects:
            written = _write_file(path, buffer, durable=durable)
            if durable:
                _sync(written.parent)
        return

    async def write() -> None:
        await asyncio.gather(*(path.set(buffer) for path, buffer in objects))

    sync(write())


def put_object(path: StorePath, buffer: Buffer) -> None:
    """Write or replace a large object, as `put_objects`, and start writing it to disk."""
    if isinstance(path.store, LocalStore):
        _start_writing_out(_write_file(path, buffer))
    else:
        sync(path.set(buffer))


def make_durable(root: StorePath, names: Iterable[str]) -> None:
    """Return when objects below a path, and their names, would outlive a power cut.

    In a bucket they do once they were written.
    """
    if (folder := local_path(root)) is None:
        return
    files = [folder / name for name in names]
    folders = {folder} | {parent for file in files for parent in _up_to(file.parent, folder)}
    with ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="i2am-sync") as pool:
        # Names after contents, inner folders and outer ones alike: an order of their own they need
        # not have, as nothing refers to them yet.
        list(pool.map(_sync, files))
        list(pool.map(_sync, [*folders, *_above(folder, Path(root.store.root))]))  # type: ignore[attr-defined]


def _up_to(folder: Path, top: Path) -> Iterable[Path]:
    while folder != top:
        yield folder
        folder = folder.parent


def _above(folder: Path, root: Path) -> Iterable[Path]:
    """Yield the folders that hold a folder's name, up to the one that holds the store's."""
    while folder != root:
        folder = folder.parent
        yield folder
    yield root.absolute().parent


def _sync(path: Path) -> None:
    with reported_as_store_error(path):
        write_out(path)


def move_objects(source: StorePath, target: StorePath, names: Iterable[str]) -> None:
    """Move objects of one store from below one path to below another; those moved before are left.

    Raises
    ------
    FileNotFoundError
        If one is at neither.
    """
    names = list(names)
    if (folder := local_path(source)) is not None:
        target_folder = Path(target.store.root) / target.path  # type: ignore[attr-defined]
        for name in names:
            goal = target_folder / name
            goal.parent.mkdir(parents=True, exist_ok=True)
            try:
                (folder / name).replace(goal)
            except FileNotFoundError:
                if not goal.is_file():
                    raise
        return

    async def move(name: str) -> None:
        found = await (source / name).get()
        if found is None:
            if not await (target / name).exists():
                raise FileNotFoundError(str(source / name))
            return
        await (target / name).set(found)

    async def move_all() -> None:
        await asyncio.gather(*map(move, names))

    sync(move_all())


def delete_object(path: StorePath) -> None:
    """Delete one object."""
    sync(path.delete())


def delete_tree(path: StorePath) -> None:
    """Delete everything below a path."""
    if (folder := local_path(path)) is None:
        sync(path.delete_dir())
    elif folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:  # What lies where a folder should.
        folder.unlink(missing_ok=True)


def delete_others(path: StorePath, kept: Container[str]) -> None:
    """Delete every object below a path but some, and on a disk the folders that are empty then."""
    for name in list_sizes(path):
        if name not in kept:
            delete_object(path / name)
    if (folder := local_path(path)) is not None:
        for inner, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):  # Not empty.
                Path(inner).rmdir()


def folder_names(path: StorePath) -> list[str]:
    """Return the names of what lies directly below a path; none where nothing is there."""
    if (folder := local_path(path)) is not None:
        try:
            return [entry.name for entry in os.scandir(folder) if not _is_partial(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    async def names() -> list[str]:
        return [name async for name in path.store.list_dir(path.path)]

    return sync(names())


def list_sizes(path: StorePath) -> dict[str, int]:
    """Return the size in bytes of every object below a path, by its name below that path."""
    if isinstance(path.store, GuardedStore) and path.store.files is not None:
        path.store.files.check_folder(path.path)
    if (folder := local_path(path)) is not None:
        found: dict[str, int] = {}
        _add_sizes(str(folder), "", found)
        return found
    prefix = f"{path.path}/" if path.path else ""
    inner = path.store.unguarded if isinstance(path.store, GuardedStore) else path.store
    if isinstance(inner, ObjectStore):
        with reported_as_store_error(path):
            listed: Any = inner.store.list(prefix).collect()
        return {one["path"].removeprefix(prefix): one["size"] for one in listed}
    return sync(_sizes(path.store, prefix))


async def _sizes(store: Store, prefix: str) -> dict[str, int]:
    keys = [key async for key in store.list_prefix(prefix)]
    sizes = await asyncio.gather(*map(store.getsize, keys))
    return {key.removeprefix(prefix): size for key, size in zip(keys, sizes, strict=True)}


def _add_sizes(folder: str, prefix: str, found: dict[str, int]) -> None:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _add_sizes(entry.path, f"{prefix}{entry.name}/", found)
            elif not _is_partial(entry.name):
                found[prefix + entry.name] = entry.stat(follow_symlinks=False).st_size


def _is_partial(name: str) -> bool:
    return name.endswith(_PARTIAL)


def _write_file(path: StorePath, buffer: Buffer, *, durable: bool = False) -> Path:
    file_path = Path(path.store.root) / path.path  # type: ignore[attr-defined]
    partial = file_path.with_name(f"{file_path.name}.{uuid4().hex}{_PARTIAL}")
    try:
        try:
            file = partial.open("wb")
        except FileNotFoundError:
            file_path.parent.mkdir(parents=True, exist_ok=True)
            file = partial.open("wb")
        with file:
            file.write(buffer.as_buffer_like())
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(file_path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, _WRONG_KIND):
            raise storage_error(error, file_path) from error
        raise
    return file_path


def _start_writing_out(path: Path) -> None:
    """Ask the kernel to start writing: otherwise it collects gigabytes first, and then stalls.

    Called after the file got its name: to rename a file that is being written would wait.
    """
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
