"""What regions of one side read from the other: rows of the softmax, averaged over each region.

Only the rows of the regions are read and multiplied. All regions share one read, one product and
one exponential, so that many cost little more than one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.block_scores import Scores
from i2am.analysis.blockwise import apply_to_blocks, check_frames, on_grid, scores_of
from i2am.analysis.exponentials import WORKING_SET_BYTES, Exponentials, inverse, slices
from i2am.analysis.grid import Grid
from i2am.analysis.places import REGION
from i2am.analysis.selection import SelectedLayer
from i2am.schemas.dims import GENERATED, GENERATED_PLANE, REFERENCE, REFERENCE_PLANE

__all__ = ["layer_rows", "region_means", "row_shares"]


def layer_rows(
    layer: SelectedLayer,
    regions: Sequence[NDArray[np.intp]],
    grid: Grid,
    *,
    of_reference: bool,
    density: bool,
) -> xr.DataArray:
    """Return what each region read from the reference, or the mirror, each head and step.

    Parameters
    ----------
    layer : SelectedLayer
    regions : sequence of array of int
        The generated patches of each, or with `of_reference` the reference tokens; no other is
        read, and none twice.
    grid : (height, width)
        The common grid of the other side.
    of_reference : bool
        Ask the mirror question.
    density : bool
        Multiply by the number of positions that were softmaxed over.

    Returns
    -------
    DataArray
        Dims (step, head, region, reference_y, reference_x), or (step, head, region, y, x) for the
        mirror; the mean over each region, resized and clamped at 0; float32, lazy.

    Raises
    ------
    AnalysisError
        If the layer's frames do not fit into the common grid.
    """
    if of_reference:
        check_frames(layer, grid)
    rows, shares = row_shares(regions)
    dim = REFERENCE if of_reference else GENERATED
    arrays = layer.arrays.drop_vars("logsumexp", errors="ignore") if of_reference else layer.arrays
    picked = arrays.isel({dim: rows}, missing_dims="ignore")
    own = layer.attributes.generated_grid if of_reference else layer.attributes.reference_grid
    (maps,) = apply_to_blocks(
        _block_rows,
        picked,
        layer.attributes.scale,
        [(REGION, *(GENERATED_PLANE if of_reference else REFERENCE_PLANE))],
        [(len(regions), *grid)],
        own=own,
        shares=shares,
        special_tokens=0 if of_reference else layer.attributes.special_tokens,
        of_reference=of_reference,
        density=density,
        frames=layer.attributes.frames if of_reference else 1,
    )
    return maps


def region_means(
    scores: Scores,
    shares: NDArray[np.float32],
    logsumexp: NDArray[Any] | None = None,
    *,
    working_set_bytes: int = WORKING_SET_BYTES,
) -> NDArray[np.float32]:
    """Return the softmax over the last axis, averaged over the rows of each region.

    Parameters
    ----------
    scores : Scores, shape (n, rows, columns)
        A score of -inf is a column that a row may not see; rows that see none are left out.
    shares : array (region, rows)
        The weight of each row in each region; those of a region sum to 1.
    logsumexp : array (n, rows), optional
        Normalises in place of the softmax's own sum.
    working_set_bytes : int
        What the scores that are held at a time may take.

    Returns
    -------
    array (n, region, columns), float32

    Examples
    --------
    >>> from i2am.analysis.block_scores import Logits
    >>> scores = Logits(np.log([[[1.0, 3.0], [1.0, 1.0]]]))
    >>> region_means(scores, np.array([[1, 0], [0.5, 0.5]], np.float32)).round(3)
    array([[[0.25 , 0.75 ],
            [0.375, 0.625]]], dtype=float32)
    """
    matrices, _, columns = scores.shape
    means = np.zeros((matrices, len(shares), columns), np.float32)
    seen = np.zeros((matrices, len(shares), 1), np.float32)
    exponentials = Exponentials(scores.shape, working_set_bytes)
    for batch in slices(matrices, exponentials.together):
        total = None if logsumexp is None else logsumexp[batch].astype(np.float32, copy=False)
        exponentials.begin(scores.of(batch), batch.stop - batch.start, total)
        for rows, values in exponentials:
            sums = exponentials.sums[:, rows]
            if total is None:
                weights = inverse(sums, sums > 0)
                seen[batch] += shares[:, rows] @ (sums > 0)[..., None].astype(np.float32)
            else:
                weights = np.exp(exponentials.peaks[:, rows] - total[:, rows])
            means[batch] += (shares[:, rows] * weights[:, None]) @ values
    if logsumexp is None:
        seen[seen == 0] = 1
        means /= seen
    return means


def row_shares(
    regions: Sequence[NDArray[np.intp]],
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the rows of all regions, and the share (region, row) that each has in each region."""
    rows = np.unique(np.concatenate(regions))
    shares = np.zeros((len(regions), len(rows)), np.float32)
    for share, region in zip(shares, regions, strict=True):
        share[np.searchsorted(rows, region)] = 1 / len(region)
    return rows, shares


def _block_rows(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[tuple[int, ...]],
    own: Grid,
    shares: NDArray[np.float32],
    special_tokens: int,
    of_reference: bool,
    density: bool,
    frames: int,
) -> NDArray[Any]:
    scores, total, lead = scores_of(arrays, names, scale)
    means = region_means(scores.transposed() if of_reference else scores, shares, total)
    regions, height, width = grids[0]
    factor = means.shape[2] if density else 1
    flat = means[..., special_tokens:]
    return on_grid(flat, own, (height, width), (*lead, regions), factor, frames)
