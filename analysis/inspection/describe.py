"""Describe a store: every group's metadata for validation, a summary of facts for people."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.errors import BaseZarrError
from zarr.storage import StorePath

from i2am.analysis.stores.checked import describe_array
from i2am.analysis.stores.layers import format_labels, is_causal
from i2am.analysis.stores.reader import open_maps, open_root, open_run
from i2am.schemas import (
    ArrayDescription,
    GroupDescription,
    I2AMError,
    LayerAttributes,
    StorageError,
    check_schema,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import (
    CUT,
    GUIDANCE,
    HEAD,
    LAYER,
    REFERENCE,
    REGION,
    STEP,
    TIMESTEP,
    WEIGHT,
    X,
    Y,
)
from i2am.storage.addresses import StoreLike, is_url, open_group, own_attributes
from i2am.storage.inventory import METADATA_KEY
from i2am.storage.listing import Unreadable, iter_groups
from i2am.storage.objects import folder_names

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis.stores.reader import StoredSamples

__all__ = ["describe_store", "sample_names", "summarise_store"]

_SHOWN_NAMES: Final = 5
# What zarr and xarray raise where metadata are not those of what they should be.
_UNREADABLE: Final = (BaseZarrError, I2AMError, OSError, ValueError, TypeError, KeyError)
# Stores that are made of maps: groups of averages, or samples with differences.
_RESULTS: Final = ("average", "differences")

Facts = dict[str, str | list[str]]


def describe_store(path: StoreLike, left_out: Container[str] = ()) -> GroupDescription:
    """Describe a run, a maps or an effects store for `i2am.schemas.find_faults`.

    Parameters
    ----------
    path : str, Path or zarr Store
    left_out : container of str
        Samples that are not described.

    Returns
    -------
    GroupDescription
        A sample is described on access, so that a long run does not fill the memory.
        Groups of incomplete samples are there, too. Of the values only short coordinates are read.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.
    """
    root = open_root(path)
    names = [name for name in sample_names(root.store_path) if name not in left_out]
    return GroupDescription(dict(root.attrs), groups=_Samples(root, names))


def sample_names(root: StorePath) -> list[str]:
    """Return the names of all groups below a root, sorted: of samples in any state, damaged ones, too."""
    return sorted(name for name in folder_names(root) if name[:1] != "." and name != METADATA_KEY)


def summarise_store(path: StoreLike) -> dict[str, str | list[str]]:
    """Return a summary of a store: what it is and what it holds.

    Parameters
    ----------
    path : str, Path or zarr Store

    Returns
    -------
    dict of str to str or list of str
        In the order to print; a list is one line each. Layers, steps and guidance are those of the
        first complete sample.

    Raises
    ------
    StoreError
        If it is missing or no store of i2am.
    """
    result = open_group(path)
    if (own := own_attributes(result)).get("kind") in _RESULTS:
        check_schema(own, path)
        return _result_facts(result) | _stored_fact(path)
    root = open_root(path)
    own = own_attributes(root)
    opened, facts_of = _open(own["kind"], path)
    names = list(opened)
    unfinished = len(sample_names(root.store_path)) - len(names)
    facts: Facts = {"kind": own["kind"], "schema": str(own["schema"])}
    facts |= {key: str(own[key]) for key in ("convention", "normalisation", "source") if key in own}
    options = own.get("options")
    if isinstance(options, dict) and options.get("weights"):
        facts["weights"] = f"{options['weights']}, of {options.get('effects')}"
    if isinstance(options, dict) and options.get("within"):
        facts["within"] = "the inpainting mask"
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if names[_SHOWN_NAMES:] else "")
    facts["samples"] = f"{len(names)} complete{f', {unfinished} not' if unfinished else ''}" + (
        f": {shown}" if shown else ""
    )
    damaged: list[str] = []
    for name in names:  # Of the first one, or where that is damaged, of the next.
        try:
            facts |= facts_of(name)
        except _UNREADABLE as e:
            damaged.append(f"{name}: {_reason(e)}")
        else:
            break
    if damaged:
        facts["unreadable"] = damaged[:_SHOWN_NAMES]
    return facts | _stored_fact(path)


def _stored_fact(path: StoreLike) -> Facts:
    if not isinstance(path, str | Path) or is_url(path):
        return {}
    return {"stored": f"{_stored_bytes(path):,} bytes"}


def _stored_bytes(folder: str | Path) -> int:
    """Return the size of all files below a folder; of a link, its own."""
    with os.scandir(folder) as entries:
        return sum(
            _stored_bytes(entry.path)
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
            for entry in entries
        )


def _result_facts(root: zarr.Group) -> Facts:
    """Return the root's attributes, and one line for each group of samples, or for all samples."""
    own = {key: value for key, value in own_attributes(root).items() if value}
    facts: Facts = {
        key: ", ".join(value) if isinstance(value, list) else str(value)
        for key, value in own.items()
    }
    groups = {name: own for name, own in iter_groups(root) if not isinstance(own, Unreadable)}
    counts = {name: own.get("samples") for name, own in groups.items()}
    if own["kind"] == "average":
        lines = [f"{name}: {n} sample{'' if n == 1 else 's'}" for name, n in counts.items()]
        return facts | {"groups": lines}
    names = list(counts)
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", …" if names[_SHOWN_NAMES:] else "")
    return facts | {"samples": f"{len(names)}: {shown}"}


