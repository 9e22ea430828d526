"""What the maps must be, by the method's words alone: plain Zarr, float64 and torch's resize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def softmax(logits: NDArray[Any], axis: int) -> Floats:
    wide = logits.astype(np.float64)
    exponential = np.exp(wide - wide.max(axis=axis, keepdims=True))
    normalised: Floats = exponential / exponential.sum(axis=axis, keepdims=True)
    return normalised


def resize(maps: NDArray[Any], grid: tuple[int, int]) -> Floats:
    """Bicubic by torch, over the last two axes."""
    import torch  # What else is here serves an environment without it, too.

    planes = torch.from_numpy(np.ascontiguousarray(maps, np.float64)).reshape(
        -1, 1, *maps.shape[-2:]
    )
    resized = torch.nn.functional.interpolate(
        planes, size=grid, mode="bicubic", align_corners=False, antialias=False
    )
    return resized.numpy().reshape(*maps.shape[:-2], *grid)


def stored(path: Path) -> Any:
    """What lies at a path, by plain Zarr, to read and write; untyped, for members are unions."""
    return zarr.open(path, mode="r+")


def change_attributes(path: Path, **changes: Any) -> None:
    """Change some of a group's own attributes."""
    group = stored(path)
    group.update_attributes({"i2am": {**group.attrs["i2am"], **changes}})


def rechunk(layer: Path, name: str, *, shards: bool = False, **chunks: int) -> Any:
    """Write an array anew in other chunks, within one shard if asked for; returns its values."""
    group = stored(layer)
    names = group[name].metadata.dimension_names
    values = group[name][:]
    sizes = dict(zip(names, values.shape, strict=True)) | chunks
    shape = tuple(sizes[dim] for dim in names)
    whole = tuple(
        -(-size // chunk) * chunk for size, chunk in zip(values.shape, shape, strict=True)
    )
    group.create_array(
        name,
        data=values,
        chunks=shape,
        shards=whole if shards else None,
        dimension_names=names,
        overwrite=True,
    )
    return values


def layer_groups(sample: Path) -> list[Any]:
    """A captured sample's layers in execution order, by plain Zarr."""
    layers = stored(sample / "layers")
    return sorted((g for _, g in layers.groups()), key=lambda g: g.attrs["i2am"]["order"])


def stored_logits(layer: Any, branch: int | None = None) -> Any:
    """One layer's logits (step, head, P, R); `branch` picks from the guidance dimension."""

    def read(name: str) -> Any:
        values = layer[name][:].astype(np.float64)
        return values if branch is None else values[branch]

    if "logits" in layer:
        return read("logits")
    key = read("key")
    if key.ndim == 3:
        key = key[None]
    return layer.attrs["i2am"]["scale"] * read("query") @ key.swapaxes(-1, -2)


def stored_region(layer: Any) -> Any:
    """By what a layer multiplies what its reference contributes to each patch; 1 without a mask."""
    patches = np.prod(layer.attrs["i2am"]["generated_grid"])
    return layer["region"][:].astype(np.float64) if "region" in layer else np.ones(patches)


def r2g_volume(layer: Any, grid: tuple[int, int], branch: int | None = None) -> Floats:
    logits = stored_logits(layer, branch)
    own = layer.attrs["i2am"]["generated_grid"]
    maps = softmax(logits, 2).mean(axis=3) * stored_region(layer)
    clamped: Floats = np.clip(resize(maps.reshape(*maps.shape[:2], *own), grid), 0, None)
    return clamped


def g2r_volume(layer: Any, grid: tuple[int, int], branch: int | None = None) -> Floats:
    logits = stored_logits(layer, branch)
    own = layer.attrs["i2am"]["reference_grid"]
    forward = softmax(logits, 3) * stored_region(layer)[:, None]
    maps = forward.mean(axis=2)[..., layer.attrs["i2am"]["special_tokens"] :]
    clamped: Floats = np.clip(resize(maps.reshape(*maps.shape[:2], *own), grid), 0, None)
    return clamped


def sample_of(
    layers: dict[str, dict[str, Any]],
    *,
    steps: int,
    image: tuple[int, int] = (32, 32),
) -> xr.DataTree:
    """A captured sample in memory: each layer's arrays as `dims: values`, beside its attributes."""
    step = {"step": np.arange(steps), "timestep": ("step", np.linspace(981, 1, steps))}
    blank = np.zeros((*image, 3), np.uint8)
    trees = {
        "/": xr.Dataset(coords=step),
        "/images": xr.Dataset(
            {
                "generated": (("y", "x", "rgb"), blank),
                "reference": (("reference_y", "reference_x", "rgb"), blank),
            }
        ),
    }
    for order, (name, layer) in enumerate(layers.items()):
        attributes = {"order": order, "block": "down", "special_tokens": 0, "scale": 1.0}
        arrays = layer["arrays"]
        attributes["representation"] = "logits" if "logits" in arrays else "factors"
        own = {k: v for k, v in layer.items() if k != "arrays"}
        trees[f"/layers/{name}"] = xr.Dataset(arrays, attrs={"i2am": attributes | own})
    return xr.DataTree.from_dict(trees, name="sample")


def refuse_to_compute(*_: Any, **__: Any) -> Any:
    """A Dask scheduler for what must stay lazy."""
    msg = "something was computed"
    raise AssertionError(msg)
