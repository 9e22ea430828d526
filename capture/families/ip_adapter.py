"""IP-Adapters on diffusers' UNets: a second cross-attention that the processor adds to the text's.

Each adapter has a key projection of its own in the attention processor. Its softmax runs over the
tokens of all its images at once, or of each image alone when the images come with masks. Plain
adapters have 4 tokens an image, "plus" 16 (learned queries) and face adapters as many: none of them
has a layout. The full-face one keeps CLIP's patches: a class token, then a square grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from i2am.capture.families.profile import Profile, class_names, register
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ip_adapter_layers"]

Layout = Callable[[int], ReferenceLayout]


def ip_adapter_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each layer in which at least one adapter is switched on."""
    layouts = [_layout(projection) for projection in _image_projections(denoiser)]
    for name, attention in denoiser.named_modules():
        processor: Any = getattr(attention, "processor", None)
        projections = getattr(processor, "to_k_ip", None)
        if projections is None or not name.endswith("attn2"):
            continue
        weights = [_weights(scale) for scale in processor.scale]
        if not any(any(adapter) for adapter in weights):
            continue
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=query_projection(attention),
            keys=tuple(Projection(projection) for projection in projections),
            read=partial(_read, name, attention, layouts, weights),
            grid_source=grid_source(denoiser, name),
        )


def _read(
    name: str,
    attention: Any,
    layouts: Sequence[Layout],
    weights: Sequence[Sequence[float]],
    projected: ProjectionOutputs,
) -> Iterator[AttentionInputs]:
    query = heads_of(attention, projected.query)
    grid = patch_grid(name, projected.states, query.shape[2])
    image = 0
    for outputs, layout, adapter in zip(projected.keys, layouts, weights, strict=True):
        for output in outputs:
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


def _weights(scale: Any) -> list[float]:
    """Return an adapter's scales: one for all of its images, or one for each."""
    return [float(s) for s in (scale if isinstance(scale, list | tuple) else [scale])]


def _layout(projection: nn.Module) -> Layout:
    if "IPAdapterFullImageProjection" in class_names(projection):
        return square_layout
    return lambda _tokens: ReferenceLayout(0, None)


def _image_projections(denoiser: Any) -> Sequence[Any]:
    found: Sequence[Any] = denoiser.encoder_hid_proj.image_projection_layers
    return found


def _has_ip_adapter(target: Any, denoiser: nn.Module) -> bool:
    return "UNet2DConditionModel" in class_names(denoiser) and any(
        getattr(getattr(module, "processor", None), "to_k_ip", None) is not None
        for module in denoiser.modules()
    )


register(
    Profile(
        "ip-adapter",
        ("UNet2DConditionModel with an IP-Adapter",),
        ip_adapter_layers,
        recognise=_has_ip_adapter,
    )
)
