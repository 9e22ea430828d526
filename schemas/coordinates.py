"""What the values of coordinates may be: labels that rise, timesteps that go one way, finite numbers.

Each check takes the values of one short array and yields what is wrong with them, without its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

__all__ = [
    "ValueCheck",
    "different_names",
    "finite",
    "fractions",
    "is_printable",
    "one_way",
    "rising",
    "rising_labels",
]

ValueCheck = Callable[[Sequence[Any]], Iterator[str]]

# No model has as many heads or steps: a label beyond is none.
_LARGEST_LABEL: Final = 10**6


def is_printable(name: str) -> bool:
    r"""Return whether a name has no control characters: what a terminal or a page would not show.

    Examples
    --------
    >>> is_printable("down_blocks.0.attn2"), is_printable("attn\x1b[2J")
    (True, False)
    """
    return name.isprintable()


def rising_labels(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault unless these are the numbers of steps or heads: from 0 on, each above the last.

    Examples
    --------
    >>> list(rising_labels([0, 5, 10])), list(rising_labels([0, 5, 5]))
    ([], ['expected labels from 0 on that rise, got 5 after 5'])
    """
    for value in values:
        if not isinstance(value, int) or not 0 <= value <= _LARGEST_LABEL:
            yield f"expected labels from 0 to {_LARGEST_LABEL}, got {value!r}"
            return
    yield from _rises(values, "labels from 0 on")


def rising(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault unless these are finite numbers, each above the last.

    Examples
    --------
    >>> list(rising([0.5, 1.5])), list(rising([0.5, float("nan")]))
    ([], ['expected finite numbers, got nan'])
    """
    yield from list(finite(values)) or _rises(values, "numbers")


def one_way(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault unless these are finite numbers that fall, or rise; some may be repeated.

    Examples
    --------
    >>> list(one_way([981, 501, 501, 1])), list(one_way([981, 501, 741]))
    ([], ['expected timesteps that go one way, got 741 after 501'])
    """
    if faults := list(finite(values)):
        yield from faults
        return
    way = 0.0
    for before, value in pairwise(values):
        if (value - before) * way < 0:
            yield f"expected timesteps that go one way, got {value} after {before}"
            return
        way = way or value - before


def finite(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault if a value is no finite number."""
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value):
            yield f"expected finite numbers, got {value!r}"
            return


def fractions(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault if a value is not from 0 to 1.

    Examples
    --------
    >>> list(fractions([0, 0.5, 1])), list(fractions([1.5]))
    ([], ['expected numbers from 0 to 1, got 1.5'])
    """
    for value in values:
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            yield f"expected numbers from 0 to 1, got {value!r}"
            return


def different_names(values: Sequence[Any]) -> Iterator[str]:
    """Yield a fault unless these are texts that can be shown, none of them twice.

    Examples
    --------
    >>> list(different_names(["a", "b"])), list(different_names(["a", "a"]))
    ([], ["expected names that differ, got 'a' twice"])
    """
    seen = set()
    for value in values:
        if not isinstance(value, str) or not value or not is_printable(value):
            yield f"expected names without control characters, got {value!r}"
            return
        if value in seen:
            yield f"expected names that differ, got {value!r} twice"
            return
        seen.add(value)


def _rises(values: Sequence[Any], what: str) -> Iterator[str]:
    for before, value in pairwise(values):
        if value <= before:
            yield f"expected {what} that rise, got {value} after {before}"
            return
