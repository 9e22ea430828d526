"""Both directional maps of a block of attention scores, from one exponential.

For scores S of P generated patches and R reference tokens, R2G is the softmax over the patches
averaged over the tokens, G2R the softmax over the tokens averaged over the patches. Both softmaxes
are normalisations of one matrix E = exp(S - row maximum), so a block costs one matrix product, one
exponential and a few matrix-vector products; S itself never outgrows a stated working set.
NumPy alone; arithmetic in float32 whatever is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WORKING_SET_BYTES",
    "DirectionalMeans",
    "Factors",
    "Logits",
    "Scores",
    "directional_means",
    "softmax_mean",
    "token_softmax",
]

WORKING_SET_BYTES: Final = 64 * 2**20

# Blocks of several small matrices are kept near the cache rather than near the limit.
_BATCH_BYTES: Final = 2 * 2**20
# |S| up to here needs no maximum subtracted: float32 reaches exp(88).
_SAFE_SCORE: Final = 40.0
# Below this a sum may have lost terms that matter to underflow: it is computed anew.
_LEAST_SUM: Final = 1e-26

_Floats = NDArray[np.float32]


class Scores(Protocol):
    """Attention scores of n matrices (n, P, R) that are made piece by piece."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices n, generated patches P, reference tokens R."""

    def bound(self, batch: slice) -> float:
        """Return an upper bound of |S| in a batch; infinity where none is known cheaply."""

    def rows(self, batch: slice, rows: slice) -> _Floats:
        """Return a fresh array (batch, rows, R)."""

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> _Floats:
        """Return a fresh array (P, columns) of one matrix."""

    def transposed(self) -> Scores:
        """Return the same scores with patches and tokens exchanged."""


@dataclass(frozen=True)
class Factors:
    """Scores as ``scale * query @ key.T``."""

    query: NDArray[Any]  # (n, P, channel)
    key: NDArray[Any]  # (n, R, channel)
    scale: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        return (*self.query.shape[:2], self.key.shape[1])

    def bound(self, batch: slice) -> float:
        """Return the product of the largest norms (Cauchy and Schwarz)."""
        return abs(self.scale) * _largest_norm(self.query[batch]) * _largest_norm(self.key[batch])

    def rows(self, batch: slice, rows: slice) -> _Floats:
        """Return scores (batch, rows, R)."""
        query = np.multiply(self.query[batch, rows], np.float32(self.scale), dtype=np.float32)
        key = self.key[batch].astype(np.float32, copy=False)
        product: _Floats = np.matmul(query, key.swapaxes(1, 2))
        return product

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> _Floats:
        """Return scores (P, columns)."""
        key = np.multiply(self.key[matrix, columns], np.float32(self.scale), dtype=np.float32)
        product: _Floats = np.matmul(self.query[matrix].astype(np.float32, copy=False), key.T)
        return product

    def transposed(self) -> Factors:
        """Return the scores of tokens to patches."""
        return Factors(self.key, self.query, self.scale)


@dataclass(frozen=True)
class Logits:
    """Scores that are stored as they are."""

    logits: NDArray[Any]  # (n, P, R)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        matrices, patches, tokens = self.logits.shape
        return matrices, patches, tokens

    def bound(self, batch: slice) -> float:
        """Return infinity: looking would cost as much as the maximum itself."""
        return np.inf

    def rows(self, batch: slice, rows: slice) -> _Floats:
        """Return scores (batch, rows, R)."""
        return self.logits[batch, rows].astype(np.float32)

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> _Floats:
        """Return scores (P, columns)."""
        picked: _Floats = self.logits[matrix][:, columns].astype(np.float32)
        return picked

    def transposed(self) -> Logits:
        """Return the scores of tokens to patches."""
        return Logits(self.logits.swapaxes(1, 2))


class DirectionalMeans(NamedTuple):
    """Both maps of each matrix, and the reference mass where it is known."""

    r2g: _Floats  # (n, P), each sums to 1
    g2r: _Floats  # (n, R), each sums to 1, or to the mean mass
    mass: _Floats | None  # (n, P), 0..1


