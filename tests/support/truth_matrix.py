"""Situations drawn at random, and for each what its capture must hold, by an independent witness.

The witness logs the arguments of every attention kernel, by the call of the denoiser and the layer.
Which of its rows belong to which image and branch, and at which calls steps start, stands here once
more, by hand, from the pipelines' documentation: nothing of the capture is asked.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import random
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import diffusers
import numpy as np
import torch
import zarr
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import CLIPVisionModelWithProjection

from i2am.capture import capture
from i2am.schemas import I2AMError
from tests.support.reference_maps import stored_logits
from tests.support.tiny_pipelines import families, parts, reading_pipelines
from tests.support.tiny_pipelines.catalogue import FAMILIES
from tests.support.tiny_pipelines.families import noise_image
from tests.support.tiny_pipelines.ip_adapters import checkpoint
from tests.support.tiny_pipelines.parts import WIDTH
from tests.support.tiny_pipelines.small_images import small_images

__all__ = ["Outcome", "Situation", "draw_situations", "try_situation"]

C, U, P, IMAGE = "conditional", "unconditional", "perturbed", "image"


@dataclass(frozen=True)
class Situation:
    """One call of one pipeline, and one capture of it."""

    pipeline: str
    target: str = "pipeline"
    prompts: int = 1
    images: int = 1  # of each prompt
    names: int = 1
    guidance: str = "on"
    option: Literal["conditional", "both"] = "conditional"
    scheduler: str = "DDIM"
    strength: float | None = None
    adapters: str = ""
    size: tuple[int, int] = (16, 32)
    callback: str = ""
    kept: Any = None  # the capture's steps=
    representation: Literal["auto", "factors", "logits"] = "auto"

    @property
    def total(self) -> int:
        """Number of images that the call generates."""
        return self.prompts * self.images

    def __str__(self) -> str:
        """Return what differs from the plainest situation."""
        told = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)[1:]
            if getattr(self, f.name) != f.default
        ]
        return " ".join([self.pipeline, *told])


@dataclass(frozen=True)
class Outcome:
    """What came of a situation: "right", "refused", "wrong", or "did not run" without a capture."""

    verdict: Literal["right", "refused", "wrong", "did not run"]
    reason: str = ""


# --- Schedulers: which of n evaluations start a step.


def _every(count: int) -> list[int]:
    return list(range(count))


def _every_second(count: int) -> list[int]:
    return list(range(0, count, 2))


def _plms(count: int) -> list[int]:  # The second evaluation corrects the first step.
    return [index for index in range(count) if index != 1]


_KARRAS = {"use_karras_sigmas": True}
_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS: dict[str, tuple[str, dict[str, Any], Callable[[int], list[int]]]] = {
    "DDIM": ("DDIMScheduler", {"steps_offset": 1}, _every),
    "DDPM": ("DDPMScheduler", {}, _every),
    "Euler": ("EulerDiscreteScheduler", _LINEAR, _every),
    "Euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, _every),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", _LINEAR, _every),
    "LMS": ("LMSDiscreteScheduler", _LINEAR, _every),
    "Heun": ("HeunDiscreteScheduler", _LINEAR, _every_second),
    "Heun Karras": ("HeunDiscreteScheduler", _LINEAR | _KARRAS, _every_second),
    "KDPM2": ("KDPM2DiscreteScheduler", _LINEAR, _every_second),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", _LINEAR, _every_second),
    "DPM++": ("DPMSolverMultistepScheduler", _LINEAR, _every),
    "DPM++ Karras": ("DPMSolverMultistepScheduler", _LINEAR | _KARRAS, _every),
    "DPM++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, _every),
    "DPM++ singlestep": ("DPMSolverSinglestepScheduler", _LINEAR, _every),
    "UniPC": ("UniPCMultistepScheduler", _LINEAR, _every),
    "DEIS": ("DEISMultistepScheduler", _LINEAR, _every),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True} | _LINEAR, _plms),
    "LCM": ("LCMScheduler", {}, _every),
    "TCD": ("TCDScheduler", {}, _every),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {}, _every),
    "flow Euler shift": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, _every),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {}, _every_second),
    "flow UniPC": (
        "UniPCMultistepScheduler",
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        _every,
    ),
    "its own": ("", {}, _every),
}
_DIFFUSION = tuple(n for n in SCHEDULERS if not n.startswith(("flow", "its")))
_FLOW = ("flow Euler", "flow Euler shift", "its own")


# --- Pipelines: how each lies in its batches, and what may vary.


@dataclass(frozen=True)
class Kind:
    """A pipeline, and the values that each property of its situations may have."""

    build: Callable[[Situation], tuple[Any, dict[str, Any]]]
    guidance: tuple[str, ...] = ("on", "off", "cut off")
    schedulers: tuple[str, ...] = _DIFFUSION
    prompts: tuple[int, ...] = (1, 1, 2)
    images: tuple[int, ...] = (1, 1, 2)
    adapters: tuple[str, ...] = ("",)
    strengths: tuple[float | None, ...] = (None,)
    sizes: tuple[tuple[int, int], ...] = ((16, 32), (32, 16), (24, 24), (32, 32))
    callbacks: tuple[str, ...] = ("", "", "", "interrupt")
    targets: tuple[str, ...] = ("pipeline", "pipeline", "pipeline", "denoiser")
    in_turn: bool = False  # one call of the denoiser for each branch, the conditional one first
    side_calls: int = 0  # further calls of the denoiser in each step, which guide alone
    conditional_first: bool = False  # of the two branches of a batch
    scale: str = "guidance_scale"
    unguided: float = 1.0  # scale at which there is no guidance
    weight: int = 1  # how often it is drawn
    is_named: bool = False  # whether its profile is always given


_ADAPTERS = (
    *("full", "full", "plain", "plus", "two images", "two", "two, first off below"),
    *("two, second off", "masks by image", "masks", "off below", "joins"),
)


def _adapted(kind: str, **more: Any) -> Callable[[Situation], tuple[Any, dict[str, Any]]]:
    """Return what builds a Stable Diffusion pipeline of a class with IP-Adapters."""

    def build(situation: Situation) -> tuple[Any, dict[str, Any]]:
        made = getattr(diffusers, kind)
        channels = more.get("in_channels", 4)
        xl = "XL" in kind
        old = families.ip_adapter("full", xl=xl)
        pipeline, call = old.pipeline, dict(old.call)
        accepted = inspect.signature(made.__init__).parameters
        if made is not type(pipeline):
            pipeline.unload_ip_adapter()
            given = {name: getattr(pipeline, name, None) for name in pipeline.components}
            given |= {"pag_applied_layers": ["mid", "down"]}
            if channels != 4:
                given["unet"] = parts.unet(in_channels=channels)
            if "controlnet" in accepted:
                given["controlnet"] = diffusers.ControlNetModel.from_unet(
                    given["unet"], conditioning_embedding_out_channels=(16, 32)
                )
            given["requires_safety_checker"] = False
            given |= {
                "image_encoder": parts.clip(CLIPVisionModelWithProjection),
                "feature_extractor": parts.clip_processor(),
            }
            pipeline = parts.quiet(made(**{k: v for k, v in given.items() if k in accepted}))
        _load_adapters(pipeline, situation.adapters)
        height, width = situation.size
        call |= {"height": height, "width": width} | _texts(situation.prompts, call)
        if situation.images > 1:
            call["num_images_per_prompt"] = situation.images
        call["ip_adapter_image"] = _pictures(situation.adapters)
        if situation.adapters.startswith("masks"):
            call["cross_attention_kwargs"] = {"ip_adapter_masks": _masks(situation.size)}
        if more.get("takes_image"):
            call["image"] = noise_image(height, 7, width=width)
            if not more.get("takes_size"):
                del call["height"], call["width"]
        if more.get("takes_mask"):
            mask = np.zeros((height, width), np.uint8)
            mask[: height // 2] = 255
            call["mask_image"] = Image.fromarray(mask)
        if situation.strength is not None:
            call["strength"] = situation.strength
        accepted = inspect.signature(made.__call__).parameters
        return pipeline, {k: v for k, v in call.items() if k in accepted}

    return build


def _texts(prompts: int, call: dict[str, Any]) -> dict[str, Any]:
    """Return the call's embeddings, or words, for so many prompts, each its own."""
    found: dict[str, Any] = {}
    for name, value in call.items():
        if name.endswith(("embeds", "embeds_mask", "attention_mask")) and isinstance(
            value, torch.Tensor
        ):
            rows = [
                value if n == 0 or "mask" in name else value.roll(n, -1) for n in range(prompts)
            ]
            found[name] = torch.cat(rows)
        elif name.endswith("embeds"):  # lists of captions
            found[name] = [[one.roll(n, -1) for one in value[0]] for n in range(prompts)]
        elif name.endswith("prompt") and prompts > 1:
            mark = " " if value.endswith("}") else "!"
            found[name] = [value + mark * n for n in range(prompts)]
    return found


