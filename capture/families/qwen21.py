"""Qwen-Image 2.1: one causal sequence of text, with each reference where the text mentions it.

The target comes last and sees all that is before it, which is the same at every step: its keys are
computed at the first step and come from a cache afterwards. At the first step the layer calls its
kernel once for each run of text and each picture, then for the target; that last call is read. A
language model's slot for a picture stands for 2 × 2 of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    generated,
    reference,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import stretched
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["causal_layers"]

_TOKENS_PER_SLOT = 4


def causal_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of a Qwen-Image 2.1 transformer."""
    reader = _Reader(_segments, "Call QwenImage21Pipeline with an image.")
    for name, module in denoiser.named_modules():
        if "QwenImage21Attention" in class_names(module):
            yield KernelTap(name, module, block_of(name), read=reader.read)


class _Reader(SequenceReader):
    def read(self, call: KernelCall) -> Iterator[AttentionInputs]:
        """Read also the kernel that takes the whole sequence at once, padded, with a mask by blocks."""
        mask: Any = call.mask
        if mask is not None and not isinstance(mask, torch.Tensor):
            call = _unpadded(call, self.sequence_of(call.source))
        yield from super().read(call)


def _unpadded(call: KernelCall, sequence: JointSequence) -> KernelCall:
    """Return the target's part of a call over all tokens; the mask by blocks hides padding alone of it."""
    tokens, own = sequence.key_count, sequence.query_count
    valid = _valid_keys(call.source)
    return replace(
        call,
        query=call.query[:, :, tokens - own : tokens],
        key=call.key[:, :, :tokens],
        mask=None if valid is None else valid[:, None, None],
    )


def _segments(source: DenoiserCall) -> JointSequence:
    shapes = [tuple(shape[-2:]) for shape in source.arguments["img_shapes"][0]]
    found = []
    for picture, tokens in _runs(source.arguments["img_mask"], shapes):
        if picture is None:
            found.append(text(tokens))
            continue
        grid = shapes[picture]
        if tokens != grid[0] * grid[1]:
            msg = (
                f"Expected the {grid[0]}×{grid[1]} tokens of picture {picture} in one run, got {tokens}, at "
                "img_mask. Call the pipeline as it is, without a mask of your own."
            )
            raise CaptureError(msg)
        is_target = picture == len(shapes) - 1
        found.append(generated(grid) if is_target else reference(grid, picture))
    return JointSequence(tuple(found), (found[-1],))


def _runs(slots: torch.Tensor, shapes: list[tuple[int, int]]) -> Iterator[tuple[int | None, int]]:
    """Yield the number of each picture and how many tokens it has; None with those of text.

    Parameters
    ----------
    slots : Tensor, dims (batch, slot), bool
        True for the slots of a picture. They are the same for all images.
    shapes : list of (height, width)
        Of the pictures, in tokens.
    """
    pictures = iter(
        [number for number, (h, w) in enumerate(shapes) for _ in range(h * w // _TOKENS_PER_SLOT)]
    )
    owners = [next(pictures, -1) if slot else None for slot in slots[0].tolist()]
    for picture, run in groupby(owners):
        count = len(list(run))
        yield picture, count if picture is None else count * _TOKENS_PER_SLOT


def _valid_keys(source: DenoiserCall) -> torch.Tensor | None:
    """Return which tokens of each sample are no padding, dims (batch, token); None without padding."""
    valid: Any = source.arguments.get("encoder_hidden_states_mask")
    if valid is None:
        return None
    slots = source.arguments["img_mask"][0]
    is_word = ~slots
    found = torch.ones(len(valid), len(slots), dtype=torch.bool, device=valid.device)
    found[:, is_word] = valid.bool()[:, is_word[: valid.shape[1]]]
    repeats = torch.where(slots, _TOKENS_PER_SLOT, 1)
    return found.repeat_interleave(repeats, dim=1)


register(
    Profile(
        "qwen-image-2.1",
        ("QwenImage21Pipeline", "QwenImage21ModularPipeline", "QwenImage21Transformer2DModel"),
        causal_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=stretched,
        notes=ModelNotes(
            serves="Qwen-Image 2.1 with one picture or several",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared="resized to a size near its own shape",
            unseen="the picture as the language model saw it: it is part of what here counts as text",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(image=[cat, crown], prompt="the cat with the crown").images[0]
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
