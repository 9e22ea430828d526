"""Small runs that the capture's own writer wrote, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.run_store import SampleStore, open_sample
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import LayerAttributes
from i2am.storage.owners import Writer
from tests.support.synthetic_run import PROVENANCE

STEPS, HEADS, SIDE, TOKENS, CHANNELS = 12, 2, 8, 17, 8
LAYERS = ("down.0.attn2", "up.0.attn2")


def own(seed: int, status: str) -> dict[str, Any]:
    return PROVENANCE | {
        "seed": seed,
        "steps": STEPS,
        "status": status,
        "created": f"2026-01-0{seed + 1}",
    }


def begin(
    run: Path | str,
    sample: str = "shirt",
    seed: int = 0,
    *,
    writer: Writer | None = None,
    **options: Any,
) -> SampleStore:
    """Write all of a sample but its status."""
    given: dict[str, Any] = {
        "overwrite": False,
        "attributes": own(seed, "running"),
        "writer": writer,
    } | options
    opened = open_sample(run, sample, **given)
    generator = torch.Generator().manual_seed(seed)
    staging = StagingArea(2**22, layers=len(LAYERS))
    layers = []
    for order, name in enumerate(LAYERS):
        described = LayerAttributes(
            scale=CHANNELS**-0.5,
            generated_grid=(SIDE, SIDE),
            reference_grid=(4, 4),
            special_tokens=1,
            order=order,
            block=name.partition(".")[0],
            representation="factors",
        )
        layer = LayerWriter(
            opened.folder / "layers", name, described, np.dtype("f2"), staging, ("conditional",)
        )
        key = torch.randn(HEADS, TOKENS, CHANNELS, generator=generator)
        for step in range(STEPS):
            query = torch.randn(HEADS, SIDE**2, CHANNELS, generator=generator)
            layer.append(step, "conditional", {"query": query, "key": key})
            if step == STEPS // 2 - 2:
                layer.flush()  # So that there are several shards.
        layer.close(("conditional",))
        layers.append(layer)
    write_layers(opened.folder / "layers", layers, staging)
    staging.close()
    rng = np.random.default_rng(seed)
    names = ("generated", "reference")
    opened.write_images({name: rng.integers(0, 256, (16, 16, 3), np.uint8) for name in names})
    opened.write_coordinates(range(STEPS), np.linspace(900, 0, STEPS).tolist(), ("conditional",))
    return opened


def write(run: Path | str, sample: str = "shirt", seed: int = 0, **options: Any) -> SampleStore:
    """Write a complete sample, whose values come from its seed."""
    opened = begin(run, sample, seed, **options)
    opened.set_status(own(seed, "complete"))
    return opened


def values(run: Path | str, sample: str = "shirt") -> dict[str, Any]:
    """Return every array of a sample, read by zarr alone, and its seed."""
    group = zarr.open_group(str(run), mode="r")[sample]
    assert isinstance(group, zarr.Group)
    arrays = {
        path: np.asarray(node[...])
        for path, node in group.members(max_depth=None)
        if isinstance(node, zarr.Array)
    }
    return arrays | {"seed": group.attrs["i2am"]["seed"]}  # type: ignore[index,call-overload]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(value, other[name]) for name, value in one.items()
    )
