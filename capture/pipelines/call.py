"""Running a pipeline on a manifest's rows: the arguments of its call are filled by their names.

A profile may bring its own function instead, of the type `Generate`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from i2am.capture.pipelines.call_argument import check_argument
from i2am.schemas import CaptureError, did_you_mean

__all__ = [
    "Generate",
    "GenerationSettings",
    "SampleInputs",
    "call_arguments",
    "check_call",
    "generate",
    "guidance_argument",
    "guidance_scale_of",
    "image_arguments",
    "is_unguided",
    "is_video",
    "most_steps",
    "output_images",
    "output_size",
    "sample_arguments",
    "shared_arguments",
    "steps_of",
    "supports_batches",
    "takes_several_references",
]

_ADAPTER = "ip_adapter_image"
# Their `image` takes a list with one reference per sample; elsewhere a list belongs to one sample.
_IMAGE_LISTS = frozenset({"StableDiffusionImageVariationPipeline"})
# Their `image` takes a list with all references of one sample.
_REFERENCE_LISTS = frozenset(
    {
        *("QwenImageEditPlusPipeline", "QwenImage21Pipeline"),
        *("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinKVPipeline"),
        *("ZImageOmniPipeline", "BriaFibo2Pipeline"),
    }
)
# The picture that they paint over is their first reference, and the reference their second.
_SOURCE_FIRST = frozenset({"Flux2KleinInpaintPipeline"})
_TEXTS = ("prompt", "negative_prompt")
# How many frames one latent frame of a video stands for, except for the first, which is one.
_FRAMES_OF_LATENT = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")


@dataclass(frozen=True)
class GenerationSettings:
    """How samples are generated; None leaves a setting to the pipeline.

    Parameters
    ----------
    steps : int, optional
        Number of denoising steps.
    guidance_scale : float, optional
        Scale of classifier-free guidance, whatever the pipeline calls it.
    arguments : mapping of str to object
        Further arguments of the pipeline's call. ``prompt`` is for samples without one; with
        ``prompt_embeds`` no prompt is needed.

    Examples
    --------
    >>> GenerationSettings(steps=20, arguments={"strength": 0.8}).guidance_scale is None
    True
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
    """Check that a manifest can fill a pipeline's call.

    Raises
    ------
    CaptureError
        If no argument takes the reference, or an argument is unknown, of another type, filled twice,
        or missing.
    """
    accepted, name = call_arguments(pipeline), type(pipeline).__name__
    for given in settings.arguments:
        if given not in accepted:
            hint = did_you_mean(given, accepted)
            msg = f"Expected an argument of {name}'s call, got {given!r}. {hint}"
            raise CaptureError(msg)
    for given, value in settings.arguments.items():
        check_argument(name, accepted[given], value)
    if "prompt" in accepted and not (
        has_prompt or {"prompt", "prompt_embeds"} & settings.arguments.keys()
    ):
        msg = (
            f"Expected a prompt for {name}, got none. Add a column 'prompt' to the manifest, with a text "
            "in each row, or give one for all samples with --argument prompt=TEXT."
        )
        raise CaptureError(msg)
    _check_required(accepted, name, settings)
    for given in {*image_arguments(pipeline), *shared_arguments(pipeline, settings), "generator"}:
        if given in settings.arguments:
            msg = f"Expected other arguments for {name}, got {given!r}, which is filled. Omit it."
            raise CaptureError(msg)


def image_arguments(pipeline: Any) -> dict[str, str]:
    """Return which field of SampleInputs fills which argument.

    Raises
    ------
    CaptureError
        If no argument takes the reference.
    """
    accepted = call_arguments(pipeline)
    filled = {"image": "source", "mask_image": "mask"}
    filled = {name: own for name, own in filled.items() if name in accepted}
    return filled | {_reference_argument(pipeline): "reference"}


def shared_arguments(pipeline: Any, settings: GenerationSettings) -> dict[str, Any]:
    """Return the arguments that all samples of a call share, without the settings' `arguments`.

    Raises
    ------
    CaptureError
        If a guidance scale or a number of steps is set and the pipeline takes none.
    """
    found: dict[str, Any] = {}
    if settings.steps is not None:
        if "num_inference_steps" not in call_arguments(pipeline):
            msg = (
                f"Expected no number of steps for {type(pipeline).__name__}, got {settings.steps}. "
                "Omit it."
            )
            raise CaptureError(msg)
        found["num_inference_steps"] = settings.steps
    if settings.guidance_scale is not None:
        name = guidance_argument(pipeline)
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


def supports_batches(pipeline: Any) -> bool:
    """Return whether one call of the pipeline can generate several samples.

    Not with an IP-Adapter: diffusers repeats all its images for each prompt of a call.
    """
    is_list = type(pipeline).__name__ in _IMAGE_LISTS
    return is_list or _reference_argument(pipeline) == "example_image"