def _load_adapters(pipeline: Any, adapters: str) -> None:
    pipeline.unload_ip_adapter()
    pipeline.image_encoder = parts.clip(CLIPVisionModelWithProjection)
    pipeline.feature_extractor = parts.clip_processor()
    first = "plain" if adapters == "plain" else "plus" if adapters == "plus" else "full"
    kinds = [first, "plus"] if adapters.startswith("two,") or adapters == "two" else [first]
    weights = [checkpoint(pipeline.unet, k, WIDTH if k == "plain" else 32) for k in kinds]
    pipeline.load_ip_adapter(
        weights, subfolder="", weight_name=[""] * len(kinds), image_encoder_folder=None
    )
    scales: list[Any] = [0.7, 0.4][: len(kinds)]
    if adapters == "masks by image":
        scales = [[0.7, 0.3]]
    elif adapters == "masks":
        scales = [[0.7, 0.7]]
    elif adapters == "two, second off":
        scales[1] = 0.0
    pipeline.set_ip_adapter_scale(scales)
    if adapters in ("two, first off below", "off below", "joins"):
        for name, processor in pipeline.unet.attn_processors.items():
            if name.startswith("down") and hasattr(processor, "to_k_ip"):
                processor.scale[0] = 0.0


def _pictures(adapters: str) -> list[Any]:
    if adapters in ("two images", "masks by image", "masks"):
        return [[noise_image(32, 1), noise_image(32, 2)]]
    if adapters.startswith("two"):
        return [noise_image(32, 1), noise_image(32, 2)]
    return [noise_image(32, 1)]


