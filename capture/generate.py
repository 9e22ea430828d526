"""Running a pipeline on a manifest's rows, whatever its class: its call is filled by names.

Which argument takes what is told by `i2am.capture.pipeline_call`. A profile may have a function of
its own instead, of the type `Generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from i2am.capture.pipeline_call import (
    GenerationSettings,
    call_arguments,
    check_call,
    picture_arguments,
    shared_arguments,
)
from i2am.schemas import CaptureError

__all__ = ["Generate", "GenerationSettings", "SampleInputs", "generate"]

_TEXTS = ("prompt", "negative_prompt")


@dataclass(frozen=True)
class SampleInputs:
    """What one sample is made from. Source and mask have one size, the reference another."""

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
        Several only if `i2am.capture.pipeline_call.takes_several`.
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
