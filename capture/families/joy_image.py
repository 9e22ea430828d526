"""JoyImage-Edit: the generated picture, the references, then the text, in one sequence.

Edit takes one reference of the target's size, in a slot of its own of the latents. Edit Plus takes
several of any size, as a list of patches for each sample, padded at its end, with their grids in
``shape_list``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    generated,
    other,
    reference,
    same_for_kept_rows,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, covered
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall

if TYPE_CHECKING:
    from torch import nn

__all__ = ["listed_picture_layers", "slot_layers"]

_JOINT = re.compile(r"double_blocks\.\d+\.attn")


def slot_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer of a JoyImage-Edit transformer: a reference has a slot of the latents."""
    config: Any = denoiser.config
    patch = tuple(int(side) for side in config.patch_size)
    hint = "Call JoyImageEditPipeline with an image."
    return _layers(denoiser, partial(_slots, patch), hint)


def listed_picture_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer of a JoyImage-Edit-Plus transformer: it takes a list of pictures."""
    hint = "Call JoyImageEditPlusPipeline with images."
    return _layers(denoiser, _listed_pictures, hint)


def _layers(
    denoiser: nn.Module, segments_of: Callable[[DenoiserCall], JointSequence], hint: str
) -> Iterator[LayerTap]:
    reader = SequenceReader(segments_of, hint)
    for name, module in denoiser.named_modules():
        if _JOINT.fullmatch(name):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _slots(patch: tuple[int, ...], source: DenoiserCall) -> JointSequence:
    latents = source.arguments["hidden_states"]
    # Dims (batch, slot, channel, frame, height, width); the last slot is the target's.
    slots = latents.shape[1] if latents.ndim == 6 else 1
    frames, height, width = (
        side // own for side, own in zip(latents.shape[-3:], patch, strict=True)
    )
    grid = frames * height, width
    words = source.arguments["encoder_hidden_states"].shape[1]
    references = [reference(grid, index) for index in range(slots - 1)]
    return JointSequence((generated(grid, frames), *references, text(words)))


def _listed_pictures(source: DenoiserCall) -> JointSequence:
    named = source.arguments
    patches, words = named["hidden_states"].shape[1], named["encoder_hidden_states"].shape[1]

    def of_row(row: int) -> JointSequence:
        grids = [(frames * height, width) for frames, height, width in named["shape_list"][row]]
        target = generated(grids[0], named["shape_list"][row][0][0])
        references = [reference(grid, index) for index, grid in enumerate(grids[1:])]
        padding = patches - sum(height * width for height, width in grids)
        return JointSequence((target, *references, other(padding), text(words)))

    return same_for_kept_rows(source, of_row)


def _slot_prepared(call: RunningCall) -> Preparations:
    """Return how the reference was resized to cover the target's size, and its middle cut out."""
    given = call.variables.get("image")
    pictures = given if isinstance(given, list) else [given]
    picture = pictures[call.sample % len(pictures)]  # They are repeated, one after another.
    if not isinstance(picture, Image.Image):
        return None
    return covered(picture, (call.variables["height"], call.variables["width"]))


def _listed_prepared(call: RunningCall) -> Preparations:
    """Return how the references were resized and cut; of several samples the last one's are known."""
    given, prepared = (call.variables.get(name) for name in ("sample_imgs", "processed_sample"))
    if not given or not prepared or call.sample < call.samples - 1:
        return None
    return [
        covered(picture, (own.height, own.width))
        for picture, own in zip(given, prepared, strict=True)
    ]


_PREPARED = "resized to cover a size of about 1024 × 1024 pixels {}, then cropped in the middle"
_UNSEEN = "the pictures as the language model saw them: they are part of what here counts as text"

register(
    Profile(
        "joyimage-edit",
        ("JoyImageEditPipeline", "JoyImageEditTransformer3DModel"),
        slot_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_slot_prepared,
        notes=ModelNotes(
            serves="JoyImage-Edit",
            tokens="a token for 16 × 16 pixels",
            grid="the result's",
            shares="text, the generated patches",
            prepared=_PREPARED.format("that the result has, too"),
            unseen=_UNSEEN,
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
        "joyimage-edit-plus",
        ("JoyImageEditPlusPipeline", "JoyImageEditPlusTransformer3DModel"),
        listed_picture_layers,
        package=DIFFUSERS,
        prepares=_listed_prepared,
        notes=ModelNotes(
            serves="JoyImage-Edit-Plus, with one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared=_PREPARED.format("near its own shape"),
            unseen=_UNSEEN,
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(images=[cat, crown], prompt="the cat with the crown").images[0]
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
