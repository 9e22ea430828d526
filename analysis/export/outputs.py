"""Where an export is written: never over others unasked, and whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from i2am.files import (
    check_new_file,
    check_not_in_store,
    check_outputs,
    outputs_written_whole,
    written_whole,
)
from i2am.schemas import StoreError

__all__ = ["check_new_folder", "one_file_or_one_each"]


def check_new_folder(out: str | Path) -> Path:
    """Return a local path that is a folder, or where one can be made.

    Raises
    ------
    StoreError
        If it is a URL, a file, below a file, or a store or inside one.
    """
    if "://" in str(out):
        msg = f"Expected a local folder, got a URL, at {out}. Write it locally."
        raise StoreError(msg)
    check_not_in_store(out, is_folder=True)
    folder = Path(out)
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None:
        msg = f"Expected a folder, got a file, at {file}. Name another folder."
        raise StoreError(msg)
    return folder


@contextmanager
def one_file_or_one_each(
    out: str | Path, suffix: str, names: Iterable[str], *, overwrite: bool
) -> Iterator[Callable[[str], tuple[Path, str]]]:
    """Give a function of a sample's name that returns the file to write it to, and its place there.

    Where `out` ends in the suffix, that is one file, in which each sample has a place of its name; else
    a folder with a file for each sample, which is in no further place (the empty text).

    Parameters
    ----------
    out : str or Path
    suffix : str
        As in ``.nc``.
    names : iterable of str
        Of the samples.
    overwrite : bool
        Whether files of these names may be replaced.

    Raises
    ------
    StoreError
        If one is there and `overwrite` is false, or nothing can be written there.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with one_file_or_one_each(folder, ".nc", ["a"], overwrite=False) as place_of:
    ...         path, place = place_of("a")
    ...         _ = path.write_text("a file of its own")
    ...     path.name, place, [path.name for path in Path(folder).iterdir()]
    ('a.nc', '', ['a.nc'])
    """
    if Path(out).suffix.lower() == suffix:
        path = check_new_file(out, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            yield lambda name: (unfinished, name)
        return
    whole = check_new_folder(out)
    check_outputs(whole, [f"{name}{suffix}" for name in names], "export", overwrite=overwrite)
    with outputs_written_whole(whole) as folder:
        yield lambda name: (folder / f"{name}{suffix}", "")
