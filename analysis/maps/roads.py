"""By which road the reference comes: directly, or through the text; and what each patch reads at all.

In joint attention the text reads the reference, too, and the generated patches read the text. What
they get of the reference in two hops no map of the direct road shows. The text that a layer reads
holds what the layers *before* it wrote there, so a road leads through two layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.logits import AttentionLogits, Floats, block_logits
from i2am.analysis.kernel.reading import read_by_rows, read_of_columns
from i2am.analysis.kernel.resize import Grid, largest_grid, resize_to_grid
from i2am.analysis.maps.layer_maps import check_frames, map_layer_blocks
from i2am.analysis.stores.boxes import pixel_coordinates
from i2am.analysis.stores.layers import (
    Labels,
    SelectedLayer,
    check_one_reference,
    layer_attributes,
    select_layers,
    step_labels,
)
from i2am.schemas import AnalysisError
from i2am.schemas.dims import (
    CONDITIONAL,
    GENERATED_PLANE,
    HEAD,
    LAYER,
    REFERENCE_PLANE,
    SOURCE,
    STEP,
    TEXT,
    TIMESTEP,
)

__all__ = ["most_read", "source_mass", "two_hop"]

_TO_PATCHES: Final = ("query", "text_key", "logsumexp")
_TO_TEXT: Final = ("text_query", "key", "text_logsumexp")
_WEIGHT: Final = "text_weight"


def two_hop(
    sample: xr.DataTree,
    *,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    grid: Grid | None = None,
) -> xr.DataTree:
    """Return what the patches read of the reference directly, and what through the text.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it, captured with ``edges=["reference->text", "text->generated"]``.
    layers, steps, heads, guidance, grid
        As in `analyze`. The text carries what the *selected* layers wrote to it.

    Returns
    -------
    DataTree
        Group ``r2g``: direct and through_text (layer, step, y, x), the attention of each patch that
        goes to the reference on either road, and ``share`` (y, x), what of their sum over layers and
        steps comes through the text. Group ``g2r``, where there is a reference grid: direct and
        through_text (layer, step, reference_y, reference_x), the mean over the patches; there the
        layer of ``through_text`` is the one in which the text reads. float32, at least 0, lazy;
        means over heads.

    Raises
    ------
    AnalysisError
        If the layers do not hold the roads through the text.

    Notes
    -----
    With A the attention over all keys of a layer, and means over heads: direct is the sum of
    A[patch, reference]; through the text it is the sum over text tokens of A[patch, text] in layer l,
    times the mean of A[text, reference] over the layers before l. So both are shares of what a
    patch reads, if the text holds what it read, in equal parts by layer. The text's own content, and
    what residual connections keep of it, does not show in attention: the share is an upper bound
    of this road, not a measured effect.

    Examples
    --------
    ::

        roads = two_hop(open_run("run.zarr")["shirt-001"])
        float(roads["r2g/share"].mean())
    """
    selected = _selected(sample, layers, steps, heads, guidance)
    for layer in selected:
        _check_has(layer, (*_TO_PATCHES, *_TO_TEXT))
    generated = grid or largest_grid(layer.attributes.generated_grid for layer in selected)
    references = [g for layer in selected if (g := layer.attributes.reference_grid)]
    r2g = xr.Dataset(
        {
            "direct": _stack(selected, [_direct(layer, generated) for layer in selected]),
            "through_text": _stack(selected, _through_text(selected, generated)),
        }
    )
    both = r2g.sum((LAYER, STEP))
    r2g["share"] = (both["through_text"] / (both["direct"] + both["through_text"])).fillna(0)
    found = {"r2g": _placed(sample, selected, r2g, "generated", steps)}
    if references and all(layer.has_g2r for layer in selected):
        wanted = grid or largest_grid(references)
        g2r = xr.Dataset(
            {
                "direct": _stack(selected, [_used(layer, wanted) for layer in selected]),
                "through_text": _stack(selected, _used_through_text(selected, wanted)),
            }
        )
        image = selected[0].attributes.reference_image()
        found["g2r"] = _placed(sample, selected, g2r, image, steps)
    return xr.DataTree.from_dict(found, name=sample.name)


def source_mass(
    sample: xr.DataTree,
    *,
    layers: str | Iterable[str] | None = None,
    steps: Labels = None,
    heads: Labels = None,
    guidance: str = CONDITIONAL,
    grid: Grid | None = None,
) -> xr.DataArray:
    """Return how the attention of each patch is shared among text, its own picture, and references.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it. The text is told apart where it was captured with
        ``edges=["text->generated"]``.
    layers : str or iterable of str, optional
        Names or patterns of layers of the first reference; their other references come with them.
        By default all layers whose softmax is shared.
    steps, heads, guidance, grid
        As in `analyze`.

    Returns
    -------
    DataArray
        ``mass``, dims (source, layer, step, y, x), float32, 0..1, lazy; means over heads. The
        sources are "text", "own" (the generated picture), or "text and own" where these are not told
        apart, then "reference", "reference_1" …; over them it sums to 1.

    Raises
    ------
    AnalysisError
        If no other keys share a layer's softmax: its reference then has all of the attention.

    Examples
    --------
    ::

        mass = source_mass(open_run("run.zarr")["shirt-001"])
        mass.mean(("y", "x")).sel(source="reference")  # by layer and step
    """
    first = _selected(sample, layers, steps, heads, guidance)
    known = layer_attributes(sample)
    for layer in first:
        if layer.has_mass and layer.has_logits:
            continue
        msg = (
            f"Expected a layer whose softmax other keys share, stored as factors or logits, got another, "
            f"at {layer.name}. Choose other layers=."
        )
        raise AnalysisError(msg)
    generated = grid or largest_grid(layer.attributes.generated_grid for layer in first)
    has_text = all("text_key" in layer.arrays for layer in first)
    labels, parts = [], []
    if has_text:
        labels.append("text")
        parts.append(_stack(first, [_from_text(layer, generated) for layer in first]))
    for index in sorted({own.reference_index for own in known.values()}):
        names = [_of_reference(layer.name, index) for layer in first]
        if not set(names) <= known.keys():
            continue  # An adapter that some layers leave out.
        own = select_layers(sample, names, steps, heads, guidance)
        labels.append(f"reference_{index}" if index else "reference")
        parts.append(_stack(first, [_direct(layer, generated) for layer in own]))
    rest = np.float32(1) - sum(parts[1:], start=parts[0])
    labels.insert(int(has_text), "own" if has_text else "text and own")
    parts.insert(int(has_text), rest.clip(min=0))
    mass = xr.concat(parts, SOURCE).assign_coords({SOURCE: labels})
    placed = _placed(sample, first, mass.to_dataset(name="mass"), "generated", steps)
    return placed["mass"]


def most_read(mass: xr.DataArray) -> xr.Dataset:
    """Return which reference each place reads most, and how surely.

    Parameters
    ----------
    mass : DataArray, dims (source, …)
        Of `source_mass`, or a mean of it over layers, steps or places.

    Returns
    -------
    Dataset
        ``reference`` (…), int, the number of the reference that is read most; ``entropy`` (…),
        float32, of the shares among the references: 0 where one is read alone, 1 where all are read
        alike.

    Raises
    ------
    AnalysisError
        If there are fewer than two references.

    Examples
    --------
    >>> sources = ["text and own", "reference", "reference_1"]
    >>> mass = xr.DataArray([0.2, 0.6, 0.2], {"source": sources}, "source")
    >>> int(most_read(mass)["reference"]), round(float(most_read(mass)["entropy"]), 2)
    (0, 0.81)
    """
    labels = [str(label) for label in mass[SOURCE].values if str(label).startswith("reference")]
    if len(labels) < 2:
        msg = (
            f"Expected the mass of two references or more, got {len(labels)}, at mass. Capture a model "
            "with several references, and name none of their layers in layers=."
        )
        raise AnalysisError(msg)
    own = mass.sel({SOURCE: labels})
    shares = own / own.sum(SOURCE)
    bits = -(shares * np.log(shares.where(shares > 0, 1))).sum(SOURCE)
    numbers = np.array([int(label.partition("_")[2] or 0) for label in labels])
    most = own.argmax(SOURCE)
    named = xr.apply_ufunc(
        numbers.__getitem__, most, dask="parallelized", output_dtypes=[numbers.dtype]
    )
    entropy = (bits / np.log(len(labels))).astype(np.float32)
    return xr.Dataset({"reference": named, "entropy": entropy})


def _selected(
    sample: xr.DataTree,
    layers: str | Iterable[str] | None,
    steps: Labels,
    heads: Labels,
    guidance: str,
) -> list[SelectedLayer]:
    selected = select_layers(sample, layers, step_labels(sample, steps), heads, guidance)
    check_one_reference(selected)
    return selected


def _check_has(layer: SelectedLayer, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in layer.arrays]
    if missing:
        msg = (
            f"Expected the roads through the text, got no {missing[0]}, at {layer.name}. Capture with "
            "edges=['reference->text', 'text->generated']."
        )
        raise AnalysisError(msg)


def _of_reference(layer: str, index: int) -> str:
    base = layer.partition(".reference_")[0]
    return f"{base}.reference_{index}" if index else base


def _stack(layers: Sequence[SelectedLayer], maps: Sequence[xr.DataArray]) -> xr.DataArray:
    """Return maps (step, head, plane) of layers as (layer, step, plane): means over the heads."""
    means = [one.mean(HEAD, dtype=np.float64).astype(np.float32) for one in maps]
    return xr.concat(means, LAYER).assign_coords({LAYER: [layer.name for layer in layers]})


def _placed(
    sample: xr.DataTree,
    layers: Sequence[SelectedLayer],
    maps: xr.Dataset,
    image: str,
    steps: Labels,
) -> xr.Dataset:
    """Return maps with the coordinates of their steps and of the image that they lie over."""
    coordinates = sample.coords.to_dataset()[[STEP, TIMESTEP]]
    coordinates = coordinates.sel({STEP: step_labels(sample, steps)})
    plane = GENERATED_PLANE if image == "generated" else REFERENCE_PLANE
    grid = maps.sizes[plane[0]], maps.sizes[plane[1]]
    pixels = pixel_coordinates(sample, image, plane, grid)
    return maps.assign_coords({**coordinates.coords, **pixels})


def _direct(layer: SelectedLayer, grid: Grid) -> xr.DataArray:
    """Return how much each patch reads from the layer's reference, (step, head, y, x)."""
    check_frames(layer, grid)
    (maps,) = map_layer_blocks(
        partial(_block_read, own=layer.attributes.generated_grid, frames=layer.attributes.frames),
        layer,
        layer.blocks,
        [GENERATED_PLANE],
        [grid],
        ("query", "key", "logits", "logsumexp"),
    )
    return maps


