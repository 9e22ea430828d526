"""Exponentials of attention scores, tile by tile, for both of the softmaxes that share them.

exp(S) as it is, where that stays within the range of float32; beyond it exp(S - row maximum).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.block_scores import Fill, Floats

__all__ = ["LEAST_SUM", "WORKING_SET_BYTES", "Exponentials", "inverse", "row_sums", "slices"]

WORKING_SET_BYTES: Final = 64 * 2**20
# About exp(±60), where float32 reaches exp(±87). Within, a sum has terms of every size that
# matters; beyond, a row takes its own maximum first.
LEAST_SUM: Final = 1e-26
_SAFE_SCORE: Final = 60.0

# A tile is worked on several times while it is in the cache; smaller ones are mostly overhead.
_TILE_BYTES: Final = 2 * 2**20
# Fewer rows, and the matrix product is slow.
_LEAST_ROWS: Final = 64


class Exponentials:
    """exp(S - peak) of a batch, tile by tile of its rows; the peaks are 0 as long as that will do.

    Whether it will is seen from the rows' sums, which are needed anyway: a sum in a safe range has
    no term that is too large, and lost none that matters to its row.

    Parameters
    ----------
    shape : (n, P, R)
        Of all scores.
    working_set_bytes : int

    Attributes
    ----------
    together : int
        Matrices of a batch.
    peaks, sums : array (batch, P)
        What was subtracted from each row, and the row's sum after that.
    """

    def __init__(self, shape: tuple[int, int, int], working_set_bytes: int) -> None:
        _, self._patches, tokens = shape
        matrix_bytes, row_bytes = 4 * self._patches * tokens, 4 * tokens
        self.together = max(1, min(_TILE_BYTES, working_set_bytes) // matrix_bytes)
        most_rows = min(max(_TILE_BYTES // row_bytes, _LEAST_ROWS), working_set_bytes // row_bytes)
        self._tile = max(1, min(self._patches, most_rows))
        self._is_kept = self.together * matrix_bytes <= working_set_bytes
        # Memory that is touched for the first time costs as much as the exponential.
        rows = self._patches if self._is_kept else self._tile
        self._memory = np.empty((self.together, rows, tokens), np.float32)
        self._is_shifted = False  # Once it has been needed, it most likely is again.
        self.most_scores = rows * tokens

    def begin(self, fill: Fill, size: int, logsumexp: Floats | None = None) -> None:
        """Go on to another batch of so many matrices."""
        self._fill, self._size = fill, size
        self.peaks = np.zeros((size, self._patches), np.float32)
        self.sums = np.empty((size, self._patches), np.float32)
        if logsumexp is not None and np.abs(logsumexp).max() > _SAFE_SCORE:
            self._is_shifted = True

    def __iter__(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the tiles, with their peaks and sums noted."""
        for rows in slices(self._patches, self._tile):
            values = self._room(rows)
            if not self._is_shifted:
                self._fill(rows, values)
                # Infinite terms are told by their sum; some BLAS multiply what they pad by zero.
                with np.errstate(over="ignore", invalid="ignore"):
                    np.exp(values, out=values)
                    sums = row_sums(values)
                self._is_shifted = not (sums.min() >= LEAST_SUM and sums.max() <= 1 / LEAST_SUM)
            if self._is_shifted:
                self._fill(rows, values)
                values.max(axis=2, out=self.peaks[:, rows])
                self.peaks[:, rows][self.peaks[:, rows] == -np.inf] = 0  # It sees no token.
                values -= self.peaks[:, rows, None]
                np.exp(values, out=values)
                sums = row_sums(values)
            self.sums[:, rows] = sums
            yield rows, values

    def again(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the same tiles, made anew unless all of them were kept."""
        for rows in slices(self._patches, self._tile):
            values = self._room(rows)
            if not self._is_kept:
                self._fill(rows, values)
                values -= self.peaks[:, rows, None]
                np.exp(values, out=values)
            yield rows, values

    def _room(self, rows: slice) -> Floats:
        place = rows if self._is_kept else slice(0, rows.stop - rows.start)
        return self._memory[: self._size, place]


def row_sums(values: Floats) -> Floats:
    """Return the sums over the last axis; a matrix-vector product is the fastest way to them."""
    return (values @ np.ones((values.shape[2], 1), np.float32))[..., 0]


def inverse(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Return 1 / values, and 0 elsewhere."""
    return np.divide(np.float32(1), values, out=np.zeros_like(values), where=where)


def slices(length: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most that size."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
