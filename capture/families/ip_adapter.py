"""IP-Adapters on diffusers' UNets: a second cross-attention that the processor adds to the text's.

Each adapter has a key projection of its own in the attention processor. Its softmax runs over the
tokens of all its images at once, or of each image alone when the images come with masks. What an
adapter contributes is multiplied by its scale, and by the mask; where the scale is 0, nothing is
read. Plain adapters have 4 tokens an image, "plus" 16 (learned queries) and face adapters as many:
none of them has a layout. The full-face one keeps CLIP's patches: a class token, then a square grid.

The processors of the adapters' own library (also InstantID's) have one projection, for the last
tokens of the text's states; how its tokens lie on the image is not known. Those for FaceID add a LoRA of
their own to the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from i2am.capture.families.ip_adapter_masks import layer_masks, region_of
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    Tokens,
    square_layout,
)
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    grid_source,
    heads_of,
    patch_grid,
    query_lora,
    query_projection,
    scale_of,
    split_heads,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, encoded_pictures
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import is_known_unet
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["AdapterLayer", "has_adapter_layers", "ip_adapter_layers", "no_layout"]

Layout = Callable[[int], ReferenceLayout]


def ip_adapter_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer with adapters; it is dormant while all of them are switched off.

    Raises
    ------
    CaptureError
        If a processor has no scale; from within the model's call, if one that is not of diffusers
        applies a mask.
    """
    layouts = [_layout(projection) for projection in _image_projections(denoiser)]
    for name, attention in denoiser.named_modules():
        projections = getattr(getattr(attention, "processor", None), "to_k_ip", None)
        if projections is None or not name.endswith("attn2"):
            continue
        if not hasattr(attention.processor, "scale"):
            msg = (
                "Expected an IP-Adapter's processor with a scale, got "
                f"{type(attention.processor).__name__} without, at layer {name!r}. Its contribution is "
                "not known: pass a Profile of your own."
            )
            raise CaptureError(msg)
        keys = projections if _is_of_diffusers(projections) else [projections]
        reader = AdapterLayer(name, attention, layouts or [no_layout] * len(keys))
        lora = query_lora(attention)
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=query_projection(attention) if lora is None else Projection(attention.to_q),
            keys=tuple(Projection(module) for module in (*keys, lora) if module is not None),
            read=reader.read,
            grid_source=grid_source(denoiser, name),
            is_dormant=reader.is_dormant,
        )


class AdapterLayer:
    """Reads one layer, with its adapters as they are at each call.

    Parameters
    ----------
    name : str
        The layer's.
    attention : Module
    layouts : sequence of callable (number of tokens) -> ReferenceLayout
        How the tokens of an image of each adapter lie.
    """

    def __init__(self, name: str, attention: Any, layouts: Sequence[Layout]) -> None:
        self._name, self._attention, self._layouts = name, attention, layouts
        self._is_off = not any(map(any, _weights(attention)))

    def is_dormant(self) -> bool:
        """Return whether all adapters were off at the latest call; before the first, are now."""
        return self._is_off

    def read(self, projected: ProjectionOutputs) -> Iterator[AttentionInputs]:
        """Yield the inputs of each softmax over images of an adapter that is on."""
        adapters = _weights(self._attention)
        found = projected.keys[: len(adapters)]
        is_on = [any(weights) for weights in adapters]
        if not any(found) and _is_left_out(self._attention.processor):
            is_on = [False] * len(adapters)
        self._is_off = not any(is_on)
        is_missing = any(on and not outputs for on, outputs in zip(is_on, found, strict=True))
        if is_missing and projected.is_whole:
            return  # The layer then counts as one that was not read.
        query, grid = self.queries(projected)
        masks = self.masks(projected, len(adapters))
        # An adapter that is off has no outputs, and its images keep their numbers.
        first_images = self.first_images(projected, len(adapters))
        for index, weights in enumerate(adapters):
            adapter = _Adapter(weights, masks[index], self._layouts[index], first_images[index])
            outputs = found[index] if is_on[index] else ()
            for keys, references in adapter.softmaxes(outputs, query):
                yield AttentionInputs(
                    query,
                    split_heads(keys, self._attention.heads),
                    scale_of(self._attention, query.shape[-1]),
                    grid,
                    references,
                    query_tokens=self.query_tokens(query),
                )

    def query_tokens(self, _query: torch.Tensor) -> Tokens | None:
        """Return where the generated patches lie among the queries; None where there are no others."""
        return None

    def queries(self, projected: ProjectionOutputs) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the queries (batch, head, patch, channel) of the generated patches, and their grid."""
        states = projected.query
        for (added,) in projected.keys[
            len(_weights(self._attention)) :
        ]:  # As the processor does it.
            states = states + self._attention.processor.lora_scale * added
        query = heads_of(self._attention, states)
        return query, patch_grid(self._name, projected.states, query.shape[2])

    def masks(self, projected: ProjectionOutputs, adapters: int) -> Sequence[torch.Tensor | None]:
        """Return each adapter's mask, dims (batch or 1, image, y, x); None where it has none."""
        return layer_masks(self._name, self._attention.processor, projected.options, adapters)

    def first_images(self, projected: ProjectionOutputs, adapters: int) -> list[int]:
        """Return the number of each adapter's first image."""
        return _first_images(projected.source.arguments, adapters)