def _masks(size: tuple[int, int]) -> list[torch.Tensor]:
    height, width = size
    left = np.zeros((height, width), np.uint8)
    left[:, : width // 2] = 255
    pictures = [Image.fromarray(left), Image.fromarray(255 - left)]
    masks = IPAdapterMaskProcessor().preprocess(pictures, height=height, width=width)
    return [masks.reshape(1, 2, height, width)]


def _family(name: str) -> Callable[[Situation], tuple[Any, dict[str, Any]]]:
    def build(situation: Situation) -> tuple[Any, dict[str, Any]]:
        found = FAMILIES[name]()
        call = found.call | _texts(situation.prompts, found.call) | {"output_type": found.output}
        if situation.images > 1:
            accepted = _accepted(found.pipeline)
            many = ("num_images_per_prompt", "num_videos_per_prompt")
            call |= {name: situation.images for name in many if name in accepted}
        if situation.prompts > 1:
            for key in ("image", "example_image", "mask_image"):
                if key in call and not {"prompt", "prompt_embeds"} & call.keys():
                    call[key] = [call[key]] * situation.prompts
            lists = ("image",) if name == "glm-image" else ("input_images", "images")
            call |= {key: [call[key]] * situation.prompts for key in lists if key in call}
            for key in ("image_embeds", "negative_image_embeds"):
                if key in call:
                    call[key] = torch.cat([call[key].roll(n, -1) for n in range(situation.prompts)])
        if isinstance(found.pipeline, diffusers.ModularPipeline):
            scale, start = (1.0 if situation.guidance == "off" else 3.0), 0.0
            if situation.guidance == "late":
                start = LATE / STEPS
            guider = diffusers.ClassifierFreeGuidance(scale, start=start)
            found.pipeline.update_components(guider=guider)
        if "height" in call:
            factor = 2 if name == "kandinsky-2.2" else 1
            call["height"], call["width"] = (factor * side for side in situation.size)
        return found.pipeline, call

    return build


def _accepted(pipeline: Any) -> Collection[str]:
    """Return the names of what a pipeline's call takes."""
    if isinstance(pipeline, diffusers.ModularPipeline):
        return [own.name for own in pipeline.blocks.inputs]
    return inspect.signature(type(pipeline).__call__).parameters


def _kinds() -> dict[str, Kind]:
    adapted: dict[str, Any] = {"adapters": _ADAPTERS}
    strengths = (1.0, 0.8, 0.5)
    callbacks = ("", "", "", "interrupt", "fade")
    own: dict[str, Any] = {"sizes": ((16, 32),), "adapters": ("",)}
    edited: dict[str, Any] = {
        "guidance": ("on", "off"),
        "in_turn": True,
        "scale": "true_cfg_scale",
        "schedulers": _FLOW,
        "callbacks": ("",),
    }
    square: dict[str, Any] = {"sizes": ((64, 64),)}
    return {
        "StableDiffusion": Kind(
            _adapted("StableDiffusionPipeline"), **adapted, callbacks=callbacks, weight=4
        ),
        "StableDiffusionImg2Img": Kind(
            _adapted("StableDiffusionImg2ImgPipeline", takes_image=True),
            **adapted,
            callbacks=callbacks,
            strengths=strengths,
            weight=3,
        ),
        "StableDiffusionInpaint": Kind(
            _adapted(
                "StableDiffusionInpaintPipeline",
                in_channels=9,
                takes_image=True,
                takes_mask=True,
                takes_size=True,
            ),
            **adapted,
            strengths=strengths,
            weight=3,
        ),
        "StableDiffusionInpaint, 4 channels": Kind(
            _adapted(
                "StableDiffusionInpaintPipeline",
                takes_image=True,
                takes_mask=True,
                takes_size=True,
            ),
            **adapted,
            strengths=strengths,
        ),
        "StableDiffusionControlNet": Kind(
            _adapted("StableDiffusionControlNetPipeline", takes_image=True, takes_size=True),
            **adapted,
            guidance=("on", "off"),
        ),
        "StableDiffusionXL": Kind(_adapted("StableDiffusionXLPipeline"), **adapted, weight=2),
        "StableDiffusionXLImg2Img": Kind(
            _adapted("StableDiffusionXLImg2ImgPipeline", takes_image=True),
            **adapted,
            strengths=strengths,
        ),
        "StableDiffusionPAG": Kind(
            _adapted("StableDiffusionPAGPipeline"),
            guidance=("PAG", "PAG and on", "on", "off"),
            **adapted,
            weight=3,
        ),
        "StableDiffusionPAGImg2Img": Kind(
            _adapted("StableDiffusionPAGImg2ImgPipeline", takes_image=True),
            guidance=("PAG", "PAG and on"),
            **adapted,
            strengths=strengths,
        ),
        "StableDiffusionXLPAG": Kind(
            _adapted("StableDiffusionXLPAGPipeline"),
            guidance=("PAG", "PAG and on"),
            **adapted,
            targets=("pipeline",),
        ),
        "StableDiffusionSAG": Kind(
            _adapted("StableDiffusionSAGPipeline"),
            guidance=("SAG", "off"),
            adapters=("full", "plus"),
            schedulers=("DDIM",),
            callbacks=("",),
            targets=("pipeline",),
        ),
        # There diffusers folds the adapter's tokens into the batch.
        "StableDiffusionSAG, guided": Kind(
            _adapted("StableDiffusionSAGPipeline"),
            guidance=("on",),
            adapters=("plus",),
            schedulers=("DDIM",),
            callbacks=("",),
            targets=("pipeline",),
        ),
        "StableDiffusionInstructPix2Pix": Kind(
            _adapted("StableDiffusionInstructPix2PixPipeline", in_channels=8, takes_image=True),
            guidance=("image and on", "off", "image off"),
            **adapted,
            weight=2,
        ),
        "StableDiffusionPanorama": Kind(
            _adapted("StableDiffusionPanoramaPipeline"),
            guidance=("off",),
            sizes=((64, 600),),
            adapters=("full",),
            targets=("pipeline",),
            callbacks=("",),
            prompts=(1,),
            images=(1,),
            schedulers=("DDIM", "Euler"),
        ),
        "paint-by-example": Kind(
            _family("paint-by-example"), **square, guidance=("on", "off"), callbacks=("",)
        ),
        "reference-inpaint": Kind(
            _family("reference-inpaint"),
            **square,
            guidance=("on", "off"),
            callbacks=("",),
            images=(1,),
        ),
        "image-variation": Kind(
            _family("image-variation"), guidance=("on", "off"), callbacks=("",)
        ),
        "kandinsky-2.2": Kind(
            _family("kandinsky-2.2"),
            images=(1,),
            guidance=("on", "off"),
            callbacks=("",),
            schedulers=("DDIM", "DDPM"),
            targets=("pipeline", "denoiser"),
            sizes=((32, 32), (32, 64)),
        ),
        "stable-video-diffusion": Kind(
            _family("stable-video-diffusion"),
            guidance=("on", "off"),
            callbacks=("",),
            schedulers=("its own", "Euler"),
            prompts=(1,),
            **own,
        ),
        "flux-kontext": Kind(
            _family("flux-kontext"),
            **edited,
            sizes=((16, 16), (16, 24), (32, 16)),
            prompts=(1,),
            weight=2,
        ),
        "qwen-image-edit": Kind(
            _family("qwen-image-edit"),
            **edited,
            sizes=((16, 16), (16, 24), (32, 16)),
            weight=2,
        ),
        "qwen-image-edit-plus": Kind(
            _family("qwen-image-edit-plus"), **edited, sizes=((16, 16), (16, 24)), prompts=(1,)
        ),
        "wan-image-to-video": Kind(
            _family("wan-image-to-video"),
            guidance=("on", "off"),
            in_turn=True,
            schedulers=(*_FLOW, "flow UniPC"),
            sizes=((16, 32), (32, 16)),
            prompts=(1,),
            callbacks=("",),
        ),
        **_reading_kinds(),
        **_joint_kinds(),
        **_video_kinds(),
    }


def _reading_kinds() -> dict[str, Kind]:
    """Return the kinds whose UNet reads the reference in layers of its own."""
    common: dict[str, Any] = {
        "guidance": ("on", "off"),
        "sizes": ((8, 16), (16, 8), (12, 12)),
        "callbacks": ("",),
        "is_named": True,
    }
    return {
        name: Kind(_reading(name), **common, conditional_first="first" in name)
        for name in reading_pipelines.FAMILIES
    }


def _reading(name: str) -> Callable[[Situation], tuple[Any, dict[str, Any]]]:
    def build(situation: Situation) -> tuple[Any, dict[str, Any]]:
        found = reading_pipelines.FAMILIES[name]()
        call = found.call | _texts(situation.prompts, found.call)
        height, width = situation.size
        noise = torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(3))
        call |= {"height": height, "width": width, "reference_latents": noise}
        call["num_images_per_prompt"] = situation.images
        return found.pipeline, call

    return build


