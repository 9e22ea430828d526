"""All scores: those of i2am, of installed packages, and of the caller."""

from __future__ import annotations

import functools
from typing import Final

from i2am.analysis.scores import SCORES
from i2am.analysis.scores.score import Score, ScoredMap, ScoreValue
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.published import iter_published

__all__ = [
    "ENTRY_POINTS",
    "compute_score",
    "known_scores",
    "register_score",
    "score_map",
    "score_meanings",
    "score_values",
    "unregister_score",
]

ENTRY_POINTS: Final = "i2am.scores"
_registered: dict[str, Score] = {}


def known_scores() -> tuple[Score, ...]:
    """Return every score in the order of the tables: those of i2am, then all others.

    Raises
    ------
    AnalysisError
        If a score that an installed package publishes cannot be loaded.

    Examples
    --------
    >>> [score.name for score in known_scores()][:3]
    ['imacs', 'detection', 'spread']
    """
    _load_published()
    return (*SCORES, *_registered.values())


def register_score(score: Score) -> None:
    """Add a score; it then appears in tables, in the report and in the viewer.

    Parameters
    ----------
    score : Score
        It replaces one of the same name that was registered before.

    Raises
    ------
    AnalysisError
        If one of its values has the name of another score's value.

    Examples
    --------
    >>> def compute(scored):
    ...     yield f"{scored.direction}_peak", scored.values.max() / scored.values.sum()
    >>> register_score(Score("peak", "The share of attention in the brightest position.", compute))
    >>> "r2g_peak" in score_meanings()
    True
    >>> unregister_score("peak")
    """
    others = [one for one in (*SCORES, *_registered.values()) if one.name != score.name]
    others += [one for one in SCORES if one.name == score.name]
    taken = {value.name: one.name for one in others for value in one.values}
    for value in score.values:
        if value.name in taken:
            msg = (
                f"Expected values that no other score has, got {value.name!r} of score "
                f"{taken[value.name]!r}, at score {score.name!r}. Choose another name."
            )
            raise AnalysisError(msg)
    _registered[score.name] = score


def unregister_score(name: str) -> None:
    """Remove a score that was registered.

    Parameters
    ----------
    name : str

    Raises
    ------
    AnalysisError
        If there is none of that name.

    Examples
    --------
    >>> from i2am.analysis import Score, known_scores, register_score
    >>> registered = register_score(Score("peak", "The highest value.", lambda scored: []))
    >>> unregister_score("peak")
    >>> "peak" in [score.name for score in known_scores()]
    False
    """
    if name not in _registered:
        hint = did_you_mean(name, _registered)
        msg = f"Expected a registered score, got {name!r}, at unregister_score. {hint}"
        raise AnalysisError(msg)
    del _registered[name]


def score_values() -> tuple[ScoreValue, ...]:
    """Return every value that a score can have, in the order of the viewer."""
    return tuple(value for score in known_scores() for value in score.values)


def score_meanings() -> dict[str, str]:
    """Return the meaning of every value, by its name in tables."""
    return {value.name: value.meaning for value in score_values()}


def score_map(scored: ScoredMap) -> dict[str, float]:
    """Return the values of one map that exist, by their names in tables.

    Parameters
    ----------
    scored : ScoredMap

    Raises
    ------
    AnalysisError
        If a score returns a value that it does not declare.
    """
    found: dict[str, float] = {}
    for score in known_scores():
        found |= compute_score(score, scored)
    return found


def compute_score(score: Score, scored: ScoredMap) -> dict[str, float]:
    """Return the values of one score of a map; parameters and errors as of `score_map`."""
    found = {name: float(value) for name, value in score.compute(scored)}
    declared = [value.name for value in score.values]
    for name in found:
        if name not in declared:
            msg = (
                f"Expected a value that score {score.name!r} declares, got {name!r}, at its "
                f"compute. {did_you_mean(name, declared)}"
            )
            raise AnalysisError(msg)
    return found


@functools.cache
def _load_published() -> None:
    """Register the scores that installed packages publish."""
    for score in iter_published(ENTRY_POINTS, Score, AnalysisError):
        register_score(score)
