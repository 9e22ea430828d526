"""Files that are written: never over what is there unasked, and whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2am.schemas import StoreError

__all__ = ["check_new_file", "folder_written_whole", "written_whole"]


def check_new_file(path: str | Path, *, overwrite: bool) -> Path:
    """Return a path where a file can be written.

    Raises
    ------
    StoreError
        If something is there and `overwrite` is false, a folder is there, or no folder can hold it.
    """
    path = Path(path)
    if path.is_dir():
        msg = f"Expected a file, got a folder, at {path}. Name a file in it."
        raise StoreError(msg)
    if (inner := next((parent for parent in path.parents if parent.is_file()), None)) is not None:
        msg = f"Expected a folder for {path.name}, got a file, at {inner}. Name another folder."
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


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to make; it takes the place of `path` when the block ends.

    Whenever the process or the power ends, at `path` lies what was there before, or nothing, or the
    whole new folder. After an error nothing is left of the new one.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as parent:
    ...     with folder_written_whole(Path(parent) / "store.zarr") as unfinished:
    ...         unfinished.mkdir()
    ...     [path.name for path in Path(parent).iterdir()]
    ['store.zarr']
    """
    unfinished, replaced = (path.with_name(f"{path.name}.{end}") for end in ("partial", "replaced"))
    for left in (unfinished, replaced):  # By a process that was killed.
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield unfinished
        for inner in (*unfinished.rglob("*"), unfinished):
            _write_out(inner)
        if path.exists():
            path.rename(replaced)
        unfinished.rename(path)
        _write_out(path.parent)
    finally:
        for left in (unfinished, replaced):
            shutil.rmtree(left, ignore_errors=True)


def _write_out(path: Path) -> None:
    """Return when a file's content, or a folder's names, would outlive a power cut."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders.
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)
