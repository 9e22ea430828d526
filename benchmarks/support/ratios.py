"""Ratios of two ways that took turns: what the rounds say together, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["format_ratio", "median_interval", "ratios_of"]


def ratios_of(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def format_ratio(ratios: Sequence[float]) -> str:
    """Return the median, and the range in brackets.

    >>> format_ratio([1.5, 1.0, 1.25])
    '1.25 (1.00–1.50)'
    """
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def median_interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return between which values the median lies with 95 % confidence; None of few rounds.

    Notes
    -----
    Of the ordered ratios, those at n/2 ∓ 0.98·√n: how many lie below the true median is binomial.
    """
    ordered = sorted(ratios)
    first = math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered)))
    return (ordered[first], ordered[-1 - first]) if len(ordered) > 5 else None
