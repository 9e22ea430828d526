"""Tiny pipelines of further transformers that edit pictures in one sequence with the text."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import TEXT, WIDTH, words

__all__ = ["FAMILIES", "fibo2", "fibo_edit", "longcat", "omnigen", "z_image"]


class _NoProcessor:
    """Of a text that is made up."""

    image_processor = None


class _LongCat(diffusers.LongCatImageEditPipeline):  # type: ignore[misc] # untyped
    def _encode_prompt(self, prompt: list[str], image: Any) -> torch.Tensor:
        return words(prompt)


def longcat() -> Family:
    transformer = diffusers.LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 6, 6],
    )
    pipeline = _LongCat(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(latent_channels=16, shift_factor=0.0),
        text_encoder=None,
        tokenizer=None,
        text_processor=_NoProcessor(),
        transformer=transformer,
    )
    call = {
        "image": noise_image(32),
        "prompt": "a",
        "negative_prompt": "not",
        "guidance_scale": 2.0,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "longcat-image-edit",
        2,
        ((64, 0, (8, 8)),),
        other_keys=lambda patches: TEXT + patches,
        keys_before=lambda patches: TEXT + patches,
        queries_before=TEXT,
        calls=2,
        text=range(TEXT),
        text_queries=range(TEXT),
    )


class _FiboEdit(diffusers.BriaFiboEditPipeline):  # type: ignore[misc] # untyped
    def encode_prompt(self, **given: Any) -> tuple[Any, ...]:
        each = given["num_images_per_prompt"]
        found = words(given["prompt"], each)
        valid = torch.ones(len(found), TEXT)
        valid[:, -1] = 0  # The last one is padding.
        ids = torch.zeros(len(found), TEXT, 3)
        if given["guidance_scale"] <= 1:
            return found, None, ids, valid, None, [found], None
        return found, -found, ids, valid, valid, [found], [-found]


def fibo_edit() -> Family:
    transformer = diffusers.BriaFiboTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        text_encoder_dim=WIDTH,
        axes_dims_rope=[4, 6, 6],
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False] * 4,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipeline = _FiboEdit(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    call = {
        "image": [noise_image(64), noise_image(32, 1, width=64)],
        "prompt": '{"edit_instruction": "a"}',
        "guidance_scale": 3.0,
        "height": 32,
        "width": 48,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "fibo-edit",
        2,
        ((16, 0, (4, 4)), (8, 0, (2, 4))),
        other_keys=lambda patches: TEXT + patches,
        keys_before=lambda patches: TEXT + patches,
        queries_before=TEXT,
        text=range(TEXT - 1),
        text_queries=range(TEXT - 1),
    )


def fibo2() -> Family:
    """Return FIBO 2 with 6 tokens of gist; pictures come to about 96 × 96 pixels."""
    transformer = diffusers.BriaFibo2Transformer2DModel(
        in_channels=1,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=WIDTH,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=4,
        max_num_gist_tokens=8,
        gist_step=2,
        gist_min_text_len=4,
        gist_max_text_len=12,
        axes_dims=(4, 6, 6),
        axes_lens=(64, 64, 64),
    )
    pipeline = diffusers.BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.flux2_vae(),
        text_encoder=None,
        processor=None,
    )
    pipeline.default_sample_size = 12
    call = {
        "image": [noise_image(64), noise_image(64, 1, width=144)],
        "prompt_embeds": noise(1, 2, 6, WIDTH),
        "negative_prompt_embeds": -noise(1, 2, 6, WIDTH),
        "height": 64,
        "width": 80,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "fibo-2",
        3,
        ((36, 0, (6, 6)), (36, 0, (4, 9))),
        other_keys=lambda patches: 6 + patches,
        keys_before=lambda patches: 6 + patches,
        queries_before=6,
        calls=2,
        text=range(6),
        text_queries=range(6),
        text_layers="layers.*",
        variants={
            "noise_refiner": {
                "other_keys": lambda patches: patches,
                "keys_before": lambda patches: patches,
                "queries_before": 0,
            }
        },
    )


def z_image() -> Family:
    """Return Z-Image Omni: captions 4 × 32, pictures 16 + 16, 24 + 8 and the target's, features."""
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        siglip_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[512, 64, 64],
    )
    siglip = Siglip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_patches=16,
        patch_size=16,
    )
    pipeline = diffusers.ZImageOmniPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.deep_vae().to(torch.bfloat16),  # The pipeline gives it nothing else.
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
        siglip=Siglip2VisionModel(siglip).eval(),
        siglip_processor=Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
    )
    call: dict[str, Any] = {
        "image": [noise_image(64), noise_image(64, 1, width=96)],
        "prompt_embeds": [[noise(count, WIDTH) for count in (3, 2, 4, 1)]],
        "negative_prompt_embeds": [[-noise(count, WIDTH) for count in (3, 2, 6, 1)]],
        "height": 32,
        "width": 48,
    }
    captions, features, pictures = 4 * 32, 3 * 32, 2 * 32
    padding = 16 + 8
    return Family(
        parts.quiet(pipeline),
        call,
        "z-image-omni",
        2,
        ((16, 0, (4, 4)), (24, 0, (4, 6))),
        other_keys=lambda _patches: captions + padding + 32 + features,
        starts=lambda _patches: (captions, captions + 32),
        queries_before=captions + pictures,
        branches=("conditional", "unconditional"),
        text=(0, 1, 2, 32, 33, 64, 65, 66, 67, 96),
        text_queries=(0, 1, 2, 32, 33, 64, 65, 66, 67, 96),
        text_layers="layers.*",
        variants={
            "noise_refiner": {
                "other_keys": lambda _patches: padding + 32,
                "starts": lambda _patches: (0, 32),
                "queries_before": pictures,
            }
        },
    )


