"""What installed packages publish as entry points: model families, scores."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

from i2am.schemas.errors import I2AMError

__all__ = ["iter_published"]

_Kind = TypeVar("_Kind")


def iter_published(group: str, kind: type[_Kind], error: type[I2AMError]) -> Iterator[_Kind]:
    """Yield what installed packages publish in a group of entry points.

    Parameters
    ----------
    group : str
        For instance ``"i2am.profiles"``.
    kind : type
        What each of them must be.
    error : type of I2AMError
        Raised if one cannot be loaded, or is something else.

    Examples
    --------
    >>> list(iter_published("i2am.no-such-group", int, I2AMError))
    []
    """
    for point in entry_points(group=group):
        wanted = f"Expected a {kind.__name__} at entry point {point.value!r}"
        hint = "Repair or remove the package that publishes it."
        try:
            found = point.load()
        except Exception as e:
            msg = f"{wanted}, got {type(e).__name__}: {e}. {hint}"
            raise error(msg) from e
        if not isinstance(found, kind):
            msg = f"{wanted}, got {found!r}. {hint}"
            raise error(msg)
        yield found