def _run_facts(sample: GroupDescription) -> Facts:
    provenance = sample.attributes[ATTRIBUTE_KEY]
    steps, timesteps = _values(sample, STEP), _values(sample, TIMESTEP)
    kept = "" if steps == list(range(len(steps))) else f" ({format_labels(steps)})"
    images, layers = sample.groups["images"], sample.groups["layers"].groups
    return {
        "pipeline": f"{provenance.get('pipeline')} ({provenance.get('model')})",
        "steps": f"{len(timesteps)}{kept}, timestep {timesteps[0]:g} to {timesteps[-1]:g}",
        "guidance": ", ".join(_values(sample, GUIDANCE)) or "conditional branch alone",
        "images": ", ".join(
            f"{name} {'x'.join(map(str, image.shape[:2]))}"
            for name, image in _data_arrays(images).items()
        ),
        "arrays": f"{_count_bytes(sample):,} bytes a sample",
        "layers": [
            _layer_fact(name, layer)
            for name, layer in sorted(
                layers.items(), key=lambda item: item[1].attributes[ATTRIBUTE_KEY]["order"]
            )
        ],
    }


def _maps_facts(sample: GroupDescription) -> Facts:
    lines = []
    for direction, group in sample.groups.items():
        sizes = ", ".join(
            f"{size} {dim}" for dim, size in _sizes({"": group.arrays["volume"]}).items()
        )
        lines.append(f"{direction}: {sizes}{'; mass' if 'mass' in group.arrays else ''}")
    first = next(iter(sample.groups.values()))
    return {"steps": str(_sizes(first.arrays)[STEP]), "directions": lines}


def _effects_facts(sample: xr.Dataset) -> Facts:
    from i2am.analysis.stores.effects import effect_share

    own = sample.attrs[ATTRIBUTE_KEY]
    facts: Facts = {
        "grid": f"{sample.sizes[Y]} y, {sample.sizes[X]} x",
        "effects": ", ".join(f"{name} {_counts(array)}".strip() for name, array in sample.items()),
    }
    if CUT in sample.dims:
        facts["regions"] = str(sample.sizes[CUT])
    if "layer_effect" in sample and "ceiling" in sample:
        shares = effect_share(sample["layer_effect"], sample["ceiling"])
        facts["layers"] = [
            f"{name}: {float(share):.3f} of the effect of all"
            for name, share in zip(sample[LAYER].values.tolist(), shares, strict=True)
        ]
    if own.get("pictures") is not None:
        facts["pictures"] = f"{own['pictures']} a sample"
    if own.get("repaint_difference") is not None:
        facts["repainted"] = f"at most {own['repaint_difference']:g} of 255 levels from the stored"
    return facts


def _counts(array: xr.DataArray) -> str:
    return " ".join(f"({size} {dim})" for dim, size in array.sizes.items() if dim not in (Y, X))


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


def _layer_fact(name: str, layer: GroupDescription) -> str:
    own = LayerAttributes.model_validate(layer.attributes[ATTRIBUTE_KEY])
    sizes = _sizes(layer.arrays)
    tokens = sizes.get(REFERENCE, 1)
    height, width = own.generated_grid
    generated = f"{height // own.frames}x{width}"
    if own.frames > 1:
        generated = f"{own.frames} frames of {generated}"
    if own.reference_grid:
        special = f" + {own.special_tokens}" if own.special_tokens else ""
        reference = "x".join(map(str, own.reference_grid)) + special
    else:
        reference = f"{tokens} token{'s' if tokens > 1 else ''}"
    if own.reference_index:
        reference += f" of {own.reference_image()}"
    heads = f"{sizes[HEAD]} heads" if own.heads is None else f"heads {format_labels(own.heads)}"
    dtype = ", ".join(sorted({array.dtype for array in _data_arrays(layer).values()}))
    note = "" if is_causal(own, tokens, layer.arrays) else "; a similarity, not causal"
    note += _contribution_fact(own, layer)
    return f"{name}: {generated} <- {reference}, {heads}, {own.representation} {dtype}{note}"


def _contribution_fact(own: LayerAttributes, layer: GroupDescription) -> str:
    """Return by what the layer multiplies what the reference contributes, where it does."""
    note = "" if own.weight == 1 else f"; weight {own.weight:g}"
    if weights := _values(layer, WEIGHT):
        note = f"; weight {min(weights):g} to {max(weights):g}, by step"
    if region := _values(layer, REGION):
        note += f"; masked, mean {np.mean(region):.2f}"
    return note


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


def _describe(group: zarr.Group) -> GroupDescription:
    arrays = {name: describe_array(array) for name, array in sorted(group.arrays())}
    groups = {name: _describe(inner) for name, inner in sorted(group.groups())}
    return GroupDescription(dict(group.attrs), arrays, groups)


class _Samples(Mapping[str, GroupDescription]):
    """The groups below a root, each described on access."""

    def __init__(self, root: zarr.Group, names: Sequence[str]) -> None:
        self._root, self._names = root, dict.fromkeys(names)

    def __getitem__(self, name: str) -> GroupDescription:
        if name not in self._names:
            raise KeyError(name)
        try:
            node = zarr.open(self._root.store_path / name, mode="r")
            if isinstance(node, zarr.Group):
                return _describe(node)
            return GroupDescription({}, unreadable="expected no array here, got one")
        except StorageError:  # It says nothing of the sample.
            raise
        except _UNREADABLE as e:
            return GroupDescription(
                {}, unreadable=f"expected readable metadata, got this: {_reason(e)}"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _count_bytes(group: GroupDescription) -> int:
    """Return the bytes of a sample's images and layers, uncompressed; coordinates are left out."""
    own = _data_arrays(group).values()
    return sum(np.dtype(array.dtype).itemsize * math.prod(array.shape) for array in own) + sum(
        map(_count_bytes, group.groups.values())
    )
