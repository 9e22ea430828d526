"""The members of a group with their metadata: quickly, however many there are.

Zarr opens each member to tell what it is: minutes for a hundred thousand samples. Here each
member's ``zarr.json`` alone is read, of a local folder by a few threads, of every other store with
many requests at once. A member that cannot be read stops nothing: it is listed with the reason,
and whoever asked decides how to go on.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zarr
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.storage.guard.local_objects import SAFE_OPEN_FLAGS
from i2am.storage.guard.node_metadata import MAX_METADATA_BYTES
from i2am.storage.inventory import METADATA_KEY

__all__ = [
    "Unreadable",
    "iter_groups",
    "iter_members",
    "member_metadata",
    "own_of",
    "sorted_names",
]

# On a disk nearby one thread is as fast; over a network most of the time is waiting.
_THREADS: Final = 8
_FILES_A_TASK: Final = 256
_REQUESTS_AT_ONCE: Final = 128


@dataclass(frozen=True)
class Unreadable:
    """Why a member's metadata cannot be told.

    Parameters
    ----------
    reason : str
        What came instead of it, as in "Expected …, got REASON".
    is_missing : bool
        Whether there is no ``zarr.json`` at all.

    Examples
    --------
    >>> str(Unreadable("an empty file"))
    'an empty file'
    """

    reason: str
    is_missing: bool = False

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


Metadata = dict[str, Any]


def iter_groups(root: zarr.Group) -> Iterator[tuple[str, dict[str, Any] | Unreadable]]:
    """Yield name and ``i2am`` attribute of each group below a group, by name.

    Arrays are left out. See `iter_members` for the rest.

    Examples
    --------
    >>> root = zarr.create_group(store={})
    >>> _ = root.create_group("b", attributes={"i2am": {"status": "complete"}})
    >>> _ = root.create_group("a")
    >>> list(iter_groups(root))
    [('a', {}), ('b', {'status': 'complete'})]
    """
    for name, found in iter_members(root):
        if isinstance(found, Unreadable):
            yield name, found
        elif found["node_type"] == "group":
            yield name, own_of(found)


def own_of(metadata: Metadata) -> dict[str, Any] | Unreadable:
    """Return the ``i2am`` attribute in a member's metadata; nothing where there is none.

    Examples
    --------
    >>> own_of({"attributes": {"i2am": {"kind": "run"}}}), own_of({})
    ({'kind': 'run'}, {})
    """
    own = metadata.get("attributes", {}).get(ATTRIBUTE_KEY, {})
    if not isinstance(own, dict):
        return Unreadable(f"no mapping as its attribute {ATTRIBUTE_KEY!r}")
    return own


def iter_members(group: zarr.Group) -> Iterator[tuple[str, Metadata | Unreadable]]:
    """Yield name and metadata of each group and array below a group, by name.

    Parameters
    ----------
    group : zarr.Group

    Yields
    ------
    name : str
        Names that begin with a dot are left out, and what is no folder.
    metadata : dict or Unreadable
        What ``zarr.json`` holds: a mapping with a known ``node_type`` and mappings as
        ``attributes``; nothing else was checked.

    Raises
    ------
    OSError
        If the group's own folder cannot be listed. From a store of another kind its own errors,
        also where a single member cannot be reached.
    """
    folder, names = _local_folder(group), sorted_names(group)
    found = _iter_stored(group, names) if folder is None else _iter_local(str(folder), names)
    for name, text in found:
        if text is not None:
            yield name, text if isinstance(text, Unreadable) else _parse(text)


def sorted_names(group: zarr.Group) -> list[str]:
    """Return the names of what lies below a group, without reading any; see `iter_members`."""
    folder = _local_folder(group)
    if folder is not None:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    else:

        async def list_names() -> list[str]:
            return [name.strip("/") async for name in group.store.list_dir(group.path)]

        names = [name for name in sync(list_names()) if name != METADATA_KEY]
    return sorted(name for name in names if not name.startswith("."))


def member_metadata(group: zarr.Group, name: str) -> Metadata | Unreadable | None:
    """Return one member's metadata, as `iter_members` yields it; None where there is no member."""
    folder = _local_folder(group)
    if folder is not None:
        text = _read_file(str(folder), name)
    else:
        ((_, text),) = _read_stored(group, [name])
    return text if text is None or isinstance(text, Unreadable) else _parse(text)


def _parse(text: bytes) -> Metadata | Unreadable:
    if len(text) > MAX_METADATA_BYTES:
        return Unreadable(f"more than {MAX_METADATA_BYTES // 2**20} MiB")
    if not text:
        return Unreadable("an empty file")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return Unreadable("no JSON" if text.rstrip().endswith(b"}") else "JSON that is cut short")
    if not isinstance(found, dict) or found.get("node_type") not in ("group", "array"):
        return Unreadable("JSON of something else than a Zarr group or array")
    if found.get("zarr_format") != 3:
        return Unreadable(f"Zarr format {found.get('zarr_format')!r}, not 3")
    if not isinstance(found.get("attributes", {}), dict):
        return Unreadable("attributes that are no mapping")
    return found


