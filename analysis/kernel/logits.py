"""Attention logits of a block of matrices, made piece by piece from what a layer stores.

A block is n matrices of P generated patches and R reference tokens, one for each step and head.
Arithmetic in float32 whatever is stored. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Factors", "Fill", "Floats", "Logits", "Scores", "scores_of"]

Floats = NDArray[np.float32]


# (rows, out) -> None: writes the scores (batch, rows, R) of some matrices.
Fill = Callable[[slice, Floats], None]


class Scores(Protocol):
    """Attention scores of n matrices (n, P, R)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices n, generated patches P, reference tokens R."""

    def of(self, batch: slice) -> Fill:
        """Return what writes rows of a batch of matrices."""

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return a fresh array (P, columns) of one matrix."""

    def transposed(self) -> Scores:
        """Return the same scores with patches and tokens exchanged."""


@dataclass(frozen=True)
class Factors:
    """Scores as ``scale * query @ key.T``.

    Where one of the two holds fewer matrices, as keys do that are the same at every step, they
    come round again: matrix i of the block takes their matrix i modulo their number.
    """

    query: NDArray[Any]  # (n, P, channel)
    key: NDArray[Any]  # (n, R, channel)
    scale: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        return max(len(self.query), len(self.key)), self.query.shape[1], self.key.shape[1]

    def of(self, batch: slice) -> Fill:
        """Return what multiplies rows of the queries with the keys."""
        query = self._matrices(self.query, batch)
        key = np.multiply(self._matrices(self.key, batch), np.float32(self.scale), dtype=np.float32)
        key = key.swapaxes(1, 2)

        def fill(rows: slice, out: Floats) -> None:
            np.matmul(query[:, rows].astype(np.float32, copy=False), key, out=out)

        return fill

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return scores (P, columns)."""
        key = self.key[matrix % len(self.key), columns]
        scaled = np.multiply(key, np.float32(self.scale), dtype=np.float32)
        query = self.query[matrix % len(self.query)].astype(np.float32, copy=False)
        product: Floats = np.matmul(query, scaled.T)
        return product

    def transposed(self) -> Factors:
        """Return the scores of tokens to patches."""
        return Factors(self.key, self.query, self.scale)

    def _matrices(self, factors: NDArray[Any], batch: slice) -> NDArray[Any]:
        if len(factors) == self.shape[0]:
            return factors[batch]
        repeated: NDArray[Any] = factors[np.arange(batch.start, batch.stop) % len(factors)]
        return repeated


@dataclass(frozen=True)
class Logits:
    """Scores that are stored as they are."""

    logits: NDArray[Any]  # (n, P, R)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        matrices, patches, tokens = self.logits.shape
        return matrices, patches, tokens

    def of(self, batch: slice) -> Fill:
        """Return what copies rows."""
        logits = self.logits[batch]

        def fill(rows: slice, out: Floats) -> None:
            np.copyto(out, logits[:, rows], casting="same_kind")

        return fill

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return scores (P, columns)."""
        picked: Floats = self.logits[matrix][:, columns].astype(np.float32)
        return picked

    def transposed(self) -> Logits:
        """Return the scores of tokens to patches."""
        return Logits(self.logits.swapaxes(1, 2))


def scores_of(
    arrays: tuple[NDArray[Any], ...], names: list[str], scale: float
) -> tuple[Scores, NDArray[Any] | None, tuple[int, ...]]:
    """Return the scores with the leading dimensions made one, logsumexp likewise, and the lead."""
    given = dict(zip(names, arrays, strict=True))
    total = given.get("logsumexp")
    if "logits" in given:
        logits = given["logits"]
        lead = logits.shape[:-2]
        scores: Scores = Logits(logits.reshape(-1, *logits.shape[-2:]))
    else:
        query, key = given["query"], given["key"]
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        scores = Factors(_flat(query), _flat(key), scale)
    return scores, None if total is None else total.reshape(-1, total.shape[-1]), lead


def _flat(factors: NDArray[Any]) -> NDArray[Any]:
    return factors.reshape(-1, *factors.shape[-2:])
