"""Files that are written: never over what is there unasked, and whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from i2am.schemas import StoreError
from i2am.schemas.errors import shorten

__all__ = ["check_new_file", "check_not_in_store", "written_whole"]

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
        msg = f"Expected no file, got one, at {path}. Allow overwriting or name a new file."
        raise StoreError(msg)
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it gets its name when the block ends without error.

    Nothing is left of it after an error. The suffix is that of `path`, since libraries go by it.

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
    unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
