"""Qwen-Image-Edit: text, target and references in one sequence, in this order.

``img_shapes`` holds the grids: the target's first, then each reference's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, ReferenceLayout
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.preparation import (
    Preparations,
    SeenPart,
    Stretched,
    filled_canvas,
)
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["double_stream_layers"]


def double_stream_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each joint attention layer of a Qwen-Image transformer."""
    for name, module in denoiser.named_modules():
        if name.endswith(".attn") and hasattr(module, "add_k_proj"):
            yield KernelTap(name, module, block_of(name), read=_read)


def _read(call: KernelCall) -> Iterator[AttentionInputs]:
    shapes = call.source.arguments["img_shapes"]
    # One list for each sample of the batch; the samples have the same shapes.
    target, *others = shapes[0] if isinstance(shapes[0], list) else [shapes[0]]
    if not others:
        msg = (
            "Expected an image to edit, got the target alone. Call an edit pipeline of "
            "Qwen-Image with an image."
        )
        raise CaptureError(msg)
    sizes = [frames * height * width for frames, height, width in (target, *others)]
    start = call.key.shape[2] - sum(sizes)
    references = []
    first = start + sizes[0]
    for index, (shape, size) in enumerate(zip(others, sizes[1:], strict=True)):
        frames, height, width = shape
        layout = ReferenceLayout(0, (frames * height, width))
        references.append(ReferenceKeys(slice(first, first + size), layout, index))
        first += size
    frames, height, width = target
    generated = slice(start, start + sizes[0])
    yield call.attention_inputs(generated, (frames * height, width), tuple(references), frames)


def _prepared(call: RunningCall) -> Preparations:
    """Return how the references were resized, or which crop of one is edited."""
    if not call.variables:
        return None
    crop = call.variables.get("crops_coords")
    if crop is None:
        return Stretched()
    # The whole picture is resized to this size before its crop is taken.
    size = call.variables["calculated_height"], call.variables["calculated_width"]
    return [SeenPart(*size, filled_canvas(crop, *size), is_stretched=True)]


register(
    Profile(
        "qwen-image-edit",
        (
            "QwenImageEditPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageTransformer2DModel",
        ),
        double_stream_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
    )
)
