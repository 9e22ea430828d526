"""How a layer's arrays become lazy maps: one function applied to each block of steps and heads.

A block holds whole patches, tokens and channels of a few steps and heads. What the functions of
`blocks` share stands here: the application, a block's scores, and the way onto the common grid.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.grid import Grid, resize
from i2am.analysis.kernel import Factors, Logits, Scores
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
    function: Any,
    layer: SelectedLayer,
    planes: list[tuple[str, ...]],
    sizes: list[tuple[int, ...]],
    **options: Any,
) -> list[xr.DataArray]:
    """Apply a block function over steps and heads; one output for each plane."""
    names = [name for name in _CORE if name in layer.arrays]
    outputs = xr.apply_ufunc(
        function,
        # Patches, tokens and channels are whole in each block.
        *(layer.arrays[name].chunk(dict.fromkeys(_CORE[name], -1)) for name in names),
        input_core_dims=[_CORE[name] for name in names],
        output_core_dims=[list(plane) for plane in planes],
        kwargs={"names": names, "scale": layer.attributes.scale, "grids": sizes, **options},
        dask="parallelized",
        output_dtypes=[np.float32] * len(planes),
        dask_gufunc_kwargs={
            "output_sizes": {
                dim: size
                for plane, grid in zip(planes, sizes, strict=True)
                for dim, size in zip(plane, grid, strict=True)
            }
        },
    )
    maps = [outputs] if len(planes) == 1 else list(outputs)
    return [one.transpose(STEP, HEAD, *plane) for one, plane in zip(maps, planes, strict=True)]


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
        scores = Factors(_flat(query, lead), _flat(key, lead), scale)
    return scores, None if total is None else total.reshape(-1, total.shape[-1]), lead


def _flat(factors: NDArray[Any], lead: tuple[int, ...]) -> NDArray[Any]:
    whole = np.broadcast_to(factors, (*lead, *factors.shape[-2:]))
    return whole.reshape(-1, *factors.shape[-2:])


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