def takes_several_references(pipeline: Any) -> bool:
    """Return whether a sample may have several references, in a list."""
    is_list = type(pipeline).__name__ in _REFERENCE_LISTS
    return is_list or _reference_argument(pipeline) == _ADAPTER


def is_video(pipeline: Any) -> bool:
    """Return whether the pipeline generates frames."""
    return "num_frames" in call_arguments(pipeline)


def output_size(pipeline: Any, settings: GenerationSettings) -> tuple[int, int] | None:
    """Return (width, height) of the output in pixels; None if it is that of the input."""
    accepted = call_arguments(pipeline)
    sides = []
    for name, model_side in zip(("width", "height"), _model_size(pipeline), strict=True):
        default = accepted[name].default if name in accepted else None
        side = settings.arguments.get(name) or (default if isinstance(default, int) else model_side)
        if side is None:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


def guidance_scale_of(pipeline: Any, settings: GenerationSettings) -> float | None:
    """Return the guidance scale that a call runs with."""
    name = guidance_argument(pipeline)
    if settings.guidance_scale is not None or name is None:
        return settings.guidance_scale
    default = settings.arguments.get(name, call_arguments(pipeline)[name].default)
    return default if isinstance(default, int | float) else None


def guidance_argument(pipeline: Any) -> str | None:
    """Return what the pipeline calls the scale of classifier-free guidance."""
    accepted = call_arguments(pipeline)
    scale = accepted.get("guidance_scale")
    if "true_cfg_scale" in accepted and (scale is None or scale.default is None):
        return "true_cfg_scale"  # There guidance_scale is an input of distilled models.
    return next((n for n in ("guidance_scale", "max_guidance_scale") if n in accepted), None)


def is_unguided(pipeline: Any, settings: GenerationSettings) -> bool:
    """Return whether a call certainly runs without guidance, so that it has one branch alone."""
    name, scale = guidance_argument(pipeline), guidance_scale_of(pipeline, settings)
    if name is None or scale is None or _value_of(pipeline, settings, "pag_scale"):
        return False
    if name == "true_cfg_scale" and not any(
        _value_of(pipeline, settings, text) is not None
        for text in ("negative_prompt", "negative_prompt_embeds")
    ):
        return True
    return scale <= 1


def steps_of(pipeline: Any, settings: GenerationSettings) -> int | None:
    """Return the number of denoising steps that a call is asked for; None if it does not say."""
    if settings.steps is not None:
        return settings.steps
    for name in ("timesteps", "sigmas"):
        if isinstance(given := settings.arguments.get(name), list | tuple):
            return len(given)
    steps = _value_of(pipeline, settings, "num_inference_steps")
    return steps if isinstance(steps, int) else None


def most_steps(pipeline: Any, settings: GenerationSettings) -> int | None:
    """Return how many denoising steps a call runs at most: a strength below 1 leaves some out."""
    steps, strength = steps_of(pipeline, settings), _value_of(pipeline, settings, "strength")
    if steps is None or not isinstance(strength, int | float):
        return steps
    return min(steps, math.ceil(steps * strength))


def _value_of(pipeline: Any, settings: GenerationSettings, name: str) -> Any:
    """Return the value with which a call gets an argument; None where it takes none."""
    parameter = call_arguments(pipeline).get(name)
    if parameter is None:
        return None
    default = None if parameter.default is parameter.empty else parameter.default
    return settings.arguments.get(name, default)


def _reference_argument(pipeline: Any) -> str:
    accepted, kind = call_arguments(pipeline), type(pipeline).__name__
    if kind in _SOURCE_FIRST:
        msg = (
            f"Expected a pipeline whose first reference is the manifest's, got {kind}, which reads the "
            "picture that it paints over before it. Call it yourself inside i2am.capture.capture(), and "
            "store them as reference and reference_1."
        )
        raise CaptureError(msg)
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
        f"Expected a pipeline that takes a reference image, got {type(pipeline).__name__}, "
        f"which has no argument for one. {way_out}, or choose another."
    )
    raise CaptureError(msg)


def _has_adapter(pipeline: Any) -> bool:
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    # SD3's transformer has the latter, all other models the former.
    attributes = ("encoder_hid_proj", "image_proj")
    return any(getattr(denoiser, name, None) is not None for name in attributes)


def _check_required(
    accepted: Mapping[str, inspect.Parameter], name: str, settings: GenerationSettings
) -> None:
    filled = {"image", "mask_image", "example_image", "image_reference", "prompt"}
    for wanted, parameter in accepted.items():
        if parameter.default is not parameter.empty or wanted in {*filled, *settings.arguments}:
            continue
        origin = " from another pipeline" if wanted.endswith("_embeds") else ""
        msg = (
            f"Expected a pipeline that needs the manifest's images alone, got {name}, which also "
            f"needs {wanted!r}{origin}. Give --argument {wanted}=VALUE, or call it yourself "
            "inside i2am.capture.capture()."
        )
        raise CaptureError(msg)


