"""Saved pipelines and an IP-Adapter, complete with text encoder, as a user's directory holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["image_variation", "inpaint", "save_adapter"]


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
        vae=parts.vae(),
        text_encoder=CLIPTextModel(text),
        tokenizer=_tokenizer(folder),
        unet=parts.unet(in_channels=9),
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return parts.quiet(pipeline)


def image_variation() -> diffusers.StableDiffusionImageVariationPipeline:
    """Return a pipeline whose one token is the image's."""
    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionImageVariationPipeline(
        vae=parts.vae(),
        image_encoder=parts.clip(CLIPVisionModelWithProjection),
        unet=parts.unet(),
        scheduler=parts.ddim(),
        safety_checker=None,
        feature_extractor=parts.clip_processor(),
        requires_safety_checker=False,
    )
    return parts.quiet(pipeline)


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
        parts.clip(CLIPVisionModelWithProjection).save_pretrained(models / "image_encoder")


def _tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=16)
