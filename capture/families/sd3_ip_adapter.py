"""Stable Diffusion 3 with an IP-Adapter: a second attention over the image's own and its tokens.

The first attention of a layer is over the image and the text. The second has the image's patches as
queries; its keys are those of the patches, by norms of the adapter's own, then the adapter's 64
tokens, learned queries that depend on the timestep: they have no layout. What it gives is multiplied by
the adapter's scale; where that is 0 it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from i2am.capture.families.ip_adapter import has_adapter_layers
from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, ReferenceLayout
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, encoded_pictures
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall

if TYPE_CHECKING:
    from torch import nn

__all__ = ["adapter_layers"]


def adapter_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer with an adapter; it is dormant while the adapter is off."""
    config: Any = denoiser.config
    for name, attention in denoiser.named_modules():
        processor = getattr(attention, "processor", None)
        if hasattr(processor, "to_k_ip"):
            layer = _Layer(processor, int(config.patch_size))
            yield KernelTap(
                name, attention, block_of(name), read=layer.read, is_dormant=layer.is_dormant
            )


class _Layer:
    """Reads one layer, with the adapter as it is at each call."""

    def __init__(self, processor: Any, patch: int) -> None:
        self._processor, self._patch = processor, patch
        self._is_off = not processor.scale

    def is_dormant(self) -> bool:
        """Return whether the adapter was off at the latest call; before the first, is now."""
        return self._is_off

    def read(self, call: KernelCall) -> Iterator[AttentionInputs]:
        """Yield the inputs of the second attention's softmax."""
        self._is_off = not self._processor.scale
        height, width = (side // self._patch for side in _latent_size(call))
        patches, keys = call.query.shape[2], call.key.shape[2]
        # The first attention has the same tokens as queries and as keys.
        if patches != height * width or keys == patches:
            return
        reference = ReferenceKeys(
            slice(patches, keys), ReferenceLayout(0, None), weight=float(self._processor.scale)
        )
        yield call.attention_inputs(slice(0, patches), (height, width), (reference,))


def _latent_size(call: KernelCall) -> tuple[int, int]:
    height, width = call.source.arguments["hidden_states"].shape[-2:]
    return height, width


def _encoded(call: RunningCall) -> Preparations:
    """Return how a sample's picture came to the encoder: the only one, or one of those for all prompts."""
    found = encoded_pictures(call, len(call.pictures))
    return [found[call.sample % len(found)]] if found else None


def _has_adapter(_target: Any, denoiser: nn.Module) -> bool:
    is_sd3 = "SD3Transformer2DModel" in class_names(denoiser, DIFFUSERS)
    return is_sd3 and has_adapter_layers(denoiser)


register(
    Profile(
        "sd3-ip-adapter",
        ("SD3Transformer2DModel",),
        adapter_layers,
        recognise=_has_adapter,
        package=DIFFUSERS,
        prepares=_encoded,
        notes=ModelNotes(
            serves="Stable Diffusion 3 and 3.5 with an IP-Adapter",
            tokens="64",
            grid="–",
            shares="the generated patches",
            prepared="resized to a square by the pipeline's own processor (SigLIP's)",
            unseen="–",
            example="""\
pipe.load_ip_adapter("InstantX/SD3.5-Large-IP-Adapter")
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe("a king", ip_adapter_image=cat).images[0]
    recording.add_images(generated=image, reference=cat)""",
        ),
    )
)
