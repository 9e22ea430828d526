"""From the maps of single layers to one volume, and to its levels.

The levels are sums over each layer's maps in float64, so that they do not depend on the blocks,
divided by the number of maps: heads that a layer lacks count in no mean.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from i2am.analysis.stores.layers import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.choices import Normalisation, Within
from i2am.schemas.dims import FIRST_STEP, HEAD, LAST_STEP, LAYER, LAYER_WEIGHT, STEP, TIME

__all__ = [
    "UNITS",
    "MapsOfLayer",
    "add_step_coordinates",
    "block_sums",
    "compute_levels",
    "describe_levels",
    "every_head",
    "levels_of_sums",
    "mean_float32",
    "mean_of_layers",
    "split_time_groups",
    "stack_layers",
]

# A layer and its maps, dims (step, head, plane), on the grid that all layers share.
MapsOfLayer = tuple[SelectedLayer, xr.DataArray]
Floats = NDArray[np.float64]

# What a value of a map is, by its normalisation.
UNITS: Final[dict[Normalisation, str]] = {
    "mass": "attention per position",
    "density": "attention (uniform = 1)",
}
_MEANS_OVER: Final = {
    "volume": "",
    "ulam": ", mean over layers, steps and heads",
    "tlam": ", mean over layers, steps of a group, and heads",
    "hlam": ", mean over layers and steps",
    "llam": ", mean over steps and heads",
}


def stack_layers(maps: Sequence[MapsOfLayer]) -> xr.DataArray:
    """Stack layers; the heads that one lacks are NaN.

    Parameters
    ----------
    maps : sequence of (SelectedLayer, DataArray), at least one
        Maps over (step, head, plane) on one grid.

    Returns
    -------
    DataArray
        Dims (layer, step, head, plane), with coordinates layer, head and ``causal`` (layer):
        False where the output cannot depend on the attention.
    """
    heads = every_head(layer for layer, _ in maps)
    padded = [
        one.data
        if list(layer.heads) == heads
        else one.assign_coords({HEAD: list(layer.heads)}).reindex({HEAD: heads}).data
        for layer, one in maps
    ]
    # Few chunks each; asked for another way, Dask imports its scheduler first, which takes half a second.
    with dask.config.set({"array.rechunk.method": "tasks"}):
        stacked = da.stack(padded)
    return xr.DataArray(stacked, _coordinates(maps), (LAYER, *maps[0][1].dims))


def compute_levels(
    maps: Sequence[MapsOfLayer],
    time_groups: Sequence[slice],
    weights: NDArray[np.float64] | None = None,
) -> xr.Dataset:
    """Return the volume with ULAM, TLAM, HLAM and LLAM: its means over the dimensions each leaves out.

    Parameters
    ----------
    maps : sequence of (SelectedLayer, DataArray), at least one
        Maps over (step, head, plane) on one grid.
    time_groups : sequence of slice
        Positions of the steps of each time group; together all steps, in their order.
    weights : array (layer,), optional
        Of the layers in ULAM, TLAM and HLAM: each layer's own mean counts by its weight.

    Returns
    -------
    Dataset
        volume (layer, step, head, plane), ulam (plane), tlam (time, plane), hlam (head, plane),
        llam (layer, plane); float32, lazy.
    """
    heads = every_head(layer for layer, _ in maps)
    head_indices = [[heads.index(head) for head in layer.heads] for layer, _ in maps]
    sums = [_block_sums(one.data, time_groups) for _, one in maps]
    volume = stack_layers(maps)
    levels = {"volume": volume}
    found = _lazy_levels(sums, head_indices, time_groups, weights)
    for name, dims, length in (
        ("ulam", (), ()),
        ("tlam", (TIME,), (len(time_groups),)),
        ("hlam", (HEAD,), (len(heads),)),
        ("llam", (LAYER,), (len(maps),)),
    ):
        level = found(name, (*length, *volume.shape[-2:]))
        levels[name] = xr.DataArray(level, dims=(*dims, *volume.dims[-2:]))
    coordinates = {**volume.coords}
    if weights is not None:
        coordinates[LAYER_WEIGHT] = xr.DataArray(weights, dims=LAYER)
    return xr.Dataset(levels).assign_coords(coordinates)


def describe_levels(
    levels: xr.Dataset, direction: str, normalisation: Normalisation, within: Within
) -> xr.Dataset:
    """Return the levels of a direction with ``long_name`` and ``units``, as plots write them."""
    painted = " of the painted part" if within == "mask" else ""
    found = levels.copy()
    for name, over in _MEANS_OVER.items():
        if name in found:
            found[name].attrs |= {
                "long_name": f"{direction.upper()}{painted}{over}",
                "units": UNITS[normalisation],
            }
    if "mass" in found:
        found["mass"].attrs |= {"long_name": f"attention to the reference{painted}", "units": "1"}
    return found


def mean_of_layers(
    maps: xr.DataArray, dims: Sequence[str], weights: NDArray[np.float64] | None = None
) -> xr.DataArray:
    """Return the mean over the layers and other dimensions, each layer by its weight; float32.

    Parameters
    ----------
    maps : DataArray, dims (layer, …)
        Heads that a layer lacks are NaN.
    dims : sequence of str
        Layer among them, where there are weights.
    weights : array (layer,), optional
        Without them it is `mean_float32`.
    """
    if weights is None:
        return mean_float32(maps, dims)
    others = [dim for dim in dims if dim != LAYER]
    own = xr.DataArray(weights / weights.sum(), dims=LAYER)
    of_layers = maps.mean(others, dtype=np.float64, skipna=True)
    return (of_layers * own).sum(LAYER).astype(np.float32)


def mean_float32(maps: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """Return the mean without NaN as float32; summed in float64, so that blocks make no difference."""
    return maps.mean(dims, dtype=np.float64, skipna=True).astype(np.float32)


def add_step_coordinates(
    levels: xr.Dataset, coordinates: xr.Dataset, time_groups: Sequence[slice]
) -> xr.Dataset:
    """Add step and timestep, and the first and last step of each time group."""
    steps = coordinates[STEP].to_numpy()
    spans = {
        FIRST_STEP: (TIME, [steps[group][0] for group in time_groups]),
        LAST_STEP: (TIME, [steps[group][-1] for group in time_groups]),
    }
    return levels.assign_coords({**coordinates.coords, **spans})


def every_head(layers: Iterable[SelectedLayer]) -> list[int]:
    """Return the heads that any of the layers has, in their order."""
    return sorted({head for layer in layers for head in layer.heads})


def _coordinates(maps: Sequence[MapsOfLayer]) -> dict[str, Any]:
    return {
        LAYER: [layer.name for layer, _ in maps],
        HEAD: every_head(layer for layer, _ in maps),
        "causal": (LAYER, [layer.is_causal for layer, _ in maps]),
    }


def _block_sums(maps: da.Array, time_groups: Sequence[slice]) -> da.Array:
    """Return each block's sums for the levels: over the steps of each time group, and of each head.

    Dims (block of steps, block of heads, time group and then head, y, x), float64.
    """
    steps, heads, *plane = maps.chunks
    return maps.map_blocks(
        _sums_of_block,
        time_groups=list(time_groups),
        starts=np.cumsum([0, *steps]).tolist(),
        new_axis=[2],
        chunks=((1,) * len(steps), (1,) * len(heads), (len(time_groups) + max(heads),), *plane),
        meta=np.empty((0,) * 5),
    )


def _sums_of_block(
    maps: NDArray[Any],
    time_groups: Sequence[slice],
    starts: Sequence[int],
    block_id: tuple[int, ...],
) -> Floats:
    return block_sums(maps, time_groups, starts[block_id[0]])


def block_sums(maps: NDArray[Any], time_groups: Sequence[slice], start: int) -> Floats:
    """Return a block's sums for the levels: over the steps of each time group, and of each head.

    Dims (1, 1, time group and then head, y, x), float64.

    Parameters
    ----------
    maps : array (step, head, y, x)
    time_groups : sequence of slice
        Positions of the steps of each group.
    start : int
        Position of the block's first step.
    """
    by_step = maps.sum(axis=1, dtype=np.float64)
    own = [slice(max(0, group.start - start), max(0, group.stop - start)) for group in time_groups]
    by_group = np.stack([by_step[part].sum(axis=0) for part in own])
    return np.concatenate([by_group, maps.sum(axis=0, dtype=np.float64)])[None, None]


def _lazy_levels(
    sums: Sequence[da.Array],
    head_indices: Sequence[Sequence[int]],
    time_groups: Sequence[slice],
    weights: Floats | None,
) -> Callable[[str, tuple[int, ...]], da.Array]:
    """Return what gives each level as a lazy array of a shape.

    One task computes all four from the blocks' sums: they are small, and each task costs time. With
    `dask.delayed` it is a tenth more tasks, and twice the time to build them.
    """
    token = f"levels-{uuid4().hex}"
    blocks = [
        [[(one.name, i, j, 0, 0, 0) for j in range(one.numblocks[1])] for i in range(len(one))]
        for one in sums
    ]
    sizes = [group.stop - group.start for group in time_groups]
    task = (
        partial(levels_of_sums, head_indices=head_indices, sizes=sizes, weights=weights),
        blocks,
    )
    graph = HighLevelGraph.from_collections(token, {token: task}, dependencies=sums)

    def level(name: str, shape: tuple[int, ...]) -> da.Array:
        own = f"{name}-{token}"
        layer = {(own, *(0 for _ in shape)): (operator.getitem, token, name)}
        whole = HighLevelGraph({**graph.layers, own: layer}, {**graph.dependencies, own: {token}})
        return da.Array(whole, own, tuple((size,) for size in shape), np.float32)

    return level


def levels_of_sums(
    blocks: Sequence[Sequence[Sequence[Floats]]],
    head_indices: Sequence[Sequence[int]],
    sizes: Sequence[int],
    weights: Floats | None,
) -> dict[str, NDArray[np.float32]]:
    """Return the levels: the sums divided by the number of maps in them.

    With weights each map counts by its layer's, over the number of the layer's maps.

    Parameters
    ----------
    blocks : nested sequence of array
        By layer, block of steps and block of heads: what `block_sums` returned.
    head_indices : sequence of sequence of int
        Positions of each layer's heads among all heads.
    sizes : sequence of int
        Steps of each time group.
    weights : array (layer,), optional
    """
    of_layers = [_add_blocks(own, len(sizes)) for own in blocks]
    steps, lengths = sum(sizes), [len(own) for own in head_indices]
    heads = np.concatenate([np.asarray(own, int) for own in head_indices])
    by_layer = np.stack([by_group for by_group, _ in of_layers])
    # By what the maps of each layer are multiplied, all together and each head's alone.
    shared, own = np.ones(len(of_layers)), np.ones(len(of_layers))
    if weights is not None:
        shared, own = weights / lengths, weights
    by_head = np.zeros((heads.max() + 1, *of_layers[0][1].shape[1:]))
    np.add.at(
        by_head,
        heads,
        np.concatenate([sums * weight for (_, sums), weight in zip(of_layers, own, strict=True)]),
    )
    by_group = (by_layer * shared[:, None, None, None]).sum(axis=0)
    count = float((shared * lengths).sum())
    of_heads = np.bincount(heads, np.repeat(own, lengths))[:, None, None] * steps
    levels = {
        "ulam": by_group.sum(axis=0) / (count * steps),
        "tlam": by_group / (count * np.array(sizes)[:, None, None]),
        # Of heads that are in layers of weight 0 alone nothing is left.
        "hlam": np.divide(by_head, of_heads, out=np.zeros_like(by_head), where=of_heads > 0),
        "llam": by_layer.sum(axis=1) / (np.array(lengths) * steps)[:, None, None],
    }
    return {name: level.astype(np.float32) for name, level in levels.items()}


def _add_blocks(blocks: Sequence[Sequence[Floats]], groups: int) -> tuple[Floats, Floats]:
    """Return a layer's sums by group (time, y, x) and by head (head, y, x)."""
    every = [one[0, 0] for row in blocks for one in row]
    by_group = np.sum([one[:groups] for one in every], axis=0)
    by_head = [np.concatenate([one[0, 0, groups:] for one in row]) for row in blocks]
    return by_group, np.sum(by_head, axis=0)


def split_time_groups(count: int, time_groups: int) -> list[slice]:
    """Return equal runs of positions, noisiest first; fewer than `time_groups` if steps are few.

    Raises
    ------
    AnalysisError
        If `time_groups` is not positive.

    Examples
    --------
    >>> split_time_groups(5, 2)
    [slice(0, 3, None), slice(3, 5, None)]
    """
    if time_groups < 1:
        msg = (
            f"Expected at least one time group, got {time_groups}, at time_groups. Give 1 or more."
        )
        raise AnalysisError(msg)
    parts = np.array_split(np.arange(count), min(time_groups, count))
    return [slice(int(part[0]), int(part[-1]) + 1) for part in parts]