def directional_means(
    scores: Scores,
    logsumexp: NDArray[Any] | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> DirectionalMeans:
    """Return both directional maps of every matrix.

    Parameters
    ----------
    scores : Factors or Logits, shape (n, P, R)
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
    >>> means = directional_means(Logits(np.zeros((1, 4, 2))))
    >>> means.r2g, means.g2r
    (array([[0.25, 0.25, 0.25, 0.25]], dtype=float32), array([[0.5, 0.5]], dtype=float32))
    """
    matrices, patches, tokens = scores.shape
    r2g = np.empty((matrices, patches), np.float32)
    g2r = np.empty((matrices, tokens), np.float32)
    mass = None if logsumexp is None else np.empty((matrices, patches), np.float32)
    matrix_bytes = 4 * patches * tokens
    together = max(1, min(_BATCH_BYTES, working_set_bytes) // matrix_bytes)
    tile = max(1, min(patches, working_set_bytes // (4 * tokens)))
    for batch in _slices(matrices, together):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        r2g[batch], g2r[batch], batch_mass = _batch_means(scores, batch, tile, total)
        if mass is not None:
            mass[batch] = batch_mass
    return DirectionalMeans(r2g, g2r, mass)


def _batch_means(
    scores: Scores, batch: slice, tile: int, logsumexp: _Floats | None
) -> tuple[_Floats, _Floats, _Floats | None]:
    """Return the maps of a batch: one pass over the rows when they fit the tile, else two."""
    _, patches, tokens = scores.shape
    size = batch.stop - batch.start
    shifted = scores.bound(batch) > _SAFE_SCORE
    peaks = np.zeros((size, patches), np.float32)
    sums = np.empty((size, patches), np.float32)
    g2r = np.zeros((size, 1, tokens), np.float32)
    columns = np.zeros((size, 1, tokens), np.float32)
    top = np.full((size, 1), -np.inf if shifted else 0.0, np.float32)
    for rows in _slices(patches, tile):
        exponential = _exponential(scores, batch, rows, peaks if shifted else None)
        sums[:, rows] = _row_sums(exponential)
        forward = (
            1 / sums[:, rows] if logsumexp is None else np.exp(peaks[:, rows] - logsumexp[:, rows])
        )
        g2r += forward[:, None] @ exponential
        higher = np.maximum(top, peaks[:, rows].max(axis=1, keepdims=True))
        # Column sums are relative to the highest score met so far.
        columns *= np.exp(top - higher)[..., None]
        top = higher
        columns += np.exp(peaks[:, rows] - top)[:, None] @ exponential
    columns = columns[:, 0]
    lost = columns < _LEAST_SUM
    inverse = np.divide(1.0, columns, out=np.zeros_like(columns), where=~lost)
    r2g = np.empty((size, patches), np.float32)
    for rows in _slices(patches, tile):
        if tile < patches:
            exponential = _exponential(scores, batch, rows, peaks if shifted else None)
        r2g[:, rows] = (exponential @ inverse[..., None])[..., 0]
    r2g *= np.exp(peaks - top)
    for matrix in np.flatnonzero(lost.any(axis=1)):
        r2g[matrix] += _exact_columns(
            scores, batch.start + matrix, np.flatnonzero(lost[matrix]), tile
        )
    mass = None if logsumexp is None else sums * np.exp(peaks - logsumexp)
    r2g /= tokens
    g2r /= patches
    return r2g, g2r[:, 0], mass


def _exponential(scores: Scores, batch: slice, rows: slice, peaks: _Floats | None) -> _Floats:
    """Return exp(S - row maximum), noting the maxima in `peaks`; exp(S) where it is None."""
    values = scores.rows(batch, rows)
    if peaks is not None:
        values.max(axis=2, out=peaks[:, rows])
        values -= peaks[:, rows, None]
    return np.exp(values, out=values)


def _exact_columns(scores: Scores, matrix: int, columns: NDArray[np.intp], tile: int) -> _Floats:
    """Return the sum over some tokens of the softmax over the patches, each from its own maximum."""
    _, patches, tokens = scores.shape
    total = np.zeros(patches, np.float32)
    for part in _slices(len(columns), max(1, tile * tokens // patches)):
        values = scores.columns(matrix, columns[part])
        values -= values.max(axis=0)
        np.exp(values, out=values)
        total += values @ (1 / values.sum(axis=0))
    return total


def softmax_mean(
    scores: Scores,
    logsumexp: NDArray[Any] | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> _Floats:
    """Return the softmax over the last axis, averaged over the rows: one direction alone.

    Parameters
    ----------
    scores : Factors or Logits, shape (n, rows, columns)
    logsumexp : array (n, rows), optional
        Normalises in place of the softmax's own sum.
    working_set_bytes : int
        What the scores that are held at a time may take.

    Returns
    -------
    array (n, columns), float32
    """
    matrices, count, columns = scores.shape
    mean = np.zeros((matrices, 1, columns), np.float32)
    tile = max(1, min(count, working_set_bytes // (4 * columns)))
    together = max(1, min(_BATCH_BYTES, working_set_bytes) // (4 * columns * tile))
    for batch in _slices(matrices, together):
        for rows in _slices(count, tile):
            peaks = np.zeros((batch.stop - batch.start, count), np.float32)
            exponential = _exponential(scores, batch, rows, peaks)
            if logsumexp is None:
                weights = 1 / _row_sums(exponential)
            else:
                weights = np.exp(peaks[:, rows] - logsumexp[batch, rows].astype(np.float32))
            mean[batch] += weights[:, None] @ exponential
    return mean[:, 0] / np.float32(count)


def token_softmax(scores: Scores) -> _Floats:
    """Return the softmax over the patches of each token, (n, R, P): nothing is averaged."""
    flipped = scores.transposed()
    values = flipped.rows(slice(0, flipped.shape[0]), slice(0, flipped.shape[1]))
    values -= values.max(axis=2, keepdims=True)
    np.exp(values, out=values)
    values /= _row_sums(values)[..., None]
    return values


def _row_sums(values: _Floats) -> _Floats:
    """Return the sums over the last axis; a matrix-vector product is the fastest way to them."""
    return (values @ np.ones((values.shape[2], 1), np.float32))[..., 0]


def _largest_norm(vectors: NDArray[Any]) -> float:
    single = vectors.astype(np.float32, copy=False)
    return float(np.sqrt(np.einsum("npc,npc->np", single, single).max()))


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
