"""OmniGen: references where the prompt names them, then the timestep, then the generated image.

``input_image_sizes`` says for each row of the batch where the tokens of its pictures are. An
unconditional row has none, and shorter prompts are padded in front, so that the places of two prompts
differ where their lengths do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    Segment,
    SequenceReader,
    generated,
    other,
    reference,
    same_for_kept_rows,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import CentreCrop, Preparation, Preparations, SeenPart
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import CallInProgress, RunningCall
from i2am.schemas.dims import CONDITIONAL, IMAGE, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["placed_reference_layers"]

_PLACE = re.compile(r"<\|image_(\d+)\|>")
_MULTIPLE = 16  # of pixels


def placed_reference_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer of an OmniGen transformer."""
    config: Any = denoiser.config
    reader = SequenceReader(
        partial(_segments, int(config.patch_size)), "Call OmniGenPipeline with input_images."
    )
    for name, module in denoiser.named_modules():
        if name.endswith(".self_attn"):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(patch: int, source: DenoiserCall) -> JointSequence:
    named = source.arguments
    # The pictures of all rows follow each other in one list.
    latents = iter(named["input_img_latents"])
    places = {
        row: [(start, end, next(latents)) for start, end in spans]
        for row, spans in named["input_image_sizes"].items()
    }
    height, width = named["hidden_states"].shape[-2:]
    target = generated((height // patch, width // patch))
    words = named["input_ids"].shape[1]

    def of_row(row: int) -> JointSequence:
        before = _condition(places.get(row, ()), words, patch)
        return JointSequence((*before, other(1), target))

    return same_for_kept_rows(source, of_row)


def _condition(places: Any, words: int, patch: int) -> Iterator[Segment]:
    """Yield the segments of one row's text and pictures."""
    end = 0
    for index, (start, stop, latents) in enumerate(places):
        yield text(start - end)
        yield reference((latents.shape[-2] // patch, latents.shape[-1] // patch), index)
        end = stop
    yield text(words - end)


def _branches(running: CallInProgress) -> tuple[str, ...] | None:
    count = running.variables.get("num_cfg")
    if count is None:
        return None
    return (CONDITIONAL, UNCONDITIONAL, IMAGE) if count == 2 else (CONDITIONAL, UNCONDITIONAL)


def _prepared(call: RunningCall) -> Preparations:
    """Return how the pictures of a sample were made smaller and cropped, as its prompt names them."""
    prompts, given = (call.variables.get(name) for name in ("prompt", "input_images"))
    if not isinstance(prompts, list) or not isinstance(given, list):
        return None
    number = call.sample // (call.variables.get("num_images_per_prompt") or 1)
    pictures, largest = given[number] or (), call.variables["max_input_image_size"]
    order = [int(place) - 1 for place in _PLACE.findall(prompts[number])]
    return [_cropped(pictures[place], largest) for place in order]


def _cropped(picture: Any, largest: int) -> Preparation | None:
    """Return what is left of a picture: made smaller, then cut to multiples of 16 pixels."""
    if isinstance(picture, str):
        with Image.open(picture) as opened:
            size = opened.size
    else:
        size = picture.size
    width, height = size
    while min(size) >= 2 * largest:
        size = size[0] // 2, size[1] // 2
    if max(size) > largest:
        size = _scaled(size, largest / max(size))
    if min(size) < _MULTIPLE:
        size = _scaled(size, _MULTIPLE / min(size))
    resized = size[1], size[0]
    kept = resized[0] // _MULTIPLE * _MULTIPLE, resized[1] // _MULTIPLE * _MULTIPLE
    return SeenPart(height, width, CentreCrop(resized, kept).box(height, width))


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return round(size[0] * factor), round(size[1] * factor)


register(
    Profile(
        "omnigen",
        ("OmniGenPipeline", "OmniGenTransformer2DModel"),
        placed_reference_layers,
        guidance=(CONDITIONAL, UNCONDITIONAL, IMAGE),
        package=DIFFUSERS,
        branches=_branches,
        prepares=_prepared,
        notes=ModelNotes(
            serves="OmniGen with pictures, numbered as the prompt names them; the conditional branch alone",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the timestep, the generated patches, other references",
            prepared=(
                "made smaller if a side is longer than `max_input_image_size`, then cropped in the middle "
                "to multiples of 16"
            ),
            unseen="–",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe("<img><|image_1|></img> as a king", input_images=[cat]).images[0]
    recording.add_images(generated=image, reference=cat)""",
            has_text=True,
        ),
    )
)
