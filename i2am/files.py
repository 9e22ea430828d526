"""Files that are written: never over what is there unasked, and whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i2am.schemas import StoreError

__all__ = ["check_new_file", "written_whole"]


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