def _joint_kinds() -> dict[str, Kind]:
    """Return the kinds whose references are in one sequence with text and target."""
    common: dict[str, Any] = {"schedulers": _FLOW, "callbacks": ("",)}
    in_turn: dict[str, Any] = common | {"guidance": ("on", "off"), "in_turn": True}
    alone: dict[str, Any] = common | {"guidance": ("off",)}
    sizes: dict[str, Any] = {"sizes": ((32, 48), (48, 32), (32, 32))}
    guided = common | {"guidance": ("on", "off", "late"), "in_turn": True}
    return {
        "flux2": Kind(_family("flux2"), **alone, **sizes),
        "flux2-klein": Kind(_family("flux2-klein"), **in_turn, **sizes, weight=2),
        "flux2-klein-kv": Kind(_family("flux2-klein-kv"), **alone, **sizes, weight=2),
        "flux2-klein-inpaint": Kind(
            _family("flux2-klein-inpaint"),
            **in_turn,
            sizes=((64, 64),),
            strengths=(1.0, 0.5),
        ),
        "qwen-image-layered": Kind(
            _family("qwen-image-layered"), **in_turn, scale="true_cfg_scale", sizes=((16, 48),)
        ),
        "qwen-image-2.1": Kind(
            _family("qwen-image-2.1"),
            **in_turn,
            scale="true_cfg_scale",
            sizes=((32, 64), (64, 32), (64, 64)),
            weight=2,
        ),
        "longcat-image-edit": Kind(
            _family("longcat-image-edit"), **in_turn, prompts=(1,), sizes=((32, 32),)
        ),
        "fibo-edit": Kind(
            _family("fibo-edit"), **common, guidance=("on", "off"), **sizes, weight=2
        ),
        "fibo-2": Kind(_family("fibo-2"), **in_turn, sizes=((64, 80), (80, 64))),
        "joyimage-edit": Kind(
            _family("joyimage-edit"), **in_turn, sizes=((32, 96), (96, 32)), weight=2
        ),
        "joyimage-edit-plus": Kind(
            _family("joyimage-edit-plus"),
            **common,
            guidance=("on", "off"),
            images=(1,),
            **sizes,
            weight=2,
        ),
        "glm-image": Kind(
            _family("glm-image"), **in_turn, sizes=((32, 64), (64, 32), (64, 64)), weight=2
        ),
        "z-image-omni": Kind(
            _family("z-image-omni"),
            **common,
            guidance=("on", "off", "truncated"),
            **sizes,
            weight=2,
            conditional_first=True,
            unguided=0.0,
        ),
        "flux-ip-adapter": Kind(
            _family("flux-ip-adapter"),
            **in_turn,
            scale="true_cfg_scale",
            sizes=((16, 24), (32, 16)),
            prompts=(
                1,
            ),  # Of two, diffusers cannot repeat the adapter's picture for several images.
            weight=2,
        ),
        "sd3-ip-adapter": Kind(  # Several images a prompt do not run.
            _family("sd3-ip-adapter"),
            images=(1,),
            **common,
            guidance=("on", "off", "skipping layers"),
            sizes=((16, 24), (32, 16)),
            weight=2,
        ),
        "modular-flux2": Kind(_family("modular-flux2"), **guided, **sizes, weight=2),
        "modular-qwen-edit": Kind(
            _family("modular-qwen-edit"), **guided, sizes=((16, 24), (32, 16)), weight=2
        ),
        "modular-sdxl": Kind(  # neither without guidance nor with several prompts does it run
            _family("modular-sdxl"),
            prompts=(1,),
            callbacks=("",),
            guidance=("on", "late"),
            in_turn=True,
            sizes=((16, 32), (32, 16)),
        ),
        "modular-kontext": Kind(
            _family("modular-kontext"), **alone, sizes=((16, 16),), prompts=(1,)
        ),
        "flux3": Kind(_family("flux3"), **guided, **sizes),
        "flux3-distilled": Kind(_family("flux3-distilled"), **alone, **sizes),
        "omnigen": Kind(
            _family("omnigen"),
            **common,
            guidance=("with images",),
            **sizes,
            weight=2,
        ),
    }


