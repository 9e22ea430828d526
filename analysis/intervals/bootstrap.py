"""Bootstrap confidence intervals of a mean over samples; the same at every call."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from i2am.schemas import AnalysisError

__all__ = ["DEFAULT_CONFIDENCE", "bootstrap_mean_interval", "check_confidence"]

DEFAULT_CONFIDENCE: Final = 0.95

_RESAMPLES: Final = 9999
_SEED: Final = 0
# Resamples drawn at once, so that thousands of samples need little memory.
_BATCH: Final = 250


def bootstrap_mean_interval(
    values: ArrayLike,
    confidence: float = DEFAULT_CONFIDENCE,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the mean of the population that `values` are from.

    Parameters
    ----------
    values : array_like, one dimension
        One value a sample; NaN is left out. Differences of pairs give a paired interval.
    confidence : float
        Between 0 and 1, both excluded.
    clusters : sequence, optional
        The cluster of each value, as of `sample_clusters`: values of one are drawn together. By default
        each is a cluster of its own.

    Returns
    -------
    tuple of float
        Its low and high end; NaN when fewer than two values or clusters are there.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1, or there are not as many clusters as values.

    Notes
    -----
    The percentile bootstrap of the mean (Efron & Tibshirani, An Introduction to the Bootstrap,
    chapter 13), 9,999 resamples, a fixed seed. With few samples it is too narrow: of a normal
    distribution its 95 % hold the mean in 94 of 100 cases at fifty samples, 93 at twenty, 85 at
    five and 75 at three. BCa was no better here, and does not exist if all values are equal. With
    clusters a resample is as many clusters as there are, with all their values; its mean is that of
    these values (Davison & Hinkley, Bootstrap Methods and their Application, section 3.8). The numbers
    of samples above then mean clusters.

    Examples
    --------
    >>> bootstrap_mean_interval([0.0, 1.0])
    (0.0, 1.0)
    >>> bootstrap_mean_interval([0.0, 0.5, 1.0], clusters=["a", "a", "b"])
    (0.25, 1.0)
    """
    check_confidence(confidence)
    given = np.asarray(values, np.float64)
    is_known = ~np.isnan(given)
    known = given[is_known]
    if clusters is None:
        sums, counts = known, np.ones_like(known)
    else:
        sums, counts = _sums_of_clusters(known, _codes(clusters, given.size)[is_known])
    if sums.size < 2:
        return math.nan, math.nan
    from scipy import stats  # Up to a second to import, and few need it.

    found: Any = stats.bootstrap(
        (sums, counts),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _codes(clusters: Sequence[Hashable], count: int) -> NDArray[np.intp]:
    """Return a number for each value's cluster, in the order of the clusters' first values."""
    if len(clusters) != count:
        msg = f"Expected a cluster for each of {count} values, got {len(clusters)}, at clusters. "
        raise AnalysisError(msg + "Give one for each value.")
    numbers = {label: number for number, label in enumerate(dict.fromkeys(clusters))}
    return np.array([numbers[label] for label in clusters], np.intp)


def _sums_of_clusters(
    values: NDArray[np.float64], codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum and the number of each cluster's values; those without any are left out."""
    counts = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, values).astype(np.float64)
    return sums[counts > 0], counts[counts > 0]


def check_confidence(confidence: float) -> None:
    """Raise an AnalysisError if a confidence is not between 0 and 1."""
    if not 0 < confidence < 1:
        msg = (
            f"Expected a confidence between 0 and 1, got {confidence:g}, at confidence. "
            "Give 0.95 for 95 %."
        )
        raise AnalysisError(msg)
