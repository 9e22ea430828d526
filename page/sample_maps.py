"""A sample's maps for the page: stacks over layers, steps and heads, curves over time, and matrices.

Each volume is read once, and what is in memory are its means; a page shows no single step of a single
head of a single layer, of which there are thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.scores.masks import masks_of
from i2am.analysis.scores.spread import spread
from i2am.page.sample_data import all_layers, step_groups, to_json_numbers
from i2am.page.stacks import fit_stack
from i2am.schemas.dims import HEAD, LAYER, STEP, TIMESTEP
from i2am.schemas.directions import DIRECTIONS, DirectionName

__all__ = ["MapMeans", "curves", "map_means", "map_stacks", "matrices", "shown_step_groups"]

# More steps than these are shown as means over groups of them.
_MOST_STEPS: Final = 10
# What the stacks of one direction may take in a page, in bytes of base64.
_STACK_BYTES: Final = {("layer", "step"): 22_000, ("layer", "head"): 14_000, (): 6_000}
_MASKS: Final = {"r2g": "the inpainting mask", "g2r": "the reference's mask"}


@dataclass(frozen=True)
class MapMeans:
    """Means of one direction's volume, in memory.

    Parameters
    ----------
    ulam : DataArray (y, x)
    by_step : DataArray (step, y, x)
    by_layer_and_step : DataArray (layer, step, y, x)
    by_layer_and_head : DataArray (layer, head, y, x)
        NaN of heads that a layer lacks.
    mask : array (y, x) or None
        That the direction's maps are held against.
    """

    ulam: xr.DataArray
    by_step: xr.DataArray
    by_layer_and_step: xr.DataArray
    by_layer_and_head: xr.DataArray
    mask: NDArray[Any] | None


def map_means(sample: xr.DataTree, maps: xr.DataTree) -> dict[DirectionName, MapMeans]:
    """Return the means of each direction that there is.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    maps : DataTree
        Of the sample, as `analyze` gives them.
    """
    masks = masks_of(sample, maps)
    lazy: dict[DirectionName, dict[str, xr.DataArray]] = {}
    for direction in (d for d in DIRECTIONS if d in maps.children):
        levels = maps.children[direction].dataset
        volume = levels["volume"]
        lazy[direction] = {
            "ulam": levels["ulam"],
            "by_step": volume.mean((LAYER, HEAD)),
            "by_layer_and_step": volume.mean(HEAD),
            "by_layer_and_head": volume.mean(STEP),
        }
    (found,) = dask.compute(lazy)  # Together, so that each block is read once.
    return {
        direction: MapMeans(**own, mask=masks.get(direction)) for direction, own in found.items()
    }


def shown_step_groups(maps: xr.DataTree) -> list[slice]:
    """Return the groups of steps that a page shows: each step, or a few together."""
    first = next(maps.children[d] for d in DIRECTIONS if d in maps.children)
    return step_groups(first.sizes[STEP], _MOST_STEPS)


def map_stacks(
    means: dict[DirectionName, MapMeans], maps: xr.DataTree
) -> tuple[dict[DirectionName, list[dict[str, Any]]], list[str]]:
    """Return each direction's stacks, and what was made coarser of them, as sentences.

    Parameters
    ----------
    means : dict of direction to MapMeans
    maps : DataTree
        That they are of.
    """
    layers, groups = all_layers(maps), shown_step_groups(maps)
    heads = sorted({int(h) for own in means.values() for h in own.by_layer_and_head[HEAD].values})
    stacks: dict[DirectionName, list[dict[str, Any]]] = {}
    notes = []
    for direction, own in means.items():
        by_group = _group_means(own.by_layer_and_step, groups).reindex({LAYER: layers})
        by_head = own.by_layer_and_head.reindex({LAYER: layers, HEAD: heads})
        stacks[direction] = [
            fit_stack(values.to_numpy(), dims, _STACK_BYTES[dims])
            for dims, values in (
                ((LAYER, STEP), by_group),
                ((LAYER, HEAD), by_head),
                ((), own.ulam),
            )
        ]
        grid = [int(length) for length in own.ulam.shape]
        if any(stack["shape"][-2:] != grid for stack in stacks[direction]):
            shown = ", ".join(
                f"{stack['shape'][-2]} × {stack['shape'][-1]} ({_over(stack['dims'])})"
                for stack in stacks[direction]
            )
            notes.append(
                f"{direction.upper()} maps are shown on coarser grids than their {grid[0]} × {grid[1]}: {shown}."
            )
    count = groups[-1].stop
    if len(groups) < count:
        notes.append(f"The {count} steps are shown as the means of {len(groups)} groups.")
    return stacks, notes


def curves(means: dict[DirectionName, MapMeans], sample: xr.DataTree) -> list[dict[str, Any]]:
    """Return how attention spreads at each step: the share inside the mask, or of the brightest tenth."""
    found = []
    for direction, own in means.items():
        steps = own.by_step[STEP].to_numpy()
        timesteps = sample.dataset[TIMESTEP].sel({STEP: steps}).to_numpy()
        words, chance = _measure_words(direction, own)
        layers = _measured(own.by_layer_and_step, own)
        lines = [{"name": "mean", "y": to_json_numbers(_measured(own.by_step, own))}]
        if len(layers) > 1:
            lines += [
                {"name": f"least of {len(layers)} layers", "y": _over_layers(layers, np.nanmin)},
                {"name": f"most of {len(layers)} layers", "y": _over_layers(layers, np.nanmax)},
            ]
        found.append(
            {
                "title": f"{direction.upper()}: {words}",
                "x_label": "timestep, from noise to picture",
                "y_label": "share of attention",
                "x": [float(timestep) for timestep in timesteps],
                "lines": lines,
                "chance": chance,
            }
        )
    return found


def matrices(
    means: dict[DirectionName, MapMeans], layers: Sequence[str], heads: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the same of each head of each layer, of the means over steps.

    Parameters
    ----------
    means : dict of direction to MapMeans
    layers, heads : sequence of str
        The page's axes: the direction's own layers and heads are among them.
    """
    found = []
    labels = [int(head) for head in heads]
    for direction, own in means.items():
        maps = own.by_layer_and_head.reindex({LAYER: list(layers), HEAD: labels})
        found.append(
            {
                "title": f"{direction.upper()}: {_measure_words(direction, own)[0]}",
                "rows": [*layers],
                "columns": [*heads],
                "values": to_json_numbers(_measured(maps, own)),
            }
        )
    return found


def _measure_words(direction: DirectionName, own: MapMeans) -> tuple[str, float]:
    """Return what is measured of a direction's maps, and what it is of an even map."""
    if own.mask is None:
        return "share in the brightest tenth of the map", 0.1
    chance = spread(own.ulam, own.mask)["chance"]
    return f"share inside {_MASKS[direction]}", float(f"{float(chance):.4g}")


def _measured(maps: xr.DataArray, own: MapMeans) -> NDArray[Any]:
    name = "concentration" if own.mask is None else "inside"
    found: NDArray[Any] = spread(maps, own.mask)[name].to_numpy()
    return found


def _over_layers(values: NDArray[Any], reduce: Any) -> list[Any]:
    return to_json_numbers(np.asarray(reduce(values, axis=0)))


def _group_means(maps: xr.DataArray, groups: Sequence[slice]) -> xr.DataArray:
    """Return maps (layer, step, …) as means over groups of steps."""
    if len(groups) == maps.sizes[STEP]:
        return maps
    return xr.concat([maps.isel({STEP: group}).mean(STEP) for group in groups], STEP).transpose(
        LAYER, STEP, ...
    )


def _over(dims: Sequence[str]) -> str:
    return f"each {' and '.join(dims)}" if dims else "the mean of all"
