"""Qwen-Image-Edit: text, target and references in one sequence, in this order.

``img_shapes`` holds the grids: the target's first, then each reference's. Qwen-Image-Layered takes a
picture apart: its targets are the whole picture again, which is not returned, and each layer; all of
them have one shape, and their reference comes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.kernel_tap import KernelTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import (
    JointSequence,
    SequenceReader,
    generated,
    other,
    reference,
    text,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import (
    Preparations,
    SeenPart,
    Stretched,
    filled_canvas,
)
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall

if TYPE_CHECKING:
    from torch import nn

__all__ = ["double_stream_layers"]


def double_stream_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each joint attention layer of a Qwen-Image transformer."""
    config: Any = getattr(denoiser, "config", {})
    is_layered = bool(config.get("use_layer3d_rope"))
    reader = SequenceReader(
        partial(_segments, is_layered), "Call an edit pipeline of Qwen-Image with an image."
    )
    for name, module in denoiser.named_modules():
        if name.endswith(".attn") and hasattr(module, "add_k_proj"):
            yield KernelTap(name, module, block_of(name), read=reader.read)


def _segments(is_layered: bool, source: DenoiserCall) -> JointSequence:
    shapes = source.arguments["img_shapes"]
    # One list for each sample of the batch; the samples have the same shapes.
    own = list(shapes[0]) if isinstance(shapes[0], list) else [shapes[0]]
    words = text(source.arguments["encoder_hidden_states"].shape[1])
    if is_layered:
        whole, *layers, source_shape = own
        _, height, width = whole
        target = generated((len(layers) * height, width), len(layers))
        grids = [source_shape]
        before = [words, other(height * width)]
    else:
        (frames, height, width), *grids = own
        target = generated((frames * height, width), frames)
        before = [words]
    references = [
        reference((frames * height, width), index)
        for index, (frames, height, width) in enumerate(grids)
    ]
    return JointSequence((*before, target, *references))


def _prepared(call: RunningCall) -> Preparations:
    """Return how the references were resized, or which crop of one is edited."""
    variables = call.variables
    if "resized_image" in variables:  # of a modular pipeline
        size = variables["resized_image"][0].height, variables["resized_image"][0].width
    elif "image" in variables:
        size = variables.get("calculated_height"), variables.get("calculated_width")
    else:
        return None
    if (crop := variables.get("crops_coords")) is None:
        return Stretched()
    # The whole picture is resized to this size before its crop is taken.
    return [SeenPart(*size, filled_canvas(crop, *size), is_stretched=True)]


register(
    Profile(
        "qwen-image-edit",
        (
            "QwenImageEditPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageLayeredPipeline",
            "QwenImageEditModularPipeline",
            "QwenImageEditPlusModularPipeline",
            "QwenImageLayeredModularPipeline",
            "QwenImageTransformer2DModel",
        ),
        double_stream_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="Qwen-Image-Edit, -Edit-Plus (2509, 2511), its inpainting, and -Layered",
            tokens="a token for 16 × 16 pixels",
            grid="the image's",
            shares="text, the generated patches, other references",
            prepared=(
                "resized to a size near its own shape; with `padding_mask_crop` the crop alone is read"
            ),
            unseen=(
                "the picture as the language model saw it: it is part of what here counts as text. "
                "Layered: the layers are stored above one another"
            ),
            example="""\
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe(image=[cat, crown], prompt="the cat with the crown").images[0]
    recording.add_images(generated=image, reference=cat, reference_1=crown)""",
            has_text=True,
        ),
    )
)
