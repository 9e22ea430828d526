"""Tiny modular pipelines, whose guider calls the denoiser once for each branch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers

from tests.support.tiny_pipelines import families, joint, parts
from tests.support.tiny_pipelines.family import Family, noise, noise_image
from tests.support.tiny_pipelines.parts import WIDTH

__all__ = ["FAMILIES", "flux2", "flux3", "kontext", "qwen_edit", "sdxl"]

TEXT = 5


def _assembled(kind: str, without: tuple[str, ...] = ("text_encoder",), **components: Any) -> Any:
    """Return a modular pipeline of a preset of blocks, without those that read words."""
    blocks = getattr(diffusers, kind)()
    for name in without:
        blocks.sub_blocks.pop(name)
    pipeline = blocks.init_pipeline()
    pipeline.feature_extractor = components.pop("feature_extractor", None)  # None of its own kind.
    pipeline.update_components(**components)
    return parts.quiet(pipeline)


def _modular(
    plain: Family,
    kind: str,
    drop: tuple[str, ...] = (),
    without: tuple[str, ...] = ("text_encoder",),
    **changes: Any,
) -> Family:
    """Return the modular kin of a pipeline, made of the same parts."""
    own = plain.pipeline
    names = ("transformer", "unet", "vae", "scheduler", "image_encoder", "feature_extractor")
    given = {name: getattr(own, name, None) for name in names}
    components = {name: part for name, part in given.items() if part is not None}
    pipeline = _assembled(kind, without, **components)
    dropped = {"true_cfg_scale", *drop}
    call = {key: value for key, value in plain.call.items() if key not in dropped}
    return replace(
        plain, pipeline=pipeline, call=call | {"output": "images"}, output="pt", **changes
    )


def flux2() -> Family:
    return _modular(joint.flux2(), "Flux2KleinBaseAutoBlocks")


def flux2_distilled() -> Family:
    drop = ("negative_prompt_embeds",)
    return _modular(joint.flux2(), "Flux2KleinAutoBlocks", drop, calls=1, is_guided=False)


def kontext() -> Family:
    drop = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
    return _modular(
        families.flux_kontext(),
        "FluxKontextAutoBlocks",
        drop,
        calls=1,
        is_guided=False,
        references=((16, 0, (4, 4)),),  # The picture's sides come to multiples of 16 pixels.
    )


def qwen_edit(*, plus: bool = False, decodes: bool = True) -> Family:
    kind = "QwenImageEditPlusAutoBlocks" if plus else "QwenImageEditAutoBlocks"
    without = ("text_encoder",) if decodes else ("text_encoder", "decode")
    return _modular(families.qwen_edit(plus=plus), kind, without=without)


def sdxl() -> Family:
    """Return Stable Diffusion XL with a full-face IP-Adapter."""
    plain = families.ip_adapter("full", xl=True)
    plain.call["ip_adapter_image"] = plain.call["ip_adapter_image"][0]
    return _modular(plain, "StableDiffusionXLAutoBlocks", calls=2)


def flux3(*, is_distilled: bool = False) -> Family:
    """Return FLUX.3, whose pipeline is modular alone."""
    transformer = diffusers.Flux3Transformer2DModel(
        in_channels=4,
        cond_in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        timestep_channels=8,
        mlp_ratio=1.0,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=is_distilled,
    )
    pipeline = _assembled(
        "Flux3DistilledAutoBlocks" if is_distilled else "Flux3AutoBlocks",
        ("prompt_upsampler", "text_encoder"),
        transformer=transformer,
        vae=parts.flux2_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    call = {
        "image": [noise_image(64), noise_image(64, 1, width=96)],
        "prompt_embeds": noise(1, TEXT, WIDTH),
        "height": 32,
        "width": 48,
        "output": "images",
    }
    if not is_distilled:
        call["negative_prompt_embeds"] = -noise(1, TEXT, WIDTH)
    return Family(
        pipeline,
        call,
        "flux3",
        2,
        ((16, 0, (4, 4)), (24, 0, (4, 6))),
        other_keys=lambda patches: TEXT + patches,
        keys_before=lambda patches: TEXT + patches,
        queries_before=TEXT,
        calls=1 if is_distilled else 2,
        is_guided=not is_distilled,
        text=range(TEXT),
        text_queries=range(TEXT),
        output="pt",
    )


FAMILIES: dict[str, Callable[[], Family]] = {
    "modular-flux2": flux2,
    "modular-flux2-distilled": flux2_distilled,
    "modular-kontext": kontext,
    "modular-qwen-edit": qwen_edit,
    "modular-qwen-edit-plus": lambda: qwen_edit(plus=True),
    "modular-sdxl": sdxl,
    "flux3": flux3,
    "flux3-distilled": lambda: flux3(is_distilled=True),
}
