"""What would be read if some reference tokens weighed more or less: from stored Q and K, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from i2am.analysis.effects.region_masses import layer_masses, masses_on_grid
from i2am.analysis.kernel.resize import Grid, largest_grid
from i2am.analysis.maps.levels import MapsOfLayer, stack_layers
from i2am.analysis.maps.regions import layers_with_sram, resolve_regions
from i2am.analysis.stores.boxes import image_box, pixel_coordinates
from i2am.analysis.stores.layers import Labels, SelectedLayer, select_layers, step_labels
from i2am.schemas import AnalysisError, Box
from i2am.schemas.dims import CONDITIONAL, CUT, GENERATED_PLANE, STEP
from i2am.schemas.directions import R2G

__all__ = ["what_if"]


def what_if(
    sample: xr.DataTree,
    region: ArrayLike | xr.DataArray,
    *,
    scale: float = 0.0,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    grid: Grid | None = None,
) -> xr.Dataset:
    """Return how attention would change if the tokens of a region weighed `scale` times as much.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    region : (y0, x0, y1, x1) or mask (reference_y, reference_x)
        Of the stored reference, in its pixels. The tokens are those whose centre lies in it, as ``cut``
        takes them.
    scale : float
        By what their weight in each softmax is multiplied: 0 cuts them, 1 changes nothing.
    layers, steps, heads, guidance
        As in `analyze`.
    grid : (height, width), optional
        Of patches; by default the finest generated grid of the selected layers. A patch takes that of
        each layer which holds its centre: nothing is interpolated.

    Returns
    -------
    Dataset
        ``before`` and ``after``, dims (layer, step, head, y, x), float32, 0..1, lazy: the share of each
        patch's attention that goes to the region. Heads that a layer lacks are NaN. Layers without a
        reference grid, with one token, or reduced to maps at capture are left out.

    Raises
    ------
    AnalysisError
        If no selected layer has SRAM, the region is none or holds no token of any layer, or the scale is
        negative or not finite.

    Notes
    -----
    With p the share before, the one after is ``scale * p / (1 - p + scale * p)``: a softmax whose logits
    at these tokens have ``log(scale)`` added. That is exact for one layer at one step, for its attention.
    It leaves out the tokens' values, so it does not measure the picture; and it leaves out that all later
    layers and steps would have other queries. ``i2am causal`` measures what really changes.

    Examples
    --------
    >>> layer = {
    ...     "scale": 1.0, "generated_grid": [1, 1], "reference_grid": [1, 2], "special_tokens": 0,
    ...     "order": 0, "block": "down", "representation": "logits", "causal": True,
    ... }
    >>> dims = ("step", "head", "generated", "reference")
    >>> blank = np.zeros((4, 8, 3), np.uint8)
    >>> sample = xr.DataTree.from_dict({
    ...     "/": xr.Dataset(coords={"step": [0]}),
    ...     "/images": xr.Dataset({
    ...         "generated": (("y", "x", "rgb"), blank),
    ...         "reference": (("reference_y", "reference_x", "rgb"), blank),
    ...     }),
    ...     "/layers/down": xr.Dataset({"logits": (dims, np.zeros((1, 1, 1, 2)))}, attrs={"i2am": layer}),
    ... })
    >>> found = what_if(sample, (0, 0, 4, 4), scale=3)  # one of two tokens that are read alike
    >>> float(found["before"].squeeze()), float(found["after"].squeeze())
    (0.5, 0.75)
    """
    if not (math.isfinite(scale) and scale >= 0):
        msg = f"Expected a scale from 0 on, got {scale:g}, at scale. 0 cuts the tokens, 2 doubles them."
        raise AnalysisError(msg)
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    labels = step_labels(sample, steps)
    kept = layers_with_sram(sample, select_layers(sample, named, labels, heads, guidance), named)
    held = [_tokens_in(sample, layer, region) for layer in kept]
    if not any(tokens.any() for tokens in held):
        msg = (
            "Expected a region that holds the centre of a token, got one without any, at region. Give a "
            "larger one, in pixels of the stored reference that the model saw."
        )
        raise AnalysisError(msg)
    grid = grid or largest_grid(layer.attributes.generated_grid for layer in kept)
    before: list[MapsOfLayer] = []
    after: list[MapsOfLayer] = []
    for layer, tokens in zip(kept, held, strict=True):
        share = layer_masses(layer, tokens[:, None], apply_region=False).isel({CUT: 0}, drop=True)
        moved = _rescaled(share, scale)
        for found, values in ((before, share), (after, moved)):
            on_grid = masses_on_grid(_of_region(layer, values), grid)
            found.append((layer, on_grid.transpose(..., *GENERATED_PLANE)))
    both = xr.Dataset({"before": stack_layers(before), "after": stack_layers(after)})
    pixels = pixel_coordinates(sample, R2G.image, GENERATED_PLANE, grid)
    return both.assign_coords({STEP: labels, **pixels})


def _rescaled(share: xr.DataArray, scale: float) -> xr.DataArray:
    """Return the share of tokens whose weight is multiplied; 0 where nothing else was read and they go."""
    weight = np.float32(scale)
    rest = np.float32(1) - share + weight * share
    return (weight * share / rest.where(rest > 0, 1)).astype(np.float32)


def _of_region(layer: SelectedLayer, share: xr.DataArray) -> xr.DataArray:
    """Return shares by what the layer multiplies the reference's contribution to each patch."""
    if layer.region is None:
        return share
    plane = layer.region.reshape(layer.attributes.generated_grid)
    return share * xr.DataArray(plane, dims=share.dims[-2:])


def _tokens_in(
    sample: xr.DataTree, layer: SelectedLayer, region: ArrayLike | xr.DataArray
) -> NDArray[np.float32]:
    """Return which of a layer's reference tokens have their centre in a region, (reference,) 0 or 1."""
    image = layer.attributes.reference_image()
    grid = layer.attributes.reference_grid or (1, 1)
    rows, columns = (np.asarray(axis) for axis in image_box(sample, image).cell_centres(grid))
    values: Any = np.asarray(region)
    if values.shape == (len(Box._fields),):
        y0, x0, y1, x1 = values.astype(np.float64)
        if not (y0 < y1 and x0 < x1):
            msg = (
                f"Expected a region with y0 < y1 and x0 < x1, got {values.tolist()}, at region. Give its "
                "corners in pixels of the stored reference."
            )
            raise AnalysisError(msg)
        inside = ((y0 <= rows) & (rows < y1))[:, None] & ((x0 <= columns) & (columns < x1))
    else:
        resolve_regions(sample, region, image)  # Raises what is wrong with the mask.
        height, width = values.shape
        y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
        stored = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
        at = np.ix_(np.clip(y, 0, height - 1), np.clip(x, 0, width - 1))
        inside = stored & (values[at] != 0)
    special = np.zeros(layer.attributes.special_tokens, np.float32)
    return np.concatenate([special, inside.reshape(-1).astype(np.float32)])
