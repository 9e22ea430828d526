"""Bootstrap confidence intervals of a mean over samples; the same at every call."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from i2am.schemas import AnalysisError

__all__ = ["DEFAULT_CONFIDENCE", "bootstrap_mean_interval", "check_confidence"]

DEFAULT_CONFIDENCE: Final = 0.95

_RESAMPLES: Final = 9999
_SEED: Final = 0
# Resamples drawn at once, so that thousands of samples need little memory.
_BATCH: Final = 250


def bootstrap_mean_interval(
    values: ArrayLike, confidence: float = DEFAULT_CONFIDENCE
) -> tuple[float, float]:
    """Return the bootstrap confidence interval of the mean of the population that `values` are from.

    Parameters
    ----------
    values : array_like, one dimension
        One value a sample; NaN is left out. Differences of pairs give a paired interval.
    confidence : float
        Between 0 and 1, both excluded.

    Returns
    -------
    tuple of float
        Its low and high end; NaN when fewer than two values are there.

    Raises
    ------
    AnalysisError
        If `confidence` is not between 0 and 1.

    Notes
    -----
    The percentile bootstrap of the mean (Efron & Tibshirani, An Introduction to the Bootstrap,
    chapter 13), 9,999 resamples, a fixed seed. With few samples it is too narrow: of a normal
    distribution its 95 % hold the mean in 94 of 100 cases at fifty samples, 93 at twenty, 85 at
    five and 75 at three. BCa was no better here, and does not exist if all values are equal.

    Examples
    --------
    >>> low, high = bootstrap_mean_interval([0.0, 1.0])
    >>> float(low), float(high)
    (0.0, 1.0)
    """
    check_confidence(confidence)
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if known.size < 2:
        return math.nan, math.nan
    from scipy import stats  # Up to a second to import, and few need it.

    found: Any = stats.bootstrap(
        (known,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def check_confidence(confidence: float) -> None:
    """Raise an AnalysisError if a confidence is not between 0 and 1."""
    if not 0 < confidence < 1:
        msg = (
            f"Expected a confidence between 0 and 1, got {confidence:g}, at confidence. "
            "Give 0.95 for 95 %."
        )
        raise AnalysisError(msg)
