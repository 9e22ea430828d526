"""Facts about a store as values: numbers as numbers, lists as lists, nothing that JSON cannot hold."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.errors import BaseZarrError

from i2am.analysis.inspection.address import RESULT_KINDS, member_names, open_address
from i2am.analysis.stores.checked import describe_array
from i2am.analysis.stores.layers import is_causal
from i2am.analysis.stores.reader import open_maps, open_run
from i2am.schemas import (
    ArrayDescription,
    GroupDescription,
    I2AMError,
    LayerAttributes,
    StorageError,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import (
    CUT,
    GUIDANCE,
    HEAD,
    LAYER,
    LEVELS,
    REFERENCE,
    REGION,
    STEP,
    TIMESTEP,
    WEIGHT,
    X,
    Y,
)
from i2am.storage.addresses import StoreLike, is_url, own_attributes
from i2am.storage.listing import Unreadable, iter_groups, member_metadata, own_of

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis.stores.reader import StoredSamples

__all__ = ["UNREADABLE", "Facts", "describe_group", "reason_of", "store_facts"]

Facts = dict[str, Any]

# What zarr and xarray raise where metadata are not those of what they should be.
UNREADABLE: Final = (BaseZarrError, I2AMError, OSError, ValueError, TypeError, KeyError)
# What a root tells of how its content was made.
_MADE_BY: Final = ("a", "b", "convention", "normalisation", "source", "by", "options")
# How many samples are told that cannot be read.
_MOST_UNREADABLE: Final = 5


def store_facts(address: StoreLike) -> Facts:
    """Return what a store is and what it holds, as JSON values.

    Parameters
    ----------
    address : str, Path or zarr Store
        Of a store of any kind, or of one sample in it.

    Returns
    -------
    dict
        ``store``, ``kind`` and ``schema``; what the root says of how it was made; ``samples``
        (complete, unfinished, names) and ``unreadable``, or of averages ``groups``; ``sample``, the
        facts of the first complete sample or of the one that was named; and ``stored_bytes`` on disk.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.
    """
    store, root, name = open_address(address)
    own = own_attributes(root)
    facts: Facts = {"store": str(store), "kind": own["kind"], "schema": own["schema"]}
    facts |= {key: own[key] for key in _MADE_BY if own.get(key)}
    if own["kind"] in RESULT_KINDS:
        facts |= _result_facts(root, name)
    else:
        facts |= _sample_facts(store, root, name)
    if isinstance(address, str | Path) and not is_url(address):
        facts["stored_bytes"] = _stored_bytes(address)
    return facts


def _sample_facts(store: StoreLike, root: zarr.Group, name: str | None) -> Facts:
    """Return the facts of one sample; without a name, of the first that can be read, and of all."""
    opened, facts_of = _open(own_attributes(root)["kind"], store)
    if name is not None:
        if name in opened:
            return {"sample": {"name": name, "status": "complete"} | facts_of(name)}
        return {"sample": {"name": name} | _unfinished_facts(root, name)}
    names = list(opened)
    unfinished = len(member_names(root)) - len(names)
    facts: Facts = {"samples": {"complete": len(names), "unfinished": unfinished, "names": names}}
    unreadable: list[Facts] = []
    for first in names:  # Where it is damaged, the next.
        try:
            facts["sample"] = {"name": first, "status": "complete"} | facts_of(first)
            break
        except UNREADABLE as e:
            unreadable.append({"sample": first, "reason": reason_of(e)})
    return facts | ({"unreadable": unreadable[:_MOST_UNREADABLE]} if unreadable else {})


def _unfinished_facts(root: zarr.Group, name: str) -> Facts:
    """Return what is known of a sample that no reader takes."""
    found = member_metadata(root, name)
    own = found if found is None or isinstance(found, Unreadable) else own_of(found)
    if own is None or isinstance(own, Unreadable):
        return {"status": None, "reason": f"unreadable: {own or 'no metadata'}"}
    facts = {"status": own.get("status")}
    return facts | ({"reason": str(own["error"])} if own.get("error") else {})


def _result_facts(root: zarr.Group, name: str | None) -> Facts:
    """Return the facts of averages or differences."""
    if name is not None:
        group = describe_group(root, name)
        if group.unreadable is not None:
            return {"sample": {"name": name, "status": None, "reason": group.unreadable}}
        own = group.attributes.get(ATTRIBUTE_KEY, {})
        kept = {key: own[key] for key in ("labels", "samples") if key in own}
        return {"sample": {"name": name, "status": "complete", **kept} | _maps_facts(group)}
    groups = {name: own for name, own in iter_groups(root) if not isinstance(own, Unreadable)}
    if own_attributes(root)["kind"] == "average":
        return {
            "groups": [
                {"name": name, "labels": own.get("labels", {}), "samples": own.get("samples")}
                for name, own in groups.items()
            ]
        }
    return {"samples": {"complete": len(groups), "unfinished": 0, "names": list(groups)}}


def describe_group(root: zarr.Group, name: str) -> GroupDescription:
    """Describe a member of a root and all below it; what cannot be read says why."""
    try:
        node = zarr.open(root.store_path / name, mode="r")
        if isinstance(node, zarr.Group):
            return _describe(node)
        return GroupDescription({}, unreadable="expected no array here, got one")
    except StorageError:  # It says nothing of the sample.
        raise
    except UNREADABLE as e:
        return GroupDescription(
            {}, unreadable=f"expected readable metadata, got this: {reason_of(e)}"
        )


def reason_of(error: Exception) -> str:
    """Return the first line of an error."""
    return str(error).partition("\n")[0] or type(error).__name__


def _describe(group: zarr.Group) -> GroupDescription:
    arrays = {name: describe_array(array) for name, array in sorted(group.arrays())}
    groups = {name: _describe(inner) for name, inner in sorted(group.groups())}
    return GroupDescription(dict(group.attrs), arrays, groups)


def _open(kind: str, path: StoreLike) -> tuple[StoredSamples[Any], Callable[[str], Facts]]:
    """Return a store of a kind, and what gives the facts of one of its samples."""
    if kind == "effects":
        from i2am.analysis.stores.effects import open_effects  # Of these, values are read.

        effects = open_effects(path)
        return effects, lambda name: _effects_facts(effects[name])
    if kind == "run":
        run = open_run(path)
        return run, lambda name: _run_facts(run.describe(name))
    maps = open_maps(path)
    return maps, lambda name: _maps_facts(maps.describe(name))


def _run_facts(sample: GroupDescription) -> Facts:
    provenance = sample.attributes[ATTRIBUTE_KEY]
    layers = sample.groups["layers"].groups
    order = {name: layer.attributes[ATTRIBUTE_KEY]["order"] for name, layer in layers.items()}
    return {
        **{key: provenance.get(key) for key in ("pipeline", "model", "seed", "created")},
        "steps": _values(sample, STEP),
        "timesteps": _values(sample, TIMESTEP),
        "guidance": _values(sample, GUIDANCE),
        "images": {
            name: list(image.shape[:2])
            for name, image in _data_arrays(sample.groups["images"]).items()
        },
        "array_bytes": _count_bytes(sample),
        "layers": [
            _layer_facts(name, layers[name]) for name in sorted(layers, key=order.__getitem__)
        ],
    }


def _layer_facts(name: str, layer: GroupDescription) -> Facts:
    own = LayerAttributes.model_validate(layer.attributes[ATTRIBUTE_KEY])
    sizes = _sizes(layer.arrays)
    tokens = sizes.get(REFERENCE, 1)
    weights, region = _values(layer, WEIGHT), _values(layer, REGION)
    return {
        "name": name,
        "generated_grid": list(own.generated_grid),
        "frames": own.frames,
        "reference": own.reference_image(),
        "reference_grid": own.reference_grid and list(own.reference_grid),
        "special_tokens": own.special_tokens,
        "reference_tokens": tokens,
        "heads": sizes[HEAD] if own.heads is None else list(own.heads),
        "representation": own.representation,
        "dtypes": sorted({array.dtype for array in _data_arrays(layer).values()}),
        "causal": is_causal(own, tokens, layer.arrays),
        # By what the layer multiplies the reference's contribution: always, or at each step.
        "weight": weights or own.weight,
        "mask_mean": float(np.mean(region)) if region else None,
    }


def _maps_facts(sample: GroupDescription) -> Facts:
    return {
        "directions": {
            direction: {"levels": [name for name in (*LEVELS, "mass") if name in group.arrays]}
            | {"sizes": _level_sizes(group.arrays)}
            for direction, group in sample.groups.items()
        }
    }


def _level_sizes(arrays: Mapping[str, ArrayDescription]) -> dict[str, int]:
    """Return the sizes of the maps: of the volume where there is one."""
    kept = {name: arrays[name] for name in LEVELS if name in arrays}
    kept = {"volume": kept["volume"]} if "volume" in kept else kept
    return {str(dim): size for dim, size in _sizes(kept).items()}


def _effects_facts(sample: xr.Dataset) -> Facts:
    from i2am.analysis.stores.effects import effect_share

    own = sample.attrs[ATTRIBUTE_KEY]
    facts: Facts = {
        "grid": [sample.sizes[Y], sample.sizes[X]],
        "effects": {
            str(name): {str(dim): size for dim, size in array.sizes.items() if dim not in (Y, X)}
            for name, array in sample.items()
        },
        "regions": sample.sizes.get(CUT),
    }
    if "layer_effect" in sample and "ceiling" in sample:
        shares = effect_share(sample["layer_effect"], sample["ceiling"])
        facts["layers"] = [
            {"name": name, "share_of_effect": float(share)}
            for name, share in zip(sample[LAYER].values.tolist(), shares, strict=True)
        ]
    return facts | {key: own.get(key) for key in ("pictures", "repaint_difference")}


def _stored_bytes(folder: str | Path) -> int:
    """Return the size of all files below a folder; of a link, its own."""
    with os.scandir(folder) as entries:
        return sum(
            _stored_bytes(entry.path)
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )


def _values(group: GroupDescription, name: str) -> list[Any]:
    """Return a coordinate's values; none where there is no such coordinate."""
    array = group.arrays.get(name)
    return list(array.values or ()) if array is not None else []


def _data_arrays(group: GroupDescription) -> dict[str, ArrayDescription]:
    """Return a group's arrays but its coordinates."""
    return {name: array for name, array in group.arrays.items() if len(array.shape) != 1}


def _sizes(arrays: Mapping[str, ArrayDescription]) -> dict[str | None, int]:
    return {
        dim: size
        for array in arrays.values()
        for dim, size in zip(array.dims or (), array.shape, strict=True)
    }


def _count_bytes(group: GroupDescription) -> int:
    """Return the bytes of a sample's images and layers, uncompressed; coordinates are left out."""
    own = _data_arrays(group).values()
    return sum(np.dtype(array.dtype).itemsize * math.prod(array.shape) for array in own) + sum(
        map(_count_bytes, group.groups.values())
    )