class _Transforms:
    """What OmniGen's processor takes of torchvision, which nothing else here needs."""

    @staticmethod
    def Compose(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def composed(value: Any) -> Any:
            for step in steps:
                value = step(value)
            return value

        return composed

    @staticmethod
    def Lambda(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return function

    @staticmethod
    def ToTensor() -> Callable[[Any], torch.Tensor]:
        return lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255

    @staticmethod
    def Normalize(**_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda pixels: pixels * 2 - 1


class _Words:
    """A tokenizer: a first token, then one for each word."""

    model_max_length = 1000

    def __call__(self, words: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[1, *(5 + len(word) for word in words.split())])


def omnigen() -> Family:
    if not hasattr(processor_omnigen, "transforms"):
        processor_omnigen.transforms = _Transforms
        pipeline_omnigen.OmniGenMultiModalProcessor = processor_omnigen.OmniGenMultiModalProcessor
    transformer = diffusers.OmniGenTransformer2DModel(
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=2,
        pad_token_id=0,
        vocab_size=40,
        rope_scaling={"short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
        pos_embed_max_size=16,
        time_step_dim=16,
    )
    pipeline = diffusers.OmniGenPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=parts.deep_vae(),
        tokenizer=_Words(),
    )
    call: dict[str, Any] = {
        "prompt": "<img><|image_1|></img> with <img><|image_2|></img>",
        "input_images": [noise_image(32), noise_image(32, 1, width=64)],
        "height": 32,
        "width": 48,
    }
    # A first token and ten words, the picture, three words, the picture, three words; the negative
    # prompt is longer.
    words = len(_negative_tokens(pipeline))
    padding = words - (11 + 4 + 3 + 8 + 3)
    before = padding + 11
    return Family(
        parts.quiet(pipeline),
        call,
        "omnigen",
        2,
        ((4, 0, (2, 2)), (8, 0, (2, 4))),
        other_keys=lambda patches: words - 12 + 1 + patches,
        starts=lambda _patches: (before, before + 4 + 3),
        queries_before=words + 1,
        branches=("conditional", "unconditional", "image"),
        takes_both=False,
        text=[*range(padding, before), *range(before + 4, before + 7), *range(words - 3, words)],
    )


def _negative_tokens(pipeline: Any) -> list[int]:
    processed = pipeline.multimodal_processor(["a"], [None], height=16, width=16, use_img_cfg=False)
    found: list[int] = processed["input_ids"][1].tolist()
    return found


FAMILIES: dict[str, Callable[[], Family]] = {
    "longcat-image-edit": longcat,
    "fibo-edit": fibo_edit,
    "fibo-2": fibo2,
    "z-image-omni": z_image,
    "omnigen": omnigen,
}