def _video_kinds() -> dict[str, Kind]:
    """Return the kinds whose reference is a frame of the video."""
    common: dict[str, Any] = {
        "guidance": ("on", "off"),
        "schedulers": _FLOW,
        "sizes": ((32, 64), (64, 32)),
        "prompts": (1,),
        "callbacks": ("",),
    }
    wan = common | {"in_turn": True, "schedulers": (*_FLOW, "flow UniPC")}
    hunyuan = common | {"in_turn": True, "scale": "true_cfg_scale", "images": (1,)}
    ltx = common | {"prompts": (1, 1, 2), "images": (1,)}
    guided = ltx | {"side_calls": 2}
    return {
        "wan-2.2": Kind(_family("wan-2.2"), **wan, weight=2),
        "wan-2.2-first-and-last-frame": Kind(_family("wan-2.2-first-and-last-frame"), **wan),
        "wan-2.2-5b": Kind(_family("wan-2.2-5b"), **wan),
        "wan-vace": Kind(_family("wan-vace"), **wan | {"images": (1,)}),
        "ltx": Kind(_family("ltx"), **ltx),
        "ltx-conditions": Kind(_family("ltx-conditions"), **ltx | {"prompts": (1,)}),
        "ltx-2": Kind(_family("ltx-2"), **guided),
        "ltx-2-conditions": Kind(_family("ltx-2-conditions"), **guided),
        "hunyuan-video": Kind(_family("hunyuan-video"), **hunyuan),
        "hunyuan-video-latent-concat": Kind(_family("hunyuan-video-latent-concat"), **hunyuan),
        "hunyuan-video-1.5": Kind(
            _family("hunyuan-video-1.5"), **hunyuan | {"guidance": ("on",), "sizes": ((32, 64),)}
        ),
    }


KINDS = _kinds()
STEPS = 4


def draw_situations(count: int, seed: int = 0) -> list[Situation]:
    """Return different situations, always the same ones for a seed."""
    draw = random.Random(seed)
    names = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
    found: dict[Situation, None] = {}
    while len(found) < count:
        name = draw.choice(names)
        kind = KINDS[name]
        prompts, images = draw.choice(kind.prompts), draw.choice(kind.images)
        total = prompts * images
        situation = Situation(
            name,
            draw.choice(kind.targets),
            prompts,
            images,
            draw.choice((total, total, total, 1, 2)),  # mostly as many names as images
            draw.choice(kind.guidance),
            draw.choice(("conditional", "both")),
            draw.choice(kind.schedulers),
            draw.choice(kind.strengths),
            draw.choice(kind.adapters),
            draw.choice(kind.sizes),
            draw.choice(kind.callbacks),
            draw.choice((None, None, 2, range(1, 3))),
            draw.choice(("auto", "auto", "logits", "factors")),
        )
        if situation.guidance == "skipping layers":  # Diffusers does that for one image alone.
            situation = replace(situation, prompts=1, images=1)
        found[situation] = None
    return list(found)


# --- The witness.


@dataclass(frozen=True)
class Kernel:
    """The arguments of one attention kernel, dims (batch, head, token, channel)."""

    query: torch.Tensor
    key: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Call:
    """One call of the denoiser."""

    timestep: float
    batch: int
    scales: dict[str, list[Any]]  # of each layer's adapters
    kernels: dict[str, list[Kernel]] = field(default_factory=dict)


# Of an attention's queries, as models call them.
_PROJECTIONS = ("to_q", "to_qkv", "to_qkv_mlp_proj", "img_attn_qkv")


