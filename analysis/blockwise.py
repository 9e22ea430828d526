"""How a layer's arrays become lazy maps: one function applied to each block of steps and heads.

A block holds whole patches, tokens and channels of a few steps and heads. What the functions of
`blocks` share stands here: the application, a block's scores, and the way onto the common grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.block_scores import Factors, Logits, Scores
from i2am.analysis.grid import Grid, resize
from i2am.analysis.selection import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.dims import CHANNEL, GENERATED, HEAD, REFERENCE, STEP

__all__ = ["apply_to_blocks", "check_frames", "on_grid", "scores_of"]

_CORE: Final = {
    "query": [GENERATED, CHANNEL],
    "key": [REFERENCE, CHANNEL],
    "logits": [GENERATED, REFERENCE],
    "logsumexp": [GENERATED],
    "r2g": [GENERATED],
    "g2r": [REFERENCE],
    "mass": [GENERATED],
}


def apply_to_blocks(
    function: Callable[..., Any],
    arrays: xr.Dataset,
    scale: float,
    planes: Sequence[tuple[str, ...]],
    sizes: Sequence[tuple[int, ...]],
    **options: Any,
) -> list[xr.DataArray]:
    """Apply a function to each block of a layer's arrays; one output for each plane.

    Parameters
    ----------
    function : callable
        Takes a block of each array, and as options their `names`, `scale`, the sizes as `grids`
        and `options`; returns an array (step, head, plane) float32, or a tuple of one for each
        plane.
    arrays : Dataset
        Of one layer, by the contract's names.
    scale : float
    planes, sizes : sequence
        Dimensions and sizes of each output after step and head.
    **options
        See `function`.

    Returns
    -------
    list of DataArray
        Dims (step, head, plane), float32, lazy; one task for each block, which reads it, too, and
        one more for each output, unless there is one plane of two dimensions.
    """
    names = [name for name in _CORE if name in arrays]
    # Patches, tokens and channels are whole in each block.
    whole = arrays[names].chunk(dict.fromkeys({dim for name in names for dim in _CORE[name]}, -1))
    unified = whole.unify_chunks()
    inputs = [_four_dims(unified[name], name) for name in names]
    lead = max((one.chunks[:-2] for one in inputs), key=len)
    apply = partial(function, names=names, scale=scale, grids=list(sizes), **options)
    # Blocks of inputs and output line up by their last dimensions: four on both sides.
    is_alone = len(sizes) == 1 and len(sizes[0]) == 2
    shape = sizes[0] if is_alone else (1, sum(map(math.prod, sizes)))
    together = da.map_blocks(
        _apply if is_alone else _apply_and_join,
        *inputs,
        apply=apply,
        is_flat=[len(_CORE[name]) == 1 for name in names],
        chunks=(*lead, *((size,) for size in shape)),
        meta=np.empty((0,) * (2 + len(shape)), np.float32),
    )
    if is_alone:
        return [xr.DataArray(together, dims=(STEP, HEAD, *planes[0]))]
    ends = np.cumsum([math.prod(size) for size in sizes])
    return [
        xr.DataArray(
            together.map_blocks(
                _part,
                end=int(end),
                size=size,
                drop_axis=[2, 3],
                new_axis=list(range(2, 2 + len(size))),
                chunks=(*lead, *((length,) for length in size)),
                meta=np.empty((0,) * (2 + len(size)), np.float32),
            ),
            dims=(STEP, HEAD, *plane),
        )
        for end, size, plane in zip(ends, sizes, planes, strict=True)
    ]


def _four_dims(array: xr.DataArray, name: str) -> da.Array:
    """Return an array with two dimensions after step and head, so that blocks line up."""
    last_two = array.transpose(..., *_CORE[name])
    found: da.Array = last_two.data if len(_CORE[name]) == 2 else last_two.data[..., None]
    return found


def _apply(*blocks: NDArray[Any], apply: Callable[..., Any], is_flat: Sequence[bool]) -> Any:
    flat = zip(blocks, is_flat, strict=True)
    return apply(*(one[..., 0] if alone else one for one, alone in flat))


def _apply_and_join(*blocks: NDArray[Any], **options: Any) -> NDArray[np.float32]:
    """Return all outputs of a block as one array (step, head, 1, all their positions)."""
    found = _apply(*blocks, **options)
    outputs = found if isinstance(found, tuple) else (found,)
    flat = [one.reshape(*one.shape[:2], 1, -1) for one in outputs]
    return np.concatenate(flat, axis=-1)


def _part(joined: NDArray[np.float32], end: int, size: tuple[int, ...]) -> NDArray[np.float32]:
    return joined[:, :, 0, end - math.prod(size) : end].reshape(*joined.shape[:2], *size)


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


def on_grid(
    flat: NDArray[Any],
    own: Grid,
    wanted: Grid,
    lead: tuple[int, ...],
    factor: int,
    frames: int = 1,
) -> NDArray[Any]:
    """Return flat maps (n, positions) on the wanted grid, at least 0, with the block's lead."""
    maps = flat.reshape(math.prod(lead), *own)
    if factor != 1:
        maps = maps * np.float32(factor)
    placed: NDArray[Any] = np.maximum(resize(maps, wanted, frames), 0).reshape(*lead, *wanted)
    return placed


def check_frames(layer: SelectedLayer, grid: Grid) -> None:
    """Raise an AnalysisError if the layer's frames do not fit into a common grid."""
    frames = layer.attributes.frames
    if grid[0] % frames:
        msg = (
            f"Expected a grid of {frames} frames above one another, got {grid[0]} rows, "
            f"at {layer.name}. Give a height that is a multiple of {frames}."
        )
        raise AnalysisError(msg)
