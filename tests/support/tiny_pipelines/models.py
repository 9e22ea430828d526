"""Real pipelines with tiny random weights, and an explicit attention processor as a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from diffusers import PaintByExamplePipeline
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import (
    PaintByExampleImageEncoder,
)
from PIL import Image

from i2am.capture import SHIPPED_MODEL, load_pipeline
from i2am.capture.pipelines.reference_inpaint import ReferenceInpaintPipeline
from i2am.capture.pipelines.tiny_model import build_pipeline
from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.parts import WIDTH


def shipped() -> Any:
    return load_pipeline(SHIPPED_MODEL, device="cpu")


def reference_inpaint() -> ReferenceInpaintPipeline:
    torch.manual_seed(0)
    return parts.quiet(build_pipeline((32, 64)))


def paint_by_example() -> PaintByExamplePipeline:
    torch.manual_seed(0)
    unet = parts.unet(in_channels=9, out_channels=4)
    vae = parts.vae()
    vision = parts.clip_config(hidden_size=WIDTH, num_hidden_layers=2)
    pipeline = PaintByExamplePipeline(
        vae=vae,
        image_encoder=PaintByExampleImageEncoder(vision, proj_size=WIDTH),
        unet=unet,
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=parts.clip_processor(),
    )
    return parts.quiet(pipeline)


def noise_images(size_px: int) -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    mask = np.zeros((size_px, size_px), np.uint8)
    mask[size_px // 4 : size_px // 2, size_px // 4 : size_px // 2] = 255
    return {
        "example_image": _noise(rng, size_px),
        "image": _noise(rng, size_px),
        "mask_image": Image.fromarray(mask),
    }


def _noise(rng: np.random.Generator, size_px: int) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def opened(group: Path) -> Any:
    """Open a group to read; untyped, since a test knows what must be there."""
    return zarr.open_group(group, mode="r")


def size_of(pipeline: Any) -> int:
    size: int = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return size


def run(pipeline: Any, steps: int = 3, **options: Any) -> Any:
    """Run a pipeline, always from the same noise, and return its latents or images."""
    inputs = noise_images(size_of(pipeline)) | options
    inputs.setdefault("generator", torch.Generator().manual_seed(0))
    return pipeline(num_inference_steps=steps, output_type="np", **inputs).images


class ExplicitAttention:
    """An attention processor that computes its scores in the open, and keeps them.

    `scores` is a list over calls of Tensor (batch, head, generated, reference), before any softmax.
    """

    def __init__(self, scores: list[torch.Tensor]) -> None:
        self.scores = scores

    def __call__(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **_options: Any,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projection(states).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for projection, states in (
                (attention.to_q, hidden_states),
                (attention.to_k, context),
                (attention.to_v, context),
            )
        )
        scores = query @ key.transpose(-1, -2) * attention.scale
        self.scores.append(scores.detach().clone())
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        projected: torch.Tensor = attention.to_out[0](mixed)
        return projected


def make_explicit(pipeline: Any) -> dict[str, list[torch.Tensor]]:
    """Give every ``attn2`` an explicit processor, and return what they will have kept."""
    kept: dict[str, list[torch.Tensor]] = {}
    for name, module in pipeline.unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(ExplicitAttention(kept.setdefault(name, [])))
    return kept