def _from_text(
    layer: SelectedLayer, grid: Grid, weights: xr.DataArray | None = None
) -> xr.DataArray:
    """Return how much each patch reads from the text, (step, head, y, x); each token by its weight."""
    check_frames(layer, grid)
    arrays = layer.blocks
    if weights is not None:
        heads = arrays.sizes[HEAD]
        arrays = arrays.assign({_WEIGHT: weights.expand_dims({HEAD: heads}, 1)})
    (maps,) = map_layer_blocks(
        partial(_block_read, own=layer.attributes.generated_grid, frames=layer.attributes.frames),
        layer,
        arrays,
        [GENERATED_PLANE],
        [grid],
        (*_TO_PATCHES, _WEIGHT),
    )
    return maps


def _used(layer: SelectedLayer, grid: Grid) -> xr.DataArray:
    """Return how much of each reference place the patches read, on average, (step, head, plane)."""
    (maps,) = map_layer_blocks(
        partial(_block_used, own=layer.attributes),
        layer,
        layer.blocks,
        [REFERENCE_PLANE],
        [grid],
        ("query", "key", "logits", "logsumexp"),
    )
    return maps


def _through_text(layers: Sequence[SelectedLayer], grid: Grid) -> list[xr.DataArray]:
    """Return what each layer's patches read of the reference through the text, (step, head, y, x)."""
    read = [_text_reads(layer) for layer in layers]
    found = []
    for number, layer in enumerate(layers):
        carried = xr.zeros_like(read[0])
        if number:
            carried = sum(read[1:number], start=read[0]) / np.float32(number)
        found.append(_from_text(layer, grid, carried))
    return found


