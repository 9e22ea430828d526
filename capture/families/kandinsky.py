"""Kandinsky 2.2: the reference's tokens and the generated patches share one softmax.

``add_k_proj`` projects the 32 tokens made from the reference's CLIP embedding (they have no
layout); the layer's own patches follow them among the keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, ReferenceLayout
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import block_of, patch_grid, split_heads
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import DIFFUSERS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["added_key_layers"]


def added_key_layers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer with added keys."""
    for name, attention in denoiser.named_modules():
        if getattr(attention, "add_k_proj", None) is None:
            continue
        own: tuple[Projection, ...] = ()
        if not attention.only_cross_attention:
            own = (Projection(attention.to_k),)
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=Projection(attention.to_q),
            keys=(Projection(attention.add_k_proj), *own),
            read=partial(_read, name, attention),
            grid_source=attention,
        )


def _read(name: str, attention: Any, projected: ProjectionOutputs) -> Iterator[AttentionInputs]:
    added = projected.keys[0]
    if not added:
        return
    query = split_heads(projected.query, attention.heads)
    keys = torch.cat([outputs[-1] for outputs in projected.keys], dim=1)
    tokens = added[-1].shape[1]
    yield AttentionInputs(
        query,
        split_heads(keys, attention.heads),
        float(query.shape[-1] ** -0.5),  # Its processor leaves the scale to the kernel.
        patch_grid(name, projected.states, query.shape[2]),
        (ReferenceKeys(slice(0, tokens), ReferenceLayout(0, None)),),
    )


register(
    Profile(
        "kandinsky-2.2",
        (
            "KandinskyV22Pipeline",
            "KandinskyV22Img2ImgPipeline",
            "KandinskyV22InpaintPipeline",
            "KandinskyV22ControlnetPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline",
            "KandinskyV22CombinedPipeline",
            "KandinskyV22Img2ImgCombinedPipeline",
            "KandinskyV22InpaintCombinedPipeline",
        ),
        added_key_layers,
        package=DIFFUSERS,
        notes=ModelNotes(
            serves="the decoders of Kandinsky 2.2",
            tokens="32",
            grid="–",
            shares="the generated patches",
            prepared="encoded before the pipeline is called, so that i2am does not know how it was prepared",
            unseen="which part of the reference is used: all 32 tokens are made of one embedding",
            example="""\
embeds, negative = prior(prompt=prompt, image=reference).to_tuple()
with capture(pipe, "run.zarr", sample="one") as recording:
    image = pipe(image_embeds=embeds, negative_image_embeds=negative).images[0]
    recording.add_images(generated=image, reference=reference)""",
        ),
    )
)
