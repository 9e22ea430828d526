"""Both softmaxes of a block of attention logits, from one exponential.

For logits S of P generated patches and R reference tokens, R2G is the softmax over the patches
averaged over the tokens, G2R the softmax over the tokens averaged over the patches. Both softmaxes
are normalisations of one matrix E = exp(S), so a block costs one matrix product, one exponential
and three matrix-vector products, all of them on tiles that stay in the processor's cache. Rows with
logits that leave the range of float32 take exp(S - row maximum), and tokens whose sum would then be
lost are computed again from their own maximum. Arithmetic in float32 whatever is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.kernel.arithmetic import sum_columns, take_exponentials
from i2am.analysis.kernel.logits import AttentionLogits, FillRows, Floats

__all__ = [
    "MIN_SUM",
    "WORKING_SET_BYTES",
    "DirectionalMeans",
    "Exponentials",
    "directional_means",
    "inverse",
    "region_means",
    "row_shares",
    "slices",
    "softmax_over_patches",
]


WORKING_SET_BYTES: Final = 64 * 2**20
# About exp(±60), where float32 reaches exp(±87). Within, a sum has terms of every size that
# matters; beyond, a row takes its own maximum first.
MIN_SUM: Final = 1e-26
_SAFE_LOGIT: Final = 60.0
# A tile is worked on several times while it is in the cache; smaller ones are mostly overhead.
_TILE_BYTES: Final = 5 * 2**20
# Fewer rows, and the matrix product is slow.
_MIN_ROWS: Final = 64


class DirectionalMeans(NamedTuple):
    """Both maps of each matrix, and the reference mass where it is known."""

    r2g: Floats  # (n, P), each sums to 1
    g2r: Floats  # (n, R), each sums to 1, or to the mean mass
    mass: Floats | None  # (n, P), 0..1


def directional_means(
    logits: AttentionLogits,
    logsumexp: NDArray[Any] | None = None,
    region: Floats | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> DirectionalMeans:
    """Return both directional maps of every matrix.

    Parameters
    ----------
    logits : AttentionLogits, shape (n, P, R)
        A logit of -inf is a token that a patch may not see. Tokens that no patch sees, and patches
        that see no token, are left out of the means.
    logsumexp : array (n, P), optional
        Of the layer's logits over *all* its keys. G2R is then the true attention probability, and
        its sum over the reference tokens is returned as the mass.
    region : array (P,), float32, 0..1, optional
        By what the layer multiplies the contribution to each patch. The maps are then those of what
        is left of it: R2G and mass are multiplied by it, and so is what each patch adds to the mean
        over all patches that G2R is.
    working_set_bytes : int
        Limit for the logits in memory; a matrix that exceeds it is computed twice.

    Returns
    -------
    DirectionalMeans

    Examples
    --------
    >>> from i2am.analysis.kernel.logits import StoredLogits
    >>> means = directional_means(StoredLogits(np.zeros((1, 4, 2))))
    >>> means.r2g, means.g2r
    (array([[0.25, 0.25, 0.25, 0.25]], dtype=float32), array([[0.5, 0.5]], dtype=float32))
    """
    matrices, patches, tokens = logits.shape
    r2g = np.empty((matrices, patches), np.float32)
    g2r = np.empty((matrices, tokens), np.float32)
    mass = None if logsumexp is None else np.empty((matrices, patches), np.float32)
    exponentials = Exponentials(logits.shape, working_set_bytes, may_hide=logits.may_hide)
    for batch in slices(matrices, exponentials.batch_size):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        found = _batch_means(exponentials, logits, batch, total, region)
        r2g[batch], g2r[batch], batch_mass = found
        if mass is not None:
            mass[batch] = batch_mass
    if region is not None:
        r2g *= region
        if mass is not None:
            mass *= region
    return DirectionalMeans(r2g, g2r, mass)


def _batch_means(
    exponentials: Exponentials,
    logits: AttentionLogits,
    batch: slice,
    logsumexp: Floats | None,
    region: Floats | None,
) -> tuple[Floats, Floats, Floats | None]:
    """Return the maps of a batch, from two passes over the exponentials of its rows.

    Only G2R, which is a mean over the patches, has the region in it.
    """
    _, patches, tokens = logits.shape
    size = batch.stop - batch.start
    exponentials.start_batch(logits.fill_rows(batch), size, logsumexp)
    peaks, sums = exponentials.peaks, exponentials.sums
    g2r = np.zeros((size, tokens), np.float32)
    # float64: relative to the highest logit so far, which may leave a tile far behind.
    columns, top = np.zeros((size, tokens)), np.full((size, 1), -np.inf)
    ones = np.ones_like(peaks)
    forward_sums = own_sums = g2r  # of the tile

    def sum_tile(rows: slice, values: Floats) -> Floats:
        nonlocal forward_sums, own_sums
        forward = own = ones[:, rows]
        if exponentials.is_shifted:
            own = np.exp(peaks[:, rows] - peaks[:, rows].max(axis=1, keepdims=True))
        if logsumexp is not None:
            forward = np.exp(peaks[:, rows] - logsumexp[:, rows])
        if region is not None:
            forward = forward * region[rows]
        found, forward_sums, own_sums = sum_columns(
            values, forward, own, is_share=logsumexp is None
        )
        return found

    for rows, _ in exponentials.tiles(sum_tile):
        g2r += forward_sums
        if not exponentials.is_shifted:  # All peaks are 0 so far.
            columns += own_sums
            top[:] = 0
            continue
        base = peaks[:, rows].max(axis=1, keepdims=True)
        higher = np.maximum(top, base)
        columns = columns * np.exp(top - higher) + own_sums * np.exp(base - higher)
        top = higher
    lost = columns < MIN_SUM
    backwards = np.divide(1, columns, out=np.zeros_like(columns), where=~lost)
    r2g = np.empty((size, patches), np.float32)
    for rows, values in exponentials.replay():
        # In two factors, of which neither leaves the range of float32.
        base = peaks[:, rows].max(axis=1, keepdims=True) if exponentials.is_shifted else top
        backward = (backwards * np.exp(base - top)).astype(np.float32)
        r2g[:, rows] = (values @ backward[..., None])[..., 0]
        if exponentials.is_shifted:
            r2g[:, rows] *= np.exp(peaks[:, rows] - base)
    seen = np.full((size, 1), tokens)
    for matrix in np.flatnonzero(lost.any(axis=1)):
        own, hidden = _columns_from_own_maximum(
            logits, batch.start + matrix, np.flatnonzero(lost[matrix]), exponentials.max_logits
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


def _columns_from_own_maximum(
    logits: AttentionLogits, matrix: int, columns: NDArray[np.intp], max_logits: int
) -> tuple[Floats, int]:
    """Return the softmax over the patches, summed over some tokens, each from its own maximum.

    And the number of tokens that no patch sees: they have no softmax.
    """
    _, patches, _ = logits.shape
    total = np.zeros(patches, np.float32)
    hidden = 0
    for part in slices(len(columns), max(1, max_logits // patches)):
        values = logits.columns(matrix, columns[part])
        highest = values.max(axis=0)
        # Where no token may be hidden, infinity becomes NaN, which whoever asked will notice.
        seen = (highest > -np.inf) | (not logits.may_hide)
        values -= np.where(seen, highest, 0)
        np.exp(values, out=values)
        total += values @ inverse(values.sum(axis=0), seen)
        hidden += int((~seen).sum())
    return total, hidden


def softmax_over_patches(logits: AttentionLogits) -> Floats:
    """Return the softmax over the patches of each token, (n, R, P): nothing is averaged."""
    flipped = logits.transposed()
    probability = np.empty(flipped.shape, np.float32)
    exponentials = Exponentials(flipped.shape, WORKING_SET_BYTES, may_hide=flipped.may_hide)
    for batch in slices(len(probability), exponentials.batch_size):
        exponentials.start_batch(flipped.fill_rows(batch), batch.stop - batch.start)
        for rows, values in exponentials:
            sums = exponentials.sums[:, rows]
            weights = inverse(sums, sums > 0)
            np.multiply(values, weights[..., None], out=probability[batch, rows])
    return probability


class Exponentials:
    """exp(S - peak) of a batch, tile by tile of its rows; the peaks are 0 while float32 allows it.

    The rows' sums, which are needed anyway, show whether it does: a sum in a safe range has no term
    that is too large, and has lost none that matters to its row.

    Parameters
    ----------
    shape : (n, P, R)
        Of all logits.
    working_set_bytes : int
    may_hide : bool
        Whether a row of nothing but -inf is a patch that sees no token; otherwise it becomes NaN.

    Attributes
    ----------
    batch_size : int
        Matrices of a batch.
    is_shifted : bool
        Whether peaks are subtracted by now.
    peaks, sums : array (batch, P)
        What was subtracted from each row, and the row's sum after that.
    """

    def __init__(
        self, shape: tuple[int, int, int], working_set_bytes: int, *, may_hide: bool = True
    ) -> None:
        self._may_hide = may_hide
        _, self._patches, tokens = shape
        matrix_bytes, row_bytes = 4 * self._patches * tokens, 4 * tokens
        self.batch_size = max(1, min(_TILE_BYTES, working_set_bytes) // matrix_bytes)
        max_rows = min(max(_TILE_BYTES // row_bytes, _MIN_ROWS), working_set_bytes // row_bytes)
        tiles = -(-self._patches // max(1, max_rows))
        self._tile = -(-self._patches // tiles)  # all tiles alike
        self._is_kept = self.batch_size * matrix_bytes <= working_set_bytes
        # Memory that is touched for the first time costs as much as the exponential.
        rows = self._patches if self._is_kept else self._tile
        self._memory = np.empty((self.batch_size, rows, tokens), np.float32)
        self.is_shifted = False  # Needed once, it is most likely needed again.
        self.max_logits = rows * tokens

    def start_batch(self, fill: FillRows, size: int, logsumexp: Floats | None = None) -> None:
        """Start the next batch, of `size` matrices."""
        self._fill, self._size = fill, size
        self.peaks = np.zeros((size, self._patches), np.float32)
        self.sums = np.empty((size, self._patches), np.float32)
        if logsumexp is not None and np.abs(logsumexp).max() > _SAFE_LOGIT:
            self.is_shifted = True

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows and exponentials of each tile, and store their peaks and sums."""
        return self.tiles(lambda rows, values: take_exponentials(values))

    def tiles(self, work: Callable[[slice, Floats], Floats]) -> Iterator[tuple[slice, Floats]]:
        """Do the same by one's own work on a tile.

        Parameters
        ----------
        work : callable (rows, values) -> sums
            Given logits, less the peaks of their rows: takes the exponential in place, and returns the sums
            of the rows. It is called again for a tile whose sums show that peaks are needed.
        """
        for rows in slices(self._patches, self._tile):
            values = self._buffer(rows)
            if not self.is_shifted:
                self._fill(rows, values)
                sums = work(rows, values)
                self.is_shifted = not (sums.min() >= MIN_SUM and sums.max() <= 1 / MIN_SUM)
            if self.is_shifted:
                self._fill(rows, values)
                values.max(axis=2, out=self.peaks[:, rows])
                if self._may_hide:
                    self.peaks[:, rows][self.peaks[:, rows] == -np.inf] = 0  # It sees no token.
                values -= self.peaks[:, rows, None]
                sums = work(rows, values)
            self.sums[:, rows] = sums
            yield rows, values

    def replay(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the same tiles once more, computed again unless all of them are in memory."""
        for rows in slices(self._patches, self._tile):
            values = self._buffer(rows)
            if not self._is_kept:
                self._fill(rows, values)
                values -= self.peaks[:, rows, None]
                take_exponentials(values)
            yield rows, values

    def _buffer(self, rows: slice) -> Floats:
        used = rows if self._is_kept else slice(0, rows.stop - rows.start)
        return self._memory[: self._size, used]


def inverse(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Return 1 / values, and 0 elsewhere."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=where)


def slices(length: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most that size."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def region_means(
    logits: AttentionLogits,
    shares: NDArray[np.float32],
    logsumexp: NDArray[Any] | None = None,
    factors: Floats | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> NDArray[np.float32]:
    """Return the softmax over the columns, averaged over the query rows of each region.

    Parameters
    ----------
    logits : AttentionLogits, shape (n, rows, columns)
        A logit of -inf is a column that a row may not see; rows that see none are left out.
    shares : array (region, rows)
        The weight of each row in each region; those of a region sum to 1.
    logsumexp : array (n, rows), optional
        Normalises in place of the softmax's own sum.
    factors : array (rows,), float32, optional
        By what each row is multiplied after its softmax; the means are over as many rows as without.
    working_set_bytes : int
        Limit for the logits in memory.

    Returns
    -------
    array (n, region, columns), float32

    Examples
    --------
    >>> from i2am.analysis.kernel.logits import StoredLogits
    >>> logits = StoredLogits(np.log([[[1.0, 3.0], [1.0, 1.0]]]))
    >>> region_means(logits, np.array([[1, 0], [0.5, 0.5]], np.float32)).round(3)
    array([[[0.25 , 0.75 ],
            [0.375, 0.625]]], dtype=float32)
    """
    matrices, _, columns = logits.shape
    means = np.zeros((matrices, len(shares), columns), np.float32)
    seen = np.zeros((matrices, len(shares), 1), np.float32)
    exponentials = Exponentials(logits.shape, working_set_bytes, may_hide=logits.may_hide)
    for batch in slices(matrices, exponentials.batch_size):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        exponentials.start_batch(logits.fill_rows(batch), batch.stop - batch.start, total)
        for rows, values in exponentials:
            sums = exponentials.sums[:, rows]
            if total is None:
                weights = inverse(sums, sums > 0)
                seen[batch] += shares[:, rows] @ (sums > 0)[..., None].astype(np.float32)
            else:
                weights = np.exp(exponentials.peaks[:, rows] - total[:, rows])
            if factors is not None:
                weights *= factors[rows]
            means[batch] += (shares[:, rows] * weights[:, None]) @ values
    if logsumexp is None:
        seen[seen == 0] = 1
        means /= seen
    return means


def row_shares(
    regions: Sequence[NDArray[np.intp]],
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the query rows of all regions, and the share (region, row) of each row in each region."""
    rows = np.unique(np.concatenate(regions))
    shares = np.zeros((len(regions), len(rows)), np.float32)
    for share, region in zip(shares, regions, strict=True):
        share[np.searchsorted(rows, region)] = 1 / len(region)
    return rows, shares
