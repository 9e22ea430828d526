"""Tiny pipelines whose references are in one sequence with the text and the generated image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import torch
from transformers import CLIPVisionModel

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES", "flux2", "flux2_inpaint", "qwen21", "qwen_layered"]

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
        vae=parts.flux2_vae(),
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


def qwen_layered() -> Family:
    """Return the pipeline that takes a picture apart into two layers."""
    pipeline = diffusers.QwenImageLayeredPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.qwen_vae(),
        text_encoder=parts.clip(CLIPVisionModel),  # Asked for its dtype alone.
        tokenizer=None,
        processor=None,
        transformer=parts.qwen_transformer(use_layer3d_rope=True, use_additional_t_cond=True),
    )
    mask = torch.ones(1, TEXT, dtype=torch.long)
    mask[:, -1:] = 0
    call = {
        "image": noise_image(16, width=32),
        "prompt": "a",
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "negative_prompt_embeds_mask": mask,
        "layers": 2,
    }
    # Before the two layers comes the whole picture again, of 2 × 6 tokens as they have.
    return Family(
        parts.quiet(pipeline),
        call,
        "qwen-image-edit",
        2,
        ((12, 0, (2, 6)),),
        other_keys=lambda patches: TEXT + 12 + patches,
        keys_before=lambda patches: TEXT + 12 + patches,
        queries_before=TEXT + 12,
        calls=2,
        frames=2,
        text=range(TEXT - 1),
        text_queries=range(TEXT - 1),
        output="pt",  # Of latents it returns none.
    )


class _QwenImage21(diffusers.QwenImage21Pipeline):  # type: ignore[misc] # untyped
    """With a text encoder that makes up a prompt's states: words, with the pictures between them."""

    def _get_qwen_prompt_embeds(self, prompt: Any, image: Any = None, device: Any = None) -> Any:
        slots = [False] * 2
        for picture in image or ():
            slots += [True] * (picture.width * picture.height // 32**2) + [False]
        slots += [False] * 2
        words = torch.cat([noise(1, len(slots), WIDTH).roll(len(p), -1) for p in prompt])
        valid = torch.ones(len(prompt), len(slots), dtype=torch.long)
        valid[:, -1] = 0  # The last one is padding.
        return words, valid, torch.tensor([slots] * len(prompt))


class _Template:
    """A processor that is asked how long its template is, and for the token of a picture."""

    tokenizer = property(lambda self: self)

    def apply_chat_template(self, *_: Any, **__: Any) -> list[list[int]]:
        return [[0]]

    def encode(self, _text: str) -> list[int]:
        return [1]


def qwen21() -> Family:
    """Return Qwen-Image 2.1: words 2, picture 16, word 1, picture 12, words 3 with padding, target."""
    transformer = diffusers.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=WIDTH,
        mlp_ratio=1,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False] * 4,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipeline = _QwenImage21(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        processor=_Template(),
        transformer=transformer,
    )
    call = {
        "image": [noise_image(64), noise_image(32, 1, width=64)],
        "prompt": "a",
        "negative_prompt": "not",
        "true_cfg_scale": 2.0,
        "output_resolution": 64,
        "height": 32,
        "width": 64,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "qwen-image-2.1",
        2,
        ((16, 0, (4, 4)), (12, 0, (2, 6))),
        other_keys=lambda patches: 6 + patches,
        starts=lambda _patches: (2, 19),
        calls=2,
        text=(0, 1, 18, 31, 32),
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "flux2": lambda: flux2("Flux2"),
    "flux2-klein": flux2,
    "flux2-klein-kv": lambda: flux2("Flux2KleinKV"),
    "flux2-klein-inpaint": flux2_inpaint,
    "qwen-image-layered": qwen_layered,
    "qwen-image-2.1": qwen21,
}
