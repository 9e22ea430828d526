"""Tiny pipelines of editing transformers whose language model sees the pictures, too: it is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise_image
from tests.support.tiny_pipelines.parts import TEXT, WIDTH, words

__all__ = ["FAMILIES", "glm_image", "joy_edit", "joy_edit_plus"]


def _valid(rows: torch.Tensor) -> torch.Tensor:
    """Return a mask of words whose last one is padding."""
    valid = torch.ones(rows.shape[:2], dtype=torch.long)
    valid[:, -1] = 0
    return valid


class _JoyEdit(diffusers.JoyImageEditPipeline):  # type: ignore[misc] # untyped
    def encode_prompt_multiple_images(self, **given: Any) -> tuple[Any, ...]:
        found = words(given["prompt"], given["num_images_per_prompt"])
        return found, _valid(found)

    encode_prompt = encode_prompt_multiple_images


class _JoyEditPlus(diffusers.JoyImageEditPlusPipeline):  # type: ignore[misc] # untyped
    def encode_prompt_multiple_images(self, **given: Any) -> tuple[Any, ...]:
        found = words(given["prompt"])
        return found, _valid(found)


def _joy(kind: Any, transformer: Any) -> Any:
    """Return a pipeline of JoyImage-Edit and its transformer."""
    own = transformer(
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=WIDTH,
        mlp_width_ratio=1.0,
        num_layers=2,
        rope_dim_list=[4, 6, 6],
    )
    for name, table in own.named_parameters():  # They begin as zeros, which switch all layers off.
        if name.endswith("modulate_table"):
            table.data.normal_()
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False] * 3,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    vae.quant_conv.bias.data[4:] = -20  # Its latents are drawn, with hardly any noise.
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    others: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer", "processor"))
    return parts.quiet(kind(scheduler=scheduler, vae=vae, transformer=own, **others))


def joy_edit() -> Family:
    pipeline = _joy(_JoyEdit, diffusers.JoyImageEditTransformer3DModel)
    call = {"image": noise_image(64, width=80), "prompt": "a", "height": 32, "width": 96}
    return Family(
        pipeline,
        call,
        "joyimage-edit",
        2,
        ((-1, 0, (2, 6)),),
        other_keys=lambda patches: patches + TEXT,
        keys_before=lambda patches: patches,
        calls=2,
        text=range(24, 24 + TEXT),
        text_queries=range(24, 24 + TEXT),
    )


def joy_edit_plus() -> Family:
    pipeline = _joy(_JoyEditPlus, diffusers.JoyImageEditPlusTransformer3DModel)
    call = {
        "images": [noise_image(64), noise_image(32, 1, width=96)],
        "prompt": "a",
        "height": 32,
        "width": 48,
    }
    return Family(
        pipeline,
        call,
        "joyimage-edit-plus",
        2,
        ((16, 0, (4, 4)), (12, 0, (2, 6))),
        other_keys=lambda patches: patches + TEXT,
        keys_before=lambda patches: patches,
        text=range(34, 34 + TEXT - 1),
        text_queries=range(34, 34 + TEXT - 1),
    )


class _Glm(diffusers.GlmImagePipeline):  # type: ignore[misc] # untyped
    def generate_prior_tokens(self, **given: Any) -> tuple[Any, ...]:
        plan = torch.arange(given["height"] * given["width"] // 256)[None] % 7
        prompts = 1 if isinstance(given["prompt"], str) else len(given["prompt"])
        pictures = given["image"]
        if pictures is None:
            return plan.repeat(prompts, 1), None, None
        grids = [[(1, p.height // 16, p.width // 16) for p in own] for own in pictures]
        plans = [torch.cat([torch.arange(h * w) % 5 for _, h, w in own]) for own in grids]
        return plan.repeat(prompts, 1), plans, [torch.tensor(own) for own in grids]

    def _get_glyph_embeds(self, prompt: list[str], *_: Any) -> torch.Tensor:
        return words(prompt)


def glm_image() -> Family:
    transformer = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        prior_vq_quantizer_codebook_size=8,
    )
    vae = parts.deep_vae(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    others: dict[str, Any] = dict.fromkeys(
        ("tokenizer", "processor", "text_encoder", "vision_language_encoder")
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    pipeline = _Glm(vae=vae, transformer=transformer, scheduler=scheduler, **others)
    call = {
        "image": [noise_image(64), noise_image(32, 1, width=64)],
        "prompt": "a",
        "height": 32,
        "width": 64,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "glm-image",
        2,
        ((16, 0, (4, 4)), (8, 0, (2, 4))),
        other_keys=lambda patches: patches + TEXT,
        queries_before=TEXT,
        takes_both=False,
        text=range(24, 24 + TEXT),
        text_queries=range(TEXT),
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "joyimage-edit": joy_edit,
    "joyimage-edit-plus": joy_edit_plus,
    "glm-image": glm_image,
}
