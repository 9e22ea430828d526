"""The capture store as it is written: run, sample groups, images, coordinates, status.

A run lies in a local directory or in an object store, named by a URL. Several processes may fill
one run at once, each its own samples: nothing is locked, because nobody changes the same object.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ContainsGroupError

from i2am.capture.writer.zarr_objects import (
    Array,
    NodeMetadata,
    delete_tree,
    group_at,
    group_metadata,
    single_chunk_metadata,
    write_nodes,
)
from i2am.files import check_not_in_store
from i2am.schemas import (
    Box,
    ImageAttributes,
    RunAttributes,
    SchemaError,
    StoreError,
    check_sample_name,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY, SCHEMA_VERSION
from i2am.schemas.dims import GUIDANCE, STEP, TIMESTEP, image_dims
from i2am.storage.addresses import own_attributes, reported_as_store_error, to_store

__all__ = [
    "finished_samples",
    "iter_finished_samples",
    "open_run_group",
    "open_sample",
    "set_status",
    "write_box",
    "write_coordinates",
    "write_images",
]


def open_run_group(store: str | Path) -> zarr.Group:
    """Return the root group of a run; creates it if there is none.

    Raises
    ------
    StoreError
        If something else is there, the store cannot be reached, or it would lie inside another.
    """
    root_path = to_store(store)
    with reported_as_store_error(store):
        if isinstance(root_path, Path) and _is_something_else(root_path):
            msg = f"Expected a run or nothing, got another file or folder at {store}. "
            raise StoreError(msg + "Name a new one.")
        try:
            root = zarr.open_group(root_path, mode="r+")
        except FileNotFoundError:
            check_not_in_store(store)
            try:
                return zarr.create_group(root_path, attributes=RunAttributes().to_store())
            except ContainsGroupError:  # Another process was faster.
                root = zarr.open_group(root_path, mode="r+")
    return _check_is_run(root, store)


def finished_samples(store: str | Path) -> set[str]:
    """Return the names of a run's complete samples; none if there is no run yet.

    Raises
    ------
    StoreError
        If it is another store, or cannot be reached.
    """
    return {name for name, _ in iter_finished_samples(store)}


def iter_finished_samples(store: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and provenance of each complete sample of a run; none if there is no run yet.

    Raises
    ------
    StoreError
        If it is another store, or cannot be reached.
    """
    with reported_as_store_error(store):
        try:
            root = zarr.open_group(to_store(store), mode="r")
        except FileNotFoundError:
            return
        _check_is_run(root, store)
        with warnings.catch_warnings():
            # Another process may just have removed a sample, and not created it again yet.
            warnings.filterwarnings("ignore", "Object at .* is not recognized")
            groups = list(root.groups())
    for name, group in groups:
        if (own := own_attributes(group)).get("status") == "complete":
            yield name, own


def open_sample(
    store: str | Path, sample: str, *, overwrite: bool, attributes: Mapping[str, Any]
) -> zarr.Group:
    """Return a new group for a sample; what an unfinished capture left is removed.

    Parameters
    ----------
    store : str or Path
    sample : str
    overwrite : bool
        Whether a complete sample of this name may be replaced.
    attributes : mapping
        See `set_status`.

    Raises
    ------
    StoreError
        If the sample is complete and `overwrite` is false, or `store` is not a run or cannot be
        reached.
    SchemaError
        If `sample` cannot name a group.
    """
    check_sample_name(sample)
    root = open_run_group(store)
    with reported_as_store_error(store):
        found = root.get(sample)
        is_complete = found is not None and own_attributes(found).get("status") == "complete"
        if is_complete and not overwrite:
            msg = (
                f"Expected a new sample, got {sample!r}, which is complete in {store}. "
                "Name another one, or pass overwrite=True."
            )
            raise StoreError(msg)
        # Also where a capture ended before it had written the group's metadata.
        path = root.store_path / sample
        delete_tree(path)
        running = group_metadata(_sample_attributes(attributes))
        write_nodes(path, {"": running, "images": group_metadata(), "layers": group_metadata()})
        return group_at(path, running)


