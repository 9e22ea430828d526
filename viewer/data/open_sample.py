"""From a path and a sample's name to a `SampleView`: opens the run, finds its maps or computes them."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.boxes import Box
from i2am.schemas.dims import CONDITIONAL, HEAD, LAYER, LAYER_WEIGHT, STEP
from i2am.schemas.directions import DIRECTIONS, Direction
from i2am.schemas.errors import AnalysisError, StoreError, did_you_mean
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, MapAxes, read_axes
from i2am.viewer.data.map_readers import ComputedMapReader, StoredMapReader
from i2am.viewer.data.sample import SampleSource, SampleView, run_identity
from i2am.viewer.data.scores import MapSpread
from i2am.viewer.data.volume import LoadedMaps, MapVolume

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis import Maps, Run

__all__ = ["Store", "open_store", "open_view", "run_of_maps"]

Store = str | PathLike[str]


def open_store(
    path: Store,
    sample: str | None = None,
    maps: Store | None = None,
    *,
    effects: Store | None = None,
) -> SampleView:
    """Open one sample of a run; or of maps, with the run that they were made from.

    Maps are shown as they are: of their guidance branch, normalisation and patches.

    Parameters
    ----------
    path : str or path
        A capture store, or a maps store.
    sample : str, optional
        Which sample; the first one if left out, of maps the first that they hold.
    maps, effects
        As in `open_view`. A maps store as `path` has no other maps.

    Raises
    ------
    StoreError
        As `open_view`; also if the run of maps is not where they say, or they hold no sample.
    """
    from i2am.analysis.stores.reader import open_root
    from i2am.storage.addresses import own_attributes

    own = own_attributes(open_root(os.fspath(path)))
    if own["kind"] != "maps":
        return open_view(path, sample, maps, effects=effects)
    if maps is not None:
        msg = f"Expected a run beside --maps {maps}, got a maps store, at {path}. Give one of the two."
        raise StoreError(msg)
    run, first = run_of_maps(path)
    options = own.get("options") or {}
    return open_view(
        run,
        sample or first,
        path,
        guidance=options.get("guidance") or CONDITIONAL,
        normalisation=own["normalisation"],
        within=options.get("within") or "image",
        effects=effects,
    )


def open_view(
    run: Store | Run,
    sample: str | None = None,
    maps: Store | None = None,
    *,
    guidance: str = CONDITIONAL,
    normalisation: str = "mass",
    within: str = "image",
    reference: str = "",
    effects: Store | None = None,
) -> SampleView:
    """Open one sample of a run.

    Parameters
    ----------
    run : str, path or Run
        A capture store, or one that is open.
    sample : str, optional
        Which sample; the first one if left out.
    maps : str or path, optional
        A maps store. Without it the one that lies beside the run is read, if there is one (see
        `i2am.analysis.find_maps`). What it does not hold is computed from the run.
    guidance, normalisation, within
        As in `i2am.analysis.analyze`.
    reference : str
        The stored image of the reference that maps are to be of: reference, reference_1, …; by default
        that of the stored maps, or the first.
    effects : str or path, optional
        A store of measured effects, kept in the sample's source; nothing of it is read here.

    Raises
    ------
    StoreError
        If a store cannot be read, or the run has no such sample, or none at all.
    AnalysisError
        If maps within the mask are asked for and do not exist, or no layer attends to that reference.
    """
    from i2am.analysis import find_maps, open_maps, open_run
    from i2am.analysis.stores.layers import reference_image

    opened = open_run(os.fspath(run)) if isinstance(run, str | PathLike) else run
    path = run_identity(str(opened.path))
    name = opened.first() if sample is None else sample
    if name is None:
        msg = (
            f"Expected a run with at least one complete sample, got none, at {opened.path}. "
            "Capture one with 'i2am capture'."
        )
        raise StoreError(msg)
    capture = opened[name]
    found = find_maps(path) if maps is None else os.fspath(maps)
    source = SampleSource(
        path,
        name,
        None if found is None else str(found),
        False,
        guidance,
        normalisation,
        within,
        reference,
        None if effects is None else os.fspath(effects),
    )
    if found is not None:
        store = open_maps(found)
        if _are_asked_for(store, source) and store.holds(name):
            stored = store[name]
            own = reference_image(capture, stored)
            if reference in ("", own):
                source = replace(source, reference=own)
                return _stored_view(capture, stored, source, store.attributes["normalisation"])
    return _computed_view(capture, replace(source, computed=True))


def _are_asked_for(store: Maps, source: SampleSource) -> bool:
    """Return whether a store's maps are of the branch and the patches that are asked for."""
    options = store.attributes.get("options") or {}
    within = store.not_default.get("within", "image")
    # By how many positions the two normalisations differ is known of whole images.
    is_scaled = within == "image" or store.attributes["normalisation"] == source.normalisation
    branch = options.get("guidance") or CONDITIONAL
    return branch == source.guidance and within == source.within and is_scaled


