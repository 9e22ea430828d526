"""A disk that fills up, without rights: a file system in memory that one process alone sees.

Where the system allows it, a process gets a mount namespace of its own and mounts a tmpfs of any size
in it. Where it does not (macOS, containers that forbid user namespaces), what is limited is the size of
each file, which fails as a full disk does but for its number; `SmallDisk.kind` says which one it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from tests.support.cli_process import start_process

__all__ = ["SmallDisk", "on_small_disk"]

_Result = TypeVar("_Result")

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_READ_ONLY, _REMOUNT, _PRIVATE = 1, 32, 0x40000 | 0x4000  # MS_RDONLY, …, MS_PRIVATE | MS_REC
_LARGE_BYTES = 2**30
_PATIENCE_S = 600


@dataclass(frozen=True)
class SmallDisk:
    """A folder on a disk whose room can be changed.

    Parameters
    ----------
    folder : Path
    kind : "tmpfs" or "file size"
        What is limited: all bytes together, or those of each file.
    """

    folder: Path
    kind: Literal["tmpfs", "file size"]

    @contextlib.contextmanager
    def room(self, size_bytes: int) -> Iterator[None]:
        """Leave so much room within the block, in whole pages; or let no file be larger."""
        if self.kind == "tmpfs":
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            pages = max(1, (used + size_bytes) // 4096)  # A size of 0 would be no limit.
            _mount(self.folder, _REMOUNT, f"size={4096 * pages}")
            try:
                yield
            finally:
                _mount(self.folder, _REMOUNT, f"size={_LARGE_BYTES}")
        else:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    @contextlib.contextmanager
    def read_only(self) -> Iterator[bool]:
        """Forbid writing within the block; yield whether that is possible here."""
        if self.kind == "tmpfs":
            _mount(self.folder, _REMOUNT | _READ_ONLY, f"size={_LARGE_BYTES}")
            try:
                yield True
            finally:
                _mount(self.folder, _REMOUNT, f"size={_LARGE_BYTES}")
            return
        folders = [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o500)
        try:
            yield os.getuid() != 0  # Rights do not bind the superuser.
        finally:
            for path in folders:
                path.chmod(0o700)

    def clear(self) -> None:
        """Remove everything."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def on_small_disk(work: Callable[..., _Result], *given: Any) -> _Result:
    """Return what a function of a module returns, in a process with a small disk.

    Parameters
    ----------
    work : callable (SmallDisk, …)
        Its errors are raised here.
    *given : object
        What it is called with after the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Pipe(duplex=False)
        process = start_process(_run, theirs, folder, work, given)
        theirs.close()
        answer: tuple[bool, Any] = (False, "no answer")
        with contextlib.suppress(EOFError):  # The process died.
            answer = ours.recv() if ours.poll(_PATIENCE_S) else answer
        process.join(10)
        process.kill()
    is_done, result = answer
    if not is_done:
        raise AssertionError(result)
    return cast("_Result", result)


def _run(
    answer: Connection, folder: str, work: Callable[..., object], given: tuple[Any, ...]
) -> None:
    try:
        kind: Literal["tmpfs", "file size"] = "tmpfs" if _has_own_disk(folder) else "file size"
        answer.send((True, work(SmallDisk(Path(folder), kind), *given)))
    except BaseException:  # noqa: BLE001 - raised again by who waits for it
        answer.send((False, traceback.format_exc()))


def _has_own_disk(folder: str) -> bool:
    """Mount a disk of our own on a folder, if the system lets us."""
    if os.environ.get("I2AM_NO_NAMESPACES"):  # to try the other way where both exist
        return False
    user, group = os.getuid(), os.getgid()
    with contextlib.suppress(OSError, AttributeError):
        if user == 0:
            _call("unshare", _NEW_MOUNTS)
        else:
            _call("unshare", _NEW_MOUNTS | _NEW_USER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _call("mount", b"none", b"/", None, _PRIVATE, None)
        _mount(Path(folder), 0, f"size={_LARGE_BYTES}")
        return True
    return False


def _mount(folder: Path, flags: int, options: str) -> None:
    _call("mount", b"tmpfs", str(folder).encode(), b"tmpfs", flags, options.encode())


def _call(name: str, *given: Any) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    typed = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in given]
    if getattr(library, name)(*typed):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
