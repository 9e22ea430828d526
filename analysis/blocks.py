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

from i2am.analysis.blockwise import apply_to_blocks, check_frames, on_grid, scores_of
from i2am.analysis.grid import Grid
from i2am.analysis.kernel import (
    DirectionalMeans,
    directional_means,
    token_softmax,
)
from i2am.analysis.selection import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.dims import GENERATED_PLANE, REFERENCE_PLANE

__all__ = ["LayerMaps", "layer_maps", "layer_probability"]

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
        float32, lazy. Mass is there where other keys share the layer's softmax.

    Raises
    ------
    AnalysisError
        If the layer's frames do not fit into the common grid.
    """
    check_frames(layer, generated)
    own_reference = layer.attributes.reference_grid if layer.has_g2r and reference else None
    has_mass = layer.has_mass
    planes: list[tuple[str, ...]] = [GENERATED_PLANE]
    grids: list[tuple[int, ...]] = [generated]
    if own_reference is not None and reference is not None:
        planes.append(REFERENCE_PLANE)
        grids.append(reference)
    if has_mass:
        planes.append(_MASS_PLANE)
        grids.append(generated)
    maps = apply_to_blocks(
        _block_maps,
        layer.blocks,
        layer.attributes.scale,
        planes,
        grids,
        own_generated=layer.attributes.generated_grid,
        own_reference=own_reference,
        special_tokens=layer.attributes.special_tokens,
        factors=(layer.attributes.generated_tokens(), layer.tokens) if density else (1, 1),
        frames=layer.attributes.frames,
    )
    found = iter(maps)
    r2g = next(found)
    g2r = next(found) if own_reference is not None else None
    mass = next(found) if has_mass else None
    if mass is not None:
        mass = mass.rename(dict(zip(_MASS_PLANE, GENERATED_PLANE, strict=True)))
    return LayerMaps(r2g, g2r, mass)


def layer_probability(layer: SelectedLayer) -> xr.DataArray:
    """Return the softmax over the patches, not averaged: dims (step, head, token, y, x), lazy.

    Raises
    ------
    AnalysisError
        If the layer was averaged when it was captured.
    """
    if not layer.has_scores:
        msg = (
            "Expected a layer with its scores, as each token's map is resized for itself, got one "
            f"that was reduced to maps at capture, at {layer.name}. Capture with representation "
            "'auto', or use convention 'i2am'."
        )
        raise AnalysisError(msg)
    grid = layer.attributes.generated_grid
    (maps,) = apply_to_blocks(
        _block_probability,
        layer.blocks,
        layer.attributes.scale,
        [("token", *GENERATED_PLANE)],
        [(layer.tokens, *grid)],
    )
    return maps


def _block_maps(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[Grid],
    own_generated: Grid,
    own_reference: Grid | None,
    special_tokens: int,
    factors: tuple[int, int],
    frames: int,
) -> tuple[NDArray[Any], ...] | NDArray[Any]:
    (r2g, g2r, mass), lead = _means(arrays, names, scale)
    maps = [on_grid(r2g, own_generated, grids[0], lead, factors[0], frames)]
    if own_reference is not None:
        placed = g2r[:, special_tokens:]
        maps.append(on_grid(placed, own_reference, grids[1], lead, factors[1]))
    if mass is not None:
        maps.append(on_grid(mass, own_generated, grids[-1], lead, 1, frames))
    return tuple(maps) if len(maps) > 1 else maps[0]


def _means(
    arrays: tuple[NDArray[Any], ...], names: list[str], scale: float
) -> tuple[DirectionalMeans, tuple[int, ...]]:
    """Return a block's means, or those that were taken at capture, and the leading dimensions."""
    if "r2g" not in names:
        scores, total, lead = scores_of(arrays, names, scale)
        return directional_means(scores, total), lead
    lead = arrays[names.index("r2g")].shape[:-1]
    given = {n: a.reshape(-1, a.shape[-1]) for n, a in zip(names, arrays, strict=True)}
    no_tokens = np.empty((math.prod(lead), 0), np.float32)
    return DirectionalMeans(given["r2g"], given.get("g2r", no_tokens), given.get("mass")), lead


def _block_probability(
    *arrays: NDArray[Any], names: list[str], scale: float, grids: list[tuple[int, ...]]
) -> NDArray[Any]:
    scores, _, lead = scores_of(arrays, names, scale)
    return token_softmax(scores).reshape(*lead, *grids[0])
