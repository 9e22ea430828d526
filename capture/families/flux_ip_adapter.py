"""IP-Adapters on FLUX: a second attention of the double blocks, over the adapters' tokens alone.

Its queries are those of the image before they are rotated. Every adapter has a softmax of its own over
the tokens of all its images, 4 or 16 for each, made from one embedding: they have no layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.families.flux import TEXT_TOKENS
from i2am.capture.families.ip_adapter import AdapterLayer, has_adapter_layers, no_layout
from i2am.capture.hooks.attention import Tokens
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import block_of
from i2am.capture.profiles.joint_sequence import OncePerCall, Segment, pictures_of_ids
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, encoded_pictures
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import DIFFUSERS
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["adapter_layers"]


def adapter_layers(denoiser: nn.Module, *, is_alone: bool = False) -> Iterator[LayerTap]:
    """Yield a tap for each block with adapters; it is dormant while all of them are off.

    Parameters
    ----------
    denoiser : Module
    is_alone : bool
        Whether a call with another reference, Kontext's or Redux', is refused.
    """
    pictures = OncePerCall(lambda call: pictures_of_ids(call.arguments["img_ids"]))
    for name, attention in denoiser.named_modules():
        projections: Any = getattr(getattr(attention, "processor", None), "to_k_ip", None)
        if projections is None:
            continue
        layer = _Layer(name, attention, pictures, is_alone=is_alone)
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=Projection(attention.norm_q),
            keys=tuple(Projection(projection) for projection in projections),
            read=layer.read,
            grid_source=attention,
            is_dormant=layer.is_dormant,
        )


class _Layer(AdapterLayer):
    """An adapter's layer of FLUX, whose queries have heads after tokens."""

    def __init__(
        self,
        name: str,
        attention: Any,
        pictures: Callable[[DenoiserCall], tuple[Segment, ...]],
        *,
        is_alone: bool,
    ) -> None:
        super().__init__(name, attention, [no_layout] * len(attention.processor.to_k_ip))
        self._pictures, self._is_alone = pictures, is_alone

    def queries(self, projected: ProjectionOutputs) -> tuple[torch.Tensor, tuple[int, int]]:
        """See `AdapterLayer`."""
        target, *others = self._pictures(projected.source)
        words = projected.source.arguments["encoder_hidden_states"].shape[1]
        if self._is_alone and (others or words > TEXT_TOKENS):
            msg = (
                "Expected an IP-Adapter's picture alone, got one beside that of Kontext or Redux. Say which "
                "to capture: profile='flux-ip-adapter', or 'flux' for the other."
            )
            raise CaptureError(msg)
        assert target.layout is not None
        assert target.layout.grid is not None
        return projected.query.transpose(1, 2)[:, :, : target.tokens], target.layout.grid

    def query_tokens(self, query: torch.Tensor) -> Tokens:
        """See `AdapterLayer`."""
        return slice(0, query.shape[2])

    def masks(self, _projected: ProjectionOutputs, adapters: int) -> Sequence[torch.Tensor | None]:
        """Return no mask: FLUX' processor takes one, and does not apply it."""
        return [None] * adapters

    def first_images(self, projected: ProjectionOutputs, adapters: int) -> list[int]:
        """Return the numbers by what each adapter was given; those that are off are computed, too."""
        counts = [sum(output.shape[1] for output in outputs) for outputs in projected.keys]
        return [sum(counts[:index]) for index in range(adapters)]


def _encoded(call: RunningCall) -> Preparations:
    """Return how each picture came to CLIP, before the black ones of the unconditional branch."""
    embeddings = call.variables.get("image_embeds")
    if not embeddings or call.variables.get("ip_adapter_image_embeds") is not None:
        return None
    count = sum(each.shape[1] for each in embeddings)
    return encoded_pictures(replace(call, pictures=call.pictures[:count]), count)


def _has_adapter(target: Any, denoiser: nn.Module) -> bool:
    is_kontext = any("Kontext" in name for name in class_names(target, DIFFUSERS))
    is_flux = "FluxTransformer2DModel" in class_names(denoiser, DIFFUSERS)
    return is_flux and has_adapter_layers(denoiser) and not is_kontext


register(
    Profile(
        "flux-ip-adapter",
        (),  # What serves FLUX without an adapter is nearer to its namesakes.
        adapter_layers,
        is_batched=False,
        recognise=_has_adapter,
        package=DIFFUSERS,
        find_unnamed_taps=partial(adapter_layers, is_alone=True),
        prepares=_encoded,
        notes=ModelNotes(
            serves="FLUX with an IP-Adapter, or several; with Kontext or Redux beside it, if it is named",
            tokens="4, or 16",
            grid="–",
            shares="the other images of the same adapter",
            prepared="resized and cropped in the middle by the pipeline's own processor (CLIP's)",
            unseen="–",
            example="""\
pipe.load_ip_adapter("XLabs-AI/flux-ip-adapter", weight_name="ip_adapter.safetensors")
with capture(pipe, "run.zarr", sample="cat") as recording:
    image = pipe("a king", ip_adapter_image=cat).images[0]
    recording.add_images(generated=image, reference=cat)""",
        ),
    )
)
