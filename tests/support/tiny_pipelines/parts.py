"""What tiny pipelines are made of: diffusers' and transformers' own classes, with random weights."""

from __future__ import annotations

from typing import Any, TypeVar

import diffusers
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig

from tests.support.tiny_pipelines.family import noise

__all__ = [
    "TEXT",
    "WIDTH",
    "clip",
    "clip_config",
    "clip_processor",
    "ddim",
    "deep_vae",
    "flux2_vae",
    "quiet",
    "qwen_transformer",
    "qwen_vae",
    "unet",
    "vae",
    "words",
]

WIDTH = 16
TEXT = 5  # words
_Pipeline = TypeVar("_Pipeline")


def unet(**options: Any) -> diffusers.UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return diffusers.UNet2DConditionModel(**(settings | options))


def vae(**options: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        **options,
    )


def deep_vae(**options: Any) -> diffusers.AutoencoderKL:
    """Return a VAE whose latents stand for 8 × 8 pixels."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
        mid_block_add_attention=False,
        shift_factor=0.0,
        **options,
    )


def flux2_vae() -> diffusers.AutoencoderKLFlux2:
    return diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )


def qwen_transformer(**options: Any) -> diffusers.QwenImageTransformer2DModel:
    return diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=WIDTH,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        **options,
    )


def qwen_vae() -> diffusers.AutoencoderKLQwenImage:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def words(prompt: str | list[str], each: int = 1) -> torch.Tensor:
    """Return made-up states of a prompt's words, which its length decides."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    found = torch.cat([noise(1, TEXT, WIDTH).roll(len(one), -1) for one in prompts])
    return found.repeat_interleave(each, dim=0)


def ddim() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def clip(kind: Any, **options: Any) -> Any:
    """Return an image encoder of CLIP that sees 4 × 4 patches."""
    return kind(clip_config(**options)).eval()


def clip_config(**options: Any) -> CLIPVisionConfig:
    settings = {
        "hidden_size": 32,
        "projection_dim": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return CLIPVisionConfig(**(settings | options))


def clip_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def quiet(pipeline: _Pipeline) -> _Pipeline:
    untyped: Any = pipeline
    untyped.set_progress_bar_config(disable=True)
    return pipeline
