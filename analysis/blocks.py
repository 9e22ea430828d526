"""Lazy maps of one layer: the kernel and the resize applied to each block of steps and heads.

One task reads a block, makes both maps and puts them on the common grid; so the number of tasks
grows with the blocks, never with the pixels, and scores never leave their task.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.grid import Grid, resize
from i2am.analysis.kernel import (
    Factors,
    Logits,
    Scores,
    directional_means,
    softmax_mean,
    token_softmax,
)
from i2am.analysis.selection import SelectedLayer
from i2am.schemas.dims import (
    CHANNEL,
    GENERATED,
    GENERATED_PLANE,
    HEAD,
    REFERENCE,
    REFERENCE_PLANE,
    STEP,
)

__all__ = ["LayerMaps", "layer_maps", "layer_probability", "layer_rows"]

_MASS_PLANE = ("mass_y", "mass_x")


class LayerMaps(NamedTuple):
    """Maps of one layer on the common grids, each step and head; None where one does not exist."""

    r2g: xr.DataArray
    g2r: xr.DataArray | None
    mass: xr.DataArray | None


def layer_maps(
    layer: SelectedLayer, generated: Grid, reference: Grid | None, *, density: bool
) -> LayerMaps:
    """Return a layer's maps on the common grids, resized and clamped at 0.

    Parameters
    ----------
    layer : SelectedLayer
    generated, reference : (height, width)
        The common grids; no reference grid, no G2R.
    density : bool
        Multiply by the number of positions that were softmaxed over.

    Returns
    -------
    LayerMaps
        r2g and mass over (step, head, y, x), g2r over (step, head, reference_y, reference_x);
        float32, lazy. Mass is there where the layer has ``logsumexp``.
    """
    own_reference = layer.attributes.reference_grid if layer.has_g2r and reference else None
    has_mass = "logsumexp" in layer.arrays
    planes: list[tuple[str, ...]] = [GENERATED_PLANE]
    grids: list[tuple[int, ...]] = [generated]
    if own_reference is not None and reference is not None:
        planes.append(REFERENCE_PLANE)
        grids.append(reference)
    if has_mass:
        planes.append(_MASS_PLANE)
        grids.append(generated)
    maps = _apply(
        _block_maps,
        layer,
        planes,
        grids,
        own_generated=layer.attributes.generated_grid,
        own_reference=own_reference,
        special_tokens=layer.attributes.special_tokens,
        density=density,
    )
    found = iter(maps)
    r2g = next(found)
    g2r = next(found) if own_reference is not None else None
    mass = next(found) if has_mass else None
    if mass is not None:
        mass = mass.rename(dict(zip(_MASS_PLANE, GENERATED_PLANE, strict=True)))
    return LayerMaps(r2g, g2r, mass)


def layer_rows(
    layer: SelectedLayer, rows: NDArray[np.intp], grid: Grid, *, of_reference: bool, density: bool
) -> xr.DataArray:
    """Return what some patches read from the reference, or the mirror, each head and step.

    Parameters
    ----------
    layer : SelectedLayer
    rows : array of int
        Generated patches, or with `of_reference` reference tokens; only these are read.
    grid : (height, width)
        The common grid of the other side.
    of_reference : bool
        Ask the mirror question.
    density : bool
        As in `layer_maps`.

    Returns
    -------
    DataArray
        Dims (step, head, reference_y, reference_x), or (step, head, y, x) for the mirror; the
        mean over `rows`, resized and clamped at 0; float32, lazy.
    """
    dim = REFERENCE if of_reference else GENERATED
    arrays = {
        name: array.isel({dim: rows}) if dim in array.dims else array
        for name, array in layer.arrays.items()
        if not (of_reference and name == "logsumexp")
    }
    subset = SelectedLayer(layer.name, layer.attributes, xr.Dataset(arrays), layer.heads)
    own = layer.attributes.generated_grid if of_reference else layer.attributes.reference_grid
    (maps,) = _apply(
        _block_rows,
        subset,
        [GENERATED_PLANE if of_reference else REFERENCE_PLANE],
        [grid],
        own=own,
        special_tokens=0 if of_reference else layer.attributes.special_tokens,
        of_reference=of_reference,
        density=density,
    )
    return maps


def layer_probability(layer: SelectedLayer) -> xr.DataArray:
    """Return the softmax over the patches, not averaged: dims (step, head, token, y, x), lazy."""
    grid = layer.attributes.generated_grid
    (maps,) = _apply(
        _block_probability, layer, [("token", *GENERATED_PLANE)], [(layer.tokens, *grid)]
    )
    return maps


def _apply(
    function: Any,
    layer: SelectedLayer,
    planes: list[tuple[str, ...]],
    sizes: list[tuple[int, ...]],
    **options: Any,
) -> list[xr.DataArray]:
    """Apply a block function over steps and heads; one output for each plane."""
    core = {
        "query": [GENERATED, CHANNEL],
        "key": [REFERENCE, CHANNEL],
        "logits": [GENERATED, REFERENCE],
        "logsumexp": [GENERATED],
    }
    names = [name for name in core if name in layer.arrays]
    outputs = xr.apply_ufunc(
        function,
        # Patches, tokens and channels are whole in each block.
        *(layer.arrays[name].chunk(dict.fromkeys(core[name], -1)) for name in names),
        input_core_dims=[core[name] for name in names],
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


def _scores(
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


def _block_maps(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[Grid],
    own_generated: Grid,
    own_reference: Grid | None,
    special_tokens: int,
    density: bool,
) -> tuple[NDArray[Any], ...] | NDArray[Any]:
    scores, total, lead = _scores(arrays, names, scale)
    r2g, g2r, mass = directional_means(scores, total)
    patches, tokens = scores.shape[1:]
    maps = [_on_grid(r2g, own_generated, grids[0], lead, patches if density else 1)]
    if own_reference is not None:
        placed = g2r[:, special_tokens:]
        maps.append(_on_grid(placed, own_reference, grids[1], lead, tokens if density else 1))
    if mass is not None:
        maps.append(_on_grid(mass, own_generated, grids[-1], lead, 1))
    return tuple(maps) if len(maps) > 1 else maps[0]


def _block_rows(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[Grid],
    own: Grid,
    special_tokens: int,
    of_reference: bool,
    density: bool,
) -> NDArray[Any]:
    scores, total, lead = _scores(arrays, names, scale)
    mean = softmax_mean(scores.transposed() if of_reference else scores, total)
    factor = mean.shape[1] if density else 1
    return _on_grid(mean[:, special_tokens:], own, grids[0], lead, factor)


def _block_probability(
    *arrays: NDArray[Any], names: list[str], scale: float, grids: list[tuple[int, ...]]
) -> NDArray[Any]:
    scores, _, lead = _scores(arrays, names, scale)
    return token_softmax(scores).reshape(*lead, *grids[0])


def _on_grid(
    flat: NDArray[Any], own: Grid, wanted: Grid, lead: tuple[int, ...], factor: int
) -> NDArray[Any]:
    """Return flat maps (n, positions) on the wanted grid, at least 0, with the block's lead."""
    maps = flat.reshape(math.prod(lead), *own)
    if factor != 1:
        maps = maps * np.float32(factor)
    placed: NDArray[Any] = np.maximum(resize(maps, wanted), 0).reshape(*lead, *wanted)
    return placed
