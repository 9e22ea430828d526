"""The authors' convention, to reproduce the numbers that their code prints.

Its order is: sum over time, resize, clamp at 0, then mean over tokens, layers and heads; and each
direction takes its own layers. The time sum is divided by the number of steps here, so that both
conventions have one scale. Golden outputs of the authors' aggregation are the tests of this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid, resize
from i2am.analysis.maps.layer_maps import layer_maps, layer_probability
from i2am.analysis.stores.layers import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.dims import HEAD, LAYER, STEP, TIME, X, Y
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["OfficialPlan", "official_levels", "official_plan"]

# The pixels of an image for each latent: the authors' common grid.
_LATENT_PIXELS: Final = 8
# In execution order among the layers with a reference grid: the one whose G2R is shown.
_SHOWN_LAYER: Final = 4


@dataclass(frozen=True)
class OfficialPlan:
    """Which layers and grids each direction takes."""

    r2g: list[SelectedLayer]  # every layer outside the middle block
    generated: Grid
    g2r: list[SelectedLayer]  # the one shown layer; none without a reference grid
    g2r_time: list[SelectedLayer]  # every layer with as many rows as the shown one
    reference: Grid | None


def official_plan(
    sample: xr.DataTree, selected: Sequence[SelectedLayer], grid: Grid | None
) -> OfficialPlan:
    """Return the authors' choice of layers and grids.

    Raises
    ------
    AnalysisError
        If all layers are of the middle block, or the generated image that gives the grid is
        missing.
    """
    r2g = [layer for layer in selected if layer.attributes.block != "mid"]
    if not r2g:
        msg = (
            "Expected a layer outside the middle block, got none, at layers. "
            "Select more layers, or use convention 'i2am'."
        )
        raise AnalysisError(msg)
    spatial = [layer for layer in selected if layer.has_g2r]
    shown = spatial[: _SHOWN_LAYER + 1][-1:]
    own = shown[0].attributes.reference_grid if shown else None
    same_rows = [
        layer
        for layer in spatial
        if own and layer.attributes.reference_grid and layer.attributes.reference_grid[0] == own[0]
    ]
    reference = (grid or own) if own else None
    return OfficialPlan(r2g, grid or _latent_grid(sample), shown, same_rows, reference)


def official_levels(
    layers: Sequence[SelectedLayer],
    time_layers: Sequence[SelectedLayer],
    time_groups: Sequence[slice],
    grid: Grid,
    *,
    direction: DirectionName,
) -> xr.Dataset:
    """Return ulam, hlam and llam of `layers` and tlam of `time_layers`, lazily.

    Parameters
    ----------
    layers, time_layers : sequence of SelectedLayer
    time_groups : sequence of slice
        Positions of the steps of each time group; together all steps.
    grid : (height, width)
    direction : "r2g" or "g2r"

    Returns
    -------
    Dataset
        Dims as the contract has them; float32.
    """
    maps = {
        layer.name: _time_means(layer, time_groups, grid, direction)
        for layer in {layer.name: layer for layer in (*layers, *time_layers)}.values()
    }
    whole = xr.concat([maps[layer.name].isel({TIME: 0}) for layer in layers], LAYER, join="outer")
    grouped = xr.concat(
        [maps[layer.name].isel({TIME: slice(1, None)}) for layer in time_layers],
        LAYER,
        join="outer",
    )
    levels = {
        "ulam": whole.mean([LAYER, HEAD], dtype=np.float64),
        "tlam": grouped.mean([LAYER, HEAD], dtype=np.float64),
        "hlam": whole.mean(LAYER, dtype=np.float64),
        "llam": whole.mean(HEAD, dtype=np.float64),
    }
    return xr.Dataset({name: level.astype(np.float32) for name, level in levels.items()})


def _time_means(
    layer: SelectedLayer, time_groups: Sequence[slice], grid: Grid, direction: DirectionName
) -> xr.DataArray:
    """Return time means that were resized and clamped after the mean: dims (time, head, plane).

    The first is over all steps, the others over the groups. The clamp precedes the mean over
    tokens, so that a layer that is resized has a map for each token until then.
    """
    plane = DIRECTIONS[direction].plane
    own = layer.attributes.generated_grid
    if direction == "g2r":
        # Shown on the layer's own grid, where the clamp does nothing: the mean may come first.
        maps = layer_maps(layer, own, layer.attributes.reference_grid, density=False)
        tokens = cast("xr.DataArray", maps.g2r)  # the plan holds only layers that have it
    elif layer.tokens == 1 or own == grid:
        tokens = layer_maps(layer, own, None, density=False).r2g
    else:
        tokens = layer_probability(layer)
    if "token" not in tokens.dims:
        tokens = tokens.expand_dims("token", axis=2)
    lengths = [group.stop - group.start for group in time_groups]
    means = [tokens.isel({STEP: group}).mean(STEP, dtype=np.float64) for group in time_groups]
    total = sum(mean * length for mean, length in zip(means, lengths, strict=True)) / sum(lengths)
    clamped = [
        xr.apply_ufunc(
            _resize_clamp_mean,
            mean.chunk({"token": -1}),
            input_core_dims=[["token", *plane]],
            output_core_dims=[["new_row", "new_column"]],
            kwargs={"grid": grid, "frames": layer.attributes.frames if direction == "r2g" else 1},
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {"new_row": grid[0], "new_column": grid[1]}},
        )
        for mean in (total, *means)
    ]
    stacked = xr.concat(clamped, TIME).assign_coords({HEAD: list(layer.heads)})
    renamed: xr.DataArray = stacked.rename(dict(zip(("new_row", "new_column"), plane, strict=True)))
    return renamed


def _resize_clamp_mean(maps: NDArray[np.float64], grid: Grid, frames: int) -> NDArray[np.float64]:
    """Return the mean over the third axis from the end, of maps that were resized and clamped."""
    mean: NDArray[np.float64] = np.maximum(resize(maps, grid, frames), 0).mean(axis=-3)
    return mean


def _latent_grid(sample: xr.DataTree) -> Grid:
    """Return the generated image's size in latents."""
    image = sample["images"].get("generated") if "images" in sample.children else None
    if image is None:
        msg = (
            f"Expected a generated image to take the grid from, got none, at {sample.name}. "
            "Give the grid."
        )
        raise AnalysisError(msg)
    return image.sizes[Y] // _LATENT_PIXELS, image.sizes[X] // _LATENT_PIXELS
