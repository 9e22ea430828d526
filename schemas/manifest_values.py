"""What a field of a manifest may hold: what a store's JSON can hold and a person can read.

A label goes into its sample's attributes as it came. What these cannot hold would be found when the
sample is written, after it was generated; so it is told when the manifest is read.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any, Final

__all__ = ["check_seed", "check_value"]

_LONGEST_TEXT: Final = 131_072  # characters: as csv limits them, and so in every format
_DEEPEST: Final = 16
_LARGEST_EXACT_FLOAT: Final = 2**53
# What PyTorch's generators take.
_LEAST_SEED, _LARGEST_SEED = -(2**63), 2**64 - 1
# Dates, times and decimal numbers are stored as their text.
_PLAIN = (bool, int, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta)


def check_value(value: Any, depth: int = 0) -> None:
    """Check that a store's attributes can hold a value.

    Raises
    ------
    ValueError
        If it is neither text, number, truth value or date, nor a list or mapping of these; if it
        is text that is no Unicode or longer than any label; a number that is none; or nested deep.

    Examples
    --------
    >>> check_value({"garment": ["hat", 1.5, None]})
    >>> check_value(b"hat")
    Traceback (most recent call last):
        ...
    ValueError: expected text, a number, a truth value or a date, got bytes. Write the column as text
    """
    if depth > _DEEPEST:
        msg = f"expected values nested at most {_DEEPEST} deep, got more. Write it as text"
        raise ValueError(msg)
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            msg = f"expected a finite number, got {value}. Leave it empty where there is no value"
            raise ValueError(msg)
    elif isinstance(value, dict):
        for name, item in value.items():
            check_value(name, depth + 1)
            check_value(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            check_value(item, depth + 1)
    elif value is not None and not isinstance(value, _PLAIN):
        msg = (
            "expected text, a number, a truth value or a date, got "
            f"{type(value).__name__}. Write the column as text"
        )
        raise ValueError(msg)


def check_seed(seed: Any) -> Any:
    """Return a seed of 64 bits, or what is none for others to refuse.

    Raises
    ------
    ValueError
        If it has more bits, or is a truth value or a float that is no exact whole number.

    Examples
    --------
    >>> check_seed("7"), check_seed(7.0)
    ('7', 7.0)
    >>> check_seed(True)
    Traceback (most recent call last):
        ...
    ValueError: expected a whole number, got True
    """
    is_inexact = isinstance(seed, float) and abs(seed) >= _LARGEST_EXACT_FLOAT
    if isinstance(seed, bool) or is_inexact:
        msg = f"expected a whole number, got {seed}"
        raise ValueError(msg)
    if isinstance(seed, int) and not _LEAST_SEED <= seed <= _LARGEST_SEED:
        came = seed if abs(seed) < 10**40 else "one of more than 40 digits"
        msg = f"expected a seed of 64 bits, got {came}. Give a smaller one"
        raise ValueError(msg)
    return seed


def _check_text(text: str) -> None:
    if len(text) > _LONGEST_TEXT:
        msg = f"expected text of at most {_LONGEST_TEXT:,} characters, got {len(text):,}. Leave it out"
        raise ValueError(msg)
    if not _is_unicode(text):
        msg = "expected Unicode text, got half of a character (a lone surrogate). Write it anew"
        raise ValueError(msg)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
