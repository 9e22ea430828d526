"""From the maps of single layers to one volume, and from a volume to its levels."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
import xarray as xr

from i2am.analysis.selection import SelectedLayer
from i2am.schemas.dims import FIRST_STEP, HEAD, LAST_STEP, LAYER, STEP, TIME

__all__ = ["levels_of", "mean_over", "stack_layers", "with_coordinates"]


def stack_layers(maps: Sequence[tuple[SelectedLayer, xr.DataArray]]) -> xr.DataArray:
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
    heads = sorted({head for layer, _ in maps for head in layer.heads})
    padded = [
        one.data
        if list(layer.heads) == heads
        else one.assign_coords({HEAD: list(layer.heads)}).reindex({HEAD: heads}).data
        for layer, one in maps
    ]
    coordinates = {
        LAYER: [layer.name for layer, _ in maps],
        HEAD: heads,
        "causal": (LAYER, [layer.is_causal for layer, _ in maps]),
    }
    return xr.DataArray(da.stack(padded), coordinates, (LAYER, *maps[0][1].dims))


def levels_of(volume: xr.DataArray, groups: Sequence[slice]) -> xr.Dataset:
    """Return the volume with ULAM, TLAM, HLAM and LLAM: its means over what each does not keep."""
    of_step = mean_over(volume, [LAYER, HEAD])
    of_layer_and_head = mean_over(volume, [STEP])
    levels = {
        "volume": volume,
        "ulam": mean_over(volume, [LAYER, STEP, HEAD]),
        "tlam": xr.concat([mean_over(of_step.isel({STEP: g}), [STEP]) for g in groups], TIME),
        "hlam": mean_over(of_layer_and_head, [LAYER]),
        "llam": mean_over(of_layer_and_head, [HEAD]),
    }
    return xr.Dataset(levels)


def mean_over(maps: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """Return the float32 mean, added up in float64 so that no blocking shows; NaN is left out."""
    return maps.mean(dims, dtype=np.float64, skipna=True).astype(np.float32)


def with_coordinates(
    levels: xr.Dataset, coordinates: xr.Dataset, groups: Sequence[slice]
) -> xr.Dataset:
    """Add step and timestep, and the first and last step of each time group."""
    steps = coordinates[STEP].to_numpy()
    spans = {
        FIRST_STEP: (TIME, [steps[group][0] for group in groups]),
        LAST_STEP: (TIME, [steps[group][-1] for group in groups]),
    }
    return levels.assign_coords({**coordinates.coords, **spans})
