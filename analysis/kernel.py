"""Both directional maps of a block of attention scores, from one exponential.

For scores S of P generated patches and R reference tokens, R2G is the softmax over the patches
averaged over the tokens, G2R the softmax over the tokens averaged over the patches. Both softmaxes
are normalisations of one matrix E = exp(S), so a block costs one matrix product, one exponential
and three matrix-vector products, all of them on tiles that stay in the processor's cache. Rows with
scores that leave the range of float32 take exp(S - row maximum), and tokens that this would lose
are computed anew from their own maximum. NumPy alone; arithmetic in float32 whatever is stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.block_scores import Floats, Scores
from i2am.analysis.exponentials import (
    LEAST_SUM,
    WORKING_SET_BYTES,
    Exponentials,
    inverse,
    slices,
)

__all__ = ["DirectionalMeans", "directional_means", "token_softmax"]


class DirectionalMeans(NamedTuple):
    """Both maps of each matrix, and the reference mass where it is known."""

    r2g: Floats  # (n, P), each sums to 1
    g2r: Floats  # (n, R), each sums to 1, or to the mean mass
    mass: Floats | None  # (n, P), 0..1


def directional_means(
    scores: Scores,
    logsumexp: NDArray[Any] | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> DirectionalMeans:
    """Return both directional maps of every matrix.

    Parameters
    ----------
    scores : Scores, shape (n, P, R)
        A score of -inf is a token that a patch may not see. Tokens that no patch sees, and patches
        that see no token, are left out of the means.
    logsumexp : array (n, P), optional
        Of the layer's scores over *all* its keys. G2R is then the true attention probability, and
        its sum over the reference tokens is returned as the mass.
    working_set_bytes : int
        What the scores that are held at a time may take; beyond it they are made twice.

    Returns
    -------
    DirectionalMeans

    Examples
    --------
    >>> from i2am.analysis.block_scores import Logits
    >>> means = directional_means(Logits(np.zeros((1, 4, 2))))
    >>> means.r2g, means.g2r
    (array([[0.25, 0.25, 0.25, 0.25]], dtype=float32), array([[0.5, 0.5]], dtype=float32))
    """
    matrices, patches, tokens = scores.shape
    r2g = np.empty((matrices, patches), np.float32)
    g2r = np.empty((matrices, tokens), np.float32)
    mass = None if logsumexp is None else np.empty((matrices, patches), np.float32)
    exponentials = Exponentials(scores.shape, working_set_bytes)
    for batch in slices(matrices, exponentials.together):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        r2g[batch], g2r[batch], batch_mass = _batch_means(exponentials, scores, batch, total)
        if mass is not None:
            mass[batch] = batch_mass
    return DirectionalMeans(r2g, g2r, mass)


def _batch_means(
    exponentials: Exponentials, scores: Scores, batch: slice, logsumexp: Floats | None
) -> tuple[Floats, Floats, Floats | None]:
    """Return the maps of a batch, from one pass over its rows and one over what that left."""
    _, patches, tokens = scores.shape
    size = batch.stop - batch.start
    exponentials.begin(scores.of(batch), size, logsumexp)
    peaks, sums = exponentials.peaks, exponentials.sums
    g2r = np.zeros((size, tokens), np.float32)
    # float64: relative to the highest score so far, which may leave a tile far behind.
    columns, top = np.zeros((size, tokens)), np.full((size, 1), -np.inf)
    for rows, values in exponentials:
        if logsumexp is None:
            forward = inverse(sums[:, rows], sums[:, rows] > 0)
        else:
            forward = np.exp(peaks[:, rows] - logsumexp[:, rows])
        g2r += _weighted_sum(forward, values)
        base = peaks[:, rows].max(axis=1, keepdims=True)
        higher = np.maximum(top, base)
        own = _weighted_sum(np.exp(peaks[:, rows] - base), values)
        columns = columns * np.exp(top - higher) + own * np.exp(base - higher)
        top = higher
    lost = columns < LEAST_SUM
    backwards = np.divide(1, columns, out=np.zeros_like(columns), where=~lost)
    r2g = np.empty((size, patches), np.float32)
    for rows, values in exponentials.again():
        # In two factors, of which neither leaves the range of float32.
        base = peaks[:, rows].max(axis=1, keepdims=True)
        backward = (backwards * np.exp(base - top)).astype(np.float32)
        r2g[:, rows] = (values @ backward[..., None])[..., 0] * np.exp(peaks[:, rows] - base)
    seen = np.full((size, 1), tokens)
    for matrix in np.flatnonzero(lost.any(axis=1)):
        own, hidden = _exact_columns(
            scores, batch.start + matrix, np.flatnonzero(lost[matrix]), exponentials.most_scores
        )
        r2g[matrix] += own
        seen[matrix] -= hidden
    r2g /= np.maximum(seen, 1)
    if logsumexp is None:
        g2r /= np.maximum((sums > 0).sum(axis=1, keepdims=True), 1)
        return r2g, g2r, None
    g2r /= patches
    mass: Floats = sums * np.exp(peaks - logsumexp)
    return r2g, g2r, mass


def _exact_columns(
    scores: Scores, matrix: int, columns: NDArray[np.intp], most_scores: int
) -> tuple[Floats, int]:
    """Return the sum over some tokens of the softmax over the patches, each from its own maximum.

    And how many of the tokens no patch sees: they have no softmax.
    """
    _, patches, _ = scores.shape
    total = np.zeros(patches, np.float32)
    hidden = 0
    for part in slices(len(columns), max(1, most_scores // patches)):
        values = scores.columns(matrix, columns[part])
        highest = values.max(axis=0)
        seen = highest > -np.inf
        values -= np.where(seen, highest, 0)
        np.exp(values, out=values)
        total += values @ inverse(values.sum(axis=0), seen)
        hidden += int((~seen).sum())
    return total, hidden


def token_softmax(scores: Scores) -> Floats:
    """Return the softmax over the patches of each token, (n, R, P): nothing is averaged."""
    flipped = scores.transposed()
    probability = np.empty(flipped.shape, np.float32)
    exponentials = Exponentials(flipped.shape, WORKING_SET_BYTES)
    for batch in slices(len(probability), exponentials.together):
        exponentials.begin(flipped.of(batch), batch.stop - batch.start)
        for rows, values in exponentials:
            sums = exponentials.sums[:, rows]
            weights = inverse(sums, sums > 0)
            np.multiply(values, weights[..., None], out=probability[batch, rows])
    return probability


def _weighted_sum(weights: Floats, values: Floats) -> Floats:
    """Return the weighted sum over the rows: (n, rows) and (n, rows, R) give (n, R)."""
    return (weights[:, None] @ values)[:, 0]
