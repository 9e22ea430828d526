"""Running a pipeline on a manifest's rows, whatever its class: its call is filled by names.

A profile may have a function of its own instead, of the type `Generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from i2am.schemas import CaptureError, did_you_mean

__all__ = [
    "Generate",
    "GenerationSettings",
    "SampleInputs",
    "call_arguments",
    "check_call",
    "generate",
    "guidance_scale_of",
    "is_video",
    "picture_arguments",
    "picture_size",
    "shared_arguments",
    "takes_several",
]

_ADAPTER = "ip_adapter_image"


# Their lists of `image` are one reference a sample; for most others a list is one sample's.
_IMAGE_LISTS = frozenset({"StableDiffusionImageVariationPipeline"})


@dataclass(frozen=True)
class GenerationSettings:
    """How samples are generated. None leaves it to the pipeline.

    Parameters
    ----------
    steps, guidance_scale : optional
        Handed over by whatever names the pipeline has for them.
    arguments : mapping
        Further arguments of the pipeline's call. ``prompt`` serves samples without one, and with
        ``prompt_embeds`` no prompt is wanted.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def call_arguments(pipeline: Any) -> dict[str, inspect.Parameter]:
    """Return the named arguments of a pipeline's call."""
    found = inspect.signature(type(pipeline).__call__).parameters.values()
    nameless = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p for p in found if p.kind not in nameless and p.name != "self"}


def check_call(pipeline: Any, settings: GenerationSettings, *, has_prompt: bool) -> None:
    """Check that a pipeline can be called with what a manifest gives.

    Raises
    ------
    CaptureError
        If the reference has no place, or an argument is unknown, filled twice, or not at all.
    """
    accepted, name = call_arguments(pipeline), type(pipeline).__name__
    for given in settings.arguments:
        if given not in accepted:
            hint = did_you_mean(given, accepted)
            msg = f"Expected an argument of {name}'s call, got {given!r}. {hint}"
            raise CaptureError(msg)
    if "prompt" in accepted and not (
        has_prompt or {"prompt", "prompt_embeds"} & settings.arguments.keys()
    ):
        msg = (
            f"Expected a prompt for {name}, got none. Add a column 'prompt' to the manifest, or "
            "give one for all samples with --argument prompt=TEXT."
        )
        raise CaptureError(msg)
    _check_required(accepted, name, settings)
    for given in {*picture_arguments(pipeline), *shared_arguments(pipeline, settings), "generator"}:
        if given in settings.arguments:
            msg = f"Expected other arguments for {name}, got {given!r}, which is filled. Omit it."
            raise CaptureError(msg)


def picture_arguments(pipeline: Any) -> dict[str, str]:
    """Return which field of SampleInputs fills which argument.

    Raises
    ------
    CaptureError
        If the reference has no place.
    """
    accepted = call_arguments(pipeline)
    filled = {"image": "source", "mask_image": "mask"}
    filled = {name: own for name, own in filled.items() if name in accepted}
    return filled | {_reference_argument(pipeline): "reference"}


def shared_arguments(pipeline: Any, settings: GenerationSettings) -> dict[str, Any]:
    """Return what all samples of a call have in common, without the settings' `arguments`.

    Raises
    ------
    CaptureError
        If a guidance scale is set and the pipeline takes none.
    """
    found: dict[str, Any] = {}
    if settings.steps is not None:
        found["num_inference_steps"] = settings.steps
    if settings.guidance_scale is not None:
        name = _guidance_argument(pipeline)
        if name is None:
            msg = (
                f"Expected no guidance scale for {type(pipeline).__name__}, got "
                f"{settings.guidance_scale}. Omit it."
            )
            raise CaptureError(msg)
        found[name] = settings.guidance_scale
    if "output_type" in call_arguments(pipeline):
        found["output_type"] = "pil"
    return found


def takes_several(pipeline: Any) -> bool:
    """Return whether one call of the pipeline can generate several samples.

    Not with an IP-Adapter: diffusers repeats all its pictures for each prompt of a call.
    """
    is_list = type(pipeline).__name__ in _IMAGE_LISTS
    return is_list or _reference_argument(pipeline) == "example_image"


def is_video(pipeline: Any) -> bool:
    """Return whether the pipeline generates frames."""
    return "num_frames" in call_arguments(pipeline)


def picture_size(pipeline: Any, settings: GenerationSettings) -> tuple[int, int] | None:
    """Return (width, height) that the pipeline generates; None if it follows its input's."""
    accepted = call_arguments(pipeline)
    sides = []
    for name, own in zip(("width", "height"), _own_size(pipeline), strict=True):
        default = accepted[name].default if name in accepted else None
        side = settings.arguments.get(name) or (default if isinstance(default, int) else own)
        if side is None:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def guidance_scale_of(pipeline: Any, settings: GenerationSettings) -> float | None:
    """Return the guidance scale that a call runs with."""
    name = _guidance_argument(pipeline)
    if settings.guidance_scale is not None or name is None:
        return settings.guidance_scale
    default = settings.arguments.get(name, call_arguments(pipeline)[name].default)
    return default if isinstance(default, int | float) else None