# Of a local folder.


def _local_folder(group: zarr.Group) -> Path | None:
    store: Store = group.store
    while isinstance(store, WrapperStore):
        store = store._store
    return Path(store.root) / group.path if isinstance(store, LocalStore) else None


def _iter_local(root: str, names: Sequence[str]) -> Iterator[tuple[str, bytes | Unreadable | None]]:
    if len(names) <= _FILES_A_TASK:  # Threads are for those who have to wait long.
        yield from zip(names, _read_files(root, names), strict=True)
        return
    tasks = (names[at : at + _FILES_A_TASK] for at in range(0, len(names), _FILES_A_TASK))
    waiting: deque[tuple[Sequence[str], Future[list[bytes | Unreadable | None]]]] = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="i2am-listing")
    try:
        for some in tasks:
            waiting.append((some, pool.submit(_read_files, root, some)))
            if len(waiting) > 2 * _THREADS:
                yield from _read_task(*waiting.popleft())
        while waiting:
            yield from _read_task(*waiting.popleft())
    finally:  # Also where the one who asked has seen enough.
        pool.shutdown(cancel_futures=True)


def _read_task(
    names: Iterable[str], texts: Future[list[bytes | Unreadable | None]]
) -> Iterator[tuple[str, bytes | Unreadable | None]]:
    yield from zip(names, texts.result(), strict=True)


def _read_files(root: str, names: Iterable[str]) -> list[bytes | Unreadable | None]:
    return [_read_file(root, name) for name in names]


def _read_file(root: str, name: str) -> bytes | Unreadable | None:
    """Return a member's metadata as it is on disk; None where there is no member."""
    path = f"{root}/{name}/{METADATA_KEY}"
    try:
        if os.path.islink(f"{root}/{name}"):  # noqa: PTH114 - a Path takes as long as all else
            return _read_link(root, path)
        return _read_regular(path)
    except FileNotFoundError:
        return _missing(f"{root}/{name}")
    except NotADirectoryError:
        return None
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.EMLINK):  # What O_NOFOLLOW says of a link.
            return _read_link(root, path)
        return Unreadable(f"{type(e).__name__}: {e.strerror}")


def _read_regular(path: str) -> bytes | Unreadable:
    file = os.open(path, SAFE_OPEN_FLAGS)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return Unreadable("no regular file")
        text = os.read(file, min(found.st_size, MAX_METADATA_BYTES) + 1)
        # Only files that are larger than what one call reads take a second one.
        while len(text) < found.st_size <= MAX_METADATA_BYTES and (more := os.read(file, 2**20)):
            text += more
        return text
    finally:
        os.close(file)


def _read_link(root: str, path: str) -> bytes | Unreadable | None:
    """Return what a link leads to, inside the group's folder: elsewhere is not the store's."""
    try:
        target = os.path.realpath(path, strict=True)
        if os.path.commonpath([target, os.path.realpath(root)]) != os.path.realpath(root):
            return Unreadable("a link that leads out of the store")
        return _read_regular(target)
    except FileNotFoundError:
        return _missing(path.removesuffix(f"/{METADATA_KEY}"))
    except OSError as e:
        return Unreadable(f"{type(e).__name__}: {e.strerror}")


def _missing(folder: str) -> Unreadable | None:
    """Return what a folder without metadata is: damage, or a member that was just begun."""
    try:
        with os.scandir(folder) as entries:
            is_begun = all(entry.name.endswith(".partial") for entry in entries)
    except FileNotFoundError:  # It is gone by now.
        return None
    return None if is_begun else Unreadable(f"no {METADATA_KEY}", is_missing=True)


# Of any other store.


def _iter_stored(
    group: zarr.Group, names: Sequence[str]
) -> Iterator[tuple[str, bytes | Unreadable | None]]:
    for at in range(0, len(names), _REQUESTS_AT_ONCE):
        yield from _read_stored(group, names[at : at + _REQUESTS_AT_ONCE])


def _read_stored(
    group: zarr.Group, names: Sequence[str]
) -> Iterable[tuple[str, bytes | Unreadable | None]]:
    prototype = default_buffer_prototype()

    async def read(name: str) -> bytes | Unreadable | None:
        path = f"{group.path}/{name}".lstrip("/")
        found = await group.store.get(f"{path}/{METADATA_KEY}", prototype)
        if found is not None:
            return found.to_bytes()
        async for _ in group.store.list_dir(path):
            return Unreadable(f"no {METADATA_KEY}", is_missing=True)
        return None  # A single object.

    async def read_all() -> list[bytes | Unreadable | None]:
        return await asyncio.gather(*map(read, names))

    return zip(names, sync(read_all()), strict=True)