def run_of_maps(maps: Store) -> tuple[Run, str]:
    """Return the run that maps were made from, and the first sample that they hold.

    Raises
    ------
    StoreError
        If the run is not where the maps say, or the maps hold no sample.
    """
    from i2am.analysis import open_maps
    from i2am.analysis.stores.related import run_of

    store = open_maps(os.fspath(maps))
    first = store.first()
    if first is None:
        msg = f"Expected maps of at least one sample, got none, at {maps}. Run 'i2am analyze'."
        raise StoreError(msg)
    try:
        return run_of(store), first
    except StoreError as e:
        msg = f"{e}\nThe maps alone show no picture. Say where their run is: i2am view RUN --maps {maps}"
        raise StoreError(msg) from e


def _stored_view(
    capture: xr.DataTree, stored: xr.DataTree, source: SampleSource, normalisation: str
) -> SampleView:
    from i2am.analysis.stores.layers import reference_image

    volumes: dict[str, xr.DataArray] = {
        name: stored[name].dataset["volume"].transpose(*AVERAGEABLE_DIMS, *direction.plane)
        for name, direction in DIRECTIONS.items()
        if name in stored.children
    }
    r2g = volumes["r2g"]
    layers = list(dict.fromkeys(str(n) for one in volumes.values() for n in one[LAYER].values))
    heads = {int(head) for one in volumes.values() for head in one[HEAD].values}
    # A dimension without a coordinate would be counted.
    steps = (r2g if STEP in r2g.coords else capture).coords[STEP].values
    axes = read_axes(capture, layers, [int(step) for step in steps], sorted(heads))
    reference = reference_image(capture, stored)
    images, boxes = _images(capture, reference), _boxes(capture, reference)
    is_as_stored = normalisation == source.normalisation
    factors = {} if is_as_stored else _factors(capture, axes, volumes, source.normalisation)
    spreads = _spreads(axes, images, boxes, volumes, source.within)
    shown = {}
    for direction, one in volumes.items():
        loaded = LoadedMaps(
            axes,
            _present_in(one, axes),
            (one.shape[-2], one.shape[-1]),
            levels=_levels(stored.children[direction], one, axes) if is_as_stored else None,
            added=spreads[direction].add,
        )
        shown[direction] = MapVolume(loaded)
    reader = StoredMapReader(volumes, axes, factors)
    return SampleView(source, capture, axes, images, boxes, shown, spreads, reader, stored)


def _computed_view(capture: xr.DataTree, source: SampleSource) -> SampleView:
    from i2am.analysis.kernel.resize import largest_grid
    from i2am.analysis.maps.within import painted_patches
    from i2am.analysis.stores.layers import select_layers

    named = _layers_of(capture, source.reference) if source.reference else None
    selected = select_layers(capture, named, guidance=source.guidance)
    reference = selected[0].attributes.reference_image()
    source = replace(source, reference=reference)
    if source.within == "mask":
        selected = painted_patches(capture, selected)
    heads = sorted({head for layer in selected for head in layer.heads})
    steps = [int(step) for step in capture.coords[STEP].values]
    axes = read_axes(capture, [layer.name for layer in selected], steps, heads)
    images, boxes = _images(capture, reference), _boxes(capture, reference)
    grids = {"r2g": largest_grid(layer.attributes.generated_grid for layer in selected)}
    references = [g for one in selected if one.has_g2r and (g := one.attributes.reference_grid)]
    if references:
        grids["g2r"] = largest_grid(references)
    own = {layer.name: layer for layer in selected}
    spreads = _spreads(axes, images, boxes, grids, source.within)
    volumes = {}
    for direction, grid in grids.items():
        present = np.zeros((len(selected), len(heads)), bool)
        for i, name in enumerate(axes.layers):
            if direction == "r2g" or own[name].has_g2r:
                present[i, [heads.index(head) for head in own[name].heads]] = True
        loaded = LoadedMaps(axes, present, (grid[0], grid[1]), added=spreads[direction].add)
        volumes[direction] = MapVolume(loaded)
    is_density = source.normalisation == "density"
    reader = ComputedMapReader([own[n] for n in axes.layers], axes, grids, density=is_density)
    return SampleView(source, capture, axes, images, boxes, volumes, spreads, reader)


