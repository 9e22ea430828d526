"""Specific-reference maps (SRAM): what one region of the generated image read, and the reverse.

Only the query rows of the region (for a region of the reference: its keys) are read and multiplied,
so that SRAM costs a hundredth of the volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.logits import block_logits
from i2am.analysis.kernel.resize import Grid, resize_to_grid
from i2am.analysis.kernel.softmax import region_means, row_shares
from i2am.analysis.maps.analyze import check_options, check_weights
from i2am.analysis.maps.layer_maps import check_frames, map_layer_blocks
from i2am.analysis.maps.levels import mean_of_layers, stack_layers
from i2am.analysis.maps.live_sram import whole_sram
from i2am.analysis.maps.regions import (
    REGION,
    Regions,
    SramRequest,
    check_one_side,
    check_request,
    kept_dims,
)
from i2am.analysis.stores.effects import weights_of_layers
from i2am.analysis.stores.layers import Labels, SelectedLayer, select_layers, step_labels
from i2am.schemas import AnalysisError
from i2am.schemas.choices import LayerWeights, Normalisation
from i2am.schemas.dims import (
    CONDITIONAL,
    GENERATED,
    GENERATED_PLANE,
    HEAD,
    LAYER,
    REFERENCE,
    REFERENCE_PLANE,
    STEP,
)

__all__ = ["region_maps", "sram"]

# So many are read at once; see `whole_sram`.
_FEW_REGIONS: Final = 32
# Regions in one task: with more, the maps of a block would fill the memory.
_MAX_REGIONS: Final = 128


def sram(
    sample: xr.DataTree,
    *,
    generated: Regions | None = None,
    reference: Regions | None = None,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    keep: Iterable[str] = (),
    guidance: str = CONDITIONAL,
    normalisation: Normalisation = "mass",
    weights: LayerWeights | None = None,
    effects: xr.Dataset | None = None,
) -> xr.DataArray:
    """Return where on the reference a region of the generated image read from, or the reverse.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    generated : (y, x) or mask (y, x), optional
        A place in the stored generated image, in pixels: whole numbers name a pixel, fractions a
        position in it; each layer takes the patch that holds it. Or a mask of that image's size
        (bool, or 0 and 1, or 0 and 255): each layer takes the mean over the patches that hold its
        pixels; those that the model did not see are left out. Or many at once: a list of places and
        masks, or one array (region, y, x), whose ``region`` coordinate, if it has one, names them.
    reference : (y, x) or mask (reference_y, reference_x), optional
        The same of the stored reference image (for layers of a further reference, of that one):
        where on the generated image that region went. Give one of the two.
    layers, steps, heads, guidance, normalisation, weights, effects
        As in `analyze`; the weights are those of the mean over layers.
    keep : iterable of str
        Of "layer", "step" and "head": the dimensions to keep; the others are averaged over.

    Returns
    -------
    DataArray
        Dims ([region,] kept dims, reference_y, reference_x), for a region of the reference
        ([region,] kept dims, y, x), on the largest grid of the selected layers; ``region`` if many
        were given, numbered or named; float32, at least 0, lazy. Layers without a reference grid,
        with one token, or reduced to maps at capture are left out. Coordinates as in `analyze`. The
        attribute ``reference_image`` names the stored image that the layers look at.

    Raises
    ------
    AnalysisError
        If no selected layer has SRAM, or one whose full name is given has none; the named layers
        look at different reference images; a region is not in the image, or lies where the model
        saw nothing of it; neither or both of `generated` and `reference` are given; a label was
        not captured; or weights are asked for and the layers are kept, no effects are given, or a
        layer has none.

    Notes
    -----
    ``softmax_R(S)[p, :]``, for a region of the reference ``softmax_P(S)[:, r]``; resized and clamped
    at 0 before the means over layers, steps and heads. Many regions share the reads and the
    exponentials, so that they cost little more than one.

    Examples
    --------
    >>> layer = {
    ...     "scale": 1.0, "generated_grid": [2, 2], "reference_grid": [2, 2], "special_tokens": 0,
    ...     "order": 0, "block": "down", "representation": "logits", "causal": True,
    ... }
    >>> logits = 50 * np.eye(4, dtype=np.float32)[None, None]  # each patch looks at its own token
    >>> dims = ("step", "head", "generated", "reference")
    >>> blank = ("y", "x", "rgb"), np.zeros((8, 8, 3), np.uint8)
    >>> sample = xr.DataTree.from_dict({
    ...     "/": xr.Dataset(coords={"step": [0]}),
    ...     "/images": xr.Dataset({"generated": blank}),
    ...     "/layers/down": xr.Dataset({"logits": (dims, logits)}, attrs={"i2am": layer}),
    ... })
    >>> sram(sample, generated=(0, 7)).values.round(2).tolist()  # a pixel at the upper right
    [[0.0, 1.0], [0.0, 0.0]]
    """
    check_one_side(generated, reference)
    kept = kept_dims(keep)
    check_options("i2am", normalisation)
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    labels = step_labels(sample, steps)
    selected = select_layers(sample, named, labels, heads, guidance)
    request = check_request(sample, selected, named, generated, reference)
    if request.from_reference:
        for layer in request.layers:
            check_frames(layer, request.grid)
    averaged = [dim for dim in (LAYER, STEP, HEAD) if dim not in kept]
    own = _weights(request, check_weights(weights, effects), kept)
    if not kept and own is None and len(request.regions.places) <= _FEW_REGIONS:
        read = partial(whole_sram, request, labels, guidance, normalisation)
        return request.label(_in_one_task(read, request), averaged, normalisation)
    volumes = _volumes(request, density=normalisation == "density")
    parts = [mean_of_layers(one.assign_coords({STEP: labels}), averaged, own) for one in volumes]
    found = request.label(xr.concat(parts, REGION).transpose(REGION, ...), averaged, normalisation)
    return found if weights is None else found.assign_attrs(weights=weights)


def _in_one_task(read: Callable[[], NDArray[np.float32]], request: SramRequest) -> xr.DataArray:
    """Return what a function reads, (region, plane), lazily: a graph of one task.

    Planning tasks for each block of each layer takes many times longer than to read a few regions.
    """
    shape = (len(request.regions.places), *request.grid)
    lazy = da.map_blocks(
        read,
        name=f"sram-{uuid4().hex}",
        chunks=tuple((length,) for length in shape),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return xr.DataArray(lazy, dims=(REGION, *request.plane))


def _weights(
    request: SramRequest, weights: Mapping[str, float] | None, kept: Container[str]
) -> NDArray[np.float64] | None:
    """Return the weights of the request's layers, in their order."""
    if weights is None:
        return None
    if LAYER in kept:
        msg = (
            "Expected a mean over the layers to weigh, got keep='layer', at sram. Leave one of the two "
            "out: causal_weights() has the weights."
        )
        raise AnalysisError(msg)
    return weights_of_layers(weights, [layer.name for layer in request.layers])