@dataclass(frozen=True)
class _Adapter:
    """One adapter in one call of a layer."""

    weights: Sequence[float]  # one for all of its images, or one for each
    mask: torch.Tensor | None  # (batch or 1, image, y, x)
    layout: Layout
    first_image: int

    def softmaxes(
        self, outputs: Sequence[torch.Tensor], query: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, tuple[ReferenceKeys, ...]]]:
        """Yield the keys (batch, token, channel) of each softmax, and whose they are."""
        image = 0
        for output in outputs:
            # All images of an adapter at once (batch, image, token, channel), or one of them.
            images = output if output.ndim == 4 else output[:, None]
            count, tokens = images.shape[1:3]
            references = tuple(
                self._reference(image + position, position, tokens, query)
                for position in range(count)
                if self._weight(image + position)
            )
            if references:
                yield images.flatten(1, 2), references
            image += count

    def _reference(
        self, image: int, position: int, tokens: int, query: torch.Tensor
    ) -> ReferenceKeys:
        return ReferenceKeys(
            slice(position * tokens, (position + 1) * tokens),
            self.layout(tokens),
            self.first_image + image,
            self._weight(image),
            None if self.mask is None else region_of(self.mask, image, query),
        )

    def _weight(self, image: int) -> float:
        return self.weights[min(image, len(self.weights) - 1)]


def _weights(attention: Any) -> list[list[float]]:
    """Return each adapter's scales in a layer: one for all of its images, or one for each."""
    processor = attention.processor
    scales = processor.scale if _is_of_diffusers(processor.to_k_ip) else [processor.scale]
    return [
        [float(s) for s in (scale if isinstance(scale, list | tuple) else [scale])]
        for scale in scales
    ]


def _is_left_out(processor: Any) -> bool:
    """Return whether a processor leaves its adapter out, whatever its scale, as InstantStyle's can."""
    return bool(getattr(processor, "skip", False)) or not getattr(processor, "selected", True)


def _is_of_diffusers(projections: Any) -> bool:
    """Return whether these are a layer's projections as diffusers has them: a list of adapters'."""
    return hasattr(projections, "__len__")


def _first_images(arguments: Mapping[str, Any], adapters: int) -> list[int]:
    """Return the number of each adapter's first image in a call of the denoiser."""
    counts = _image_counts(arguments)
    if counts is None:
        return list(range(adapters))
    return list(accumulate(counts[:-1], initial=0))


def _image_counts(variables: Mapping[str, Any]) -> list[int] | None:
    """Return each adapter's number of images; None where they come with the text's states."""
    embeddings = (variables.get("added_cond_kwargs") or {}).get("image_embeds")
    if embeddings is None:
        embeddings = variables.get("ip_adapter_embeds")  # of a modular pipeline
    if not isinstance(embeddings, list | tuple):
        return None
    return [each.shape[1] if each.ndim > 2 else 1 for each in embeddings]


def _encoded(call: RunningCall) -> Preparations:
    """Return how each image of each adapter came to CLIP."""
    counts = _image_counts(call.variables)
    return None if counts is None else encoded_pictures(call, sum(counts))


def _layout(projection: nn.Module) -> Layout:
    return square_layout if "IPAdapterFullImageProjection" in class_names(projection) else no_layout


def no_layout(_tokens: int) -> ReferenceLayout:
    """Return the layout of tokens that are no places of the image."""
    return ReferenceLayout(0, None)


def _image_projections(denoiser: Any) -> Sequence[Any]:
    projection = getattr(denoiser, "encoder_hid_proj", None)
    found = getattr(projection, "image_projection_layers", ())
    return list(found)


def has_adapter_layers(denoiser: nn.Module) -> bool:
    """Return whether a denoiser holds an adapter's layers, on or off: its other keys are the text's."""
    return any(
        getattr(getattr(module, "processor", None), "to_k_ip", None) is not None
        for module in denoiser.modules()
    )


def _has_ip_adapter(target: Any, denoiser: nn.Module) -> bool:
    return is_known_unet(target, denoiser) and has_adapter_layers(denoiser)


register(
    Profile(
        "ip-adapter",
        ("UNet2DConditionModel",),
        ip_adapter_layers,
        recognise=_has_ip_adapter,
        prepares=_encoded,
        notes=ModelNotes(
            serves=(
                "any pipeline on `UNet2DConditionModel` (SD 1.5, SDXL …) with an IP-Adapter, also by the "
                "adapters' own library, and InstantID's"
            ),
            tokens="plain and FaceID 4, plus 16, full-face 257; InstantID 16",
            grid="full-face: 1 + 16 × 16; others –",
            shares="the other images of the same adapter",
            prepared="resized and cropped in the middle by the pipeline's own processor (CLIP's)",
            unseen="what a LoRA, a ControlNet or pooled embeddings take over from the same picture",
            example=(
                "pipe.load_ip_adapter(path, subfolder='models', weight_name=name)\n"
                "pipe.set_ip_adapter_scale(0.7)\n"
                'with capture(pipe, "run.zarr", sample="face") as recording:\n'
                "    image = pipe(prompt, ip_adapter_image=face).images[0]\n"
                "    recording.add_images(generated=image, reference=face)"
            ),
        ),
    )
)
