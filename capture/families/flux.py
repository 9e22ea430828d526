"""FLUX: reference tokens in the one sequence that all layers attend over.

Kontext appends the references' latents to the target's; ``img_ids`` distinguishes them (its first
column is 0 for the target) and where each token lies. Redux appends the image encoder's tokens, a
square grid, to the 512 of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    square_layout,
)
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
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
from i2am.schemas import Box, CaptureError

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
    for name, module in denoiser.named_modules():
        if "FluxAttention" in class_names(module):
            yield KernelTap(name, module, block_of(name), read=partial(_read, text_tokens))


def _read(text_tokens: int, call: KernelCall) -> Iterator[AttentionInputs]:
    arguments = call.source.arguments
    ids = _host_ids(arguments["img_ids"])
    text = arguments["encoder_hidden_states"].shape[1]
    if call.key.shape[2] != text + len(ids):
        return  # An IP-Adapter's own call, over other tokens.
    references = tuple(_references(ids, text, text_tokens))
    if not references:
        msg = (
            f"Expected reference tokens, got {text} of text and those of one image. Call FLUX Kontext "
            "with an image, or FLUX with the prompt_embeds of FluxPriorReduxPipeline."
        )
        raise CaptureError(msg)
    target = int((ids[:, 0] == 0).sum())
    yield call.attention_inputs(slice(text, text + target), _grid(ids[:target]), references)


def _references(ids: torch.Tensor, text: int, text_tokens: int) -> Iterator[ReferenceKeys]:
    index = 0
    if text > text_tokens:
        layout = square_layout(text - text_tokens)
        yield ReferenceKeys(slice(text_tokens, text), layout, index)
        index += 1
    labels = ids[:, 0].tolist()
    start = labels.count(0)
    while start < len(labels):
        count = labels[start:].count(labels[start])
        layout = ReferenceLayout(0, _grid(ids[start : start + count]))
        yield ReferenceKeys(slice(text + start, text + start + count), layout, index)
        start, index = start + count, index + 1


def _host_ids(ids: Any) -> torch.Tensor:
    """Return img_ids on the host, (token, 3): image, row, column."""
    found: torch.Tensor = (ids[0] if ids.ndim == 3 else ids).detach().cpu()
    return found


def _grid(ids: torch.Tensor) -> tuple[int, int]:
    """Return (height, width) of one image's tokens, which are row-major."""
    height, width = (len(set(ids[:, axis].tolist())) for axis in (1, 2))
    return height, width


def _prepared(call: RunningCall) -> Preparations:
    """Return how Redux' picture, if there is one, and then Kontext's were prepared."""
    variables = call.variables
    if "prompt_embeds" not in variables:
        return None
    found: list[Preparation | None] = []
    if variables["prompt_embeds"].shape[1] > TEXT_TOKENS:
        found.append(Stretched())  # As FluxPriorReduxPipeline's processor does it.
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
            "FluxTransformer2DModel",
        ),
        joint_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
    )
)
