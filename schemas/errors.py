"""One small tree of errors, so that a caller can catch what it means to catch.

Messages follow one pattern: what was wanted, what came, where, what to do.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from i2am.schemas.text import safe_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

__all__ = [
    "AnalysisError",
    "CaptureError",
    "I2AMError",
    "InputWarning",
    "MissingExtra",
    "SchemaError",
    "StorageError",
    "StoreError",
    "StoreWarning",
    "describe_validation_error",
    "did_you_mean",
    "shorten",
]


class I2AMError(Exception):
    r"""Base of every error that i2am raises on purpose.

    Its text may name what a store or a manifest holds, and is shown as text whatever that is.

    Examples
    --------
    >>> print(I2AMError("got 'shirt\x1b[2J'"))
    got 'shirt\x1b[2J'
    """

    def __str__(self) -> str:
        """Return the message, without what would control a terminal."""
        # As Exception has it: an error that is a KeyError, too, would be shown in quotes.
        return safe_text(Exception.__str__(self), keep="\n")


class SchemaError(I2AMError, ValueError):
    """Input or stored data does not keep the contract."""


class StoreError(I2AMError):
    """A store is missing, unreadable, or must not be written."""


class StorageError(StoreError):
    """Storage fails: a full disk, a missing right, a bucket that does not answer."""


class CaptureError(I2AMError):
    """A model cannot be captured, or captured something else than was expected."""


class AnalysisError(I2AMError, ValueError):
    """A map or a score was asked for that the capture cannot give."""


class InputWarning(UserWarning):
    """Something in a picture, mask or manifest was read in a way that its giver should know."""


class StoreWarning(UserWarning):
    """Something in a store cannot be read, and was left out."""


class MissingExtra(I2AMError, ImportError):
    """An optional package is not installed."""


_LISTED_CHARACTERS = 160  # about two lines


def shorten(text: str, most: int = 200) -> str:
    """Return a text of at most `most` characters, with its beginning and its end.

    Examples
    --------
    >>> shorten("abcdefghijkl", 7)
    'abc…jkl'
    """
    if len(text) <= most:
        return text
    kept = (most - 1) // 2
    return f"{text[: most - 1 - kept]}…{text[-kept:]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a closing sentence that names the nearest known name, or as many as two lines hold.

    Examples
    --------
    >>> did_you_mean("genrated", ["generated", "reference"])
    "Did you mean 'generated'?"
    >>> did_you_mean("zzz", ["a", "b"])
    "Known: 'a', 'b'."
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {_listed(names)}."


def _listed(names: list[str]) -> str:
    """Return the first names, as many as may be listed, and the number of the others."""
    shown: list[str] = []
    for name in names:
        if shown and sum(map(len, shown)) + len(name) > _LISTED_CHARACTERS:
            break
        shown.append(repr(name))
    others = len(names) - len(shown)
    return (", ".join(shown) or "none") + (f" and {others} more" if others else "")


def describe_validation_error(error: ErrorDetails) -> str:
    """Return pydantic's fault of one field in our words: what was wanted, and what came.

    The field's name is left to the caller, who knows where the field stands.
    """
    reason = error["msg"].removeprefix("Value error, ").rstrip(".")
    # Our own messages tell what came; a missing field's input is the whole mapping.
    came = (
        ""
        if error["type"] in {"missing", "value_error"}
        else f", got {shorten(repr(error['input']))}"
    )
    return f"{reason[0].lower()}{reason[1:]}{came}"
