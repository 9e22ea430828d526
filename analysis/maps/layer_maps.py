"""One layer's lazy maps: a function applied to each block of its steps and heads.

A block holds whole patches, tokens and channels of a few steps and heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.finite import is_all_finite, not_finite_error
from i2am.analysis.kernel.logits import block_logits
from i2am.analysis.kernel.resize import Grid, resize_to_grid
from i2am.analysis.kernel.softmax import DirectionalMeans, directional_means, softmax_over_patches
from i2am.analysis.stores.layers import SelectedLayer
from i2am.schemas import AnalysisError
from i2am.schemas.dims import (
    CHANNEL,
    GENERATED,
    GENERATED_PLANE,
    HEAD,
    REFERENCE,
    REFERENCE_PLANE,
    STEP,
    TEXT,
)

__all__ = [
    "BlockOutputs",
    "LayerMaps",
    "check_frames",
    "layer_maps",
    "layer_probability",
    "map_layer_blocks",
    "split_block",
]

_MASS_PLANE = ("mass_y", "mass_x")
_CORE: Final = {
    "query": [GENERATED, CHANNEL],
    "key": [REFERENCE, CHANNEL],
    "logits": [GENERATED, REFERENCE],
    "logsumexp": [GENERATED],
    "r2g": [GENERATED],
    "g2r": [REFERENCE],
    "mass": [GENERATED],
    "text_key": [TEXT, CHANNEL],
    "text_query": [TEXT, CHANNEL],
    "text_logsumexp": [TEXT],
    "text_weight": [TEXT],
}
_OF_REFERENCE: Final = ("query", "key", "logits", "logsumexp", "r2g", "g2r", "mass")


class BlockOutputs(NamedTuple):
    """What a function gives for each block of a layer, its outputs one behind the other.

    Attributes
    ----------
    joined : dask Array
        Dims (step, head, 1, positions of all outputs), or (step, head, y, x) of the only one.
    sizes : tuple of tuple of int
        Of each output after step and head.
    """

    joined: da.Array
    sizes: tuple[tuple[int, ...], ...]

    def split(self, planes: Sequence[tuple[str, ...]]) -> list[xr.DataArray]:
        """Return each output, lazily, with its own dimensions after step and head."""
        if self.joined.shape[2:] == self.sizes[0]:
            return [xr.DataArray(self.joined, dims=(STEP, HEAD, *planes[0]))]
        steps_heads = self.joined.chunks[:2]
        return [
            xr.DataArray(
                self.joined.map_blocks(
                    _part,
                    part=part,
                    size=size,
                    drop_axis=[2, 3],
                    new_axis=list(range(2, 2 + len(size))),
                    chunks=(*steps_heads, *((length,) for length in size)),
                    meta=np.empty((0,) * (2 + len(size)), np.float32),
                ),
                dims=(STEP, HEAD, *plane),
            )
            for part, size, plane in zip(_parts(self.sizes), self.sizes, planes, strict=True)
        ]


def split_block(
    block: NDArray[np.float32], sizes: Sequence[tuple[int, ...]]
) -> list[NDArray[np.float32]]:
    """Return the outputs, of these sizes, in a block of `BlockOutputs.joined`."""
    if block.shape[2:] == sizes[0]:
        return [block]
    return [_part(block, part, size) for part, size in zip(_parts(sizes), sizes, strict=True)]


def _parts(sizes: Sequence[tuple[int, ...]]) -> list[slice]:
    ends = np.cumsum([0, *map(math.prod, sizes)]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _part(joined: NDArray[np.float32], part: slice, size: tuple[int, ...]) -> NDArray[np.float32]:
    return joined[:, :, 0, part].reshape(*joined.shape[:2], *size)


class LayerMaps(NamedTuple):
    """Maps of one layer on the common grids, each step and head; None where one does not exist."""

    r2g: xr.DataArray
    g2r: xr.DataArray | None
    mass: xr.DataArray | None
    # Those that exist, as each block gives them.
    outputs: BlockOutputs


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
        Multiply by the number of positions of the softmax.

    Returns
    -------
    LayerMaps
        r2g and mass over (step, head, y, x), g2r over (step, head, reference_y, reference_x);
        float32, lazy. Mass is there where other keys share the layer's softmax. Of a layer that is
        cut to some patches, R2G and mass are 0 elsewhere.

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
    outputs = _block_outputs(
        _block_maps,
        layer,
        layer.blocks,
        grids,
        own_generated=layer.attributes.generated_grid,
        own_reference=own_reference,
        special_tokens=layer.attributes.special_tokens,
        factors=(layer.blocks.sizes[GENERATED], layer.tokens) if density else (1, 1),
        frames=layer.attributes.frames,
        region=layer.region,
        patches=layer.patches,
    )
    found = iter(outputs.split(planes))
    r2g = next(found)
    g2r = next(found) if own_reference is not None else None
    mass = next(found) if has_mass else None
    if mass is not None:
        mass = mass.rename(dict(zip(_MASS_PLANE, GENERATED_PLANE, strict=True)))
    return LayerMaps(r2g, g2r, mass, outputs)


def layer_probability(layer: SelectedLayer) -> xr.DataArray:
    """Return the softmax over the patches, not averaged: dims (step, head, token, y, x), lazy.

    Multiplied by the layer's region, if it has one.

    Raises
    ------
    AnalysisError
        If the layer was averaged when it was captured.
    """
    if not layer.has_logits:
        msg = (
            "Expected a layer with its logits, as each token's map is resized on its own, got one "
            f"that was reduced to maps at capture, at {layer.name}. Capture with representation "
            "'auto', or use convention 'i2am'."
        )
        raise AnalysisError(msg)
    grid = layer.attributes.generated_grid
    (maps,) = map_layer_blocks(
        _block_probability,
        layer,
        layer.blocks,
        [("token", *GENERATED_PLANE)],
        [(layer.tokens, *grid)],
        region=layer.region,
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
    region: NDArray[np.float32] | None,
    patches: NDArray[np.intp] | None,
) -> tuple[NDArray[Any], ...] | NDArray[Any]:
    (r2g, g2r, mass), shape = _means(arrays, names, scale, region)
    if patches is not None:
        count = math.prod(own_generated)
        r2g = _put_back(r2g, patches, count)
        mass = None if mass is None else _put_back(mass, patches, count)
    maps = [resize_to_grid(r2g, own_generated, grids[0], shape, factors[0], frames)]
    if own_reference is not None:
        spatial = g2r[:, special_tokens:]
        maps.append(resize_to_grid(spatial, own_reference, grids[1], shape, factors[1]))
    if mass is not None:
        maps.append(resize_to_grid(mass, own_generated, grids[-1], shape, 1, frames))
    return tuple(maps) if len(maps) > 1 else maps[0]


def _put_back(maps: NDArray[Any], patches: NDArray[np.intp], count: int) -> NDArray[Any]:
    """Return maps (n, patch) among all patches of the grid; 0 at the others."""
    whole = np.zeros((len(maps), count), maps.dtype)
    whole[:, patches] = maps
    return whole


def _means(
    arrays: tuple[NDArray[Any], ...],
    names: list[str],
    scale: float,
    region: NDArray[np.float32] | None,
) -> tuple[DirectionalMeans, tuple[int, ...]]:
    """Return a block's means, computed or as capture stored them, and its steps and heads."""
    if "r2g" not in names:
        logits, total, shape = block_logits(arrays, names, scale)
        return directional_means(logits, total, region), shape
    shape = arrays[names.index("r2g")].shape[:-1]
    given = {n: a.reshape(-1, a.shape[-1]) for n, a in zip(names, arrays, strict=True)}
    no_tokens = np.empty((math.prod(shape), 0), np.float32)
    return DirectionalMeans(given["r2g"], given.get("g2r", no_tokens), given.get("mass")), shape


