"""Objects of a store in a folder, read without leaving it.

A folder that came from a stranger may hold links to anywhere, pipes that nobody writes to, devices
without end. Only what lies in the store's own folder is read, and only files.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NoReturn

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest

from i2am.schemas import StoreError
from i2am.schemas.text import safe_text

__all__ = ["SAFE_OPEN_FLAGS", "LocalObjects"]

# Not to wait for a pipe's other end, and not to follow a link that was put there just now.
SAFE_OPEN_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_MAX_REMEMBERED_FOLDERS: Final = 2**16


class LocalObjects:
    """The files below a folder, which itself may be reached by a link.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self._given = os.fspath(root)
        self._root = os.path.realpath(root)
        self._checked_folders: set[str] = set()

    def __getstate__(self) -> Path:
        return Path(self._given)

    def __setstate__(self, state: Path) -> None:
        self.__init__(state)  # type: ignore[misc]

    def size(self, key: str) -> int | None:
        """Return a file's size in bytes; None where there is none.

        Raises
        ------
        StoreError
            As `read`.
        """
        found = self._find(key)
        return None if found is None else found[1].st_size

    def read(
        self, key: str, byte_range: ByteRequest | None, max_bytes: int, min_bytes: int = 0
    ) -> bytes | None:
        """Return a file's bytes, or a part of them; None where there is no file.

        Parameters
        ----------
        key : str
        byte_range : ByteRequest or None
        max_bytes, min_bytes : int
            Bounds for the size of the whole file.

        Raises
        ------
        StoreError
            If it lies outside the store, is no file, is larger or smaller than it can be, or ends
            before the part that was asked for.
        """
        found = self._find(key)
        if found is None:
            return None
        try:
            handle = os.open(found[0], SAFE_OPEN_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None  # Removed just now.
        with open(handle, "rb") as file:  # noqa: PTH123  # It is open already.
            own = os.fstat(handle)
            self._check_is_file(own, key)
            if not min_bytes <= own.st_size <= max_bytes:
                sizes = f"{min_bytes:,} to {max_bytes:,}" if min_bytes < max_bytes else max_bytes
                self._refuse(f"an object of {sizes} bytes", f"{own.st_size:,}", key)
            start, end = _bounds(byte_range, own.st_size)
            if not 0 <= start <= end <= own.st_size:
                self._refuse(f"{end:,} bytes or more", f"{own.st_size:,}", key)
            if start:
                file.seek(start)
            content = file.read(end - start)
        if len(content) < end - start:
            self._refuse(f"{end - start:,} bytes", f"{len(content):,}", key)
        return content

    def check_folder(self, folder: str) -> None:
        """Check that a folder lies in the store; one that does not exist does.

        Raises
        ------
        StoreError
            If it is a link that leads elsewhere.
        """
        if folder == "" or folder in self._checked_folders:
            return
        self.check_folder(folder.rpartition("/")[0])
        path = os.path.join(self._root, folder)  # noqa: PTH118  # Path takes five times as long.
        try:
            own = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        if stat.S_ISLNK(own.st_mode):
            self._inside(path, folder)
        if len(self._checked_folders) >= _MAX_REMEMBERED_FOLDERS:
            self._checked_folders.clear()
        self._checked_folders.add(folder)

    def _find(self, key: str) -> tuple[str, os.stat_result] | None:
        """Return a file's path, which lies in the store, and what it is."""
        if ".." in key.split("/"):
            self._refuse("names inside the store", "one that leads out", key)
        self.check_folder(key.rpartition("/")[0])
        path = os.path.join(self._root, key)  # noqa: PTH118
        try:
            own = os.lstat(path)
            if stat.S_ISLNK(own.st_mode):
                path = self._inside(path, key)
                own = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(own.st_mode):
            return None  # As zarr's own store: a group of that name, for instance.
        self._check_is_file(own, key)
        return path, own

    def _inside(self, path: str, key: str) -> str:
        real = os.path.realpath(path)
        if real != self._root and not real.startswith(self._root.rstrip(os.sep) + os.sep):
            self._refuse(
                "files of the store itself", "a link that leads out of it", key, _COPY_LINKS
            )
        return real

    def _check_is_file(self, own: os.stat_result, key: str) -> None:
        if not stat.S_ISREG(own.st_mode):
            self._refuse("a file", "a pipe, a device or the like", key)

    def _refuse(self, wanted: str, came: str, key: str, hint: str = "") -> NoReturn:
        place = safe_text(f"{self._given}/{key}")
        hint = hint or "The store is damaged; get it again, or do without the sample."
        msg = f"Expected {wanted}, got {came}, at {place}. {hint}"
        raise StoreError(msg)


_COPY_LINKS: Final = "If you trust it, copy the store with its links followed: cp -rL."


def _bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return where a part begins and ends."""
    if byte_range is None:
        return 0, size
    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, byte_range.end
    if isinstance(byte_range, OffsetByteRequest):
        return min(byte_range.offset, size), size
    return max(0, size - byte_range.suffix), size