def _volumes(request: SramRequest, *, density: bool) -> Iterator[xr.DataArray]:
    """Yield maps (layer, step, head, region, plane), of a limited number of regions each."""
    grid = request.grid
    rows = {layer.name: request.query_rows(layer) for layer in request.layers}
    for first in range(0, len(request.regions.places), _MAX_REGIONS):
        maps = []
        for layer in request.layers:
            some = rows[layer.name][first : first + _MAX_REGIONS]
            found = region_maps(
                layer, some, grid, from_reference=request.from_reference, density=density
            )
            maps.append((layer, found))
        yield stack_layers(maps)


def region_maps(
    layer: SelectedLayer,
    regions: Sequence[NDArray[np.intp]],
    grid: Grid,
    *,
    from_reference: bool,
    density: bool,
) -> xr.DataArray:
    """Return what each region read from the reference, or the reverse, of each head and step.

    Parameters
    ----------
    layer : SelectedLayer
    regions : sequence of array of int
        The generated patches of each region, or with `from_reference` its reference tokens. No
        others are read, and none twice.
    grid : (height, width)
        The common grid of the other side.
    from_reference : bool
        The regions are of the reference.
    density : bool
        Multiply by the number of positions of the softmax.

    Returns
    -------
    DataArray
        Dims (step, head, region, reference_y, reference_x), or (step, head, region, y, x) with
        `from_reference`; the mean over each region, resized and clamped at 0; float32, lazy.

    Raises
    ------
    AnalysisError
        If the layer's frames do not fit into the common grid.
    """
    rows, shares = row_shares(regions)
    dim = REFERENCE if from_reference else GENERATED
    arrays = (
        layer.arrays.drop_vars("logsumexp", errors="ignore") if from_reference else layer.arrays
    )
    picked = arrays.isel({dim: rows}, missing_dims="ignore")
    own = layer.attributes.generated_grid if from_reference else layer.attributes.reference_grid
    (maps,) = map_layer_blocks(
        _block_region_maps,
        layer,
        picked,
        [(REGION, *(GENERATED_PLANE if from_reference else REFERENCE_PLANE))],
        [(len(regions), *grid)],
        rows={dim: rows},
        own=own,
        shares=shares,
        special_tokens=0 if from_reference else layer.attributes.special_tokens,
        from_reference=from_reference,
        density=density,
        frames=layer.attributes.frames if from_reference else 1,
        region=layer.region if layer.region is None or from_reference else layer.region[rows],
    )
    return maps


def _block_region_maps(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[tuple[int, ...]],
    own: Grid,
    shares: NDArray[np.float32],
    special_tokens: int,
    from_reference: bool,
    density: bool,
    frames: int,
    region: NDArray[np.float32] | None,
) -> NDArray[Any]:
    logits, total, shape = block_logits(arrays, names, scale)
    if from_reference:
        means = region_means(logits.transposed(), shares)
        means = means if region is None else means * region
    else:
        means = region_means(logits, shares, total, region)
    regions, height, width = grids[0]
    factor = means.shape[2] if density else 1
    flat = means[..., special_tokens:]
    return resize_to_grid(flat, own, (height, width), (*shape, regions), factor, frames)