def _block_probability(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[tuple[int, ...]],
    region: NDArray[np.float32] | None,
) -> NDArray[Any]:
    logits, _, shape = block_logits(arrays, names, scale)
    probability = softmax_over_patches(logits)
    if region is not None:
        probability *= region
    return probability.reshape(*shape, *grids[0])


def map_layer_blocks(
    function: Callable[..., Any],
    layer: SelectedLayer,
    arrays: xr.Dataset,
    planes: Sequence[tuple[str, ...]],
    sizes: Sequence[tuple[int, ...]],
    names: Sequence[str] = _OF_REFERENCE,
    rows: Mapping[str, NDArray[np.intp]] | None = None,
    **options: Any,
) -> list[xr.DataArray]:
    """Apply a function to each block of a layer's arrays, with one output for each plane.

    Parameters
    ----------
    function : callable
        Takes a block of each array, and as options their `names`, `scale`, the sizes as `grids`
        and `options`; returns an array (step, head, plane) float32, or a tuple of one for each
        plane.
    layer : SelectedLayer
    arrays : Dataset
        Of the layer, by the contract's names.
    planes, sizes : sequence
        Dimensions and sizes of each output after step and head.
    names : sequence of str
        Of the arrays that are given, where there are such; by default all but those of the text.
    rows : mapping of dimension to array of int, optional
        The positions that the arrays were cut to, for messages; by default the layer's patches.
    **options
        See `function`.

    Returns
    -------
    list of DataArray
        Dims (step, head, plane), float32, lazy. One task reads and computes a block; each output of
        it is one more task, unless there is one output, of two dimensions. A value that is not
        finite raises an AnalysisError with its place when it is computed.
    """
    return _block_outputs(function, layer, arrays, sizes, names, rows, **options).split(planes)


