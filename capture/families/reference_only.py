"""Reference-only pipelines: self-attention that also attends to the reference's own patches.

The UNet first runs on the noised reference and stores the input of each self-attention in a bank.
Then it runs on the generated image, and every self-attention appends the stored tokens to its own.
So the keys are the layer's own patches, then the reference's, on the same grid, in one softmax.
Calls without reference tokens (the first run, and the extra ones of style fidelity) are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, query_grid_layout
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    grid_source,
    heads_of,
    key_projection,
    patch_grid,
    query_projection,
    scale_of,
)
from i2am.capture.profiles.preparation import stretched
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.unserved import is_known_unet
from i2am.schemas import CaptureError
from i2am.schemas.dims import CONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["banked_self_attention"]


def banked_self_attention(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each self-attention ``attn1`` of a UNet's transformers."""
    for name, attention in denoiser.named_modules():
        if name.endswith(".attn1") and ".transformer_blocks." in name:
            yield ProjectionTap(
                name,
                attention,
                block_of(name),
                query=query_projection(attention),
                keys=(key_projection(attention),),
                read=partial(_read, name, attention),
                grid_source=grid_source(denoiser, name),
            )


def _read(name: str, attention: Any, projected: ProjectionOutputs) -> Iterator[AttentionInputs]:
    query = heads_of(attention, projected.query)
    patches = query.shape[2]
    if not projected.keys[0] or projected.keys[0][-1].shape[-2] == patches:
        return
    key = heads_of(attention, projected.keys[0][-1])
    grid = patch_grid(name, projected.states, patches)
    references, rest = divmod(key.shape[2] - patches, patches)
    if rest:
        msg = (
            f"Expected references on the queries' own grid of {grid[0]}×{grid[1]}, got "
            f"{key.shape[2] - patches} tokens of theirs, at layer {name!r}. Give the reference the "
            "generated image's size, or pass a Profile of your own."
        )
        raise CaptureError(msg)
    yield AttentionInputs(
        query,
        key,
        scale_of(attention, query.shape[-1]),
        grid,
        tuple(
            ReferenceKeys(
                slice(index * patches, (index + 1) * patches),
                query_grid_layout(patches, grid),
                index - 1,
            )
            for index in range(1, references + 1)
        ),
    )


_PIPELINES = (
    "StableDiffusionReferencePipeline",
    "StableDiffusionXLReferencePipeline",
    "StableDiffusionControlNetReferencePipeline",
)


def _is_on_known_unet(target: Any, denoiser: nn.Module) -> bool:
    # These pipelines are files of diffusers' community, whatever package they were loaded as.
    return not class_names(target).isdisjoint(_PIPELINES) and is_known_unet(target, denoiser)


register(
    Profile(
        "reference-only",
        _PIPELINES,
        banked_self_attention,
        recognise=_is_on_known_unet,
        calls=(CONDITIONAL, CONDITIONAL),  # The reference's run, then the generated image's.
        prepares=stretched,  # To the size of the generated image.
    )
)
