"""A real pipeline of every family that capture serves, with tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.support.tiny_pipelines import models, parts, pipelines, videos
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH
from tests.support.tiny_pipelines.reference_pipeline import StableDiffusionReferencePipeline

__all__ = ["FAMILIES", "Family", "noise_image"]


def paint_by_example() -> Family:
    pipeline = models.paint_by_example()
    return Family(
        pipeline,
        models.noise_images(models.size_of(pipeline)),
        "paint-by-example",
        4,
        ((1, 0, None),),
    )


def shipped_kind() -> Family:
    pipeline = models.reference_inpaint()
    return Family(pipeline, models.noise_images(64), "i2am-tiny", 7, ((257, 1, (16, 16)),))


def image_variation() -> Family:
    call = {"image": noise_image(32), "height": 16, "width": 32}
    return Family(pipelines.image_variation(), call, "image-variation", 4, ((1, 0, None),))


def stable_video_diffusion() -> Family:
    unet = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=WIDTH,
        num_attention_heads=(2, 4),
        layers_per_block=1,
        addition_time_embed_dim=WIDTH,
        projection_class_embeddings_input_dim=3 * WIDTH,
        num_frames=3,
    )
    # This pipeline brings images to 224 × 224, whatever its feature extractor says.
    encoder = parts.clip(CLIPVisionModelWithProjection, image_size=224, patch_size=56)
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2
    )
    pipeline = diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=encoder,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(),
        feature_extractor=parts.clip_processor(),
    )
    call = {"image": noise_image(32), "height": 8, "width": 16, "num_frames": 3}
    one = ((1, 0, None),)
    return Family(parts.quiet(pipeline), call, "stable-video-diffusion", 8, one, frames=3)


def ip_adapter(kind: str, *, xl: bool = False, images: int = 1) -> Family:
    """Return a Stable Diffusion (XL) pipeline whose CLIP sees 4 × 4 patches."""
    common: dict[str, Any] = {
        "vae": parts.vae(),
        "text_encoder": None,
        "tokenizer": None,
        "unet": _unet_xl() if xl else parts.unet(),
        "scheduler": parts.ddim(),
        "image_encoder": parts.clip(CLIPVisionModelWithProjection),
        "feature_extractor": parts.clip_processor(),
    }
    call: dict[str, Any] = {
        "prompt_embeds": noise(1, 7, WIDTH),
        "negative_prompt_embeds": -noise(1, 7, WIDTH),
        "height": 16,
        "width": 32,
        "ip_adapter_image": [[noise_image(32, seed) for seed in range(images)]],
    }
    if xl:
        pipeline = diffusers.StableDiffusionXLPipeline(
            **common, text_encoder_2=None, tokenizer_2=None, force_zeros_for_empty_prompt=True
        )
        call["pooled_prompt_embeds"] = noise(1, WIDTH)
        call["negative_pooled_prompt_embeds"] = -noise(1, WIDTH)
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            **common, safety_checker=None, requires_safety_checker=False
        )
    width = 32 if kind != "plain" else WIDTH
    weights = checkpoint(pipeline.unet, kind, width)
    pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(0.7)
    layout = {"plain": (4, 0, None), "plus": (16, 0, None), "full": (17, 1, (4, 4))}[kind]
    layers = 11 if xl else 4
    # The images of one adapter share its softmax, and nothing else does.
    return Family(parts.quiet(pipeline), call, "ip-adapter", layers, (layout,) * images)


def kandinsky() -> Family:
    unet = diffusers.UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        encoder_hid_dim_type="image_proj",
        encoder_hid_dim=WIDTH,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )
    movq = diffusers.VQModel(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    pipeline = diffusers.KandinskyV22Pipeline(unet=unet, scheduler=parts.ddim(), movq=movq)
    call = {
        "image_embeds": noise(1, WIDTH),
        "negative_image_embeds": -noise(1, WIDTH),
        "height": 32,
        "width": 64,
    }
    ref = ((32, 0, None),)
    return Family(parts.quiet(pipeline), call, "kandinsky-2.2", 4, ref, lambda patches: patches)


def flux_kontext() -> Family:
    call = {
        "image": noise_image(16, width=24),
        "prompt_embeds": noise(1, 6, 32),
        "pooled_prompt_embeds": noise(1, 32),
        "negative_prompt_embeds": -noise(1, 6, 32),
        "negative_pooled_prompt_embeds": -noise(1, 32),
        "true_cfg_scale": 2.0,
        "height": 16,
        "width": 16,
        "max_area": 256,
        "_auto_resize": False,
    }
    return Family(
        _flux_pipeline(diffusers.FluxKontextPipeline, _flux()),
        call,
        "flux",
        3,
        ((24, 0, (4, 6)),),
        other_keys=lambda patches: 6 + patches,
        keys_before=lambda patches: 6 + patches,
        queries_before=6,
        calls=2,
        text=range(6),
        text_queries=range(6),
    )


def redux_prior() -> diffusers.FluxPriorReduxPipeline:
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

    siglip = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
    )
    return diffusers.FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel(siglip).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 24, "width": 24}),
        image_embedder=ReduxImageEncoder(redux_dim=WIDTH, txt_in_features=4096),
    )


def flux_redux() -> Family:
    prior = redux_prior()
    transformer = _flux(text_width=4096, pooled_width=768)
    call = {"height": 16, "width": 24, **prior(noise_image(24))}
    return Family(
        _flux_pipeline(diffusers.FluxPipeline, transformer),
        call,
        "flux",
        3,
        ((9, 0, (3, 3)),),
        other_keys=lambda patches: 512 + patches,
        keys_before=lambda _patches: 512,
        queries_before=521,
        is_guided=False,
        text=range(512),
        text_queries=range(512),
    )


def qwen_edit(*, plus: bool = False) -> Family:
    kind = diffusers.QwenImageEditPlusPipeline if plus else diffusers.QwenImageEditPipeline
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=parts.qwen_vae(),
        text_encoder=None,
        tokenizer=None,
        processor=None,
        transformer=parts.qwen_transformer(),
    )
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 5:] = 0  # Two of the tokens are padding.
    call = {
        "image": [noise_image(32), noise_image(32, 1, width=64)] if plus else noise_image(32),
        "prompt_embeds": noise(1, 7, WIDTH),
        "prompt_embeds_mask": mask,
        "negative_prompt_embeds": -noise(1, 7, WIDTH),
        "negative_prompt_embeds_mask": mask,
        "height": 16,
        "width": 24,
    }
    grids = ((4, 4), (2, 6)) if plus else ((4, 4),)
    references = tuple((h * w, 0, (h, w)) for h, w in grids)
    return Family(
        parts.quiet(pipeline),
        call,
        "qwen-image-edit",
        2,
        references,
        other_keys=lambda patches: 7 + patches,
        keys_before=lambda patches: 7 + patches,
        queries_before=7,
        calls=2,
        text=range(5),
        text_queries=range(5),
    )


def wan(*, last_frame: bool = False) -> Family:
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=12,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        image_dim=32,
        added_kv_proj_dim=24,
        rope_max_seq_len=32,
        pos_embed_seq_len=2 * 17 if last_frame else None,
    )
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=videos.wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        image_processor=parts.clip_processor(),
        image_encoder=parts.clip(CLIPVisionModel),
        transformer=transformer,
    )
    call = {
        "image": noise_image(32),
        "prompt_embeds": noise(1, 512, WIDTH),
        "negative_prompt_embeds": -noise(1, 512, WIDTH),
        "height": 16,
        "width": 32,
        "num_frames": 9,
    }
    if last_frame:
        call["last_image"] = noise_image(32, 1)
    images = 2 if last_frame else 1
    return Family(
        parts.quiet(pipeline),
        call,
        "wan-image-to-video",
        2,
        ((17, 1, (4, 4)),) * images,
        calls=2,
        frames=3,
    )


def reference_only() -> Family:
    pipeline = StableDiffusionReferencePipeline(parts.unet(), parts.ddim())
    call = {
        "reference_latents": noise(1, 4, 8, 16),
        "prompt_embeds": noise(1, 7, WIDTH),
        "negative_prompt_embeds": -noise(1, 7, WIDTH),
        "style_fidelity": 0.5,
    }
    # The grid of the reference is each layer's own.
    return Family(
        pipeline,
        call,
        "reference-only",
        4,
        ((-1, 0, None),),
        other_keys=lambda patches: patches,
        keys_before=lambda patches: patches,
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "paint-by-example": paint_by_example,
    "reference-inpaint": shipped_kind,
    "image-variation": image_variation,
    "stable-video-diffusion": stable_video_diffusion,
    "ip-adapter": lambda: ip_adapter("plain"),
    "ip-adapter-plus": lambda: ip_adapter("plus"),
    "ip-adapter-full-face": lambda: ip_adapter("full"),
    "ip-adapter-two-images": lambda: ip_adapter("full", images=2),
    "ip-adapter-sdxl": lambda: ip_adapter("full", xl=True),
    "kandinsky-2.2": kandinsky,
    "flux-kontext": flux_kontext,
    "flux-redux": flux_redux,
    "qwen-image-edit": qwen_edit,
    "qwen-image-edit-plus": lambda: qwen_edit(plus=True),
    "wan-image-to-video": wan,
    "wan-first-and-last-frame": lambda: wan(last_frame=True),
    "reference-only": reference_only,
}


def _unet_xl() -> diffusers.UNet2DConditionModel:
    return parts.unet(
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        use_linear_projection=True,
    )


def _flux_pipeline(kind: Any, transformer: Any) -> Any:
    vae = parts.vae(
        latent_channels=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    return parts.quiet(pipeline)


def _flux(text_width: int = 32, pooled_width: int = 32) -> diffusers.FluxTransformer2DModel:
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        pooled_projection_dim=pooled_width,
        axes_dims_rope=(4, 4, 8),
    )
