"""Research code in the manner of CompVis' latent diffusion: StableVITON, DCI-VTON, Paint-by-Example.

Nothing of that code is imported: its modules are known by class names and attributes. The reference
comes in by two paths. Every ``SpatialTransformer`` attends to the context, which is the reference's
CLIP embedding (one token); StableVITON's ``warp_flow_blks`` attend to a feature map of the garment,
row-major on the query's own grid. Only the denoising UNet is searched: a ControlNet beside it has
modules of the same classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    query_grid_layout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import Projection, ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    check_no_mask,
    patch_grid,
    scale_of,
    split_heads,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import find_unserved, is_target_itself
from i2am.capture.profiles.text_tokens import without_text

if TYPE_CHECKING:
    from torch import nn

__all__ = ["spatial_transformers"]

_WARP_BLOCKS = "warp_flow_blks"
_CUSTOM = "CustomSpatialTransformer"  # Of the warp blocks; some versions use the plain class there.
_TRANSFORMERS = {"SpatialTransformer", _CUSTOM}
# Encoders of an exemplar, as the models' ``cond_stage_model``; text has others. AnyDoor's is the last.
_IMAGE_ENCODERS = {"FrozenCLIPImageEmbedder", "FrozenClipImageEmbedder", "FrozenDinoV2Encoder"}


def spatial_transformers(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield a tap for each cross-attention ``attn2`` of a UNet's spatial transformers."""
    for path, transformer in denoiser.named_modules():
        names = class_names(transformer)
        if names.isdisjoint(_TRANSFORMERS):
            continue
        is_warp = path.startswith(f"{_WARP_BLOCKS}.") or _CUSTOM in names
        blocks: Any = transformer.transformer_blocks
        for index, block in enumerate(blocks):
            name = f"{path}.transformer_blocks.{index}.attn2"
            yield ProjectionTap(
                name,
                block.attn2,
                "warp" if is_warp else block_of(name),
                query=Projection(block.attn2.to_q),
                keys=(Projection(block.attn2.to_k),),
                read=partial(_read, name, block.attn2, is_warp),
                grid_source=transformer,
            )


def _read(
    name: str, attention: Any, is_warp: bool, projected: ProjectionOutputs
) -> Iterator[AttentionInputs]:
    # Without a context these classes attend to the generated image itself.
    if not projected.keys[0] or projected.options.get("context", ...) is None:
        return
    check_no_mask(name, projected.options)
    query = split_heads(projected.query, attention.heads)
    key = split_heads(projected.keys[0][-1], attention.heads)
    grid = patch_grid(name, projected.states, query.shape[2])
    tokens = key.shape[2]
    layout = query_grid_layout(tokens, grid) if is_warp else square_layout(tokens)
    yield AttentionInputs(
        query,
        key,
        scale_of(attention, query.shape[-1]),
        grid,
        (ReferenceKeys(slice(0, tokens), layout),),
    )


def _is_exemplar_model(target: Any, denoiser: nn.Module) -> bool:
    # The learned vector replaces the exemplar's embedding in the unconditional branch; models with a
    # text prompt have none. Whoever passes a bare UNet says that its context is the reference.
    if "UNetModel" not in class_names(denoiser) or find_unserved(target, denoiser) is not None:
        return False
    encoder = getattr(target, "cond_stage_model", None)
    return (
        is_target_itself(target, denoiser)
        or getattr(target, "learnable_vector", None) is not None
        or not class_names(encoder).isdisjoint(_IMAGE_ENCODERS)
    )


def _has_warp_blocks(_target: Any, denoiser: nn.Module) -> bool:
    return hasattr(denoiser, _WARP_BLOCKS)


_SAMPLED = """\
with capture(model, "run.zarr", sample="one") as recording:
    latents, _ = sampler.sample(50, 1, shape, conditioning, **settings)
    recording.add_images(generated=decode(latents), reference=reference)"""
_BY_YOU = "prepared by you: a picture must have the shape of its tokens' grid, or you give its box"
_ONE_TOKEN = "which part of the reference is used: one token has no parts"

# The last one that serves a target is taken: each is a special case of those before it.
register(
    Profile(
        "compvis",
        ("LatentDiffusion", "UNetModel"),
        spatial_transformers,
        recognise=_is_exemplar_model,
        find_unnamed_taps=partial(without_text, "compvis", spatial_transformers),
        notes=ModelNotes(
            serves="the original Paint-by-Example, AnyDoor and code like it; a bare `UNetModel`",
            tokens="1; AnyDoor 1 + 256",
            grid="–; AnyDoor 16 × 16, after one special token",
            shares="–",
            prepared=_BY_YOU,
            unseen=f"of one token, {_ONE_TOKEN}; what AnyDoor's ControlNet adds of the reference's edges",
            example=_SAMPLED,
        ),
    )
)
register(
    Profile(
        "dci-vton",
        ("LatentTryOnDiffusion",),
        spatial_transformers,
        notes=ModelNotes(
            serves="DCI-VTON's `LatentTryOnDiffusion` and its UNet",
            tokens="1",
            grid="–",
            shares="–",
            prepared=_BY_YOU,
            unseen=f"{_ONE_TOKEN}; the warped garment, which is pasted into the latents",
            example=_SAMPLED,
        ),
    )
)
register(
    Profile(
        "stableviton",
        ("StableVITON",),
        spatial_transformers,
        recognise=_has_warp_blocks,
        notes=ModelNotes(
            serves="StableVITON's `ControlLDM` and its UNet",
            tokens="CLIP's path 1; the spatial path 192, 768, 3072",
            grid="spatial path: the layer's own",
            shares="–",
            prepared=_BY_YOU,
            unseen="the person and its pose, which are channels and the ControlNet's",
            example=_SAMPLED.replace('"one")', '"one", layers="warp_flow_blks*")'),
        ),
    )
)
