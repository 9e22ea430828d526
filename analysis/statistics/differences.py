"""Differences of two samples' maps, both as shares of attention on one grid.

Maps of different models can differ in grid, layers, heads and steps. A level is compared if it means
the same in both, and left out if it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid, largest_grid, resize
from i2am.analysis.scores.spread import whole_maps
from i2am.analysis.statistics.groups import shared_pixels
from i2am.analysis.stores.boxes import box_of_maps
from i2am.schemas import AnalysisError, Box
from i2am.schemas.dims import HEAD, LAYER, STEP, TIME
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["Pair", "agreement", "boxes_alike", "difference_maps", "matching_levels", "shares"]

Pair = tuple[xr.DataArray, xr.DataArray]


def difference_maps(maps_a: xr.DataTree, maps_b: xr.DataTree) -> xr.DataTree:
    """Return B - A at every level that both samples' maps have.

    Parameters
    ----------
    maps_a, maps_b : DataTree
        A sample's maps, as `open_maps` or `analyze` gives them, each of its own run.

    Returns
    -------
    DataTree
        Groups ``r2g`` and ``g2r`` like those of maps, float32, lazy: ulam; tlam where the time
        groups are equally many; llam of the layers that both name; and where all layers are the
        same, hlam of the heads that both have, and the volume if the steps are the same, too. In
        shares of attention: each map sums to 0, and half the sum of its absolute values is the
        total variation distance. A direction whose maps lie over other parts of the image, as their
        coordinates tell, is left out; coordinates in pixels are there if both have the same.

    Raises
    ------
    AnalysisError
        If the two share no direction, or lie over other parts of the image in all of them.

    Notes
    -----
    Each map is put on the larger of the two grids as in `resize`, clamped at 0, and divided by its
    sum; then A is subtracted from B.

    Examples
    --------
    >>> def maps(ulam):
    ...     planes = {"ulam": (("y", "x"), ulam), "tlam": (("time", "y", "x"), [ulam])}
    ...     labels = {"layer": ["down"], "head": [0]}
    ...     of_labels = {f"{dim[0]}lam": ((dim, "y", "x"), [ulam]) for dim in ("layer", "head")}
    ...     return xr.DataTree.from_dict({"r2g": xr.Dataset(planes | of_labels, coords=labels)})
    >>> found = difference_maps(maps([[3.0, 1.0]]), maps([[1.0, 1.0]]))
    >>> found["r2g/ulam"].values.tolist()
    [[-0.25, 0.25]]
    """
    both = [d for d in DIRECTIONS if d in maps_a.children and d in maps_b.children]
    directions = [d for d in both if _lie_alike(maps_a[d].dataset, maps_b[d].dataset, d)]
    if both and not directions:
        msg = (
            "Expected maps over the same part of an image, got those of two models that saw other "
            f"parts, at {maps_a.name or 'maps'}. Compare scores instead, or crop the pictures alike "
            "before the capture."
        )
        raise AnalysisError(msg)
    if not directions:
        msg = (
            f"Expected maps of one direction in both, got {', '.join(maps_a.children) or 'none'} "
            f"and {', '.join(maps_b.children) or 'none'}, at {maps_a.name or 'maps'}. Give maps "
            "that 'i2am analyze' made."
        )
        raise AnalysisError(msg)
    found: dict[str, xr.Dataset] = {}
    for direction in directions:
        levels = matching_levels(maps_a[direction].dataset, maps_b[direction].dataset)
        paired = {name: shares(a, b) for name, (a, b) in levels.items()}
        # Coordinates that differ between the two are left out.
        differences = xr.Dataset({name: b - a for name, (a, b) in paired.items()})
        found[direction] = differences.assign_coords(
            _shared_pixels(maps_a[direction].dataset, maps_b[direction].dataset, direction)
        )
    return xr.DataTree.from_dict(found, name=maps_b.name)


def boxes_alike(a: Box, b: Box, grid: Grid) -> bool:
    """Return whether two boxes differ by less than half a cell of a grid that fills them.

    Examples
    --------
    >>> boxes_alike(Box(0, 32, 32, 64), Box(0, 32.3, 32, 64.3), (8, 8))
    True
    >>> boxes_alike(Box(0, 32, 32, 64), Box(0, 0, 32, 96), (8, 8))
    False
    """
    limits = [a.height / grid[0] / 2, a.width / grid[1] / 2] * 2
    return all(abs(p - q) < limit for p, q, limit in zip(a, b, limits, strict=True))


def _lie_alike(a: xr.Dataset, b: xr.Dataset, direction: DirectionName) -> bool:
    """Return whether maps lie over the same part of an image, as far as their coordinates tell."""
    plane = DIRECTIONS[direction].plane
    of_a, of_b = box_of_maps(a, plane), box_of_maps(b, plane)
    if of_a is None or of_b is None:
        return True
    if of_a[:2] == of_b[:2] == (0, 0):
        return True  # Whole images, it may be of other sizes.
    return boxes_alike(of_a, of_b, largest_grid([_grid(a["ulam"]), _grid(b["ulam"])]))


def _shared_pixels(
    a: xr.Dataset, b: xr.Dataset, direction: DirectionName
) -> dict[str, xr.Variable]:
    plane = DIRECTIONS[direction].plane
    return {dim: a[dim].variable for dim in plane} if len(shared_pixels(a, b)) == len(plane) else {}


def matching_levels(a: xr.Dataset, b: xr.Dataset) -> dict[str, Pair]:
    """Return each level of one direction that means the same in both, cut to what both have."""
    layers = _shared(a, b, LAYER)
    heads = _shared(a, b, HEAD)
    levels = ["ulam"]
    if a.sizes[TIME] == b.sizes[TIME]:
        levels.append("tlam")
    if layers:
        levels.append("llam")
    if heads and set(a[LAYER].values) == set(b[LAYER].values):
        levels.append("hlam")
        if "volume" in a and "volume" in b and a[STEP].equals(b[STEP]):
            levels.append("volume")
    labels = {LAYER: layers, HEAD: heads}
    return {name: (_cut(a[name], labels), _cut(b[name], labels)) for name in levels}


def shares(first: xr.DataArray, second: xr.DataArray) -> Pair:
    """Return two maps or stacks of maps on the larger of their grids, each map summing to 1.

    Parameters
    ----------
    first, second : DataArray, dims (…, y, x) or (…, reference_y, reference_x)

    Returns
    -------
    tuple of DataArray
        float32; lazy if the maps are. NaN where a map holds NaN or no attention.
    """
    grid = largest_grid([_grid(first), _grid(second)])
    return _shares(first, grid), _shares(second, grid)


def agreement(first: xr.DataArray, second: xr.DataArray) -> xr.Dataset:
    """Return two measures of how similar maps are, over their leading dimensions.

    Parameters
    ----------
    first, second : DataArray, dims (…, y, x) or (…, reference_y, reference_x)
        With the same leading dimensions.

    Returns
    -------
    Dataset
        float32, lazy where the maps are.

        - correlation: Pearson's over the positions, -1..1; NaN where a map is even.
        - total_variation: half the sum of the absolute differences of the shares, 0..1: the share
          of attention that lies elsewhere.

    Examples
    --------
    >>> first = xr.DataArray([[3.0, 1.0]], dims=("y", "x"))
    >>> found = agreement(first, first[:, ::-1])
    >>> float(found["correlation"]), float(found["total_variation"])
    (-1.0, 0.5)
    """
    plane = first.dims[-2:]
    p, q = shares(first, second)
    found: Any = xr.apply_ufunc(
        _agreement,
        p,
        q,
        input_core_dims=[plane, plane],
        output_core_dims=[[], []],
        dask="parallelized",
        output_dtypes=[np.float32, np.float32],
    )
    return xr.Dataset(dict(zip(("correlation", "total_variation"), found, strict=True)))


def _shared(a: xr.Dataset, b: xr.Dataset, dim: str) -> list[Any]:
    theirs = set(b[dim].values.tolist())
    return [label for label in a[dim].values.tolist() if label in theirs]


def _cut(maps: xr.DataArray, labels: Mapping[str, list[Any]]) -> xr.DataArray:
    return maps.sel({dim: kept for dim, kept in labels.items() if dim in maps.dims})


def _grid(maps: xr.DataArray) -> Grid:
    return maps.shape[-2], maps.shape[-1]


def _shares(maps: xr.DataArray, grid: Grid) -> xr.DataArray:
    plane = list(maps.dims[-2:])
    found: xr.DataArray = xr.apply_ufunc(
        _shares_of_block,
        whole_maps(maps),
        input_core_dims=[plane],
        output_core_dims=[plane],
        exclude_dims=set(plane),
        kwargs={"grid": grid},
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": dict(zip(plane, grid, strict=True))},
    )
    return found


def _shares_of_block(maps: NDArray[Any], *, grid: Grid) -> NDArray[np.float32]:
    resized = np.maximum(resize(maps.astype(np.float64), grid), 0)
    total = resized.sum(axis=(-2, -1), keepdims=True)
    divided: NDArray[np.float32] = (resized / np.where(total > 0, total, np.nan)).astype(np.float32)
    return divided


def _agreement(first: NDArray[Any], second: NDArray[Any]) -> tuple[NDArray[np.float32], ...]:
    p, q = (maps.reshape(*maps.shape[:-2], -1).astype(np.float64) for maps in (first, second))
    distance = np.abs(p - q).sum(axis=-1) / 2
    p, q = (maps - maps.mean(axis=-1, keepdims=True) for maps in (p, q))
    norm = np.sqrt((p**2).sum(axis=-1) * (q**2).sum(axis=-1))
    correlation = (p * q).sum(axis=-1) / np.where(norm > 0, norm, np.nan)
    return np.clip(correlation, -1, 1).astype(np.float32), distance.astype(np.float32)
