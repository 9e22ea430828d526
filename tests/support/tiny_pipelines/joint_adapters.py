"""Tiny FLUX and Stable Diffusion 3 with IP-Adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, IPAdapterTimeImageProjection
from transformers import (
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES", "flux_adapter", "load_flux_adapters", "sd3_adapter"]

TEXT = 5


def load_flux_adapters(pipeline: Any, count: int = 1) -> None:
    """Give a FLUX pipeline so many adapters of 4 tokens an image, and what reads their images."""
    transformer = pipeline.transformer
    context = transformer.config.joint_attention_dim
    weights = []
    for _ in range(count):
        own = {}
        for block in range(transformer.config.num_layers):
            for part in ("k", "v"):
                name = f"{block}.to_{part}_ip"
                own[f"{name}.weight"] = 0.5 * torch.randn(transformer.inner_dim, context)
                own[f"{name}.bias"] = torch.zeros(transformer.inner_dim)
        module = ImageProjection(WIDTH, context, num_image_text_embeds=4)
        image = {k.replace("image_embeds", "proj"): v for k, v in module.state_dict().items()}
        weights.append({"ip_adapter": own, "image_proj": image})
    transformer._load_ip_adapter_weights(weights)
    pipeline.register_modules(
        image_encoder=parts.clip(CLIPVisionModelWithProjection),
        feature_extractor=parts.clip_processor(),
    )


def flux_adapter(
    scales: Sequence[float] = (0.7,), images: Sequence[int] = (2,), kind: Any = None
) -> Family:
    """Return FLUX with adapters, each of which is given so many images."""
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = (kind or diffusers.FluxPipeline)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(latent_channels=1, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    load_flux_adapters(pipeline, len(scales))
    pipeline.set_ip_adapter_scale([[scale] * 2 for scale in scales])
    pictures = iter(range(sum(images)))
    call = {
        "prompt_embeds": noise(1, TEXT, 32),
        "pooled_prompt_embeds": noise(1, 32),
        "negative_prompt_embeds": -noise(1, TEXT, 32),
        "negative_pooled_prompt_embeds": -noise(1, 32),
        "true_cfg_scale": 2.0,
        "height": 16,
        "width": 24,
        "ip_adapter_image": [
            [noise_image(32, next(pictures)) for _ in range(count)] for count in images
        ],
        # By default the pipeline makes up one for each adapter.
        "negative_ip_adapter_image": [[noise_image(32, 9)] * count for count in images],
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "flux-ip-adapter",
        2,
        ((4, 0, None),) * images[0],
        calls=2,
    )


def sd3_adapter() -> Family:
    """Return Stable Diffusion 3.5, whose first block attends to the image twice."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    processors = [
        SD3IPAdapterJointAttnProcessor2_0(
            hidden_size=32, ip_hidden_states_dim=32, head_dim=16, timesteps_emb_dim=64
        )
        for _ in transformer.attn_processors
    ]
    image_proj = IPAdapterTimeImageProjection(
        embed_dim=WIDTH, output_dim=32, hidden_dim=64, heads=1, num_queries=4, timestep_in_dim=8
    )
    transformer._load_ip_adapter_weights(
        {
            "ip_adapter": {
                f"{number}.{name}": value
                for number, processor in enumerate(processors)
                for name, value in processor.state_dict().items()
            },
            "image_proj": image_proj.state_dict(),
        }
    )
    siglip = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.vae(shift_factor=0.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
        image_encoder=SiglipVisionModel(siglip).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 24, "width": 24}),
    )
    pipeline.set_ip_adapter_scale(0.6)
    call = {
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "pooled_prompt_embeds": noise(1, WIDTH),
        "negative_pooled_prompt_embeds": -noise(1, WIDTH),
        "ip_adapter_image": noise_image(24),
        "height": 16,
        "width": 24,
    }
    return Family(
        parts.quiet(pipeline),
        call,
        "sd3-ip-adapter",
        3,
        ((4, 0, None),),
        other_keys=lambda patches: patches,
        keys_before=lambda patches: patches,
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "flux-ip-adapter": flux_adapter,
    "sd3-ip-adapter": sd3_adapter,
}
