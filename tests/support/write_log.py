"""A log of everything that this process does to the files below a folder, in order.

Python's audit events tell of files that are opened, renamed, linked and deleted, on all threads; fsync
has none and is wrapped. Neither tells of a write: a file's content is read where the next event
comes after it was opened, so that the log has it before whatever follows it in the program's order.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Event", "WriteLog", "recorded_writes", "tree_of"]

Kind = Literal[
    "create", "write", "mkdir", "rename", "link", "unlink", "rmdir", "sync", "sync_folder"
]
# Path below the folder -> content; None for a folder.
Tree = dict[str, bytes | None]


@dataclass(frozen=True)
class Event:
    """One change, or one fsync that returned.

    Parameters
    ----------
    kind : str
        ``create`` makes an empty file or empties one, ``write`` gives a file its content.
    path, target : str
        Below the folder; "" is the folder itself. A target is a new name.
    content : bytes
        The file's whole content.
    """

    kind: Kind
    path: str
    target: str = ""
    content: bytes = b""

    def __str__(self) -> str:
        arrow = f" -> {self.target}" if self.target else ""
        size = f" ({len(self.content)} bytes)" if self.kind == "write" else ""
        return f"{self.kind} {self.path or '.'}{arrow}{size}"


@dataclass
class WriteLog:
    """The events so far, and the tree that was there before.

    Parameters
    ----------
    root : Path
    before : dict of str to bytes or None
        See `tree_of`.
    events : list of Event
    """

    root: Path
    before: Tree
    events: list[Event] = field(default_factory=list)
    _open: dict[str, bytes] = field(default_factory=dict)  # content as it was read last
    _lock: Any = field(default_factory=threading.RLock)

    def below(self, path: Any, folder: int | None = None) -> str | None:
        """Return a path below the root, relative to it; None for any other."""
        numbered = Path("/proc/self/fd")  # Where Linux tells what an open file's path is.
        found = (
            (numbered / str(path)).readlink() if isinstance(path, int) else Path(os.fsdecode(path))
        )
        if folder is not None and folder >= 0:
            found = (numbered / str(folder)).readlink() / found
        absolute = Path(os.path.normpath(Path.cwd() / found))
        if not absolute.is_relative_to(self.root):
            return None
        relative = str(absolute.relative_to(self.root))
        return "" if relative == "." else relative

    def opened(self, path: Any, flags: int) -> None:
        if not flags & (os.O_WRONLY | os.O_RDWR) or (own := self.below(path)) is None:
            return
        with self._lock:
            self.note_contents()
            exists = (self.root / own).exists()
            if exists and flags & os.O_EXCL:
                return
            if not exists and not (flags & os.O_CREAT and (self.root / own).parent.is_dir()):
                return
            if not exists or flags & os.O_TRUNC:
                self.events.append(Event("create", own))
                self._open[own] = b""
            else:
                self._open[own] = (self.root / own).read_bytes()

    def changed(self, kind: Kind, path: str | None, target: str = "") -> None:
        if path is None:
            return
        with self._lock:
            self.note_contents()
            self.events.append(Event(kind, path, target))
            if kind == "rename":
                self._open = {_moved(own, path, target): c for own, c in self._open.items()}
            elif kind == "unlink":
                self._open.pop(path, None)

    def synced(self, number: int) -> None:
        path = self.below(number)
        if path is not None:
            is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
            self.changed("sync_folder" if is_folder else "sync", path)

    def note_contents(self) -> None:
        """Note what was written to open files since the last event."""
        with self._lock:
            for path, known in self._open.items():
                try:
                    content = (self.root / path).read_bytes()
                except FileNotFoundError:
                    continue
                if content != known:
                    self._open[path] = content
                    self.events.append(Event("write", path, content=content))


_active: WriteLog | None = None
_inside = threading.local()


@contextmanager
def recorded_writes(root: Path) -> Iterator[WriteLog]:
    """Record what happens below a folder; one at a time.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, recorded_writes(Path(folder)) as log:
    ...     _ = (Path(folder) / "a.partial").write_text("abc")
    ...     _ = (Path(folder) / "a.partial").rename(Path(folder) / "a")
    >>> print(*log.events, sep=", ")
    create a.partial, write a.partial (3 bytes), rename a.partial -> a
    """
    global _active
    _add_hook()
    root = root.resolve()
    log = WriteLog(root, tree_of(root))
    kept = {name: getattr(os, name) for name in ("fsync", "fdatasync")}
    for name, original in kept.items():
        setattr(os, name, _logged(original))
    _active = log
    try:
        yield log
    finally:
        _active = None
        for name, original in kept.items():
            setattr(os, name, original)
        log.note_contents()


def tree_of(root: Path) -> Tree:
    """Return all files and folders below a folder."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def _logged(original: Callable[[int], None]) -> Callable[[Any], None]:
    def sync(file: Any) -> None:
        original(file)
        if _active is not None:
            with _own_reads():
                _active.synced(file if isinstance(file, int) else file.fileno())

    return sync


@contextmanager
def _own_reads() -> Iterator[None]:
    """The log reads files itself: these events are none of the program's."""
    _inside.is_so = True
    try:
        yield
    finally:
        _inside.is_so = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    log = _active
    if log is None or event not in _HANDLERS or getattr(_inside, "is_so", False):
        return
    with _own_reads():
        _HANDLERS[event](log, *arguments)


def _renamed(log: WriteLog, path: Any, target: Any, folder: int, other: int) -> None:
    own, new = log.below(path, folder), log.below(target, other)
    if own is None and new is None:
        return
    assert own is not None, f"{path} comes from outside"
    assert new is not None, f"{target} leads outside"
    if os.path.lexists(log.root / own):
        log.changed("rename", own, new)


def _linked(log: WriteLog, path: Any, target: Any, folder: int, other: int) -> None:
    own, new = log.below(path, folder), log.below(target, other)
    if own is not None and new is not None and not (log.root / new).exists():
        log.changed("link", own, new)


def _removed(log: WriteLog, path: Any, folder: int) -> None:
    own = log.below(path, folder)
    if own is not None and os.path.lexists(log.root / own):
        log.changed("unlink", own)


def _folder_removed(log: WriteLog, path: Any, folder: int) -> None:
    own = log.below(path, folder)
    if own is not None and (log.root / own).is_dir() and not any((log.root / own).iterdir()):
        log.changed("rmdir", own)


def _folder_made(log: WriteLog, path: Any, _mode: int, folder: int) -> None:
    own = log.below(path, folder)
    if own is not None and not (log.root / own).exists() and (log.root / own).parent.is_dir():
        log.changed("mkdir", own)


_HANDLERS: dict[str, Callable[..., None]] = {
    "open": lambda log, path, _mode, flags: log.opened(path, flags),
    "os.rename": _renamed,
    "os.link": _linked,
    "os.remove": _removed,
    "os.rmdir": _folder_removed,
    "os.mkdir": _folder_made,
}
_is_added = False


def _add_hook() -> None:
    global _is_added
    if not _is_added:
        sys.addaudithook(_hook)
        _is_added = True


def _moved(path: str, source: str, target: str) -> str:
    """Return where a path is after a rename of it, or of a folder above it."""
    if path == source or path.startswith(f"{source}/"):
        return target + path[len(source) :]
    return path