@contextmanager
def witness(*denoisers: Any) -> Iterator[list[Call]]:
    """Log the calls of denoisers that share the steps, and the kernels of their attention layers."""
    calls: list[Call] = []
    running: list[str] = []

    class Kernels(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            options = kwargs or {}
            if func is functional.scaled_dot_product_attention and running and calls:
                given = dict(zip(("query", "key"), args, strict=False)) | options
                query, key = given["query"], given["key"]
                scale = options.get("scale") or query.shape[-1] ** -0.5
                found = Kernel(query.detach().clone(), key.detach().clone(), scale)
                calls[-1].kernels.setdefault(running[-1], []).append(found)
            return func(*args, **options)

    def on_call(module: Any, args: Any, options: Any) -> None:
        named = inspect.signature(type(module).forward).bind(module, *args, **options).arguments
        timestep = torch.as_tensor(named.get("timestep", named.get("t"))).max()
        latents: Any = next(named[n] for n in ("sample", "hidden_states", "x") if n in named)
        scales = {
            layer: copy.deepcopy(part.processor.scale)
            for layer, part in module.named_modules()
            if hasattr(getattr(part, "processor", None), "to_k_ip")
        }
        calls.append(Call(float(timestep), len(latents), scales))

    with ExitStack() as stack:
        for denoiser in denoisers:
            hook = denoiser.register_forward_pre_hook(on_call, with_kwargs=True)
            stack.callback(hook.remove)
        modules = (pair for denoiser in denoisers for pair in denoiser.named_modules())
        for name, module in modules:
            if any(hasattr(module, part) for part in _PROJECTIONS):
                enter = module.register_forward_pre_hook(lambda *_, n=name: running.append(n))
                leave = module.register_forward_hook(lambda *_: (running.pop(), None)[1])
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        stack.enter_context(Kernels())
        yield calls


# --- What must be stored.


def branches_of(situation: Situation, evaluation: int) -> tuple[str, ...]:
    """Return the branches of an evaluation's batch, or of its calls, in their order."""
    kind = KINDS[situation.pipeline]
    match situation.guidance:
        case "off" | "SAG" | "image off":
            return (C,)
        case "PAG":
            return (C, P)
        case "PAG and on":
            return (U, C, P)
        case "image and on":
            return (C, IMAGE, U)
        case "with images":
            return (C, U, IMAGE)
        case "late" if not LATE <= evaluation < STEPS:  # A guider counts evaluations.
            return (C,)
        case "truncated" if evaluation > 0:  # Its first step alone is below the limit.
            return (C,)
        case "cut off" if evaluation > CUT_AFTER:
            return (C,)
    return (C, U) if kind.in_turn or kind.conditional_first else (U, C)


LATE = 2  # the evaluation at which guidance begins, which then lasts until the STEPS-th
CUT_AFTER = 1  # the evaluation at whose end a callback changes something


def steps_of(situation: Situation, calls: list[Call]) -> list[tuple[int, list[Call]]]:
    """Return the evaluation at which each step starts, and its calls: one, or one a branch."""
    kind = KINDS[situation.pipeline]
    calls = calls[:: 2 if situation.guidance == "SAG" else 1 + kind.side_calls]
    if situation.pipeline == "glm-image":  # Those at timestep 0 have filled its cache.
        calls = [call for call in calls if call.timestep]
    if situation.guidance == "skipping layers":  # Those without some layers are not guided.
        calls = [call for call in calls if call.batch == max(one.batch for one in calls)]
    together = 2 if kind.in_turn and situation.guidance == "on" else 1
    evaluations = [calls[i : i + together] for i in range(0, len(calls), together)]
    if situation.guidance == "late":
        left = iter(calls)
        evaluations = [
            [first, next(left)] if LATE <= i < STEPS else [first] for i, first in enumerate(left)
        ]
    if (
        situation.target == "denoiser"
    ):  # The contract: calls at distinct timesteps, the last of each.
        numbered = itertools.groupby(enumerate(evaluations), key=lambda one: one[1][0].timestep)
        return [list(group)[-1] for _, group in numbered]
    starts = SCHEDULERS[situation.scheduler][2](len(evaluations))
    return [(i, evaluations[i]) for i in starts]


def reference_kernel(
    situation: Situation, layer: str, index: int, kernels: list[Kernel], patches: int
) -> tuple[Kernel, slice, slice] | None:
    """Return a reference's kernel in one call of a layer, its queries and its keys; None if none."""
    adapters, every = situation.adapters, slice(None)
    if adapters:
        first = {"plain": 4, "plus": 16}.get(adapters, 17)
        is_second = adapters.startswith("two,") or adapters == "two"
        counts = [first, 16] if is_second else [first] * len(_flat_pictures(adapters))
        alone = is_second or adapters.startswith(
            "masks"
        )  # Else the images of an adapter share a softmax.
        start = 0 if alone else sum(counts[:index])
        wanted = counts[index] if alone else sum(counts)
        found = [k for k in kernels if k.key.shape[2] == wanted]
        if not layer.endswith("attn2") or not found:
            return None
        own = found[index] if adapters.startswith("masks") else found[0]
        return own, every, slice(start, start + counts[index])
    family = _layout(situation.pipeline).of(layer)
    queries = slice(family.queries_before, family.queries_before + patches)
    found = [k for k in kernels if k.key.shape[2] == family.key_count(patches)]
    return (found[0], queries, family.keys_of(patches, index)) if found else None


def expected_logits(
    situation: Situation,
    layer: str,
    index: int,
    patches: int,
    steps: list[tuple[int, list[Call]]],
    image: int,
    branch: str,
) -> Any:
    """Return what a layer must hold of one image and branch, dims (step, head, P, R), float64.

    None where the layer does not read the reference at every one of these steps.
    """
    logits = []
    for evaluation, calls in steps:
        branches = branches_of(situation, evaluation)
        if branch not in branches:
            return None
        at = branches.index(branch)
        call = calls[at] if len(calls) > 1 else calls[0]
        row = image if len(calls) > 1 else at * situation.total + image
        found = reference_kernel(situation, layer, index, call.kernels.get(layer, []), patches)
        if found is None:
            return None
        kernel, queries, keys = found
        folded = len(kernel.query) // call.batch  # a video's frames, or its positions
        rows = slice(row * folded, (row + 1) * folded)
        shared = kernel.key.expand(len(kernel.query), -1, -1, -1)  # as the kernel broadcasts it
        query, key = (part[rows].double() for part in (kernel.query, shared))
        scores = query[:, :, queries] @ key[:, :, keys].mT * kernel.scale
        if folded == 1:
            scores = scores[0]
        elif "temporal" in layer:  # (position, head, frame, key) -> (head, frame and position, key)
            scores = scores.permute(1, 2, 0, 3).flatten(1, 2)
        else:
            scores = scores.transpose(0, 1).flatten(1, 2)
        logits.append(scores.numpy())
    return np.stack(logits)


@cache
def _layout(pipeline: str) -> families.Family:
    return (FAMILIES | reading_pipelines.FAMILIES)[pipeline]()


def _flat_pictures(adapters: str) -> list[Any]:
    return [p for one in _pictures(adapters) for p in (one if isinstance(one, list) else [one])]


# --- One situation.


def try_situation(situation: Situation, store: Path) -> Outcome:
    """Capture a situation, and compare every sample that is complete with the witness."""
    torch.manual_seed(1)
    kind = KINDS[situation.pipeline]
    pipeline, call = kind.build(situation)
    name, options, _ = SCHEDULERS[situation.scheduler]
    if name:
        pipeline.scheduler = getattr(diffusers, name)(**options)
    call |= _settings(situation, kind, pipeline)
    target = pipeline if situation.target == "pipeline" else _denoiser(pipeline)
    is_found = situation.target == "pipeline" and not kind.is_named
    profile = None if is_found else _profile_of(situation)
    names = [f"sample-{number}" for number in range(situation.names)]
    images = _images_of(situation)
    refusal = ""
    observed = _denoisers(pipeline) if target is pipeline else (target,)
    with small_images(), witness(*observed) as calls:
        try:
            with capture(
                target, store, sample=names, dtype="float32", guidance=situation.option,
                steps=situation.kept, representation=situation.representation, profile=profile,
            ) as recording:  # fmt: skip
                _run(situation, pipeline, call)
                for name in names:
                    recording.add_images(sample=name, **images)
        except I2AMError as e:
            refusal = f"{type(e).__name__}: {e}"
        except Exception as e:  # noqa: BLE001 - whatever the pipeline itself does not do
            place = traceback.extract_tb(e.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return Outcome("did not run", f"{type(e).__name__}: {e} ({where})")
    root: Any = zarr.open_group(store, mode="r") if store.exists() else {}
    complete = [n for n in names if n in root and root[n].attrs["i2am"]["status"] == "complete"]
    if refusal:
        return Outcome("wrong" if complete else "refused", refusal)
    for image, name in enumerate(names):
        if name not in complete:
            return Outcome("wrong", f"{name} is not complete, and nothing was said")
        if fault := _find_fault(situation, root[name], calls, image):
            return Outcome("wrong", f"{name}: {fault}")
    return Outcome("right")


def _settings(situation: Situation, kind: Kind, pipeline: Any) -> dict[str, Any]:
    scale = {"on": 3.0, "cut off": 3.0, "PAG and on": 3.0, "image and on": 3.0, "image off": 3.0}
    scale |= {"truncated": 3.0, "with images": 3.0, "skipping layers": 3.0}
    found: dict[str, Any] = {kind.scale: scale.get(situation.guidance, kind.unguided)}
    accepted = _accepted(pipeline)
    if "max_guidance_scale" in accepted:
        found = {"max_guidance_scale": found[kind.scale]}
        found["min_guidance_scale"] = found["max_guidance_scale"]
    if "pag_scale" in accepted:
        found["pag_scale"] = 3.0 if "PAG" in situation.guidance else 0.0
    if situation.guidance == "skipping layers":  # at the middle steps
        found |= {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0}
        found["skip_layer_guidance_stop"] = 0.6
    if situation.guidance == "truncated":
        found["cfg_truncation"] = 0.01
    if kind.scale not in accepted:
        found.pop(kind.scale, None)
    if "audio_guidance_scale" in accepted:
        found["audio_guidance_scale"] = found[kind.scale]
    if "sag_scale" in accepted:
        found["sag_scale"] = 0.75 if situation.guidance == "SAG" else 0.0
    if "image_guidance_scale" in accepted:
        found["image_guidance_scale"] = 0.5 if situation.guidance == "image off" else 1.5
    callbacks = [one for one in (_cut_off(situation, pipeline), _other(situation)) if one]
    if callbacks:

        def at_step_end(pipe: Any, step: int, timestep: Any, values: Any) -> Any:
            for one in callbacks:
                values = one(pipe, step, values)
            return values

        found["callback_on_step_end"] = at_step_end
        if situation.guidance == "cut off":
            given = ("latents", *_DOUBLED)
            inputs = [name for name in pipeline._callback_tensor_inputs if name in given]
            found["callback_on_step_end_tensor_inputs"] = inputs
    return found


# What pipelines hold for both branches, and a callback can halve.
_DOUBLED = ("prompt_embeds", "add_text_embeds", "add_time_ids", "mask", "masked_image_latents")


def _cut_off(situation: Situation, pipeline: Any) -> Any:
    """Return a callback that ends guidance on the way, as users of diffusers do it."""
    if situation.guidance != "cut off":
        return None
    shared: list[Any] = []

    def keep(_module: Any, _args: Any, options: Any) -> None:
        shared[:] = [(options.get("added_cond_kwargs") or {}).get("image_embeds")]

    pipeline.unet.register_forward_pre_hook(keep, with_kwargs=True)

    def cut(pipe: Any, step: int, values: dict[str, Any]) -> dict[str, Any]:
        if step == CUT_AFTER:
            pipe._guidance_scale = 0.0
            for name in _DOUBLED:
                if name in values:
                    values[name] = values[name].chunk(2)[-1]
            if shared[0] is not None:
                shared[0][:] = [each.chunk(2)[-1] for each in shared[0]]
        return values

    return cut


def _other(situation: Situation) -> Any:
    """Return a callback that interrupts the run, or changes the adapters' scales on the way."""

    def change(pipe: Any, step: int, values: dict[str, Any]) -> dict[str, Any]:
        if step != CUT_AFTER:
            return values
        if situation.callback == "interrupt":
            pipe._interrupt = True
        for name, processor in pipe.unet.attn_processors.items():
            if not hasattr(processor, "to_k_ip"):
                continue
            if situation.callback == "fade":
                processor.scale = [_halved(scale) for scale in processor.scale]
            if situation.adapters == "joins" and name.startswith("down"):
                processor.scale[0] = 0.7
        return values

    return change if situation.callback or situation.adapters == "joins" else None


def _halved(scale: Any) -> Any:
    return [0.5 * one for one in scale] if isinstance(scale, list) else 0.5 * scale


def _images_of(situation: Situation) -> dict[str, Any]:
    """Return the images to store: the pictures that the call had, and a blank one as its result."""
    if situation.adapters:
        frames, references = 1, _flat_pictures(situation.adapters)
    else:
        family = _layout(situation.pipeline)
        frames, call = family.frames, family.call
        names = ("example_image", "image", "images", "input_images", "ip_adapter_image")
        # A picture of one colour stands in for one of any shape.
        blank = Image.new("RGB", (8, 8))
        given = next((call[name] for name in names if name in call), blank)
        references = given if isinstance(given, list) else [given]
        if isinstance(references[0], list):
            references = references[0]  # of the only adapter
    height, width = situation.size
    found: dict[str, Any] = {"generated": np.zeros((frames * height, width, 3), np.uint8)}
    for number, reference in enumerate(references):
        found[f"reference_{number}" if number else "reference"] = reference
    return found


def _run(situation: Situation, pipeline: Any, call: dict[str, Any]) -> None:
    accepted = _accepted(pipeline)
    if "generator" in accepted:
        call = call | {"generator": torch.Generator().manual_seed(0)}
    if "output_type" in accepted:
        call = {"output_type": "latent"} | call
    pipeline(num_inference_steps=STEPS, **call)


def _denoiser(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def _denoisers(pipeline: Any) -> tuple[Any, ...]:
    second = getattr(pipeline, "transformer_2", None)
    return (_denoiser(pipeline),) if second is None else (_denoiser(pipeline), second)


def _profile_of(situation: Situation) -> str:
    return "ip-adapter" if situation.adapters else _layout(situation.pipeline).profile


def _find_fault(situation: Situation, sample: Any, calls: list[Call], image: int) -> str:
    """Return what a complete sample says that is not so; empty if all of it is right."""
    if situation.names != situation.total:
        return f"{situation.total} images under {situation.names} names"
    every = steps_of(situation, calls)
    kept = [i for i in range(len(every)) if _keeps(situation.kept, i)]
    if sample["step"][...].tolist() != kept:
        return f"steps {sample['step'][...].tolist()}, not {kept}"
    steps = [every[i] for i in kept]
    timesteps = [step[0].timestep for _, step in steps]
    if situation.pipeline == "z-image-omni" and situation.target == "pipeline":
        timesteps = [1000 * (1 - t) for t in timesteps]  # It counts up, from 0 to 1.
    if situation.pipeline == "glm-image" and situation.target == "pipeline":
        timesteps = [t + 1 for t in timesteps]  # It counts from 0.
    # Some pipelines call their denoiser with a share of the scheduler's timestep.
    factor = sample["timestep"][0] / timesteps[0] if timesteps[0] else 1.0
    if not np.allclose(sample["timestep"][...], [factor * t for t in timesteps], rtol=1e-4):
        return f"timesteps {sample['timestep'][...].tolist()}, not {timesteps}"
    branches = branches_of(situation, steps[0][0])
    wanted = [C] if situation.option == "conditional" else sorted(branches)
    labels = sample["guidance"][...].tolist() if "guidance" in sample else [C]
    if sorted(labels) != wanted:
        return f"branches {labels}, not {wanted}"
    for name, layer in sample["layers"].groups():
        if fault := _find_layer_fault(situation, name, layer, steps, image, labels):
            return f"{name}: {fault}"
    stored = {name for name, _ in sample["layers"].groups()}
    missing = _layers_read(situation, steps) - stored
    return f"nothing of {sorted(missing)[0]}" if missing else ""


def _find_layer_fault(
    situation: Situation,
    name: str,
    layer: Any,
    steps: list[tuple[int, list[Call]]],
    image: int,
    labels: list[str],
) -> str:
    own = layer.attrs["i2am"]
    path, _, suffix = name.partition(".reference_")
    index = int(suffix or 0)
    if own["reference_index"] != index:
        return f"reference_index {own['reference_index']}"
    patches = int(np.prod(own["generated_grid"]))
    for number, label in enumerate(labels):
        found = stored_logits(layer, number if len(labels) > 1 else None)
        expected = expected_logits(situation, path, index, patches, steps, image, label)
        if expected is None:
            return f"stored, and not read at every step of {label}"
        if found.shape != expected.shape:
            return f"shape {found.shape}, not {expected.shape}"
        error = np.abs(found - expected).max()
        if not error <= 1e-5 * max(1.0, np.abs(expected).max()):  # Also where it is no number.
            return f"{label}: off by {error:.3g}"
    if situation.adapters:
        weights = [_weight(situation, step[0].scales[path], index) for _, step in steps]
        stored = layer["weight"][...].tolist() if "weight" in layer else own.get("weight", 1.0)
        if not np.allclose(stored, weights):
            return f"weight {stored}, not {weights}"
    if situation.adapters.startswith("masks"):
        left = _masks(situation.size)[0][:, index : index + 1]
        resized = functional.interpolate(left, size=tuple(own["generated_grid"]), mode="bicubic")
        if "region" not in layer or not np.allclose(
            layer["region"][...], resized.clamp(0, 1).numpy().flatten(), atol=1e-6
        ):
            return "another region than its mask's"
    elif "region" in layer:
        return "a region without a mask"
    return ""


def _weight(situation: Situation, scales: list[Any], index: int) -> float:
    """Return the scale of one reference image in a layer."""
    if situation.adapters.startswith("two,") or situation.adapters == "two":
        return float(scales[index])
    first = scales[0]
    return float(first[index] if isinstance(first, list) else first)


def _layers_read(situation: Situation, steps: list[tuple[int, list[Call]]]) -> set[str]:
    """Return the names under which layers of adapters must be stored, as they read a reference."""
    if not situation.adapters:
        return set()
    found = set()
    for _, calls in steps:
        for path, scales in calls[0].scales.items():
            layer = path.removesuffix(".processor")
            for index in range(len(_flat_pictures(situation.adapters))):
                if _weight(situation, scales, index):
                    found.add(f"{layer}.reference_{index}" if index else layer)
    return found


def _keeps(kept: Any, step: int) -> bool:
    if kept is None:
        return True
    return step % kept == 0 if isinstance(kept, int) else step in kept