def set_status(sample: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a sample's attributes; ``coordinates`` makes the timesteps a coordinate for xarray.

    Raises
    ------
    StoreError
        If the store cannot be reached.
    """
    with reported_as_store_error(sample):
        sample.update_attributes(_sample_attributes(attributes))


def _sample_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {ATTRIBUTE_KEY: dict(attributes), "coordinates": TIMESTEP}


def write_coordinates(
    sample: zarr.Group, steps: Sequence[int], timesteps: Sequence[float], branches: Sequence[str]
) -> None:
    """Write step, timestep and, for more than one branch, guidance.

    Raises
    ------
    StoreError
        If the store cannot be reached.
    """
    with reported_as_store_error(sample):
        values = {
            STEP: np.asarray(steps, np.int64),
            TIMESTEP: np.asarray(timesteps, np.float64),
        }
        nodes = {name: single_chunk_metadata(array, (STEP,)) for name, array in values.items()}
        write_nodes(sample.store_path, nodes, values)
        if len(branches) > 1:
            labels = np.array(list(branches), dtype=np.dtypes.StringDType())
            sample.create_array(GUIDANCE, data=labels, dimension_names=[GUIDANCE])


def write_images(
    sample: zarr.Group, images: Mapping[str, Array], boxes: Mapping[str, Box] | None = None
) -> None:
    """Write images and masks; all are checked before the first one is written.

    Parameters
    ----------
    sample : zarr.Group
    images : mapping of str to array, uint8 (y, x, 3), or for a mask (y, x) of 0 and 255
        By their names in the contract.
    boxes : mapping of str to Box, optional
        By the names of some of the images: the part that the model saw, where that is not all.

    Raises
    ------
    SchemaError
        If an image has another name, shape or dtype.
    StoreError
        If the store cannot be reached.
    """
    nodes: dict[str, NodeMetadata] = {}
    for name, array in images.items():
        names = image_dims(name)
        if names is None or array.ndim != len(names) or array.dtype != np.uint8:
            msg = (
                f"Expected uint8 (y, x, 3), or a mask (y, x), under an image's name, got "
                f"{array.dtype} {array.shape}, at {name!r}. Read it with add_images."
            )
            raise SchemaError(msg)
        box = (boxes or {}).get(name)
        attributes = None if box is None else ImageAttributes(box=box).to_store()
        nodes[name] = single_chunk_metadata(array, names, attributes)
    with reported_as_store_error(sample):
        write_nodes(sample.store_path / "images", nodes, images)


def write_box(sample: zarr.Group, name: str, box: Box) -> None:
    """Write which part of an image that is stored already the model saw.

    Raises
    ------
    StoreError
        If the store cannot be reached.
    """
    with reported_as_store_error(sample):
        image = sample[f"images/{name}"]
        image.update_attributes(ImageAttributes(box=box).to_store())


def _check_is_run(root: zarr.Group, store: str | Path) -> zarr.Group:
    if (kind := own_attributes(root).get("kind")) != "run":
        msg = f"Expected a run, got {kind or 'another Zarr group'} at {store}. Name a new store."
        raise StoreError(msg)
    if (schema := own_attributes(root).get("schema")) != SCHEMA_VERSION:
        msg = (
            f"Expected a run of schema {SCHEMA_VERSION}, got {schema!r}, at {store}. Name a new store, "
            "or upgrade i2am if a newer version wrote this one."
        )
        raise StoreError(msg)
    return root


def _is_something_else(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    # zarr writes files under this suffix first; another process may just be creating the run.
    entries = [entry for entry in path.iterdir() if entry.suffix != ".partial"]
    return bool(entries) and not (path / "zarr.json").exists()