def _model_size(pipeline: Any) -> tuple[int | None, int | None]:
    """Return (width, height) of the images that a pipeline's model was made for, in pixels."""
    unet = getattr(pipeline, "unet", None)
    size = unet.config.sample_size if unet else getattr(pipeline, "default_sample_size", None)
    if size is None:
        return None, None
    height, width = (size, size) if isinstance(size, int) else size
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


@dataclass(frozen=True)
class SampleInputs:
    """The inputs of one sample.

    Parameters
    ----------
    source : PIL image, RGB, or None
        To be painted in; None where the pipeline takes none.
    mask : PIL image, L, or None
        White where the source shall be painted; of the source's size.
    reference : PIL image, RGB
        Of any size.
    prompt : str, optional
    seed : int
        Of the sample's noise.
    other_references : tuple of PIL image, RGB
        For a pipeline that takes several; see `takes_several_references`.

    Examples
    --------
    >>> source, mask = Image.new("RGB", (64, 64)), Image.new("L", (64, 64), 255)
    >>> SampleInputs(source, mask, reference=Image.new("RGB", (32, 48)), seed=7).prompt is None
    True
    """

    source: Image.Image | None
    mask: Image.Image | None
    reference: Image.Image
    prompt: str | None = None
    seed: int = 0
    other_references: tuple[Image.Image, ...] = ()

    def of_argument(self, argument: str, field_name: str) -> Any:
        """Return what fills an argument of a call."""
        if field_name != "reference" or not self.other_references:
            return getattr(self, field_name)
        references = [self.reference, *self.other_references]
        return [references] if argument == _ADAPTER else references  # A list for each adapter.


# (pipeline, samples, settings) -> one RGB image per sample, in their order
Generate = Callable[[Any, Sequence[SampleInputs], GenerationSettings], list[Image.Image]]


def generate(
    pipeline: Any,
    samples: Sequence[SampleInputs],
    settings: GenerationSettings,
    *,
    first_frame: int = 0,
) -> list[Image.Image]:
    """Run a pipeline once and return one image per sample.

    Each sample has its own random generator, so that its noise does not depend on the others.

    Parameters
    ----------
    pipeline : diffusers pipeline
    samples : sequence of SampleInputs
        More than one only if `supports_batches`.
    settings : GenerationSettings
    first_frame : int
        Of a video, the first latent frame that is returned: those before it were given.

    Returns
    -------
    list of PIL images
        A video's frames are stacked along the height, one for each latent frame.

    Raises
    ------
    CaptureError
        If the pipeline's arguments cannot be filled, or it returns another number of images.
    """
    output = pipeline(**sample_arguments(pipeline, samples, settings))
    return output_images(pipeline, output, len(samples), first_frame=first_frame)


def sample_arguments(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> dict[str, Any]:
    """Return the arguments of a call that generates some samples.

    Raises
    ------
    CaptureError
        If the pipeline's arguments cannot be filled.
    """
    check_call(pipeline, settings, has_prompt=all(s.prompt is not None for s in samples))
    call: dict[str, Any] = _per_sample(pipeline, samples, settings)
    if len(samples) == 1:
        call = {name: values[0] for name, values in call.items()}
    common = {k: v for k, v in settings.arguments.items() if k not in _TEXTS}
    return {**call, **common, **shared_arguments(pipeline, settings)}


def output_images(
    pipeline: Any, output: Any, count: int, *, first_frame: int = 0
) -> list[Image.Image]:
    """Return the images of a call that generated `count` of them; see `generate`.

    Raises
    ------
    CaptureError
        If they are another number.
    """
    found = output.frames if hasattr(output, "frames") else output.images
    if len(found) != count:
        msg = (
            f"Expected one image for each of {count} samples, got {len(found)} from "
            f"{type(pipeline).__name__}. Let it generate one image per call."
        )
        raise CaptureError(msg)
    stride = next((getattr(pipeline, n) for n in _FRAMES_OF_LATENT if hasattr(pipeline, n)), 1)
    return [_stack(image, slice(first_frame * stride, None, stride)) for image in found]


def _per_sample(
    pipeline: Any, samples: Sequence[SampleInputs], settings: GenerationSettings
) -> dict[str, list[Any]]:
    """Return the arguments that differ between samples, as lists with one value per sample."""
    accepted = call_arguments(pipeline)
    images = image_arguments(pipeline)
    call = {name: [s.of_argument(name, own) for s in samples] for name, own in images.items()}
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


def _stack(image: Image.Image | Sequence[Image.Image], kept: slice) -> Image.Image:
    """Return an image, or the frames of a video that are kept, stacked along the height."""
    if isinstance(image, Image.Image):
        return image
    frames = image[kept]
    width, height = frames[0].size
    stacked = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        stacked.paste(frame, (0, height * number))
    return stacked
