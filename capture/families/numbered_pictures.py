"""Transformers in FLUX' manner: text first, then pictures that ``img_ids`` numbers.

The first column of the ids is the number of the picture, the others are the token's row and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    pictures_of_ids,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import stretched
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import CallInProgress
from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["numbered_pictures"]


_JOINT = re.compile(r"(?:single_)?transformer_blocks\.\d+\.attn")


def numbered_pictures(
    denoiser: nn.Module, *, target: int = 0, hint: str = "Call it with an image."
) -> Iterator[LayerTap]:
    """Yield a tap for the attention of each double and single block of a transformer.

    Parameters
    ----------
    denoiser : Module
        Called with ``encoder_hidden_states`` and ``img_ids``.
    target : int
        Number of the generated picture in the ids.
    hint : str
        What to call, and with what, where there is no reference.
    """
    reader = SequenceReader(partial(_segments, target), hint)
    for name, module in denoiser.named_modules():
        if _JOINT.fullmatch(name):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(target: int, source: DenoiserCall) -> JointSequence:
    words = source.arguments["encoder_hidden_states"].shape[1]
    return JointSequence((text(words), *pictures_of_ids(source.arguments["img_ids"], target)))


def _fibo_branches(running: CallInProgress) -> tuple[str, ...] | None:
    scale = running.variables.get("guidance_scale")
    if scale is None:
        return None
    return (UNCONDITIONAL, CONDITIONAL) if scale > 1 else (CONDITIONAL,)


register(
    Profile(
        "longcat-image-edit",
        ("LongCatImageEditPipeline", "LongCatImageTransformer2DModel"),
        partial(numbered_pictures, target=1, hint="Call LongCatImageEditPipeline with an image."),
        package=DIFFUSERS,
        is_batched=False,
        prepares=stretched,
        notes=ModelNotes(
            serves="LongCat-Image-Edit",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches",
            prepared="resized to a size near its own shape",
            unseen="the picture as the language model saw it: it is part of what here counts as text",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(image=cat, prompt="make it a king").images[0]
    recording.add_images(generated=image, reference=cat)""",
            has_text=True,
        ),
    )
)
register(
    Profile(
        "fibo-edit",
        ("BriaFiboEditPipeline", "BriaFiboTransformer2DModel"),
        partial(numbered_pictures, hint="Call BriaFiboEditPipeline with an image."),
        package=DIFFUSERS,
        branches=_fibo_branches,
        prepares=stretched,
        notes=ModelNotes(
            serves="FIBO-Edit, with one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared="resized to multiples of 16, and made smaller if it has more than 1024 × 1024 pixels",
            unseen="–",
            example="""\
with capture(pipe, "run.zarr", sample="owl") as recording:
    image = pipe(prompt='{"edit_instruction": "a cat"}', image=owl).images[0]
    recording.add_images(generated=image, reference=owl)""",
            has_text=True,
        ),
    )
)
