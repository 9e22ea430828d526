"""Attention logits of a block of matrices, computed tile by tile from what a layer stores.

A block is n matrices of P generated patches and R reference tokens, one for each step and head.
Arithmetic in float32 whatever is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.kernel.arithmetic import as_float32

__all__ = [
    "AttentionLogits",
    "FactoredLogits",
    "FillRows",
    "Floats",
    "StoredLogits",
    "block_logits",
]

Floats = NDArray[np.float32]
# (rows, out) -> None: writes the logits (batch, rows, R) of some matrices.
FillRows = Callable[[slice, Floats], None]


class AttentionLogits(Protocol):
    """Attention logits of n matrices (n, P, R)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices n, generated patches P, reference tokens R."""

    @property
    def may_hide(self) -> bool:
        """Whether a logit of -inf is a token that a patch may not see, and not the fault of a factor."""

    def fill_rows(self, batch: slice) -> FillRows:
        """Return a function that writes rows of a batch of matrices into an array."""

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return a fresh array (P, columns) of one matrix."""

    def transposed(self) -> AttentionLogits:
        """Return the same logits with patches and tokens exchanged."""


@dataclass(frozen=True)
class FactoredLogits:
    """Logits as ``scale * query @ key.T``.

    Where one of the two holds fewer matrices, as keys do that are the same at every step, they are
    repeated: matrix i of the block uses their matrix i modulo their number.
    """

    query: NDArray[Any]  # (n, P, channel)
    key: NDArray[Any]  # (n, R, channel)
    scale: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        return max(len(self.query), len(self.key)), self.query.shape[1], self.key.shape[1]

    @property
    def may_hide(self) -> bool:
        """Never: a product of finite factors is finite."""
        return False

    def fill_rows(self, batch: slice) -> FillRows:
        """Return a function that multiplies rows of the queries with the keys."""
        query = self._matrices(self.query, batch)
        key = as_float32(self._matrices(self.key, batch)) * np.float32(self.scale)
        key = key.swapaxes(1, 2)

        def fill(rows: slice, out: Floats) -> None:
            np.matmul(as_float32(query[:, rows]), key, out=out)

        return fill

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return logits (P, columns)."""
        key = self.key[matrix % len(self.key), columns]
        scaled = np.multiply(key, np.float32(self.scale), dtype=np.float32)
        query = as_float32(self.query[matrix % len(self.query)])
        product: Floats = np.matmul(query, scaled.T)
        return product

    def transposed(self) -> FactoredLogits:
        """Return the logits of tokens to patches."""
        return FactoredLogits(self.key, self.query, self.scale)

    def _matrices(self, factors: NDArray[Any], batch: slice) -> NDArray[Any]:
        if len(factors) == self.shape[0]:
            return factors[batch]
        repeated: NDArray[Any] = factors[np.arange(batch.start, batch.stop) % len(factors)]
        return repeated


@dataclass(frozen=True)
class StoredLogits:
    """Logits that the layer stores as such."""

    logits: NDArray[Any]  # (n, P, R)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Matrices, patches, tokens."""
        matrices, patches, tokens = self.logits.shape
        return matrices, patches, tokens

    @property
    def may_hide(self) -> bool:
        """Always: the layer's mask is in them."""
        return True

    def fill_rows(self, batch: slice) -> FillRows:
        """Return a function that copies rows."""
        logits = self.logits[batch]

        def fill(rows: slice, out: Floats) -> None:
            as_float32(logits[:, rows], out)

        return fill

    def columns(self, matrix: int, columns: NDArray[np.intp]) -> Floats:
        """Return logits (P, columns)."""
        picked: Floats = self.logits[matrix][:, columns].astype(np.float32)
        return picked

    def transposed(self) -> StoredLogits:
        """Return the logits of tokens to patches."""
        return StoredLogits(self.logits.swapaxes(1, 2))


def block_logits(
    arrays: tuple[NDArray[Any], ...], names: list[str], scale: float
) -> tuple[AttentionLogits, NDArray[Any] | None, tuple[int, ...]]:
    """Return the block's logits and logsumexp with step and head flattened, and their shape.

    Parameters
    ----------
    arrays : tuple of array (step, head, …)
        One block of each of a layer's arrays.
    names : list of str
        What each of them is: query and key, or logits; perhaps logsumexp.
    scale : float
        Of query times key.

    Returns
    -------
    logits : AttentionLogits, shape (step and head, P, R)
    logsumexp : array (step and head, P), or None
    shape : tuple of int
        Steps and heads.
    """
    given = dict(zip(names, arrays, strict=True))
    total = given.get("logsumexp")
    if "logits" in given:
        stored = given["logits"]
        shape = stored.shape[:-2]
        logits: AttentionLogits = StoredLogits(_flat(stored))
    else:
        query, key = given["query"], given["key"]
        shape = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        logits = FactoredLogits(_flat(query), _flat(key), scale)
    return logits, None if total is None else total.reshape(-1, total.shape[-1]), shape


def _flat(block: NDArray[Any]) -> NDArray[Any]:
    return block.reshape(-1, *block.shape[-2:])
