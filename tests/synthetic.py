"""Capture stores written by hand with plain Zarr, as an independent witness of the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

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
    representation: str = "factors"
    keys_per_step: bool = False
    dtype: str = "float16"

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
    path: Path,
    samples: Sequence[str] = ("first",),
    layers: Sequence[SyntheticLayer] = LAYERS,
    *,
    steps: int = 4,
    guidance: bool = False,
    size_px: tuple[int, int] = (32, 32),
    seed: int = 0,
) -> Path:
    """Write a capture store and return its path."""
    root = zarr.create_group(path, attributes={"i2am": {"kind": "run", "schema": 1}})
    for number, sample in enumerate(samples):
        rng = np.random.default_rng([seed, number])
        group = root.create_group(sample, attributes={"i2am": {**PROVENANCE, "steps": steps}})
        group.update_attributes({"coordinates": "timestep"})
        _put(group, "step", np.arange(steps), ("step",))
        _put(group, "timestep", np.linspace(981, 1, steps), ("step",))
        if guidance:
            labels = np.array(["unconditional", "conditional"], dtype=np.dtypes.StringDType())
            _put(group, "guidance", labels, ("guidance",))
        _write_images(group.create_group("images"), rng, size_px)
        parent = group.create_group("layers")
        for order, layer in enumerate(layers):
            _write_layer(parent, layer, order, steps, guidance, rng)
    return path


def _write_images(images: zarr.Group, rng: np.random.Generator, size: tuple[int, int]) -> None:
    picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 255
    _put(images, "generated", picture, ("y", "x", "rgb"))
    _put(images, "reference", picture[::-1].copy(), ("reference_y", "reference_x", "rgb"))
    _put(images, "source", picture, ("y", "x", "rgb"))
    _put(images, "inpainting_mask", mask, ("y", "x"))
    _put(images, "reference_mask", mask, ("reference_y", "reference_x"))


def _write_layer(
    parent: zarr.Group,
    layer: SyntheticLayer,
    order: int,
    steps: int,
    guidance: bool,
    rng: np.random.Generator,
) -> None:
    scale = layer.channels**-0.5
    attributes: dict[str, Any] = {
        "scale": scale,
        "generated_grid": list(layer.generated_grid),
        "reference_grid": list(layer.reference_grid) if layer.reference_grid else None,
        "special_tokens": layer.special_tokens,
        "order": order,
        "block": layer.block,
        "representation": layer.representation,
        "causal": layer.reference_tokens > 1,
    }
    group = parent.create_group(layer.name, attributes={"i2am": attributes})
    patches = layer.generated_grid[0] * layer.generated_grid[1]
    halves = (2,) if guidance else ()
    names = ("guidance",) if guidance else ()
    query = rng.normal(size=(*halves, steps, layer.heads, patches, layer.channels))
    keyed = (*halves, steps) if layer.keys_per_step else halves
    key = rng.normal(size=(*keyed, layer.heads, layer.reference_tokens, layer.channels))
    if layer.representation == "factors":
        key_names = (*names, "step") if layer.keys_per_step else names
        query_dims = (*names, "step", "head", "generated", "channel")
        _put(group, "query", query.astype(layer.dtype), query_dims)
        _put(group, "key", key.astype(layer.dtype), (*key_names, "head", "reference", "channel"))
        return
    stepped = key if layer.keys_per_step else np.expand_dims(key, len(halves))
    logits = scale * np.einsum("...pd,...rd->...pr", query, stepped)
    dims = (*names, "step", "head", "generated", "reference")
    _put(group, "logits", logits.astype(layer.dtype), dims)


def _put(group: zarr.Group, name: str, values: np.ndarray[Any, Any], dims: Sequence[str]) -> None:
    group.create_array(name, data=values, dimension_names=list(dims))
