"""The capture store as it is written: run, sample groups, images, coordinates, status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from PIL import Image

from i2am.capture.writer import Array, write_array
from i2am.schemas import (
    CaptureError,
    RunAttributes,
    SchemaError,
    StoreError,
    check_sample_name,
    did_you_mean,
)
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import GUIDANCE, IMAGE_ARRAYS, RGB, STEP, TIMESTEP

__all__ = [
    "finished_samples",
    "open_sample",
    "set_status",
    "write_coordinates",
    "write_images",
]


def open_run_group(store: str | Path) -> zarr.Group:
    """Return the root group of a run, made when there is none.

    Raises
    ------
    StoreError
        If something else is there.
    """
    if "://" not in str(store) and _is_something_else(Path(store)):
        msg = f"Expected a run or nothing, got another file or folder at {store}. Name a new one."
        raise StoreError(msg)
    try:
        root = zarr.open_group(str(store), mode="r+")
    except FileNotFoundError:
        return zarr.create_group(str(store), attributes=RunAttributes().to_store())
    return _check_is_run(root, store)


def finished_samples(store: str | Path) -> set[str]:
    """Return the names of the complete samples of a run; none when there is no run yet.

    Raises
    ------
    StoreError
        If it is another store.
    """
    try:
        root = zarr.open_group(str(store), mode="r")
    except FileNotFoundError:
        return set()
    _check_is_run(root, store)
    return {n for n, g in root.groups() if _attributes(g).get("status") == "complete"}


def open_sample(store: str | Path, sample: str, *, overwrite: bool) -> zarr.Group:
    """Return a fresh group for a sample. What an unfinished capture left behind is removed.

    Raises
    ------
    StoreError
        If the sample is complete and `overwrite` is false, or `store` is not a run.
    SchemaError
        If `sample` cannot name a group.
    """
    check_sample_name(sample)
    root = open_run_group(store)
    if sample in root:
        if _attributes(root[sample]).get("status") == "complete" and not overwrite:
            msg = (
                f"Expected a new sample, got {sample!r}, which is complete in {store}. "
                "Name another one, or pass overwrite=True."
            )
            raise StoreError(msg)
        del root[sample]
    return root.create_group(sample, attributes={ATTRIBUTE_KEY: {"status": "running"}})


def set_status(sample: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Replace a sample's attributes; ``coordinates`` tells xarray that timesteps label steps."""
    sample.update_attributes({ATTRIBUTE_KEY: dict(attributes), "coordinates": TIMESTEP})


def write_coordinates(
    sample: zarr.Group, timesteps: Sequence[float], halves: Sequence[str]
) -> None:
    """Write step, timestep and, for more than one half, guidance."""
    write_array(sample, STEP, np.arange(len(timesteps)), (STEP,))
    write_array(sample, TIMESTEP, np.asarray(timesteps, np.float64), (STEP,))
    if len(halves) > 1:
        labels = np.array(list(halves), dtype=np.dtypes.StringDType())
        write_array(sample, GUIDANCE, labels, (GUIDANCE,))


def write_images(sample: zarr.Group, images: Mapping[str, Any]) -> None:
    """Write pictures and masks, checked before the first one is written.

    Raises
    ------
    CaptureError
        If a name is unknown or is written already.
    SchemaError
        If a picture has another shape or dtype than the contract's.
    """
    group = sample.require_group("images")
    arrays = {}
    for name, picture in images.items():
        if name not in IMAGE_ARRAYS:
            hint = did_you_mean(name, IMAGE_ARRAYS)
            msg = f"Expected an image's name, got {name!r}. {hint}"
            raise CaptureError(msg)
        if name in group:
            msg = f"Expected image {name!r} once, got it again, at sample {sample.path!r}. Omit it."
            raise CaptureError(msg)
        arrays[name] = _to_array(name, picture)
    for name, values in arrays.items():
        write_array(group, name, values, IMAGE_ARRAYS[name], values.shape)


def _to_array(name: str, picture: Any) -> Array:
    """Return uint8: (y, x, 3), or for a mask (y, x) of 0 and 255."""
    is_picture = RGB in IMAGE_ARRAYS[name]
    if isinstance(picture, Image.Image):
        values = np.asarray(picture.convert("RGB" if is_picture else "L"))
    else:
        values = np.asarray(picture)
    if not is_picture and values.dtype == bool:
        values = values.astype(np.uint8) * 255
    if values.dtype != np.uint8 or values.ndim != (3 if is_picture else 2):
        wanted = "uint8 (y, x, 3)" if is_picture else "uint8 (y, x)"
        msg = (
            f"Expected image {name!r} as a PIL image or {wanted} array, got "
            f"{values.dtype} {values.shape}. Convert it."
        )
        raise SchemaError(msg)
    if is_picture and values.shape[2] != 3:
        msg = f"Expected three channels in image {name!r}, got {values.shape[2]}. Convert it."
        raise SchemaError(msg)
    return values if is_picture else np.where(values > 127, 255, 0).astype(np.uint8)


def _check_is_run(root: zarr.Group, store: str | Path) -> zarr.Group:
    if (kind := _attributes(root).get("kind")) != "run":
        msg = f"Expected a run, got {kind or 'another Zarr group'} at {store}. Name a new store."
        raise StoreError(msg)
    return root


def _attributes(group: Any) -> dict[str, Any]:
    found = group.attrs.asdict().get(ATTRIBUTE_KEY)
    return found if isinstance(found, dict) else {}


def _is_something_else(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(path.iterdir()) and not (path / "zarr.json").exists()
