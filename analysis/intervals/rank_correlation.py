"""How alike two values rank samples, and the interval of that."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from i2am.analysis.intervals.bootstrap import DEFAULT_CONFIDENCE, check_confidence

__all__ = ["rank_correlation"]

# Each ranks all samples anew, which takes a hundred times as long as a mean.
_RESAMPLES: Final = 1999
_SEED: Final = 0
# Resamples ranked at once, so that thousands of samples need little memory.
_BATCH: Final = 250
_FEWEST: Final = 3


def rank_correlation(
    a: ArrayLike,
    b: ArrayLike,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation of two values over samples, and its bootstrap interval.

    Parameters
    ----------
    a, b : array_like, one dimension
        One value a sample.
    confidence : float
        Between 0 and 1, both excluded.
    clusters : sequence, optional
        The cluster of each sample: those of one are drawn together.

    Returns
    -------
    tuple of float
        The correlation, -1..1, and the low and high end of its interval; NaN for fewer than three samples,
        or where all have one value. The interval is NaN for one cluster alone.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1.

    Notes
    -----
    Equal values share their mean rank. Percentile bootstrap over clusters, 1,999 resamples, a fixed seed;
    resamples in which all have one value are left out.

    Examples
    --------
    >>> rank_correlation([1, 2, 3], [10, 20, 30])[0]
    1.0
    """
    check_confidence(confidence)
    values = np.array([a, b], np.float64)
    count = values.shape[1]
    found = float(_spearman(values))
    labels = range(count) if clusters is None else clusters
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    if math.isnan(found) or len(members) < 2:
        return found, math.nan, math.nan
    groups = [np.array(own) for own in members.values()]
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(0, len(groups), (_RESAMPLES, len(groups)))
    if len({len(own) for own in groups}) == 1:  # All resamples have one size: many at once.
        samples = np.stack(groups)[drawn].reshape(_RESAMPLES, -1)
        batches = [samples[i : i + _BATCH] for i in range(0, _RESAMPLES, _BATCH)]
        resampled = np.concatenate([_spearman(values[:, own]) for own in batches])
    else:
        resampled = np.array(
            [_spearman(values[:, np.concatenate([groups[i] for i in own])]) for own in drawn]
        )
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return found, float(low), float(high)


def _spearman(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of the ranks of values (2, …, sample), NaN where all of one are alike."""
    from scipy.stats import rankdata  # Up to a second to import, and few need it.

    if values.shape[-1] < _FEWEST:
        return np.full(values.shape[1:-1], np.nan)
    ranks = rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    sizes = np.sqrt(np.square(ranks).sum(axis=-1).prod(axis=0))
    products = (ranks[0] * ranks[1]).sum(axis=-1)
    found: NDArray[np.float64] = np.full(sizes.shape, np.nan)
    np.divide(products, sizes, out=found, where=sizes > 0)
    return found
