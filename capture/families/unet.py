"""Cross-attention whose keys are all the reference's: ``attn2`` of diffusers' UNets.

The tokens that ``encoder_hidden_states`` carries must be the reference's. That holds for
Paint-by-Example and Image Variation (one token: CLIP's pooled embedding), for Stable Video Diffusion
(one token, in spatial and temporal layers), and for the model that ships with i2am (one special
token and a 16 × 16 grid).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.families.attention_modules import (
    block_of,
    grid_source,
    heads_of,
    key_projection,
    patch_grid,
    query_projection,
    scale_of,
)
from i2am.capture.families.ip_adapter import has_adapter_layers
from i2am.capture.families.profile import Profile, register
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["cross_attention"]


def cross_attention(
    denoiser: nn.Module,
    *,
    suffix: str = ".attn2",
    layout: Callable[[int], ReferenceLayout] = square_layout,
) -> Iterator[LayerTap]:
    """Yield a tap for each cross-attention layer whose keys are all reference tokens.

    Parameters
    ----------
    denoiser : Module
    suffix : str
        How the layers' paths end.
    layout : callable (number of reference tokens) -> ReferenceLayout
        A square, with or without a class token, unless given.

    Yields
    ------
    LayerTap
        Resolved when called: layers with an adapter or fused projections as they are then.

    Raises
    ------
    CaptureError
        From within the model's call, if a layer gets an attention mask or its queries do not fill
        the grid.

    Examples
    --------
    >>> from diffusers import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(
    ...     block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
    ...     down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
    ...     cross_attention_dim=8, mid_block_type=None,
    ... )
    >>> [tap.name for tap in cross_attention(unet)]
    ['down_blocks.0.attentions.0.transformer_blocks.0.attn2']
    """
    for name, attention in denoiser.named_modules():
        if not name.endswith(suffix) or not hasattr(attention, "to_q"):
            continue
        yield ProjectionTap(
            name,
            attention,
            block_of(name),
            query=query_projection(attention),
            keys=(key_projection(attention),),
            read=partial(_read, name, attention, layout),
            grid_source=grid_source(denoiser, name),
        )


def _read(
    name: str,
    attention: Any,
    layout: Callable[[int], ReferenceLayout],
    projected: ProjectionOutputs,
) -> Iterator[AttentionInputs]:
    if not projected.keys[0]:
        return
    if projected.options.get("attention_mask") is not None:
        msg = (
            f"Expected cross-attention without a mask, got one, at layer {name!r}. "
            "Call the pipeline without an attention mask."
        )
        raise CaptureError(msg)
    query = heads_of(attention, projected.query)
    key = heads_of(attention, projected.keys[0][-1])
    frames = projected.states[0] // projected.source.batch
    positions = projected.states[-2] * projected.states[-1]
    if ".temporal_transformer_blocks." in name:
        # The batch is (sample, position), tokens are frames; the keys are the first frame's for all.
        query = _split_batch(query, positions).permute(0, 2, 3, 1, 4).flatten(2, 3)
        key = _split_batch(key, positions)[:, 0]
    elif frames > 1:
        # The batch is (sample, frame), and every frame has the same keys.
        query = _split_batch(query, frames).transpose(1, 2).flatten(2, 3)
        key = _split_batch(key, frames)[:, 0]
    height, width = patch_grid(name, projected.states, query.shape[2] // frames)
    tokens = key.shape[2]
    yield AttentionInputs(
        query,
        key,
        scale_of(attention, query.shape[-1]),
        (frames * height, width),
        (ReferenceKeys(slice(0, tokens), layout(tokens)),),
        frames=frames,
    )


def _split_batch(states: torch.Tensor, count: int) -> torch.Tensor:
    """(sample · count, …) -> (sample, count, …)."""
    return states.reshape(-1, count, *states.shape[1:])


def _is_bare_unet(target: Any, denoiser: nn.Module) -> bool:
    # Whoever passes a bare UNet says that its cross-attention reads the reference; a pipeline's may
    # read text, and so does that of a UNet with an IP-Adapter.
    is_bare = target is denoiser and type(denoiser).__name__ == "UNet2DConditionModel"
    return is_bare and not has_adapter_layers(denoiser)


register(Profile("unet", ("UNet2DConditionModel",), cross_attention, recognise=_is_bare_unet))


for _name, _class in (
    ("i2am-tiny", "ReferenceInpaintPipeline"),
    ("paint-by-example", "PaintByExamplePipeline"),
    ("image-variation", "StableDiffusionImageVariationPipeline"),
    ("stable-video-diffusion", "StableVideoDiffusionPipeline"),
):
    register(Profile(_name, (_class,), cross_attention))
