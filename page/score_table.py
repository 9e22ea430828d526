"""A run's scores as the page shows them: in words, beside chance, with the samples that stand out.

A number that is there for comparison is told beside the score that it is for, not as one of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from i2am.analysis.scores.registry import score_values
from i2am.analysis.scores.score import ScoreValue
from i2am.schemas import AnalysisError, did_you_mean
from i2am.schemas.text import safe_text

__all__ = ["ScoreTable", "score_table"]

_COLUMNS: Final = ("sample", "score", "value")
# A sample stands out if its distance from the median is so many times the usual one (Iglewicz and Hoaglin).
_OUTLYING: Final = 3.5
_USUAL: Final = 0.6745
_FEWEST: Final = 5


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a run's samples.

    Parameters
    ----------
    values : DataFrame (sample, score), float
        NaN where a sample has not the score; columns in the order of the table.
    """

    values: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """The scores that are shown: not those which are there for comparison alone."""
        baselines = {own.name for own in score_values() if own.is_baseline}
        return [str(name) for name in self.values if name not in baselines]

    def described(self) -> list[dict[str, Any]]:
        """Return each shown score in words, with what it is by chance."""
        known = {own.name: own for own in score_values()}
        found = []
        for name in self.names:
            own = known.get(name)
            found.append(
                {
                    "name": safe_text(name),
                    "title": safe_text(_title(name, own)),
                    "meaning": "" if own is None else own.meaning,
                    "better": None if own is None else own.better,
                    "chance": None if own is None else self._chance(own),
                }
            )
        return found

    def summary(self) -> list[dict[str, Any]]:
        """Return each shown score with its mean, its ends and the number of samples, as text."""
        rows = []
        for own, name in zip(self.described(), self.names, strict=True):
            known = self.values[name].dropna()
            ends = {"mean": known.mean(), "low": known.min(), "high": known.max()}
            numbers = {key: _number(value) for key, value in ends.items()}
            chance = "" if own["chance"] is None else _number(own["chance"])
            rows.append(own | numbers | {"chance": chance, "count": len(known)})
        return rows

    def values_of(self, sample: str) -> dict[str, float | None]:
        """Return the shown scores of a sample that exist or are told to be none."""
        if sample not in self.values.index:
            return {}
        own = {name: float(self.values[name][sample]) for name in self.names}
        return {
            safe_text(name): None if math.isnan(value) else float(f"{value:.6g}")
            for name, value in own.items()
        }

    def outliers_of(self, sample: str) -> list[str]:
        """Return the scores by which a sample stands out from the others.

        Its distance from the median, over the median distance of all; of at least five samples.
        """
        if sample not in self.values.index:
            return []
        found = []
        for name in self.names:
            known = self.values[name].dropna().to_numpy()
            if len(known) < _FEWEST:
                continue
            distances = np.abs(known - np.median(known))
            own = abs(self.values.loc[sample, name] - np.median(known))
            # NaN stands for none, and where most are alike nothing can be told.
            if np.median(distances) > 0 and _USUAL * own / np.median(distances) > _OUTLYING:
                found.append(safe_text(name))
        return found

    def sorted_names(self, names: list[str], score: str) -> list[str]:
        """Return samples, those with the highest score first, and those without it last.

        Raises
        ------
        AnalysisError
            If there is no such score.
        """
        if score not in self.values:
            known = [str(name) for name in self.values]
            msg = f"Expected a score of the table, got {score!r}, at sort. {did_you_mean(score, known)}"
            raise AnalysisError(msg)
        own = self.values[score].reindex(names).sort_values(ascending=False, kind="stable")
        return [str(name) for name in own.index]

    def _chance(self, own: ScoreValue) -> float | None:
        if not isinstance(own.chance, str):
            return own.chance
        if own.chance not in self.values or self.values[own.chance].isna().all():
            return None
        return float(f"{self.values[own.chance].mean():.6g}")


def score_table(scores: pd.DataFrame, names: list[str]) -> ScoreTable:
    """Return the scores of the named samples.

    Parameters
    ----------
    scores : DataFrame, columns sample (str), score (str), value (float)
        As `score_maps` gives it.
    names : list of str

    Raises
    ------
    AnalysisError
        If a column is missing, or a sample's name is no text.
    """
    if missing := set(_COLUMNS) - set(scores.columns):
        msg = (
            f"Expected the columns {', '.join(_COLUMNS)}, got none named "
            f"{', '.join(sorted(missing))}, at scores. Give the table that 'i2am score' writes."
        )
        raise AnalysisError(msg)
    others = [name for name in scores["sample"] if not isinstance(name, str)]
    if others:  # "NA" and "007", read by pandas' own rules, are no names any more.
        msg = (
            f"Expected the samples' names as text, got {others[0]!r}, at scores. Read the table with "
            "i2am.analysis.read_scores."
        )
        raise AnalysisError(msg)
    own = scores[scores["sample"].isin(names)]
    values = own.pivot_table("value", "sample", "score", "last", dropna=False, sort=False)
    order = [score for score in dict.fromkeys(own["score"]) if score in values]
    return ScoreTable(values.reindex(columns=order))


def _number(value: float) -> str:
    """Return a score as text."""
    return "none" if math.isnan(value) else f"{value:.4f}"


def _title(name: str, own: ScoreValue | None) -> str:
    if own is None or not own.label:
        return name.replace("_", " ").replace("iou", "IoU")
    return f"{own.direction.upper()} {own.label}"