def _used_through_text(layers: Sequence[SelectedLayer], grid: Grid) -> list[xr.DataArray]:
    """Return what of the reference the text reads in each layer for the later layers' patches.

    Dims (step, head, plane): each text token counts by how much the patches of the layers after it
    read from it.
    """
    used = [_text_used(layer) for layer in layers]
    found = []
    for number, layer in enumerate(layers):
        later = [used[after] / np.float32(after) for after in range(number + 1, len(layers))]
        weights = sum(later[1:], start=later[0]) if later else xr.zeros_like(used[0])
        heads = layer.blocks.sizes[HEAD]
        arrays = layer.blocks.assign({_WEIGHT: weights.expand_dims({HEAD: heads}, 1)})
        (maps,) = map_layer_blocks(
            partial(_block_used, own=layer.attributes),
            layer,
            arrays,
            [REFERENCE_PLANE],
            [grid],
            (*_TO_TEXT, _WEIGHT),
        )
        found.append(maps)
    return found


def _text_reads(layer: SelectedLayer) -> xr.DataArray:
    """Return how much each text token reads from the reference, (step, text); mean over heads."""
    tokens = layer.blocks.sizes[TEXT]
    (read,) = map_layer_blocks(
        _block_text_reads, layer, layer.blocks, [(TEXT,)], [(tokens,)], _TO_TEXT
    )
    return read.mean(HEAD)


