"""Tiny pipelines that make a video of an image, whose reference is one of the video's own frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from torch import nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.support.tiny_pipelines import parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES", "hunyuan", "hunyuan15", "ltx", "ltx2", "vace", "wan22", "wan_vae"]

TEXT = 7
# Latents of 3 frames of 2 × 4 tokens, unless a family says otherwise.
HEIGHT, WIDTH_PX, FRAMES = 2, 4, 3


def wan22(kind: str = "14B", *, last_frame: bool = False) -> Family:
    """Return Wan 2.2: of 14B with a transformer for half of the steps and another for the rest, or 5B."""
    is_14b = kind == "14B"
    transformers = [_wan_transformer(12 if is_14b else 4) for _ in range(2 if is_14b else 1)]
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=transformers[0],
        transformer_2=transformers[1] if is_14b else None,
        boundary_ratio=0.5 if is_14b else None,
        expand_timesteps=not is_14b,
    )
    call: dict[str, Any] = {
        "image": noise_image(32),
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "height": 32,
        "width": 64,
        "num_frames": 9,
    }
    if last_frame:
        call["last_image"] = noise_image(32, 1)
    return _family(pipeline, call, "wan-first-frame", 2, (0, 2) if last_frame else (0,), calls=2)


def _wan_transformer(channels: int) -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )


def vace(*, references: int = 1) -> Family:
    """Return Wan VACE, whose references are frames before the video's, the last one first."""
    settings = _wan_transformer(4).config | {"vace_layers": [0, 1], "vace_in_channels": 8 + 64}
    pipeline = diffusers.WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=diffusers.WanVACETransformer3DModel.from_config(settings),
    )
    call: dict[str, Any] = {
        "reference_images": [noise_image(32, seed) for seed in range(references)],
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "height": 32,
        "width": 64,
        "num_frames": 9,
    }
    given = tuple(reversed(range(references)))
    return _family(pipeline, call, "wan-vace", 2, given, frames=FRAMES + references, calls=2)


def wan_vae() -> diffusers.AutoencoderKLWan:
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return _local(vae)


def _local(vae: Any) -> Any:
    """Have the convolutions of an encoder see mostly their own place, as trained ones do."""
    for module in vae.encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.kernel_size[-1] == 3:
            beside = torch.full((3, 3), 0.1)
            beside[1, 1] = 1.0
            module.weight.data *= beside
    return vae


def ltx(*, frames: tuple[int, ...] = ()) -> Family:
    """Return LTX-Video: of one image, or of conditions at some of the frames."""
    kind = diffusers.LTXConditionPipeline if frames else diffusers.LTXImageToVideoPipeline
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_ltx_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            num_layers=2,
            caption_channels=WIDTH,
        ),
    )
    call = _ltx_call()
    if frames:
        call["conditions"] = [
            LTXVideoCondition(noise_image(32, seed), frame_index=frame)
            for seed, frame in enumerate(frames)
        ]
    else:
        call["image"] = noise_image(32)
    # The keyframes' tokens come before the video's.
    keyframes = [frame for frame in frames if frame]
    given = tuple(len(keyframes) if frame == 0 else keyframes.index(frame) for frame in frames)
    return _family(
        pipeline, call, "ltx-first-frame", 2, given or (0,), frames=FRAMES + len(keyframes)
    )


def _ltx_vae() -> diffusers.AutoencoderKLLTXVideo:
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        patch_size=4,
    )
    vae.latents_mean, vae.latents_std = torch.zeros(4), torch.ones(4)
    return _local(vae)


def _ltx_call() -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "prompt_attention_mask": torch.ones(1, TEXT),
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "negative_prompt_attention_mask": torch.ones(1, TEXT),
        "height": 32,
        "width": 64,
        "num_frames": 9,
    }


def ltx2(*, indices: tuple[int, ...] = ()) -> Family:
    """Return LTX-2: of one image, or of conditions at some of the latent frames.

    Unless told otherwise it guides as in its paper, by three calls of the transformer in each step; the
    block whose attention the second one skips is none of this one's.
    """
    kind = diffusers.LTX2ConditionPipeline if indices else diffusers.LTX2ImageToVideoPipeline
    pipeline = kind(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_ltx2_vae(),
        audio_vae=_ltx2_audio_vae(),
        text_encoder=None,
        tokenizer=None,
        connectors=LTX2TextConnectors(
            caption_channels=WIDTH,
            text_proj_in_factor=1,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
        ),
        transformer=diffusers.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=6,
            audio_cross_attention_dim=12,
            num_layers=2,
            caption_channels=WIDTH,
            vae_scale_factors=(4, 16, 16),
            perturbed_attn=True,
        ),
        vocoder=None,
    )
    call = _ltx_call() | {"stg_scale": 1.0, "modality_scale": 2.0}
    call["spatio_temporal_guidance_blocks"] = [2]
    if indices:
        call["conditions"] = [
            LTX2VideoCondition(noise_image(32, seed), index=index, crf=0)
            for seed, index in enumerate(indices)
        ]
    else:
        call |= {"image": noise_image(32), "image_crf": 0}
    # The keyframes' tokens come after the video's.
    keyframes = [index for index in indices if index]
    given = tuple(FRAMES + keyframes.index(index) if index else 0 for index in indices) or (0,)
    return _family(
        pipeline, call, "ltx-first-frame", 2, given, frames=FRAMES + len(keyframes), calls=3
    )


