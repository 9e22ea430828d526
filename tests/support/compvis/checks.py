"""How the tests of CompVis-style code capture a model, and compare with what its layers computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i2am.capture import capture
from tests.support.compvis.layers import CrossAttention, MemoryEfficientCrossAttention
from tests.support.compvis.models import (
    DDIMSampler,
    LatentDiffusion,
    dci_vton,
    paint_by_example,
    stableviton,
)

Builder = Callable[[], LatentDiffusion]
BUILDERS: dict[str, Builder] = {
    "stableviton": partial(stableviton, attention=MemoryEfficientCrossAttention),
    "stableviton_plain_warp": partial(
        stableviton, attention=CrossAttention, has_custom_warp=False, is_checkpointed=True
    ),
    "dci_vton": partial(dci_vton, attention=CrossAttention, is_checkpointed=True),
    "paint_by_example": partial(paint_by_example, attention=MemoryEfficientCrossAttention),
}
STEPS = 3
DOWN = [f"input_blocks.{block}.1" for block in (1, 2, 4, 5, 7, 8)]
# Each warp block runs before the output block of the same index.
UP = [f"output_blocks.{block}.1" for block in range(3, 12)]
WARP = [f"warp_flow_blks.{block}" for block in range(9)]


def record(
    target: Any, store: Path, sampler: DDIMSampler, scale: float = 1.0, **options: Any
) -> torch.Tensor:
    """Capture one call with its images, and return the latents."""
    names = options.setdefault("sample", ["one"])
    image = np.zeros((*sampler.model.latent_size, 3), np.uint8)
    with capture(target, store, **options) as recording:
        latents = sampler.sample(STEPS, len(names), scale)
        for name in names:
            recording.add_images(sample=name, generated=image, reference=image)
    return latents


def scores_of(layer: Any) -> torch.Tensor:
    """Return what is stored, dims (guidance, step, head, generated, reference), float64."""
    if "logits" in layer:
        return torch.from_numpy(layer["logits"][...]).double()
    query, key = (torch.from_numpy(layer[name][...]).double() for name in ("query", "key"))
    if key.ndim < query.ndim:
        key = key.unsqueeze(1)
    scores: torch.Tensor = query @ key.transpose(-1, -2) * layer.attrs["i2am"]["scale"]
    return scores


def check_attention(layer: Any, expected: torch.Tensor, tolerance: float) -> None:
    """Check both directions: with one token the softmax over tokens is 1 and proves nothing."""
    found = scores_of(layer)
    assert found.shape == expected.shape
    for axis in (-1, -2):
        assert (found.softmax(axis) - expected.softmax(axis)).abs().max() < tolerance
