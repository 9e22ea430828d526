"""IP-Adapters on diffusers' UNets: a second cross-attention that the processor adds to the text's.

Each adapter has a key projection of its own in the attention processor. Its softmax runs over the
tokens of all its images at once, or of each image alone when the images come with masks. Plain
adapters have 4 tokens an image, "plus" 16 (learned queries) and face adapters as many: none of them
has a layout. The full-face one keeps CLIP's patches: a class token, then a square grid.

The processors of the adapters' own library (also InstantID's) have one projection, for the last
tokens of the text's states; how its tokens lie on the image is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from i2am.capture.families.attention_modules import (
    block_of,
    grid_source,
    heads_of,
    patch_grid,
    query_projection,
    scale_of,
    split_heads,
)
from i2am.capture.families.preparation import Preparations, encoded_pictures
from i2am.capture.families.profile import Profile, class_names, register
from i2am.capture.families.running_call import RunningCall
from i2am.capture.families.unserved import is_known_unet
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ip_adapter_layers"]

Layout = Callable[[int], ReferenceLayout]


def ip_adapter_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer with adapters; it is dormant where all of them are switched off.

    Raises
    ------
    CaptureError
        If all adapters are switched off in all layers; from within the model's call, if a scale
        changes on the way.
    """
    layouts = [_layout(projection) for projection in _image_projections(denoiser)]
    states: list[bool] = []
    for name, attention in denoiser.named_modules():
        projections = getattr(getattr(attention, "processor", None), "to_k_ip", None)
        if projections is None or not name.endswith("attn2"):
            continue
        weights = _weights(attention)
        is_on = any(any(adapter) for adapter in weights)
        states.append(is_on)
        keys = projections if _is_of_diffusers(projections) else [projections]
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=query_projection(attention),
            keys=tuple(Projection(projection) for projection in keys),
            read=partial(_read, name, attention, layouts or [_no_layout] * len(weights), weights),
            grid_source=grid_source(denoiser, name),
            is_dormant=not is_on,
        )
    if states and not any(states):
        msg = (
            "Expected an IP-Adapter that is switched on, got a scale of 0 in every layer. Call "
            "set_ip_adapter_scale before the capture."
        )
        raise CaptureError(msg)


def _read(
    name: str,
    attention: Any,
    layouts: Sequence[Layout],
    weights: Sequence[Sequence[float]],
    projected: ProjectionOutputs,
) -> Iterator[AttentionInputs]:
    if (now := _weights(attention)) != weights:
        msg = (
            f"Expected the IP-Adapter's scale {_told(weights)} at every step, got {_told(now)}, at layer "
            f"{name!r}: it was changed on the way. Set it before the capture, or keep the steps of one "
            "scale with steps=."
        )
        raise CaptureError(msg)
    masks = projected.options.get("ip_adapter_masks")  # a list, or a tensor of all
    if masks is not None and any(mask is not None for mask in masks):
        msg = (
            f"Expected an IP-Adapter without masks, got masks, at layer {name!r}: what they hide of the "
            "reference would stand in the maps. Call the pipeline without ip_adapter_masks."
        )
        raise CaptureError(msg)
    query = heads_of(attention, projected.query)
    grid = patch_grid(name, projected.states, query.shape[2])
    # An adapter that is off has no outputs, and its images keep their numbers.
    first_images = _first_images(projected.source.arguments, len(weights))
    for outputs, layout, adapter, first in zip(
        projected.keys, layouts, weights, first_images, strict=True
    ):
        image = first
        for output in outputs if any(adapter) else ():
            # All images of an adapter at once (batch, image, token, channel), or one of them.
            images = output if output.ndim == 4 else output[:, None]
            count, tokens = images.shape[1:3]
            yield AttentionInputs(
                query,
                split_heads(images.flatten(1, 2), attention.heads),
                scale_of(attention, query.shape[-1]),
                grid,
                tuple(
                    ReferenceKeys(
                        slice(index * tokens, (index + 1) * tokens),
                        layout(tokens),
                        image + index,
                        adapter[min(index, len(adapter) - 1)],
                    )
                    for index in range(count)
                ),
            )
            image += count


def _weights(attention: Any) -> list[list[float]]:
    """Return each adapter's scales in a layer: one for all of its images, or one for each."""
    processor = attention.processor
    scales = processor.scale if _is_of_diffusers(processor.to_k_ip) else [processor.scale]
    return [
        [float(s) for s in (scale if isinstance(scale, list | tuple) else [scale])]
        for scale in scales
    ]


def _told(weights: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{scale:g}" for adapter in weights for scale in adapter)


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
    if not isinstance(embeddings, list | tuple):
        return None
    return [each.shape[1] if each.ndim > 2 else 1 for each in embeddings]


def _encoded(call: RunningCall) -> Preparations:
    """Return how each image of each adapter came to CLIP."""
    counts = _image_counts(call.variables)
    return None if counts is None else encoded_pictures(call, sum(counts))


def _layout(projection: nn.Module) -> Layout:
    return (
        square_layout if "IPAdapterFullImageProjection" in class_names(projection) else _no_layout
    )


def _no_layout(_tokens: int) -> ReferenceLayout:
    return ReferenceLayout(0, None)


def _image_projections(denoiser: Any) -> Sequence[Any]:
    found = getattr(denoiser.encoder_hid_proj, "image_projection_layers", ())
    return list(found)


def _has_ip_adapter(target: Any, denoiser: nn.Module) -> bool:
    return is_known_unet(target, denoiser) and any(
        getattr(getattr(module, "processor", None), "to_k_ip", None) is not None
        for module in denoiser.modules()
    )


register(
    Profile(
        "ip-adapter",
        ("UNet2DConditionModel",),
        ip_adapter_layers,
        recognise=_has_ip_adapter,
        prepares=_encoded,
    )
)
