"""Ways that take turns: seconds, ratios within the rounds, and how sure their median is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

__all__ = ["median_interval", "ratios_of", "take_turns", "timed"]

T = TypeVar("T")


def timed(work: Callable[[], object]) -> float:
    """Return how long it took, in seconds."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def take_turns(
    ways: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[T]]:
    """Return what each way answered in each round; rounds that warm up do not count."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name, way in ways.items():
            answer = way()
            if number >= 0:
                found[name].append(answer)
    return found


def ratios_of(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def median_interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return between which values the median lies with 95 % confidence; None of few rounds.

    Notes
    -----
    Of the ordered ratios, those at n/2 ∓ 0.98·√n: how many lie below the true median is binomial.
    """
    ordered = sorted(ratios)
    first = math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered)))
    return (ordered[first], ordered[-1 - first]) if len(ordered) > 5 else None