def _text_used(layer: SelectedLayer) -> xr.DataArray:
    """Return how much of each text token the patches read, (step, text); mean over patches and heads."""
    tokens = layer.blocks.sizes[TEXT]
    (used,) = map_layer_blocks(
        _block_text_used, layer, layer.blocks, [(TEXT,)], [(tokens,)], _TO_PATCHES
    )
    return used.mean(HEAD)


def _edge(
    arrays: tuple[NDArray[Any], ...], names: list[str], scale: float
) -> tuple[AttentionLogits, Floats, tuple[int, ...]]:
    """Return a block's logits over one edge, and their logsumexp, with step and head flattened."""
    given = dict(zip(names, arrays, strict=True))
    roles = {"text_key": "key", "text_query": "query", "text_logsumexp": "logsumexp"}
    given = {roles.get(name, name): array for name, array in given.items() if name != _WEIGHT}
    logits, total, shape = block_logits(tuple(given.values()), list(given), scale)
    assert total is not None
    return logits, total, shape


def _weights(arrays: tuple[NDArray[Any], ...], names: list[str]) -> Floats | None:
    if _WEIGHT not in names:
        return None
    own = arrays[names.index(_WEIGHT)]
    return np.ascontiguousarray(own.reshape(-1, own.shape[-1]), np.float32)


def _block_read(
    *arrays: NDArray[Any],
    names: list[str],
    scale: float,
    grids: list[Grid],
    own: Grid,
    frames: int,
) -> NDArray[Any]:
    logits, total, shape = _edge(arrays, names, scale)
    read = read_by_rows(logits, total, _weights(arrays, names))
    return resize_to_grid(read, own, grids[0], shape, 1, frames)


def _block_used(
    *arrays: NDArray[Any], names: list[str], scale: float, grids: list[Grid], own: Any
) -> NDArray[Any]:
    logits, total, shape = _edge(arrays, names, scale)
    weights = _weights(arrays, names)
    if weights is None:
        matrices, rows, _ = logits.shape
        weights = np.full((matrices, rows), 1 / rows, np.float32)
    used = read_of_columns(logits, total, weights)[:, own.special_tokens :]
    return resize_to_grid(used, own.reference_grid, grids[0], shape, 1)


def _block_text_reads(
    *arrays: NDArray[Any], names: list[str], scale: float, grids: list[Any]
) -> NDArray[Any]:
    logits, total, shape = _edge(arrays, names, scale)
    return read_by_rows(logits, total).reshape(*shape, *grids[0])


def _block_text_used(
    *arrays: NDArray[Any], names: list[str], scale: float, grids: list[Any]
) -> NDArray[Any]:
    logits, total, shape = _edge(arrays, names, scale)
    matrices, rows, _ = logits.shape
    means = np.full((matrices, rows), 1 / rows, np.float32)
    return read_of_columns(logits, total, means).reshape(*shape, *grids[0])
