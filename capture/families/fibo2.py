"""FIBO 2: the pictures of one sequence, the generated one first, and the gist of the text.

The gist, tokens that a small network makes of the text, comes first; where it is padded, because
prompts of a batch have gists of different lengths, it comes last. Before that, two refining layers
attend over the pictures alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import JointSequence, generated, reference, text
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, covered
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall

if TYPE_CHECKING:
    from torch import nn

__all__ = ["gist_layers"]

_JOINT = re.compile(r"(?:layers|noise_refiner)\.\d+\.attention")


def gist_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer of a FIBO 2 transformer that attends over the pictures."""
    config: Any = denoiser.config
    for name, module in denoiser.named_modules():
        if _JOINT.fullmatch(name):
            has_gist = name.startswith("layers.")
            read = partial(_read, int(config.patch_size), has_gist)
            yield KernelTap(name, module, block_of(name), read=read)


def _read(patch: int, has_gist: bool, call: KernelCall) -> Iterator[AttentionInputs]:
    named = call.source.arguments
    grids = [
        (latents.shape[-2] // patch, latents.shape[-1] // patch)
        for latents in (named["hidden_states"], *(named.get("context_latents") or ()))
    ]
    pictures = (
        generated(grids[0]),
        *(reference(grid, index) for index, grid in enumerate(grids[1:])),
    )
    sequence = JointSequence(pictures)
    sequence.check_has_reference("Call BriaFibo2Pipeline with an image.")
    if has_gist:
        gist = text(call.key.shape[2] - sequence.key_count)
        # A mask hides the padding of a gist, and is there for nothing else.
        sequence = JointSequence((gist, *pictures) if call.mask is None else (*pictures, gist))
    yield from sequence.read(call)


def _prepared(call: RunningCall) -> Preparations:
    """Return how each picture was enlarged or made smaller to cover its size, and its middle cut out."""
    pictures, prepared = (call.variables.get(name) for name in ("image", "vae_images"))
    if not pictures or not prepared:
        return None
    return [
        covered(picture, tuple(tensor.shape[-2:]))
        for picture, tensor in zip(pictures, prepared, strict=True)
    ]


register(
    Profile(
        "fibo-2",
        ("BriaFibo2Pipeline", "BriaFibo2Transformer2DModel"),
        gist_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="FIBO 2 with one picture to edit, or up to five",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="the text's gist (not in `noise_refiner`), the generated patches, other references",
            prepared=(
                "resized to cover a size near its own shape, then cropped in the middle; the only picture "
                "to the size of the result"
            ),
            unseen=(
                "the picture as the language model saw it: it is part of the gist, and of the text that "
                "the layers' `cross_attention` reads"
            ),
            example="""\
with capture(pipe, "run.zarr", sample="owl") as recording:
    image = pipe(prompt="the owl with the hat", image=[owl, hat]).images[0]
    recording.add_images(generated=image, reference=owl, reference_1=hat)""",
            has_text=True,
        ),
    )
)