def _layers_of(capture: xr.DataTree, reference: str) -> list[str]:
    """Return the layers that attend to a reference, by its stored image."""
    from i2am.analysis.stores.layers import layer_attributes

    every = layer_attributes(capture)
    found = [name for name, own in every.items() if own.reference_image() == reference]
    if not found:
        known = {own.reference_image() for own in every.values()}
        msg = (
            f"Expected a reference that layers attend to, got {reference!r}, at {capture.name}. "
            f"{did_you_mean(reference, known)}"
        )
        raise AnalysisError(msg)
    return found


def _images(capture: xr.DataTree, reference: str) -> dict[str, NDArray[np.uint8]]:
    """Return the stored images; as the reference the one that the maps' layers attend to."""
    if "images" not in capture.children:
        return {}
    arrays = {str(name): one for name, one in capture["images"].dataset.items()}
    wanted = {name: name for name in ("generated", "source", "inpainting_mask", reference)}
    if reference == "reference":
        wanted["reference_mask"] = "reference_mask"  # It is of the first reference.
    wanted["reference"] = wanted.pop(reference)
    import dask

    lazy = {name: arrays[own].data for name, own in wanted.items() if own in arrays}
    (images,) = dask.compute(lazy)
    return {name: np.asarray(image) for name, image in images.items()}


def _boxes(capture: xr.DataTree, reference: str) -> dict[str, Box]:
    """Return what the model saw of the generated image, and of the reference of that name."""
    from i2am.analysis.stores.boxes import image_box

    stored = capture["images"].dataset if "images" in capture.children else {}
    names = {"generated": "generated", "reference": reference}
    return {name: image_box(capture, own) for name, own in names.items() if own in stored}


def _spreads(
    axes: MapAxes,
    images: dict[str, NDArray[np.uint8]],
    boxes: dict[str, Box],
    present: Collection[str],
    within: str,
) -> dict[str, MapSpread]:
    masks = {name: _mask(images, boxes, direction) for name, direction in DIRECTIONS.items()}
    if within == "mask":
        masks["r2g"] = None  # All of it lies inside, by its making.
    return {name: MapSpread(axes.shape, mask) for name, mask in masks.items() if name in present}


def _mask(
    images: dict[str, NDArray[np.uint8]], boxes: dict[str, Box], direction: Direction
) -> NDArray[np.float64] | None:
    """Return the mask of a direction over the image's box, 0..1.

    None where it is empty or whole there, and says nothing.
    """
    from i2am.analysis.scores.masks import cut_to_box

    mask = images.get(direction.mask)
    if mask is None:
        return None
    shares: NDArray[np.float64] = mask.astype(np.float64) / 255
    box = boxes.get(direction.image)
    if box is not None and not box.is_whole(*images[direction.image].shape[:2]):
        shares = cut_to_box(shares, box)
    return shares if 0 < shares.mean() < 1 else None


def _present_in(volume: xr.DataArray, axes: MapAxes) -> NDArray[np.bool_]:
    """Return which layers and heads may have maps; what a layer lacks shows when it is read."""
    layers = np.isin(axes.layers, volume[LAYER].values)
    heads = np.isin(axes.heads, volume[HEAD].values)
    there: NDArray[np.bool_] = layers[:, None] & heads
    return there


def _factors(
    capture: xr.DataTree, axes: MapAxes, directions: Any, normalisation: str
) -> dict[str, NDArray[np.float32]]:
    """Return what takes each layer's stored maps to the other normalisation."""
    from i2am.analysis.stores.layers import layer_attributes, token_count

    own = layer_attributes(capture)
    nodes = capture["layers"].children
    positions = {
        "r2g": [own[name].generated_tokens() for name in axes.layers],
        "g2r": [token_count(nodes[name].dataset) for name in axes.layers],
    }
    power = 1 if normalisation == "density" else -1
    return {d: np.array(positions[d], np.float32) ** power for d in directions}


def _levels(
    node: xr.DataTree, volume: xr.DataArray, axes: MapAxes
) -> dict[frozenset[str], NDArray[np.float32]]:
    """Return the stored means by what they are over, where they run over all layers and heads.

    Not those of time groups: the slider has every step; nor those that weigh the layers.
    """
    found = {}
    kept: dict[str, tuple[str, ...]] = {"ulam": (), "hlam": (HEAD,), "llam": (LAYER,)}
    if LAYER_WEIGHT in node.dataset.coords:
        kept = {"llam": (LAYER,)}
    full = {LAYER: list(axes.layers), HEAD: list(axes.heads)}
    for level, dims in kept.items():
        if level in node.dataset and all(volume[dim].values.tolist() == full[dim] for dim in dims):
            array = node.dataset[level].transpose(*dims, *volume.dims[-2:])
            found[frozenset(AVERAGEABLE_DIMS) - set(dims)] = np.asarray(array, np.float32)
    return found
