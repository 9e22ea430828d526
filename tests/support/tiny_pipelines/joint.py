"""Tiny pipelines whose references are in one sequence with the text and the generated image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES", "flux2"]

TEXT = 5


def flux2(kind: str = "Flux2Klein") -> Family:
    """Return a pipeline of FLUX.2, which crops its references to multiples of 16 pixels."""
    is_guided = kind in ("Flux2Klein", "Flux2KleinInpaint")
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=kind == "Flux2",
    )
    pipeline = getattr(diffusers, f"{kind}Pipeline")(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_flux2_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    call: dict[str, Any] = {
        "image": [noise_image(64), noise_image(64, 1, width=96)],
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "height": 32,
        "width": 48,
    }
    if is_guided:
        call["negative_prompt_embeds"] = -noise(1, TEXT, WIDTH)
    references = ((16, 0, (4, 4)), (24, 0, (4, 6)))
    has_cache = kind == "Flux2KleinKV"
    return Family(
        parts.quiet(pipeline),
        call,
        "flux2",
        3,
        references,
        other_keys=lambda patches: TEXT + patches,
        keys_before=lambda patches: TEXT if has_cache else TEXT + patches,
        queries_before=TEXT,
        calls=2 if is_guided else 1,
        is_guided=is_guided,
        text=range(TEXT),
        text_queries=range(TEXT),
    )


def flux2_inpaint() -> Family:
    """Return Klein's inpainting pipeline, which reads the picture beside the reference."""
    found = flux2("Flux2KleinInpaint")
    mask = noise_image(64).convert("L")
    call = found.call | {"image": noise_image(64), "mask_image": mask, "strength": 1.0}
    call |= {"image_reference": noise_image(64, 1, width=96), "height": 64, "width": 64}
    return replace(found, call=call)


FAMILIES: dict[str, Callable[[], Family]] = {
    "flux2": lambda: flux2("Flux2"),
    "flux2-klein": flux2,
    "flux2-klein-kv": lambda: flux2("Flux2KleinKV"),
    "flux2-klein-inpaint": flux2_inpaint,
}


def _flux2_vae() -> Any:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
