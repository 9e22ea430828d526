"""Capture stores written by hand with plain Zarr, as an independent witness of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.abc.store import Store

Floats = np.ndarray[Any, np.dtype[np.float64]]
_Path = TypeVar("_Path", Path, Store)

PROVENANCE = {
    "kind": "capture",
    "schema": 1,
    "status": "complete",
    "pipeline": "Synthetic",
    "model": "synthetic",
    "revision": None,
    "profile": "synthetic",
    "scheduler": "DDIMScheduler",
    "steps": 4,
    "guidance_scale": 3.0,
    "seed": 0,
    "dtype": "float32",
    "device": "cpu",
    "created": "2026-01-01T00:00:00Z",
    "versions": {"i2am": "0"},
}


@dataclass(frozen=True)
class SyntheticLayer:
    """One layer of a synthetic sample."""

    name: str
    generated_grid: tuple[int, int] = (8, 8)
    reference_grid: tuple[int, int] | None = (4, 4)
    special_tokens: int = 1
    tokens: int | None = None  # without a grid
    heads: int = 2
    channels: int = 8
    block: str = "down"
    representation: str = "factors"  # "maps" is always float32
    keys_per_step: bool = False
    dtype: str = "float16"
    other_keys: int = 0  # that share the softmax
    reference_index: int = 0
    kept_heads: tuple[int, ...] | None = None  # of all `heads`
    frames: int = 1
    weights: tuple[float, ...] | None = None  # by step; one alone is the attribute
    masked: bool = False  # a region, drawn from 0 to 1

    @property
    def reference_tokens(self) -> int:
        if self.reference_grid is None:
            return self.tokens or 1
        return self.special_tokens + self.reference_grid[0] * self.reference_grid[1]


LAYERS = (
    SyntheticLayer("down_blocks.0.attentions.0.transformer_blocks.0.attn2"),
    SyntheticLayer("mid_block.attentions.0.transformer_blocks.0.attn2", (4, 4), block="mid"),
    SyntheticLayer(
        "up_blocks.0.attentions.0.transformer_blocks.0.attn2", block="up", representation="logits"
    ),
)


def write_run(
    path: _Path,
    samples: Sequence[str] = ("first",),
    layers: Sequence[SyntheticLayer] = LAYERS,
    *,
    steps: int | Sequence[int] = 4,
    guidance: bool = False,
    size_px: tuple[int, int] = (32, 32),
    seed: int = 0,
    boxes: Mapping[str, Sequence[float]] | None = None,
) -> _Path:
    """Write a capture store and return its path; `steps` is their number, or their labels.

    `boxes` are the parts (y0, x0, y1, x1) of stored images that the model saw, by their names.
    """
    labels = range(steps) if isinstance(steps, int) else steps
    root = zarr.create_group(path, attributes={"i2am": {"kind": "run", "schema": 1}})
    for number, sample in enumerate(samples):
        rng = np.random.default_rng([seed, number])
        own = {**PROVENANCE, "steps": labels[-1] + 1}
        group = root.create_group(sample, attributes={"i2am": own})
        group.update_attributes({"coordinates": "timestep"})
        _put(group, "step", np.array(labels), ("step",))
        _put(group, "timestep", np.linspace(981, 1, len(labels)), ("step",))
        if guidance:
            branches = np.array(["unconditional", "conditional"], dtype=np.dtypes.StringDType())
            _put(group, "guidance", branches, ("guidance",))
        references = 1 + max((layer.reference_index for layer in layers), default=0)
        _write_images(group.create_group("images"), rng, size_px, references)
        for image, box in (boxes or {}).items():
            group[f"images/{image}"].update_attributes({"i2am": {"box": list(box)}})
        parent = group.create_group("layers")
        for order, layer in enumerate(layers):
            _write_layer(parent, layer, order, len(labels), guidance, rng)
    return path


def _write_images(
    images: zarr.Group, rng: np.random.Generator, size: tuple[int, int], references: int
) -> None:
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
    _put(images, "generated", picture, ("y", "x", "rgb"))
    _put(images, "reference", picture[::-1].copy(), ("reference_y", "reference_x", "rgb"))
    _put(images, "source", picture, ("y", "x", "rgb"))
    _put(images, "inpainting_mask", mask, ("y", "x"))
    _put(images, "reference_mask", mask, ("reference_y", "reference_x"))
    for number in range(1, references):
        # Another size than the first, so that a mistake for it does not go unseen.
        name, other = f"reference_{number}", rng.integers(0, 256, (24, 16, 3), dtype=np.uint8)
        _put(images, name, other, (f"{name}_y", f"{name}_x", "rgb"))


def _write_layer(
    parent: zarr.Group,
    layer: SyntheticLayer,
    order: int,
    steps: int,
    guidance: bool,
    rng: np.random.Generator,
) -> None:
    attributes = _layer_attributes(layer, order)
    weights = layer.weights or ()
    if len(weights) == 1:
        attributes["weight"] = weights[0]
    group = parent.create_group(layer.name, attributes={"i2am": attributes})
    branches = (2,) if guidance else ()
    query, key, other = _draw(layer, (*branches, steps), (*branches, 1), rng)
    logits = attributes["scale"] * query.astype(float) @ key.astype(float).swapaxes(-1, -2)
    shared = attributes["scale"] * query.astype(float) @ other.swapaxes(-1, -2)
    total = np.log(np.exp(np.concatenate([logits, shared], axis=-1)).sum(-1))
    if len(weights) > 1:
        _put(group, "weight", np.array(weights, np.float32), ("step",))
    region = _region(layer)
    lead = (*(("guidance",) if guidance else ()), "step", "head")
    if layer.representation == "maps":
        exists = {"r2g": True, "g2r": layer.reference_tokens > 1, "mass": layer.other_keys > 0}
        for name, values in _reduced(logits, total, region).items():
            if exists[name]:
                plane = "reference" if name == "g2r" else "generated"
                _put(group, name, values.astype(np.float32), (*lead, plane))
        return
    if layer.masked:
        _put(group, "region", region.astype(np.float32), ("generated",))
    if layer.representation == "factors":
        _put(group, "query", query, (*lead, "generated", "channel"))
        key_lead = lead if layer.keys_per_step else tuple(d for d in lead if d != "step")
        stored = key if layer.keys_per_step else key.squeeze(-4)
        _put(group, "key", stored, (*key_lead, "reference", "channel"))
    else:
        _put(group, "logits", logits.astype(layer.dtype), (*lead, "generated", "reference"))
    if layer.other_keys:
        _put(group, "logsumexp", total.astype(np.float32), (*lead, "generated"))


def _layer_attributes(layer: SyntheticLayer, order: int) -> dict[str, Any]:
    return {
        "scale": layer.channels**-0.5,
        "generated_grid": list(layer.generated_grid),
        "reference_grid": list(layer.reference_grid) if layer.reference_grid else None,
        "special_tokens": layer.special_tokens,
        "order": order,
        "block": layer.block,
        "representation": layer.representation,
        "causal": layer.reference_tokens > 1 or layer.other_keys > 0,
        "reference_index": layer.reference_index,
        "frames": layer.frames,
        "heads": layer.kept_heads and list(layer.kept_heads),
    }


def _draw(
    layer: SyntheticLayer,
    stepped: tuple[int, ...],
    fixed: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """Return queries, keys, and the keys of what shares the softmax, as they are stored."""
    patches = layer.generated_grid[0] * layer.generated_grid[1]
    keyed = stepped if layer.keys_per_step else fixed
    query = rng.normal(size=(*stepped, layer.heads, patches, layer.channels))
    key = rng.normal(size=(*keyed, layer.heads, layer.reference_tokens, layer.channels))
    other = rng.normal(size=(*keyed, layer.heads, layer.other_keys, layer.channels))
    if layer.kept_heads is not None:
        query, key, other = (x[..., list(layer.kept_heads), :, :] for x in (query, key, other))
    return query.astype(layer.dtype), key.astype(layer.dtype), other


def _region(layer: SyntheticLayer) -> Floats:
    """Return what a mask leaves at each patch, 0 and 1 among it; 1 everywhere without a mask."""
    patches = layer.generated_grid[0] * layer.generated_grid[1]
    drawn = np.random.default_rng(patches).uniform(-0.5, 1.5, patches).clip(0, 1)
    return drawn.astype(np.float32).astype(float) if layer.masked else np.ones(patches)


def _reduced(logits: Floats, total: Floats, region: Floats) -> dict[str, Floats]:
    """Return what is left of logits (…, generated, reference) that were reduced at capture."""
    backward = np.exp(logits - logits.max(axis=-2, keepdims=True))
    backward /= backward.sum(axis=-2, keepdims=True)
    forward = np.exp(logits - total[..., None]) * region[:, None]
    return {
        "r2g": backward.mean(axis=-1) * region,
        "g2r": forward.mean(axis=-2),
        "mass": forward.sum(axis=-1),
    }


def _put(group: zarr.Group, name: str, values: np.ndarray[Any, Any], dims: Sequence[str]) -> None:
    group.create_array(name, data=values, dimension_names=list(dims))
