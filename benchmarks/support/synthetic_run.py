"""A capture store with the layers of Stable Diffusion 1.5 at 512 px, or others, made on the spot.

257 reference tokens (one special and 16 × 16), 8 heads, keys that are the same at every step; by
default 50 steps, 1.27 GB a sample. Written through the capture's own writer. The values are noise
with the statistics of queries, which is as hard to compress; samples after the first are copies.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zarr.storage import StorePath

from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.run_store import open_sample
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import LayerAttributes
from i2am.storage.addresses import path_to_write
from i2am.storage.inventory import DIGEST, METADATA_KEY, own_facts
from i2am.storage.objects import read_object
from i2am.storage.replacement import write_metadata

__all__ = [
    "STEPS",
    "TOKENS",
    "Layer",
    "layers",
    "open_layer",
    "write_layers_of_sample",
    "write_run",
]

TOKENS, STEPS, HEADS = 257, 50, 8
# Side of the grid, channels of a head, and in which blocks such layers are.
STABLE_DIFFUSION = (
    (64, 40, "down down"),
    (32, 80, "down down"),
    (16, 160, "down down"),
    (8, 160, "mid"),
    (16, 160, "up up up"),
    (32, 80, "up up up"),
    (64, 40, "up up up"),
)
IMAGE_PX = 512
PROVENANCE: dict[str, Any] = {
    "kind": "capture",
    "schema": 1,
    **dict.fromkeys(("pipeline", "model", "profile", "scheduler"), "synthetic"),
    **dict.fromkeys(("revision", "guidance_scale", "seed")),
    "dtype": "float16",
    "device": "cpu",
    "versions": {},
}


@dataclass(frozen=True)
class Layer:
    """One layer's place and shapes; logits where they are smaller than their factors."""

    name: str
    order: int
    block: str
    grid: tuple[int, int]
    channels: int
    reference_grid: tuple[int, int] = (16, 16)
    special_tokens: int = 1
    heads: int = HEADS

    @property
    def patches(self) -> int:
        """How many patches of the generated image attend."""
        return math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """How many reference tokens they attend to."""
        return self.special_tokens + math.prod(self.reference_grid)

    def attributes(self) -> dict[str, Any]:
        """Return what a reader needs to know of the layer beyond its arrays."""
        return {
            "scale": self.channels**-0.5,
            "generated_grid": self.grid,
            "reference_grid": self.reference_grid,
            "special_tokens": self.special_tokens,
            "order": self.order,
            "block": self.block,
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return one step: float16, dims (head, token, channel)."""
        heads, patches, tokens, channels = self.heads, self.patches, self.tokens, self.channels
        if patches * tokens < (patches + tokens) * channels:
            return {"logits": torch.randn(heads, patches, tokens).half()}
        generator = torch.Generator().manual_seed(self.order)
        key = torch.randn(heads, tokens, channels, generator=generator)
        return {"query": torch.randn(heads, patches, channels).half(), "key": key.half()}


def layers(max_side: int = 64) -> Iterator[Layer]:
    """Yield the layers up to a size in execution order."""
    order = 0
    for side, channels, blocks in STABLE_DIFFUSION:
        for number, block in enumerate(blocks.split()):
            if side <= max_side:
                yield Layer(f"{block}.{side}.{number}", order, block, (side, side), channels)
            order += 1


def write_run(
    path: Path,
    samples: Sequence[str] = ("0",),
    *,
    steps: int = STEPS,
    own_layers: Sequence[Layer] = tuple(layers()),
) -> Path:
    """Write a run of complete samples with such layers, and return its path."""
    first, *others = samples
    own = {**PROVENANCE, "created": "2026-01-01T00:00:00Z", "steps": steps}
    sample = open_sample(path, first, overwrite=False, attributes=own | {"status": "running"})
    sample.write_coordinates(range(steps), np.linspace(981, 1, steps).tolist(), ("conditional",))
    rng = np.random.default_rng(0)
    sample.write_images(
        {
            name: rng.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
            for name in ("generated", "reference")
        }
    )
    write_layers_of_sample(sample.folder / "layers", steps, own_layers)
    sample.set_status(own | {"status": "complete"})
    for name in others:
        shutil.copytree(path / first, path / name)
        _rename(path_to_write(path) / name)
    return path


def _rename(copy: StorePath) -> None:
    """Write a copied sample's metadata for its new name, which its digest covers."""
    own = own_facts(read_object(copy / METADATA_KEY))
    write_metadata(copy, {key: value for key, value in own.items() if key != DIGEST}, durable=False)


def write_layers_of_sample(
    parent: ObjectFolder, steps: int, own_layers: Sequence[Layer] = tuple(layers())
) -> None:
    """Write a sample's layers through the capture's writer."""
    staging = StagingArea(layers=len(own_layers))
    writers = [
        open_layer(parent, layer.name, layer.tensors(), staging, **layer.attributes())
        for layer in own_layers
    ]
    for step in range(steps):
        for layer, writer in zip(own_layers, writers, strict=True):
            writer.append(step, "conditional", layer.tensors())
    for writer in writers:
        writer.close(("conditional",))
    write_layers(parent, writers, staging)
    staging.close()


def open_layer(
    parent: ObjectFolder,
    name: str,
    arrays: Mapping[str, torch.Tensor],
    staging: StagingArea,
    **attributes: Any,
) -> LayerWriter:
    """Open a layer for writing arrays such as these; its attributes matter to readers alone."""
    patches, last = next(iter(arrays.values())).shape[1:]
    described: dict[str, Any] = {
        "scale": last**-0.5,
        "generated_grid": (patches, 1),
        "reference_grid": (16, 16),
        "special_tokens": 1,
        "order": 0,
        "block": "down",
        "representation": "logits" if "logits" in arrays else "factors",
    }
    own = LayerAttributes(**(described | attributes))
    return LayerWriter(parent, name, own, np.dtype("f2"), staging, ("conditional",))