def _block_outputs(
    function: Callable[..., Any],
    layer: SelectedLayer,
    arrays: xr.Dataset,
    sizes: Sequence[tuple[int, ...]],
    names: Sequence[str] = _OF_REFERENCE,
    rows: Mapping[str, NDArray[np.intp]] | None = None,
    **options: Any,
) -> BlockOutputs:
    """Return what `map_layer_blocks` splits."""
    names = [name for name in names if name in arrays]
    if rows is None:
        rows = {} if layer.patches is None else {GENERATED: layer.patches}
    # Patches, tokens and channels are whole in each block.
    whole = arrays[names].chunk(dict.fromkeys({dim for name in names for dim in _CORE[name]}, -1))
    unified = whole.unify_chunks()
    inputs = [_four_dims(unified[name], name) for name in names]
    step_head = max((one.chunks[:-2] for one in inputs), key=len)
    apply = partial(
        function, names=names, scale=layer.attributes.scale, grids=list(sizes), **options
    )
    # Blocks of inputs and output line up by their last dimensions: four on both sides.
    is_alone = len(sizes) == 1 and len(sizes[0]) == 2
    shape = sizes[0] if is_alone else (1, sum(map(math.prod, sizes)))
    outputs = da.map_blocks(
        _apply if is_alone else _apply_and_join,
        *inputs,
        apply=apply,
        names=names,
        blocks=_Blocks(layer.sample, layer.name, layer.steps, layer.heads, step_head, rows),
        chunks=(*step_head, *((size,) for size in shape)),
        meta=np.empty((0,) * (2 + len(shape)), np.float32),
    )
    return BlockOutputs(outputs, tuple(sizes))


def _four_dims(array: xr.DataArray, name: str) -> da.Array:
    """Return an array with two dimensions after step and head, so that blocks line up."""
    last_two = array.transpose(..., *_CORE[name])
    found: da.Array = last_two.data if len(_CORE[name]) == 2 else last_two.data[..., None]
    return found


@dataclass(frozen=True)
class _Blocks:
    """Of which steps, heads and rows of which layer each block is."""

    sample: str
    layer: str
    steps: tuple[int, ...]
    heads: tuple[int, ...]
    chunks: tuple[tuple[int, ...], tuple[int, ...]]
    rows: Mapping[str, NDArray[np.intp]]

    def check_finite(
        self, outputs: Sequence[NDArray[Any]], inputs: Mapping[str, NDArray[Any]], block: tuple[int]
    ) -> None:
        """Raise an AnalysisError with the place of the first input that made an output not finite.

        The outputs are small; the inputs are looked through only where one of them is not finite.
        """
        if all(map(is_all_finite, outputs)):
            return
        labels = {dim: self._labels(axis, block) for axis, dim in enumerate((STEP, HEAD))}
        labels |= {dim: own.tolist() for dim, own in self.rows.items()}
        dims = {name: [STEP, HEAD, *_CORE[name]][-values.ndim :] for name, values in inputs.items()}
        raise not_finite_error(self.layer, self.sample, inputs, dims, labels)

    def _labels(self, axis: int, block: tuple[int, ...]) -> Sequence[int]:
        """Return the labels of a block's steps or heads."""
        begin, count = sum(self.chunks[axis][: block[axis]]), self.chunks[axis][block[axis]]
        known = (self.steps, self.heads)[axis]
        return known[begin : begin + count] or range(begin, begin + count)


def _apply(
    *arrays: NDArray[Any],
    apply: Callable[..., Any],
    names: Sequence[str],
    blocks: _Blocks,
    block_id: tuple[int] | None = None,
) -> Any:
    flat = [
        one[..., 0] if len(_CORE[name]) == 1 else one
        for one, name in zip(arrays, names, strict=True)
    ]
    # What comes of numbers that are not finite is found below, and told with its place.
    with np.errstate(invalid="ignore", over="ignore"):
        found = apply(*flat)
    outputs = found if isinstance(found, tuple) else (found,)
    if block_id is not None:
        blocks.check_finite(outputs, dict(zip(names, flat, strict=True)), block_id)
    return found


def _apply_and_join(
    *arrays: NDArray[Any], block_id: tuple[int] | None = None, **options: Any
) -> NDArray[np.float32]:
    """Return all outputs of a block as one array (step, head, 1, all their positions)."""
    found = _apply(*arrays, block_id=block_id, **options)
    outputs = found if isinstance(found, tuple) else (found,)
    flat = [one.reshape(*one.shape[:2], 1, -1) for one in outputs]
    return np.concatenate(flat, axis=-1)


def check_frames(layer: SelectedLayer, grid: Grid) -> None:
    """Raise an AnalysisError if the layer's frames do not fit into a common grid."""
    frames = layer.attributes.frames
    if grid[0] % frames:
        msg = (
            f"Expected a grid of {frames} frames above one another, got {grid[0]} rows, "
            f"at {layer.name}. Give a height that is a multiple of {frames}."
        )
        raise AnalysisError(msg)
