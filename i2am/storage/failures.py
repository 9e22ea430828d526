"""What a failing disk or bucket says, in our words: what came, where, and what helps.

A store that fails is told apart from a store that is wrong: the one is worth another try when there
is room, a right or a connection again, and it fails every sample alike.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, StorePath

from i2am.disk import has_no_room
from i2am.schemas import StorageError

__all__ = [
    "Place",
    "is_not_implemented",
    "reported_as_store_error",
    "storage_error",
    "storage_errors",
    "was_cut_short",
]

Place = str | Path | Store | StorePath | zarr.Group

_NO_FOLDER: Final = {errno.ENOTDIR, errno.EEXIST}
_NO_RIGHT: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_STATUS: Final = re.compile(r"status code: (\d{3}[^:\n]*)")
_CUT_SHORT: Final = "kind: Interrupted"
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")
# What object_store's errors hold, what it means, and what helps.
_ANSWERS: Final = (
    ("kind: Timeout", "no answer in time", "For a slow line set {cloud}_TIMEOUT=120s."),
    ("kind: Connect", "no connection", "Check the endpoint."),
    (_CUT_SHORT, "an answer that was cut short", "Try again later."),
    ("error sending request", "no answer", "Check the endpoint, or try again later."),
)
_CLOUDS: Final = {"gs": "GOOGLE", "az": "AZURE"}


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the errors by which a disk or a bucket says that it fails."""
    obstore = sys.modules.get("obstore.exceptions")  # Not imported for a run on a disk.
    return (OSError, obstore.BaseError) if obstore else (OSError,)


@contextmanager
def reported_as_store_error(place: Place) -> Iterator[None]:
    """Raise what says that a store fails as a StorageError of one line.

    Parameters
    ----------
    place : str, Path, zarr Store, StorePath or Group
        What is named as the place.

    Raises
    ------
    StorageError
        For an OSError or an error of obstore.
    """
    try:
        yield
    except storage_errors() as error:
        raise storage_error(error, place) from error


def storage_error(error: Exception, place: Place) -> StorageError:
    """Return what to say of a disk or a bucket that fails.

    Examples
    --------
    >>> str(storage_error(OSError(28, "No space left on device"), "run.zarr/shirt"))
    "Expected room to write, got 'No space left on device', at run.zarr/shirt. Make room there, \
or name another place, then run it again."
    """
    where = _named(place)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and has_no_room(error):
        msg = (
            f"Expected room to write, got {os.strerror(number or 0)!r}, at {where}. Make room "
            "there, or name another place, then run it again."
        )
    elif number in _NO_FOLDER:
        msg = f"Expected a folder, got a file on the way, at {where}. Name another place."
    elif number in _NO_RIGHT:
        msg = (
            f"Expected the right to use it, got {os.strerror(number or 0)!r}, at {where}. Check the "
            "rights, or name another place."
        )
    else:
        reason, help_ = _answer(error, where)
        msg = f"Expected a store that can be reached, got {reason}, at {where}. {help_}"
    return StorageError(msg)


def is_not_implemented(error: Exception) -> bool:
    """Whether a bucket does not know what was asked of it, or was said not to (AWS_CONDITIONAL_PUT)."""
    return isinstance(error, NotImplementedError) or "status code: 501" in str(error)


def was_cut_short(error: Exception) -> bool:
    """Whether an answer began and did not end, of an error that obstore has raised."""
    return _CUT_SHORT in str(error)


def _answer(error: Exception, where: str) -> tuple[str, str]:
    """Return what came and what helps, of an error that is not the disk's."""
    text = str(error)
    code = _CODE.search(text)
    if (status := _STATUS.search(text)) is not None:
        reason = status[1].strip() + (f" ({code[1]})" if code else "")
        if status[1][:3] in {"401", "403"}:
            return reason, "Check the credentials and the rights to it."
        if status[1][0] == "5" or status[1][:3] == "429":
            return reason, "The service is busy or broken: try again later."
        return reason, "Check the address, the endpoint and the rights to it."
    for mark, reason, help_ in _ANSWERS:
        if mark in text:
            cloud = _CLOUDS.get(where.partition("://")[0], "AWS")
            return reason, help_.format(cloud=cloud)
    first = text.partition("\n")[0]  # An object store's errors go on for pages.
    reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return reason, (
        "Check the address and the rights to it; with a URL also endpoint and credentials."
    )


def _named(place: Any) -> str:
    """Return a place as its user knows it: a path, or a URL."""
    if isinstance(place, zarr.Group | zarr.Array):
        place = place.store_path
    if isinstance(place, StorePath):
        if isinstance(place.store, LocalStore):
            return str(Path(place.store.root) / place.path)
        return str(place)
    return str(place)
