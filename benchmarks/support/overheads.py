"""What the ways to keep a model's attention take beside generation alone, and which bars are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from support.capture_variants import VARIANTS
from support.figures import Section, at_most, below
from support.turns import median_interval, ratios_of

__all__ = ["ACCELERATOR_BAR", "ALONE", "CPU_BAR", "is_capture", "tell_overheads"]

ALONE = next(iter(VARIANTS))
CPU_BAR, ACCELERATOR_BAR = 1.10, 1.05


def is_capture(name: str) -> bool:
    """Return whether a variant is ours."""
    return name.startswith("capture()")


def tell_overheads(section: Section, seconds: Mapping[str, Sequence[float]], bar: float) -> None:
    """Record each variant's seconds, and its ratios within the rounds.

    Parameters
    ----------
    section : Section
    seconds : mapping of str to sequence of float
        Of each variant's rounds.
    bar : float
        What ours may take at most of generation alone; of each other way they are to take less.
    """
    rivals = [name for name in seconds if name != ALONE and not is_capture(name)]
    for name, times in seconds.items():
        section.add(name, "time", times, "s")
        for other in (ALONE, *rivals) if is_capture(name) else (ALONE,):
            ratios, own_bar, note = ratios_of(times, seconds[other]), None, ""
            if is_capture(name):
                own_bar = at_most(bar) if other == ALONE else below(1)
                if (interval := median_interval(ratios)) is not None:
                    note = f"median within {interval[0]:.3f}–{interval[1]:.3f}"
            section.add(name, f"over {other}", ratios, bar=own_bar, note=note)
