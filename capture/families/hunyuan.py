"""HunyuanVideo 1.5: SigLIP's tokens of the picture, in one sequence with the video and the text.

The transformer puts them right behind the video's; then come the texts' tokens, and last what is
padding. The picture is in the channels of the first latent frame, too: see `first_frame`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.families.first_frame import latent_video
from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, square_layout
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Fitted, Preparations
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["image_token_layers"]


def image_token_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each joint attention layer of a HunyuanVideo 1.5 transformer."""
    for name, module in denoiser.named_modules():
        if name.startswith("transformer_blocks.") and name.endswith(".attn"):
            yield KernelTap(name, module, block_of(name), read=partial(_read, denoiser))


def _read(denoiser: Any, call: KernelCall) -> Iterator[AttentionInputs]:
    pictures = call.source.arguments["image_embeds"]
    if not bool((pictures[list(call.source.rows)] != 0).flatten(1).any(1).all()):
        msg = (
            "Expected SigLIP's tokens of a picture, got zeros, as from text alone. Call the "
            "image-to-video pipeline, with an image."
        )
        raise CaptureError(msg)
    video = latent_video(denoiser, call.source)
    first = video.frames * video.height * video.width
    stop = first + pictures.shape[1]
    reference = ReferenceKeys(slice(first, stop), square_layout(stop - first))
    text = slice(stop, call.key.shape[2])
    yield call.attention_inputs(
        slice(0, first),
        (video.frames * video.height, video.width),
        (reference,),
        video.frames,
        text=text,
        text_queries=text,
    )


def _prepared(call: RunningCall) -> Preparations:
    """Return that the picture was cropped to the video's shape, of which SigLIP sees all."""
    known = call.variables
    return Fitted(known["height"], known["width"], covers=True) if "height" in known else None


register(
    Profile(
        "hunyuan-1.5",
        ("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Transformer3DModel"),
        image_token_layers,
        package=DIFFUSERS,
        is_batched=False,
        prepares=_prepared,
        notes=ModelNotes(
            serves="HunyuanVideo 1.5 image-to-video",
            tokens="729",
            grid="27 × 27",
            shares="text, the video's patches",
            prepared="cropped in the middle to the video's shape, then resized to a square",
            unseen=(
                "the picture in the first latent frame's channels: name "
                '`profile="hunyuan-first-frame"` to capture that road'
            ),
            example=(
                'with capture(pipe, "run.zarr", sample="a") as recording:\n'
                '    frames = pipe(image=image, prompt="…", num_frames=121).frames[0]\n'
                "    stacked = np.concatenate([np.uint8(255 * frame) for frame in frames[::4]])\n"
                "    recording.add_images(generated=stacked, reference=image)"
            ),
            has_text=True,
        ),
    )
)
