"""How much of each patch's attention lies in each region of the reference: SRAM, summed into regions.

Measured effects tell what a region did to a patch; this is what the maps say of the same two, so that
one can be held against the other. And the orders in which the maps would have regions cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from i2am.analysis.kernel.logits import block_logits
from i2am.analysis.kernel.reading import read_of_groups
from i2am.analysis.kernel.resize import Grid, largest_grid
from i2am.analysis.maps.layer_maps import map_layer_blocks
from i2am.analysis.maps.regions import layers_with_sram, resolve_regions
from i2am.analysis.stores.boxes import image_box, pixel_coordinates
from i2am.analysis.stores.effects import weights_of_layers
from i2am.analysis.stores.layers import (
    Labels,
    SelectedLayer,
    select_layers,
    sram_layers,
    step_labels,
)
from i2am.schemas import AnalysisError, Box
from i2am.schemas.choices import check_choice
from i2am.schemas.dims import (
    CONDITIONAL,
    CUT,
    GENERATED_PLANE,
    HEAD,
    LAYER,
    STEP,
    X,
    Y,
)
from i2am.schemas.directions import R2G

__all__ = [
    "ORDERS",
    "cell_order",
    "layer_masses",
    "masses_on_grid",
    "mean_over_layers",
    "nearness",
    "object_patches",
    "region_masses",
]

ORDERS: Final = ("map", "least", "random", "position")
_DECIMALS: Final = 9
_PATCHES: Final = ("generated_y", "generated_x")


def region_masses(
    sample: xr.DataTree,
    boxes: ArrayLike | xr.DataArray,
    *,
    grid: Grid | None = None,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
) -> xr.DataArray:
    """Return how much of each patch's attention lies in each region of the reference, by layer.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    boxes : array (cut, corner)
        y0, x0, y1, x1 of each region in pixels of the stored reference, as ``cut_box`` of measured
        effects. A token counts by the share of its area that lies in the region.
    grid : (height, width), optional
        Of patches; by default the finest generated grid of the selected layers, as effects have it.
        A patch takes that of each layer which holds its centre.
    layers, steps, heads, guidance
        As in `analyze`.

    Returns
    -------
    DataArray
        Dims (layer, cut, y, x), means over steps and heads, float32, 0..1, lazy; coordinates
        layer, y and x. Layers without a reference grid, with one token, or reduced to maps at
        capture are left out.

    Raises
    ------
    AnalysisError
        If no selected layer has SRAM, or one whose full name is given has none; or the boxes are
        none, or the picture that they are of is not stored.

    Notes
    -----
    With p the attention of a patch over all keys of a layer: the sum over the reference's tokens r of
    p[r] times the share of r in the region.

    Examples
    --------
    >>> layer = {
    ...     "scale": 1.0, "generated_grid": [2, 2], "reference_grid": [2, 2], "special_tokens": 0,
    ...     "order": 0, "block": "down", "representation": "logits", "causal": True,
    ... }
    >>> logits = 50 * np.eye(4, dtype=np.float32)[None, None]  # each patch looks at its own token
    >>> dims = ("step", "head", "generated", "reference")
    >>> blank = np.zeros((8, 8, 3), np.uint8)
    >>> sample = xr.DataTree.from_dict({
    ...     "/": xr.Dataset(coords={"step": [0]}),
    ...     "/images": xr.Dataset({
    ...         "generated": (("y", "x", "rgb"), blank),
    ...         "reference": (("reference_y", "reference_x", "rgb"), blank),
    ...     }),
    ...     "/layers/down": xr.Dataset({"logits": (dims, logits)}, attrs={"i2am": layer}),
    ... })
    >>> masses = region_masses(sample, [[0, 0, 8, 4], [0, 4, 8, 8]])  # the left and the right half
    >>> masses.sel(layer="down").values.round(2).tolist()
    [[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]
    """
    corners = _checked_boxes(boxes)
    named = layers if layers is None or isinstance(layers, str) else list(layers)
    selected = select_layers(sample, named, step_labels(sample, steps), heads, guidance)
    kept = layers_with_sram(sample, selected, named)
    grid = grid or largest_grid(layer.attributes.generated_grid for layer in kept)
    seen = image_box(sample, kept[0].attributes.reference_image())
    found = []
    for layer in kept:
        groups = _shares_of_tokens(layer, corners, seen)
        own = layer_masses(layer, groups).mean((STEP, HEAD), dtype=np.float64)
        found.append(masses_on_grid(own.astype(np.float32), grid))
    masses = xr.concat(found, LAYER).assign_coords(
        {
            LAYER: [layer.name for layer in kept],
            **pixel_coordinates(sample, R2G.image, GENERATED_PLANE, grid),
        }
    )
    return masses.transpose(LAYER, CUT, *GENERATED_PLANE).rename("mass")


def _checked_boxes(boxes: ArrayLike | xr.DataArray) -> NDArray[np.float64]:
    corners = np.asarray(boxes, np.float64)
    if corners.ndim != 2 or corners.shape[-1] != len(Box._fields) or not corners.size:
        msg = (
            f"Expected boxes (cut, corner) of y0, x0, y1, x1, got an array of {corners.shape}, at "
            "boxes. Give one row a region, as cut_box of measured effects."
        )
        raise AnalysisError(msg)
    return corners


def _shares_of_tokens(
    layer: SelectedLayer, corners: NDArray[np.float64], seen: Box
) -> NDArray[np.float32]:
    """Return how much of each token's area lies in each region, (reference, cut); none of special ones."""
    height, width = layer.attributes.reference_grid or (1, 1)
    rows = _shares_of_cells(height, seen.y0, seen.height, corners[:, 0], corners[:, 2])
    columns = _shares_of_cells(width, seen.x0, seen.width, corners[:, 1], corners[:, 3])
    shares = rows[:, None] * columns[None]
    special = np.zeros((layer.attributes.special_tokens, len(corners)))
    flat = shares.reshape(-1, len(corners))
    joined: NDArray[np.float32] = np.concatenate([special, flat]).astype(np.float32)
    return joined


def _shares_of_cells(
    count: int, begin: float, length: float, low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how much of each of equal cells along a line lies between ends, (cell, end)."""
    edges = begin + np.arange(count + 1) * length / count
    inside = np.minimum(edges[1:, None], high) - np.maximum(edges[:-1, None], low)
    shares: NDArray[np.float64] = np.clip(inside * count / length, 0, 1)
    return shares


def layer_masses(
    layer: SelectedLayer, groups: NDArray[np.float32], *, apply_region: bool = True
) -> xr.DataArray:
    """Return what each of a layer's patches reads from each group of its reference tokens.

    Parameters
    ----------
    layer : SelectedLayer
    groups : array (reference, cut), float32
        How much of each token belongs to each group, 0..1.
    apply_region : bool
        Multiply by what the layer multiplies the reference's contribution by, where it does.

    Returns
    -------
    DataArray
        Dims (step, head, generated_y, generated_x, cut), float32, 0..1, lazy; `masses_on_grid` takes it
        to another grid.
    """
    (masses,) = map_layer_blocks(
        _block_masses,
        layer,
        layer.blocks,
        [(*_PATCHES, CUT)],
        [(*layer.attributes.generated_grid, groups.shape[1])],
        groups=groups,
        region=layer.region if apply_region else None,
    )
    return masses


def _block_masses(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[tuple[int, ...]],
    groups: NDArray[np.float32],
    region: NDArray[np.float32] | None,
) -> NDArray[Any]:
    logits, total, shape = block_logits(arrays, names, scale)
    read = read_of_groups(logits, groups, total)
    if region is not None:
        read *= region[:, None]
    return read.reshape(*shape, *grids[0])


def masses_on_grid(masses: xr.DataArray, grid: Grid) -> xr.DataArray:
    """Return masses of a layer's own patches on another grid: each takes the patch with its centre."""
    picked = {}
    for dim, own, size in zip(_PATCHES, GENERATED_PLANE, grid, strict=True):
        count = masses.sizes[dim]
        picked[dim] = xr.Variable(own, ((np.arange(size) + 0.5) * count / size).astype(np.intp))
    return masses.isel(picked)


def object_patches(sample: xr.DataTree, grid: Grid, region: Any = None) -> NDArray[np.bool_] | None:
    """Return which patches hold pixels of the generated object, by the stored inpainting mask.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    grid : (height, width)
        Of the patches, over the part of the image that the model saw.
    region : mask (y, x) of bool, optional
        The object, instead of the inpainting mask, in pixels of the stored generated image.

    Returns
    -------
    array (height, width) of bool, or None
        None where no mask is stored, or it tells nothing: it is empty, or no patch is outside.

    Raises
    ------
    AnalysisError
        If `region` is not valid.

    Examples
    --------
    >>> import i2am
    >>> patches = object_patches(i2am.open_run(i2am.DEMO_RUN)["truck"], (16, 16))
    >>> patches.shape, bool(patches.any()), bool(patches.all())
    ((16, 16), True, False)
    """
    if region is not None:
        (own,) = resolve_regions(sample, region, R2G.image).patches(grid)
        inside = np.zeros(grid[0] * grid[1], bool)
        inside[own] = True
        return inside.reshape(grid)
    images = sample.children["images"].dataset if "images" in sample.children else {}
    if R2G.mask not in images or R2G.image not in images:
        return None
    mask = images[R2G.mask].to_numpy() > 127
    if not mask.any():
        return None
    found = np.zeros(grid[0] * grid[1], bool)
    (patches,) = resolve_regions(sample, mask, R2G.image).patches(grid)
    found[patches] = True
    return None if found.all() else found.reshape(grid)


def cell_order(
    sample: xr.DataTree,
    boxes: ArrayLike | xr.DataArray,
    by: str = "map",
    *,
    region: Any = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    **selection: Any,
) -> list[int]:
    """Return the order in which to cut the regions of the reference.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    boxes : array (cut, corner)
        As in `region_masses`.
    by : str
        "map": what the object reads most comes first, by the mean over all layers; "least": what it
        reads least; "random"; "position": what lies at the object's place in the picture comes first; or a
        layer's name: by what the object reads most in that layer alone.
    region : mask (y, x) of bool, optional
        The object, as in `object_patches`.
    weights : mapping of layer to float, optional
        Of the layers in the mean, as `causal_weights` gives them.
    seed : int
        Of "random".
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `region_masses`.

    Returns
    -------
    list of int
        Indices of the regions. Without `region`, the object is what the stored inpainting mask marks;
        without one, the whole picture.

    Raises
    ------
    AnalysisError
        As `region_masses`; or if there is no such order.

    Examples
    --------
    ::

        order = cell_order(open_run("run.zarr")["shirt-001"], effects["cut_box"])
    """
    corners = _checked_boxes(boxes)
    if by == "random":
        return [int(one) for one in np.random.default_rng(seed).permutation(len(corners))]
    masses = region_masses(sample, corners, **selection)
    known = [str(name) for name in masses[LAYER].values]
    if by not in known:
        check_choice("order", by, (*ORDERS, *known), AnalysisError)
    values: NDArray[Any]
    if by == "position":
        values = nearness(sample, corners, (masses.sizes[Y], masses.sizes[X]))
    else:
        one = masses.sel({LAYER: by}) if by in known else mean_over_layers(masses, weights)
        values = one.compute().to_numpy()
    inside = object_patches(sample, values.shape[1:], region)
    of_object = values.mean((1, 2)) if inside is None else values[:, inside].mean(1)
    # Stable, so that equal regions stay in their order whatever the machine.
    order = np.argsort(of_object if by == "least" else -of_object, kind="stable")
    return [int(cut) for cut in order]


def nearness(sample: xr.DataTree, boxes: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return minus the distance of each region and patch, each at its relative place in its picture.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.
    boxes : array (cut, corner)
        As in `region_masses`.
    grid : (height, width)
        Of patches.

    Returns
    -------
    array (cut, y, x), in sides of the picture
    """
    layers = sram_layers(sample).values()
    seen = image_box(sample, next(iter(layers)).reference_image())
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    regions = (centres - [seen.y0, seen.x0]) / [seen.height, seen.width]
    y, x = ((np.arange(count) + 0.5) / count for count in grid)
    distances = np.hypot(regions[:, 0, None, None] - y[:, None], regions[:, 1, None, None] - x)
    # Rounded, so that equal distances are equal on every machine.
    found: NDArray[np.float64] = -distances.round(_DECIMALS)
    return found


def mean_over_layers(
    masses: xr.DataArray, weights: Mapping[str, float] | None = None
) -> xr.DataArray:
    """Return the mean over the layers, each with the same weight or with its own; float32.

    Raises
    ------
    AnalysisError
        If a layer has no weight, or all weights are 0.
    """
    if weights is None:
        return masses.mean(LAYER, dtype=np.float64).astype(np.float32)
    names = [str(name) for name in masses[LAYER].values]
    own = xr.DataArray(weights_of_layers(weights, names), dims=LAYER)
    return ((masses * own).sum(LAYER) / own.sum()).astype(np.float32)
