"""From a path and a sample's name to a row: opens the run, finds its maps or computes them."""

from __future__ import annotations

import os
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.dims import CONDITIONAL, HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS
from i2am.schemas.errors import StoreError
from i2am.viewer.data.axes import MEANS, Names, names_of
from i2am.viewer.data.map_readers import ComputedMaps, StoredMaps
from i2am.viewer.data.sample import Origin, Row
from i2am.viewer.data.volume import Volume

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis import Run

__all__ = ["Store", "open_row", "run_of_maps"]

Store = str | PathLike[str]
_MASKS = {"r2g": "inpainting_mask", "g2r": "reference_mask"}


def open_row(
    run: Store | Run,
    sample: str | None = None,
    maps: Store | None = None,
    *,
    guidance: str = CONDITIONAL,
    normalisation: str = "mass",
) -> Row:
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
    guidance, normalisation
        As in `i2am.analysis.analyze`.

    Raises
    ------
    StoreError
        If a store cannot be read, or the run has no such sample, or none at all.
    """
    from i2am.analysis import find_maps, open_maps, open_run

    opened = open_run(os.fspath(run)) if isinstance(run, str | PathLike) else run
    path = str(opened.path)
    name = opened.first() if sample is None else sample
    if name is None:
        msg = (
            f"Expected a run with at least one complete sample, got none, at {path}. "
            "Capture one with 'i2am capture'."
        )
        raise StoreError(msg)
    capture = opened[name]
    found = find_maps(path) if maps is None else os.fspath(maps)
    origin = Origin(
        path, name, None if found is None else str(found), False, guidance, normalisation
    )
    if found is not None:
        store = open_maps(found)
        options = store.attributes.get("options") or {}
        if (options.get("guidance") or CONDITIONAL) == guidance and name in store:
            return _stored_row(capture, store[name], origin, store.attributes["normalisation"])
    return _computed_row(capture, replace(origin, computed=True))


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
    return run_of(store), first


def _stored_row(
    capture: xr.DataTree, stored: xr.DataTree, origin: Origin, normalisation: str
) -> Row:
    from i2am.analysis.stores.layers import reference_image

    volumes: dict[str, xr.DataArray] = {
        name: stored[name].dataset["volume"].transpose(*MEANS, *direction.plane)
        for name, direction in DIRECTIONS.items()
        if name in stored.children
    }
    r2g = volumes["r2g"]
    layers = list(dict.fromkeys(str(n) for one in volumes.values() for n in one[LAYER].values))
    heads = {int(head) for one in volumes.values() for head in one[HEAD].values}
    # A dimension without a coordinate would be counted.
    steps = (r2g if STEP in r2g.coords else capture).coords[STEP].values
    names = names_of(capture, layers, [int(step) for step in steps], sorted(heads))
    images = _images(capture, reference_image(capture, stored))
    is_as_stored = normalisation == origin.normalisation
    factors = {} if is_as_stored else _factors(capture, names, volumes, origin.normalisation)
    return Row(
        origin,
        capture,
        names,
        images,
        {
            direction: Volume(
                names,
                _present_in(one, names),
                (one.shape[-2], one.shape[-1]),
                mask=_mask(images, direction),
                levels=_levels(stored.children[direction], one, names) if is_as_stored else None,
            )
            for direction, one in volumes.items()
        },
        StoredMaps(volumes, names, factors),
        stored,
    )


def _computed_row(capture: xr.DataTree, origin: Origin) -> Row:
    from i2am.analysis.kernel.resize import largest_grid
    from i2am.analysis.stores.layers import select_layers

    selected = select_layers(capture, guidance=origin.guidance)
    heads = sorted({head for layer in selected for head in layer.heads})
    steps = [int(step) for step in capture.coords[STEP].values]
    names = names_of(capture, [layer.name for layer in selected], steps, heads)
    images = _images(capture, selected[0].attributes.reference_image())
    grids = {"r2g": largest_grid(layer.attributes.generated_grid for layer in selected)}
    references = [g for one in selected if one.has_g2r and (g := one.attributes.reference_grid)]
    if references:
        grids["g2r"] = largest_grid(references)
    own = {layer.name: layer for layer in selected}
    volumes = {}
    for direction, grid in grids.items():
        present = np.zeros((len(selected), len(heads)), bool)
        for i, name in enumerate(names.layers):
            if direction == "r2g" or own[name].has_g2r:
                present[i, [heads.index(head) for head in own[name].heads]] = True
        mask = _mask(images, direction)
        volumes[direction] = Volume(names, present, (grid[0], grid[1]), mask=mask)
    is_density = origin.normalisation == "density"
    source = ComputedMaps([own[n] for n in names.layers], names, grids, density=is_density)
    return Row(origin, capture, names, images, volumes, source)


def _images(capture: xr.DataTree, reference: str) -> dict[str, NDArray[np.uint8]]:
    """Return the stored pictures; as the reference the one that the maps' layers look at."""
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


def _mask(images: dict[str, NDArray[np.uint8]], direction: str) -> NDArray[np.float64] | None:
    """Return the mask of a direction, 0..1; None where it is empty or whole and says nothing."""
    mask = images.get(_MASKS[direction])
    if mask is None:
        return None
    shares: NDArray[np.float64] = mask.astype(np.float64) / 255
    return shares if 0 < shares.mean() < 1 else None


def _present_in(volume: xr.DataArray, names: Names) -> NDArray[np.bool_]:
    """Return which layers and heads may have maps; what a layer lacks shows when it is read."""
    layers = np.isin(names.layers, volume[LAYER].values)
    heads = np.isin(names.heads, volume[HEAD].values)
    there: NDArray[np.bool_] = layers[:, None] & heads
    return there


def _factors(
    capture: xr.DataTree, names: Names, directions: Any, normalisation: str
) -> dict[str, NDArray[np.float32]]:
    """Return what takes each layer's stored maps to the other normalisation."""
    from i2am.analysis.stores.layers import layer_attributes, token_count

    own = layer_attributes(capture)
    nodes = capture["layers"].children
    positions = {
        "r2g": [own[name].generated_tokens() for name in names.layers],
        "g2r": [token_count(nodes[name].dataset) for name in names.layers],
    }
    power = 1 if normalisation == "density" else -1
    return {d: np.array(positions[d], np.float32) ** power for d in directions}


def _levels(
    node: xr.DataTree, volume: xr.DataArray, names: Names
) -> dict[frozenset[str], NDArray[np.float32]]:
    """Return the stored means by what they are over, where they run over all layers and heads.

    Not those of time groups: the slider has every step.
    """
    found = {}
    kept = {"ulam": (), "hlam": (HEAD,), "llam": (LAYER,)}
    full = {LAYER: list(names.layers), HEAD: list(names.heads)}
    for level, dims in kept.items():
        if level in node.dataset and all(volume[dim].values.tolist() == full[dim] for dim in dims):
            array = node.dataset[level].transpose(*dims, *volume.dims[-2:])
            found[frozenset(MEANS) - set(dims)] = np.asarray(array, np.float32)
    return found
