"""What is read over an edge of the attention: sums of it over rows, columns, or groups of columns.

Where other keys share the softmax, the attention of a query row to a key is exp(S - logsumexp), with the
logsumexp over *all* keys of the layer. Its sums over rows or columns say how much of one kind of tokens
another kind reads. Tile by tile, in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.kernel.logits import AttentionLogits, Floats
from i2am.analysis.kernel.softmax import WORKING_SET_BYTES, Exponentials, inverse, slices

__all__ = ["read_by_rows", "read_of_columns", "read_of_groups"]


def read_by_rows(
    logits: AttentionLogits, logsumexp: NDArray[Any], weights: Floats | None = None
) -> Floats:
    """Return how much each row reads from all columns.

    Parameters
    ----------
    logits : AttentionLogits, shape (n, rows, columns)
    logsumexp : array (n, rows)
        Of each row's logits over all keys of the layer.
    weights : array (n, columns), float32, optional
        By what the attention to each column is multiplied.

    Returns
    -------
    array (n, rows), float32; at most 1 without weights

    Examples
    --------
    One of two keys, both alike, is read by half:

    >>> from i2am.analysis.kernel.logits import StoredLogits
    >>> read_by_rows(StoredLogits(np.zeros((1, 2, 1))), np.full((1, 2), np.log(2))).round(3)
    array([[0.5, 0.5]], dtype=float32)
    """
    matrices, rows, _ = logits.shape
    found = np.empty((matrices, rows), np.float32)
    exponentials = Exponentials(logits.shape, WORKING_SET_BYTES, may_hide=logits.may_hide)
    for batch in slices(matrices, exponentials.batch_size):
        total = logsumexp[batch].astype(np.float32, copy=False)
        exponentials.start_batch(logits.fill_rows(batch), batch.stop - batch.start, total)
        for some, values in exponentials:
            sums = exponentials.sums[:, some]
            if weights is not None:
                sums = (values @ weights[batch, :, None])[..., 0]
            found[batch, some] = sums * np.exp(exponentials.peaks[:, some] - total[:, some])
    return found


def read_of_columns(logits: AttentionLogits, logsumexp: NDArray[Any], weights: Floats) -> Floats:
    """Return how much of each column the rows read, each row by its weight.

    Parameters
    ----------
    logits : AttentionLogits, shape (n, rows, columns)
    logsumexp : array (n, rows)
        Of each row's logits over all keys of the layer.
    weights : array (n, rows), float32

    Returns
    -------
    array (n, columns), float32

    Examples
    --------
    >>> from i2am.analysis.kernel.logits import StoredLogits
    >>> logits, half = StoredLogits(np.zeros((1, 2, 1))), np.full((1, 2), 0.5, np.float32)
    >>> read_of_columns(logits, np.full((1, 2), np.log(2)), half).round(3)
    array([[0.5]], dtype=float32)
    """
    matrices, _, columns = logits.shape
    found = np.zeros((matrices, columns), np.float32)
    exponentials = Exponentials(logits.shape, WORKING_SET_BYTES, may_hide=logits.may_hide)
    for batch in slices(matrices, exponentials.batch_size):
        total = logsumexp[batch].astype(np.float32, copy=False)
        exponentials.start_batch(logits.fill_rows(batch), batch.stop - batch.start, total)
        for some, values in exponentials:
            own = weights[batch, some] * np.exp(exponentials.peaks[:, some] - total[:, some])
            found[batch] += (own[:, None] @ values)[:, 0]
    return found


def read_of_groups(
    logits: AttentionLogits, groups: Floats, logsumexp: NDArray[Any] | None = None
) -> Floats:
    """Return how much each row reads from each group of columns.

    Parameters
    ----------
    logits : AttentionLogits, shape (n, rows, columns)
        A logit of -inf is a column that a row may not see; a row that sees none reads nothing.
    groups : array (columns, group), float32
        How much of each column belongs to each group, 0..1.
    logsumexp : array (n, rows), optional
        Of each row's logits over all keys of the layer; without it the columns are all keys.

    Returns
    -------
    array (n, rows, group), float32, 0..1

    Examples
    --------
    >>> from i2am.analysis.kernel.logits import StoredLogits
    >>> logits = StoredLogits(np.log([[[1.0, 1.0, 2.0]]]))
    >>> read_of_groups(logits, np.array([[1, 0], [1, 0], [0, 0.5]], np.float32)).round(3)
    array([[[0.5 , 0.25]]], dtype=float32)
    """
    matrices, rows, _ = logits.shape
    found = np.empty((matrices, rows, groups.shape[1]), np.float32)
    exponentials = Exponentials(logits.shape, WORKING_SET_BYTES, may_hide=logits.may_hide)
    for batch in slices(matrices, exponentials.batch_size):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        exponentials.start_batch(logits.fill_rows(batch), batch.stop - batch.start, total)
        for some, values in exponentials:
            sums = exponentials.sums[:, some]
            if total is None:
                weights = inverse(sums, sums > 0)
            else:
                weights = np.exp(exponentials.peaks[:, some] - total[:, some])
            found[batch, some] = (values @ groups) * weights[..., None]
    return found
