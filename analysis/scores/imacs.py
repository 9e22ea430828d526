"""IMACS: how much of a map's attention lies inside a mask, less a penalty for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import resize
from i2am.analysis.scores.masks import mask_over
from i2am.analysis.scores.score import (
    DEFAULT_PENALTY,
    DEFAULT_THRESHOLD,
    Score,
    ScoredMap,
    ScoreValue,
)
from i2am.schemas import AnalysisError
from i2am.schemas.choices import POLARITIES, Polarity, check_choice
from i2am.schemas.directions import DIRECTIONS, G2R, R2G

__all__ = [
    "SCORE",
    "check_weights",
    "imacs",
    "normalise",
    "with_polarity",
]


def check_weights(penalty: float, threshold: float) -> None:
    """Check the numbers of `imacs`.

    Raises
    ------
    AnalysisError
        If `penalty` is negative, which would reward attention outside the mask, or `threshold` is
        not one of normalised attention, from 0 to below 1.

    Examples
    --------
    >>> check_weights(penalty=3.0, threshold=0.4)
    """
    if not 0 <= penalty < math.inf:
        msg = f"Expected a penalty of 0 or more, got {penalty}, at penalty. Give another."
        raise AnalysisError(msg)
    if not 0 <= threshold < 1:
        msg = (
            f"Expected a threshold of normalised attention, from 0 to below 1, got {threshold}, at "
            "threshold. Give another."
        )
        raise AnalysisError(msg)


def imacs(
    attention: NDArray[Any],
    mask: NDArray[Any],
    *,
    penalty: float = DEFAULT_PENALTY,
    threshold: float = DEFAULT_THRESHOLD,
    polarity: Polarity = "direct",
    premask: bool = False,
) -> float:
    """Return the Inpainting Mask Attention Consistency Score of one map.

    Parameters
    ----------
    attention : array or DataArray (y, x)
        A ULAM, on its own grid.
    mask : array (image y, image x), 0..1
        Where attention belongs; fractions count as weights. Cut as in `spread` where `attention` has
        coordinates.
    penalty : float
        The weight of attention outside the mask.
    threshold : float
        Normalised attention up to here counts as none.
    polarity : "direct" or "inverted"
        "inverted" scores 1 - normalised attention.
    premask : bool
        Multiply the map by the mask beforehand, as the authors' code does for IMACS_r; the penalty
        then means little.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    AnalysisError
        If the mask is empty or whole, not within 0..1, or may lie elsewhere than the map, the
        polarity is unknown, or penalty or threshold mean nothing; see `check_weights`.

    Notes
    -----
    ``mean of E inside the mask - penalty * mean of E outside``, E = min-max normalised map,
    bicubic to the mask's size, min-max again, thresholded. Agrees with the authors' code.

    Examples
    --------
    >>> mask = np.array([[1.0, 0.0], [0.0, 0.0]])
    >>> imacs(mask, mask)
    1.0
    >>> imacs(1 - mask, mask)
    -3.0
    """
    check_choice("polarity", polarity, POLARITIES, AnalysisError)
    check_weights(penalty, threshold)
    weights = np.asarray(mask_over(attention, mask), np.float64)
    inside, outside = weights.sum(), (1 - weights).sum()
    if weights.min() < 0 or weights.max() > 1 or inside == 0 or outside == 0:
        msg = (
            f"Expected a mask within 0..1 that is neither empty nor whole, got {weights.min():g} "
            f"to {weights.max():g}, at mask. A score needs an inside and an outside."
        )
        raise AnalysisError(msg)
    values = np.asarray(attention, np.float64)
    if premask:
        values = values * resize(weights, (values.shape[0], values.shape[1]))
    values = with_polarity(normalise(values), polarity)
    values = normalise(resize(values, (weights.shape[0], weights.shape[1])))
    values = np.where(values <= threshold, 0, values)
    within = (values * weights).sum() / inside
    beyond = (values * (1 - weights)).sum() / outside
    return float(within - penalty * beyond)


def with_polarity(values: NDArray[np.float64], polarity: Polarity) -> NDArray[np.float64]:
    """Return maps 0..1 as they are, or inverted."""
    return 1 - values if polarity == "inverted" else values


def normalise(maps: NDArray[Any]) -> NDArray[Any]:
    """Stretch one map to 0..1; a constant map becomes 0.

    Examples
    --------
    >>> normalise(np.array([[1.0, 2.0], [3.0, 5.0]]))
    array([[0.  , 0.25],
           [0.5 , 1.  ]])
    """
    low, high = maps.min(), maps.max()
    stretched: NDArray[Any] = (maps - low) / (high - low) if high > low else np.zeros_like(maps)
    return stretched


def _compute(scored: ScoredMap) -> Iterator[tuple[str, float]]:
    """Yield IMACS where there is a mask; polarity is of R2G alone, premasking of G2R."""
    if scored.mask is None:
        return
    is_r2g = scored.direction == R2G.name
    options = scored.options
    yield (
        DIRECTIONS[scored.direction].imacs,
        imacs(
            scored.values,
            scored.mask,
            penalty=options.penalty,
            threshold=options.threshold,
            polarity=options.polarity if is_r2g else "direct",
            premask=options.premask and not is_r2g,
        ),
    )


SCORE: Final = Score(
    "imacs",
    "Attention inside the mask, less a penalty for that outside: 1 is best.",
    _compute,
    (
        ScoreValue(
            R2G.imacs,
            "R2G attention inside the inpainting mask, less a penalty for that outside: 1 is best.",
            R2G.name,
            "IMACS",
            better="high",
        ),
        ScoreValue(
            G2R.imacs,
            "G2R attention on the reference's object, less a penalty for that off it: 1 is best.",
            G2R.name,
            "IMACS",
            better="high",
        ),
    ),
)