def _ltx2_vae() -> diffusers.AutoencoderKLLTX2Video:
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("LTX2VideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        downsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_type=("spatiotemporal", "spatiotemporal"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=4,
    )
    vae.latents_mean, vae.latents_std = torch.zeros(4), torch.ones(4)
    return _local(vae)


def _ltx2_audio_vae() -> Any:
    return diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )


def hunyuan(kind: str = "token_replace") -> Family:
    """Return HunyuanVideo, whose text shares the softmax with the video; two of its tokens are padding."""
    pipeline = diffusers.HunyuanVideoImageToVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4 if kind == "token_replace" else 9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            guidance_embeds=False,
            text_embed_dim=WIDTH,
            pooled_projection_dim=8,
            rope_axes_dim=(4, 6, 6),
            image_condition_type=kind,
        ),
        vae=_local(_hunyuan_vae()),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=None,
        tokenizer_2=None,
        image_processor=None,
    )
    mask = torch.ones(1, TEXT)
    mask[:, TEXT - 2 :] = 0
    call = {
        "image": noise_image(32),
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": -noise(1, TEXT, WIDTH),
        "negative_pooled_prompt_embeds": -noise(1, 8),
        "negative_prompt_attention_mask": mask,
        "true_cfg_scale": 2.0,
        "height": 32,
        "width": 64,
        "num_frames": 9,
    }
    return _family(pipeline, call, "hunyuan-first-frame", 2, calls=2, text=TEXT - 2, padding=2)


def hunyuan15() -> Family:
    """Return HunyuanVideo 1.5: SigLIP's 6 × 6 tokens, then the texts', of which some are padding.

    It crops the picture, and brings it to 32 × 64 pixels.
    """
    siglip = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=48,
        patch_size=8,
    )
    pipeline = diffusers.HunyuanVideo15ImageToVideoPipeline(
        text_encoder=None,
        tokenizer=None,
        transformer=diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=WIDTH,
            text_embed_2_dim=8,
            image_embed_dim=WIDTH,
            rope_axes_dim=(4, 6, 6),
            target_size=48,
        ),
        vae=_local(
            diffusers.AutoencoderKLHunyuanVideo15(
                latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
            )
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder_2=None,
        tokenizer_2=None,
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        image_encoder=SiglipVisionModel(siglip).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 48, "width": 48}),
    )
    masks = torch.ones(1, TEXT), torch.ones(1, 4)
    masks[0][:, TEXT - 2 :] = 0
    masks[1][:, 3:] = 0
    call: dict[str, Any] = {"image": noise_image(32, width=96), "num_frames": 9}
    for prefix, sign in (("", 1), ("negative_", -1)):
        call[f"{prefix}prompt_embeds"] = sign * noise(1, TEXT, WIDTH)
        call[f"{prefix}prompt_embeds_mask"] = masks[0]
        call[f"{prefix}prompt_embeds_2"] = sign * noise(1, 4, 8)
        call[f"{prefix}prompt_embeds_mask_2"] = masks[1]
    patches, picture, seen, padding = FRAMES * HEIGHT * WIDTH_PX, 36, TEXT - 2 + 3, 2 + 1
    text = range(patches + picture, patches + picture + seen)
    return Family(
        parts.quiet(pipeline),
        call,
        "hunyuan-1.5",
        2,
        ((picture, 0, (6, 6)),),
        other_keys=lambda patches: patches + seen + padding,
        keys_before=lambda patches: patches,
        calls=2,
        frames=FRAMES,
        painted=(32, 64),
        text=text,
        text_queries=text,
    )


def _hunyuan_vae() -> diffusers.AutoencoderKLHunyuanVideo:
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


def _family(
    pipeline: Any,
    call: dict[str, Any],
    profile: str,
    layers: int,
    given: tuple[int, ...] = (0,),
    *,
    frames: int = FRAMES,
    calls: int = 1,
    text: int = 0,
    padding: int = 0,
) -> Family:
    """Return a family of which some frames are given, and the others follow each other."""
    size = HEIGHT * WIDTH_PX
    others = [frame for frame in range(frames) if frame not in given]
    of_text = range(frames * size, frames * size + text)
    return Family(
        parts.quiet(pipeline),
        call,
        profile,
        layers,
        ((size, 0, (HEIGHT, WIDTH_PX)),) * len(given),
        other_keys=lambda patches: patches + text + padding,
        queries_before=others[0] * size,
        calls=calls,
        frames=len(others),
        starts=lambda _patches: [frame * size for frame in given],
        text=of_text,
        text_queries=of_text,
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "wan-2.2": wan22,
    "wan-2.2-first-and-last-frame": lambda: wan22(last_frame=True),
    "wan-2.2-5b": lambda: wan22("5B"),
    "wan-vace": vace,
    "wan-vace-two-images": lambda: vace(references=2),
    "ltx": ltx,
    "ltx-conditions": lambda: ltx(frames=(0, 8)),
    "ltx-2": ltx2,
    "ltx-2-conditions": lambda: ltx2(indices=(0, 2)),
    "hunyuan-video": hunyuan,
    "hunyuan-video-latent-concat": lambda: hunyuan("latent_concat"),
    "hunyuan-video-1.5": hunyuan15,
}