def _reference_argument(pipeline: Any) -> str:
    accepted = call_arguments(pipeline)
    for name in ("example_image", "image_reference", _ADAPTER):
        if name in accepted and (name != _ADAPTER or _has_adapter(pipeline)):
            return name
    if "image" in accepted and "mask_image" not in accepted:
        return "image"
    way_out = (
        "Load an IP-Adapter with --ip-adapter"
        if _ADAPTER in accepted and hasattr(pipeline, "unet")
        else "Call it yourself inside i2am.capture.capture()"
    )
    msg = (
        f"Expected a pipeline that takes a reference picture, got {type(pipeline).__name__}, "
        f"which has no place for one. {way_out}, or choose another."
    )
    raise CaptureError(msg)


def _has_adapter(pipeline: Any) -> bool:
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    # SD3's transformer has the latter, the others' models the former.
    places = ("encoder_hid_proj", "image_proj")
    return any(getattr(denoiser, place, None) is not None for place in places)


def _check_required(
    accepted: Mapping[str, inspect.Parameter], name: str, settings: GenerationSettings
) -> None:
    filled = {"image", "mask_image", "example_image", "image_reference", "prompt"}
    for wanted, parameter in accepted.items():
        if parameter.default is not parameter.empty or wanted in {*filled, *settings.arguments}:
            continue
        origin = " from another pipeline" if wanted.endswith("_embeds") else ""
        msg = (
            f"Expected a pipeline that a manifest's pictures suffice for, got {name}, which also "
            f"needs {wanted!r}{origin}. Give --argument {wanted}=VALUE, or call it yourself "
            "inside i2am.capture.capture()."
        )
        raise CaptureError(msg)


def _guidance_argument(pipeline: Any) -> str | None:
    """Return what the pipeline calls the scale of classifier-free guidance."""
    accepted = call_arguments(pipeline)
    scale = accepted.get("guidance_scale")
    if "true_cfg_scale" in accepted and (scale is None or scale.default is None):
        return "true_cfg_scale"  # There guidance_scale is an input of distilled models.
    return next((n for n in ("guidance_scale", "max_guidance_scale") if n in accepted), None)


def _own_size(pipeline: Any) -> tuple[int | None, int | None]:
    """Return (width, height) of a pipeline's model."""
    unet = getattr(pipeline, "unet", None)
    size = unet.config.sample_size if unet else getattr(pipeline, "default_sample_size", None)
    if size is None:
        return None, None
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


_TEXTS = ("prompt", "negative_prompt")


@dataclass(frozen=True)
class SampleInputs:
    """What one sample is made from. DenoiserCall and mask have one size, the reference another."""

    source: Image.Image
    mask: Image.Image  # white where the source shall be painted
    reference: Image.Image
    prompt: str | None = None
    seed: int = 0


# (pipeline, samples, settings) -> one RGB picture a sample, in their order
Generate = Callable[[Any, Sequence[SampleInputs], GenerationSettings], list[Image.Image]]


def generate(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> list[Image.Image]:
    """Run a pipeline once and return one picture a sample.

    Each sample has a generator of its own, so that its noise does not depend on its mates.

    Parameters
    ----------
    pipeline : diffusers pipeline
    samples : sequence of SampleInputs
        Several only if `i2am.capture.pipelines.call.takes_several`.
    settings : GenerationSettings

    Returns
    -------
    list of PIL images
        A video's frames are stacked along the height, one for each that the model denoises.

    Raises
    ------
    CaptureError
        If the pipeline's arguments cannot be filled, or it returns another number of pictures.
    """
    check_call(pipeline, settings, has_prompt=all(s.prompt is not None for s in samples))
    call = _per_sample(pipeline, samples, settings)
    if len(samples) == 1:
        call = {name: values[0] for name, values in call.items()}
    common = {k: v for k, v in settings.arguments.items() if k not in _TEXTS}
    output = pipeline(**call, **common, **shared_arguments(pipeline, settings))
    found = output.frames if hasattr(output, "frames") else output.images
    if len(found) != len(samples):
        msg = (
            f"Expected one picture for each of {len(samples)} samples, got {len(found)} from "
            f"{type(pipeline).__name__}. Let it make one a call."
        )
        raise CaptureError(msg)
    # A video model's latent frame stands for several frames, except for the first.
    stride = getattr(pipeline, "vae_scale_factor_temporal", 1)
    return [_stack(picture, stride) for picture in found]


def _per_sample(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> dict[str, list[Any]]:
    """Return the arguments that differ from sample to sample, one value each."""
    accepted = call_arguments(pipeline)
    pictures = picture_arguments(pipeline)
    call = {name: [getattr(s, own) for s in samples] for name, own in pictures.items()}
    for name in _TEXTS:
        common = settings.arguments.get(name)
        own = [s.prompt if name == "prompt" else None for s in samples]
        texts = [common if text is None else text for text in own]
        if name in accepted and None not in texts:
            call[name] = texts
    if "generator" in accepted:
        # On the CPU, so that a seed means the same noise on every device.
        call["generator"] = [torch.Generator("cpu").manual_seed(s.seed) for s in samples]
    return call


def _stack(picture: Image.Image | Sequence[Image.Image], stride: int) -> Image.Image:
    """Return a picture, or a video's frames below each other."""
    if isinstance(picture, Image.Image):
        return picture
    frames = picture[::stride]
    width, height = frames[0].size
    stacked = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        stacked.paste(frame, (0, height * number))
    return stacked
