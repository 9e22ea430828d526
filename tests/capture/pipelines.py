"""Saved pipelines and an IP-Adapter, complete with text encoder, as a user's directory holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.capture.adapters import checkpoint

__all__ = ["image_variation", "inpaint", "save_adapter"]

WIDTH = 16


def inpaint(folder: Path) -> diffusers.StableDiffusionInpaintPipeline:
    """Return a pipeline that paints 16 × 16 pixels; its tokenizer's files lie in `folder`."""
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    pipeline = diffusers.StableDiffusionInpaintPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text),
        tokenizer=_tokenizer(folder),
        unet=_unet(9),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image_variation() -> diffusers.StableDiffusionImageVariationPipeline:
    """Return a pipeline whose one token is the picture's."""
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionImageVariationPipeline(
        vae=_vae(),
        image_encoder=_image_encoder(),
        unet=_unet(4),
        scheduler=_ddim(),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_adapter(folder: Path, unet: Any, *, encoder: bool = True, pickled: bool = False) -> None:
    """Save a "plain" adapter as FOLDER/models/adapter.safetensors (or .bin), and its encoder."""
    torch.manual_seed(1)
    models = folder / "models"
    models.mkdir(parents=True)
    weights = checkpoint(unet, "plain", WIDTH)
    if pickled:
        torch.save(weights, models / "adapter.bin")
    else:
        flat = {f"{part}.{k}": v for part, found in weights.items() for k, v in found.items()}
        save_file(flat, models / "adapter.safetensors")
    if encoder:
        _image_encoder().save_pretrained(models / "image_encoder")


def _tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=16)


def _unet(in_channels: int) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def _vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )


def _ddim() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def _image_encoder() -> CLIPVisionModelWithProjection:
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(vision).eval()
