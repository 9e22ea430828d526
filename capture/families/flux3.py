"""FLUX.3: text, target and references in one sequence, in the joint blocks.

Before them each of the three passes blocks of its own, which attend to nothing else. The ids of the
references come apart from the target's, and their last column numbers them: -1 is the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.families.flux2 import area_resized, centre_cropped
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
from i2am.capture.profiles.preparation import Preparation, Preparations, SeenPart, padded_canvas
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box

if TYPE_CHECKING:
    from torch import nn

__all__ = ["joint_layers"]

_JOINT = re.compile(r"single_transformer_blocks\.\d+\.attn")
_NUMBER_ROW_COLUMN = (3, 1, 2)  # columns of the ids


def joint_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for the attention of each joint block of a FLUX.3 transformer."""
    reader = SequenceReader(_segments, "Call a pipeline of FLUX.3 with an image.")
    for name, module in denoiser.named_modules():
        if _JOINT.fullmatch(name):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(source: DenoiserCall) -> JointSequence:
    named = source.arguments
    ids = [named["img_ids"], named.get("image_cond_ids")]
    joint = torch.cat([each for each in ids if each is not None])[:, _NUMBER_ROW_COLUMN]
    words = named["encoder_hidden_states"].shape[1]
    return JointSequence((text(words), *pictures_of_ids(joint)))


def _prepared(call: RunningCall) -> Preparations:
    """Return how a picture was padded to whole tokens, or how each of several was cropped."""
    given, prepared = (call.variables.get(name) for name in ("image", "condition_images"))
    if given is None or not prepared:
        return None
    pictures = given if isinstance(given, list) else [given]
    sizes = [tuple(tensor.shape[-2:]) for tensor in prepared]
    if len(pictures) > 1:
        return [
            centre_cropped(picture, area_resized(picture), size)
            for picture, size in zip(pictures, sizes, strict=True)
        ]
    return [padded_canvas(call) or _centred(pictures[0], sizes[0])]


def _centred(picture: Any, canvas: tuple[int, int]) -> Preparation | None:
    """Return the canvas around a picture in its middle; None where the picture was made smaller."""
    height, width = picture.height, picture.width
    if height > canvas[0] or width > canvas[1]:
        return None
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    return SeenPart(height, width, Box(-top, -left, canvas[0] - top, canvas[1] - left))


register(
    Profile(
        "flux3",
        ("Flux3ModularPipeline", "Flux3Transformer2DModel"),
        joint_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="FLUX.3, which is a modular pipeline, and its distilled versions; one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared=(
                "padded by its reflection to multiples of 16 if it is the only one; several are made "
                "smaller if they have more than 1024 × 1024 pixels, then cropped in the middle"
            ),
            unseen="the picture as the prompt's rewriting by a language model saw it",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    (image,) = pipe(prompt="the cat as a king", image=[cat, crown], output="images")
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
