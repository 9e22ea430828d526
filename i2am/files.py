"""Files that are written: never over what is there unasked, and whole or not at all.

What was there before stays until what replaces it is complete and on the disk: a full disk, an error or
a power cut leaves the one or the other.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from i2am.disk import has_no_room, write_out
from i2am.schemas import StoreError
from i2am.schemas.errors import shorten

__all__ = [
    "check_can_hold_store",
    "check_new_file",
    "check_not_in_store",
    "check_outputs",
    "folder_written_whole",
    "outputs_written_whole",
    "restore_replaced",
    "written_whole",
]

# Of a folder that is about to be replaced; it has its name again if the work is stopped then.
_REPLACED: Final = ".replaced"
# How often to look whether a folder stays removed.
_LOOKS: Final = 100
_LOOK_S: Final = 0.05
# By these a folder is a Zarr store or a part of one, of format 3 and of format 2.
_STORE_METADATA: Final = ("zarr.json", ".zgroup", ".zarray")
_FILE_URL: Final = "file://"


def check_not_in_store(path: str | Path, *, is_folder: bool = False) -> None:
    """Check that an output would not lie inside a Zarr store.

    A store that holds what does not belong to it breaks its contract, and whoever copies or
    replaces it takes the other along. Links are followed. URLs of buckets are not looked at.

    Parameters
    ----------
    path : str or Path
        Of a file or store to be written, there or not; a local path or a ``file://`` URL.
    is_folder : bool
        Whether it is a folder that gets several files, so that it must not be a store either.

    Raises
    ------
    StoreError
        If one of its parents is a store, or its links lead nowhere.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     (Path(folder) / "zarr.json").touch()
    ...     try:
    ...         check_not_in_store(Path(folder) / "maps.zarr")
    ...     except StoreError as error:
    ...         print(str(error).split(",")[0])
    Expected a place outside of stores
    """
    text = os.fspath(path)
    if "://" in text:
        if not text.startswith(_FILE_URL):
            return
        text = url2pathname(urlsplit(text).path)
    _check_can_be_reached(text)
    for lying in dict.fromkeys((os.path.abspath(text), os.path.realpath(text))):  # noqa: PTH100 - links as well
        places = Path(lying).parents
        for place in (Path(lying), *places) if is_folder else places:
            if any(os.path.isfile(place / name) for name in _STORE_METADATA):  # noqa: PTH113
                msg = (
                    f"Expected a place outside of stores, got one inside the store {place}, at "
                    f"{text}. Name a path beside it."
                )
                raise StoreError(msg)


def _check_can_be_reached(path: str) -> None:
    """Check that a path can name something; rights and room are for the file system to tell."""
    try:
        os.stat(path)  # noqa: PTH116 - pathlib's raises of fewer
    except ValueError as e:
        msg = f"Expected a path, got characters that none has ({e}), at {path!r}. Name another."
        raise StoreError(msg) from e
    except OSError as e:
        if e.errno in {errno.ELOOP, errno.ENAMETOOLONG}:
            msg = (
                f"Expected a path that can be written, got '{e.strerror}', at {shorten(path)}. "
                "Name another."
            )
            raise StoreError(msg) from e


def check_can_hold_store(path: str | Path) -> None:
    """Check that a folder can be made at a local path; URLs of buckets are not looked at.

    Raises
    ------
    StoreError
        If it is a file, or a file lies on the way, or it would lie inside a store.
    """
    check_not_in_store(path)
    if "://" in os.fspath(path):
        return
    if any(one.is_file() for one in (Path(path), *Path(path).parents)):
        msg = f"Expected a folder, got a file on the way, at {path}. Name another place."
        raise StoreError(msg)


def check_new_file(path: str | Path, *, overwrite: bool) -> Path:
    """Return a path where a file can be written.

    Raises
    ------
    StoreError
        If something is there and `overwrite` is false, a folder is there, no folder can hold it, it
        would lie inside a store, or it is a URL.
    """
    if "://" in str(path):
        msg = f"Expected a local file, got a URL, at {path}. Write it locally."
        raise StoreError(msg)
    path = Path(path)
    check_not_in_store(path)
    if path.is_dir():
        msg = f"Expected a file, got a folder, at {path}. Name a file in it."
        raise StoreError(msg)
    if (inner := next((parent for parent in path.parents if parent.is_file()), None)) is not None:
        msg = f"Expected a folder for {path.name}, got a file, at {inner}. Name another folder."
        raise StoreError(msg)
    if path.exists() and not path.is_file():
        msg = f"Expected a file, got a device, pipe or socket, at {path}. Name another."
        raise StoreError(msg)
    if path.exists() and not overwrite:
        msg = f"Expected no file, got one, at {path}. Allow overwriting (--overwrite) or name a new file."
        raise StoreError(msg)
    return path


def check_outputs(folder: Path, names: Iterable[str], what: str, *, overwrite: bool) -> None:
    """Check that outputs of these names can be written into a folder.

    Parameters
    ----------
    folder : Path
    names : iterable of str
        Of the files and folders in it.
    what : str
        What they are together, for the message.
    overwrite : bool
        Whether they may be there already.

    Raises
    ------
    StoreError
        If one of them is there and `overwrite` is false.
    """
    known = list(names)
    for name in known:
        restore_replaced(folder / name)
    found = [name for name in known if (folder / name).exists()]
    if found and not overwrite:
        more = f" and {len(found) - 1} more" if found[1:] else ""
        msg = (
            f"Expected no earlier {what}, got {found[0]}{more}, at {folder}. "
            "Allow overwriting (--overwrite) or name another folder."
        )
        raise StoreError(msg)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it gets its name when the block ends without error.

    Nothing is left of it after an error. The suffix is that of `path`, since libraries go by it.

    Raises
    ------
    StoreError
        If the disk has no room for it.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with written_whole(Path(folder) / "table.csv") as unfinished:
    ...         _ = unfinished.write_text("a,b")
    ...     [path.name for path in Path(folder).iterdir()]
    ['table.csv']
    """
    # Of its own name: another process may be writing the same file.
    unfinished = path.with_name(f"{path.stem}.{uuid4().hex[:8]}.unfinished{path.suffix}")
    try:
        with _told_of_room(path):
            yield unfinished
            _write_all_out(unfinished)
        _replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` for a folder; it gets its name when the block ends without error.

    An earlier folder of that name stays until then; `restore_replaced` goes before.

    Raises
    ------
    StoreError
        If the disk has no room for it.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with folder_written_whole(Path(folder) / "average.zarr") as unfinished:
    ...         unfinished.mkdir()
    ...     [path.name for path in Path(folder).iterdir()]
    ['average.zarr']
    """
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.unfinished")
    try:
        with _told_of_room(path):
            yield unfinished
            _write_all_out(unfinished)
        _replace(unfinished, path)
    except BaseException:
        _remove_while_written(unfinished)
        raise


@contextmanager
def outputs_written_whole(folder: Path) -> Iterator[Path]:
    """Give a folder for several outputs, which all move to `folder` when the block ends without error.

    Those of the same names are replaced then, and what else is in `folder` stays.

    Raises
    ------
    StoreError
        If the disk has no room for them.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with outputs_written_whole(Path(folder) / "new") as unfinished:
    ...         _ = (unfinished / "table.csv").write_text("a,b")
    ...     [path.name for path in Path(folder, "new").iterdir()]
    ['table.csv']
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{uuid4().hex[:8]}.unfinished"
    try:
        with _told_of_room(folder):
            unfinished.mkdir()
            yield unfinished
            _write_all_out(unfinished)
        for path in sorted(unfinished.iterdir()):
            restore_replaced(folder / path.name)
            _replace(path, folder / path.name)
        unfinished.rmdir()
    except BaseException:
        _remove_while_written(unfinished)
        if is_new:
            with suppress(OSError):  # It holds something.
                folder.rmdir()
        raise


def restore_replaced(path: Path) -> None:
    """Give an earlier folder its name back, if the work that replaced it was stopped in between."""
    replaced = path.with_name(path.name + _REPLACED)
    if replaced.exists() and not path.exists():
        replaced.rename(path)


def _replace(unfinished: Path, path: Path) -> None:
    """Give something complete its name. For a folder, what has that name moves aside first."""
    replaced = path.with_name(path.name + _REPLACED)
    try:
        if unfinished.is_dir() and path.exists():
            _remove(replaced)
            path.rename(replaced)
        unfinished.replace(path)
    except BaseException:
        restore_replaced(path)
        raise
    write_out(path.parent)
    _remove(replaced)


def _remove_while_written(folder: Path) -> None:
    """Remove a folder into which threads may still write, which do not know yet of an error."""
    absences = 0
    for _ in range(_LOOKS):
        shutil.rmtree(folder, ignore_errors=True)
        absences = 0 if folder.exists() else absences + 1
        if absences == 2:
            return
        time.sleep(_LOOK_S)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_all_out(path: Path) -> None:
    """Wait until a file, or a folder with all below it, is on the disk."""
    if not path.is_dir():
        write_out(path)
    for folder, _, names in os.walk(path):
        for own in (*names, "."):
            write_out(Path(folder) / own)


@contextmanager
def _told_of_room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not has_no_room(error):
            raise
        msg = (
            f"Expected room on the disk, got '{error.strerror}', at {path}. Free some, or name another "
            "place; what was there before is as it was."
        )
        raise StoreError(msg) from error
