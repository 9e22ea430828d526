"""FLUX: reference tokens in the one sequence that all layers attend over.

Kontext appends the references' latents to the target's; ``img_ids`` distinguishes them (its first
column is 0 for the target) and where each token lies. Redux appends the image encoder's tokens, a
square grid, to the 512 of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from i2am.capture.hooks.attention import square_layout
from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    pictures_of_ids,
    reference,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import (
    Preparation,
    Preparations,
    SeenPart,
    Stretched,
    filled_canvas,
)
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TEXT_TOKENS", "joint_layers"]

# Of the T5 encoder, padded; with Redux, FLUX's pipelines always have this number.
TEXT_TOKENS = 512


def joint_layers(denoiser: nn.Module, *, text_tokens: int = TEXT_TOKENS) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of a FLUX transformer.

    Parameters
    ----------
    denoiser : Module
    text_tokens : int
        How many tokens of ``encoder_hidden_states`` are text; Redux's come after them.
    """
    reader = SequenceReader(
        partial(_segments, text_tokens),
        "Call FLUX Kontext with an image, or FLUX with the prompt_embeds of FluxPriorReduxPipeline.",
    )
    for name, module in denoiser.named_modules():
        if "FluxAttention" in class_names(module):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(text_tokens: int, source: DenoiserCall) -> JointSequence:
    words = source.arguments["encoder_hidden_states"].shape[1]
    found = [text(min(words, text_tokens))]
    if words > text_tokens:
        redux = square_layout(words - text_tokens)
        found.append(reference(redux.grid, 0, words - text_tokens, redux.special_tokens))
    pictures = pictures_of_ids(source.arguments["img_ids"], first_index=len(found) - 1)
    return JointSequence((*found, *pictures))


def _prepared(call: RunningCall) -> Preparations:
    """Return how Redux' picture, if there is one, and then Kontext's were prepared."""
    variables = call.variables
    if "prompt_embeds" not in variables:
        return None
    found: list[Preparation | None] = []
    if variables["prompt_embeds"].shape[1] > TEXT_TOKENS:
        found.append(Stretched())  # As FluxPriorReduxPipeline's processor does it.
    if variables.get("processed_image") is not None:
        return [*found, Stretched()]  # of a modular pipeline
    # Named after the argument that held the picture. What was given as latents has no size.
    for name in ("image_reference", "image"):
        if variables.get(name) is not None and f"{name}_height" in variables:
            size = variables[f"{name}_height"], variables[f"{name}_width"]
            crop = variables.get("crops_coords")
            seen = Box.whole(*size) if crop is None else filled_canvas(crop, *size)
            return [*found, SeenPart(*size, seen, is_stretched=True)]
    return found


register(
    Profile(
        "flux",
        (
            "FluxKontextPipeline",
            "FluxKontextInpaintPipeline",
            "FluxPipeline",
            "FluxImg2ImgPipeline",
            "FluxInpaintPipeline",
            "FluxKontextModularPipeline",
            "FluxTransformer2DModel",
        ),
        joint_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="FLUX Kontext; FLUX with Redux' `prompt_embeds`",
            tokens="Kontext: a token for 16 × 16 pixels; Redux 729",
            grid="the image's; 27 × 27",
            shares="text, the generated patches, other references",
            prepared=(
                "resized to a size near its own shape; with `padding_mask_crop` the crop alone is read. "
                "Redux: resized to a square"
            ),
            unseen="an IP-Adapter beside Kontext's picture: name `profile='flux-ip-adapter'` for it",
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(image=cat, prompt="make it a king").images[0]
    recording.add_images(generated=image, reference=cat)""",
            has_text=True,
        ),
    )
)
