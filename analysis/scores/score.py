"""What a score is: named values of one map, each with a meaning.

A score is a file with ``SCORE = Score(name, meaning, compute, values)``, and one line in `SCORES`. A
score of your own is handed to `register_score`, or published by a package as an entry point of the
group ``i2am.scores``. Tables, the report and the viewer read all scores from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import xarray as xr
from numpy.typing import NDArray

from i2am.schemas.choices import Polarity
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = [
    "DEFAULT_PENALTY",
    "DEFAULT_THRESHOLD",
    "Score",
    "ScoreOptions",
    "ScoreValue",
    "ScoredMap",
]

DEFAULT_PENALTY: Final = 3.0
DEFAULT_THRESHOLD: Final = 0.4


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score_maps`.

    Parameters
    ----------
    penalty, threshold, premask
        As in `imacs`; `premask` is for IMACS_r alone.
    polarity : "direct" or "inverted"
        Of R2G.

    Examples
    --------
    >>> ScoreOptions(penalty=1.0).polarity
    'direct'
    """

    penalty: float = DEFAULT_PENALTY
    threshold: float = DEFAULT_THRESHOLD
    polarity: Polarity = "direct"
    premask: bool = False


@dataclass(frozen=True)
class ScoredMap:
    """One map to score.

    Parameters
    ----------
    direction : "r2g" or "g2r"
    values : array (y, x), at least 0
        The map, in memory, on its own grid.
    mask : array (y, x), 0..1, optional
        Where attention may belong, over the part of the image that the model saw and that the map
        fills; neither empty nor whole there.
    sample : DataTree, optional
        The captured sample that the map is of: its images and provenance. None for a map that is
        not the ULAM of a sample.
    options : ScoreOptions

    Examples
    --------
    A score gets one and yields its values:

    ::

        def compute(scored):
            yield f"{scored.direction}_peak", scored.values.max() / scored.values.sum()
    """

    direction: DirectionName
    values: NDArray[Any]
    mask: NDArray[Any] | None = None
    sample: xr.DataTree | None = None
    options: ScoreOptions = field(default_factory=ScoreOptions)


@dataclass(frozen=True)
class ScoreValue:
    """One value that a score computes.

    Parameters
    ----------
    name : str
        In tables: ``r2g_entropy``.
    meaning : str
        A sentence for the report and for tooltips.
    direction : "r2g" or "g2r"
        Of the maps that it is computed from.
    label : str
        Beside the map in view, the same in both directions; empty: the viewer does not show it.
    better : "high" or "low", optional
        Which end is the better one; None where neither is.
    chance : float or str, optional
        What it is of a map that says nothing: a number, or the name of the value that tells it.
    is_baseline : bool
        It is there for comparison with another value, and no score of its own.

    Examples
    --------
    >>> ScoreValue("r2g_peak", "The share of the highest position.", "r2g", better="high").chance is None
    True
    """

    name: str
    meaning: str
    direction: DirectionName
    label: str = ""
    better: Literal["high", "low"] | None = None
    chance: float | str | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class Score:
    """A score of maps.

    Parameters
    ----------
    name : str
    meaning : str
        What it asks of a map, in a sentence.
    compute : callable (ScoredMap) -> iterable of (str, float)
        Yields the name and number of each value that exists for a map, in the order of the table.
        A map for which the score does not exist yields nothing.
    values : tuple of ScoreValue, optional
        All values that there can be, in the order of the viewer. By default one in each direction,
        ``r2g_NAME`` and ``g2r_NAME``.

    Examples
    --------
    >>> def compute(scored: ScoredMap) -> Iterable[tuple[str, float]]:
    ...     yield f"{scored.direction}_peak", float(scored.values.max() / scored.values.sum())
    >>> peak = Score("peak", "The share of attention in the brightest position.", compute)
    >>> [value.name for value in peak.values]
    ['r2g_peak', 'g2r_peak']
    """

    name: str
    meaning: str
    compute: Callable[[ScoredMap], Iterable[tuple[str, float]]]
    values: tuple[ScoreValue, ...] = ()

    def __post_init__(self) -> None:
        if not self.values:
            both = (
                ScoreValue(f"{direction}_{self.name}", self.meaning, direction, self.name)
                for direction in DIRECTIONS
            )
            object.__setattr__(self, "values", tuple(both))
