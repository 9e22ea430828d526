"""Cross-attention whose keys are all the reference's: ``attn2`` of diffusers' UNets.

The tokens that ``encoder_hidden_states`` carries must be the reference's. That holds for
Paint-by-Example and Image Variation (one token: CLIP's pooled embedding), for Stable Video Diffusion
(one token, in spatial and temporal layers), and for the model that ships with i2am (one special
token and a 16 × 16 grid).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from i2am.capture.families.ip_adapter import has_adapter_layers
from i2am.capture.hooks.attention import (
    AttentionInputs,
    Layout,
    ReferenceKeys,
    ReferenceLayout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    check_no_mask,
    grid_source,
    heads_of,
    key_projection,
    patch_grid,
    query_projection,
    scale_of,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparations, Prepares, encoded_pictures, stretched
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import (
    DIFFUSERS,
    is_known_unet,
    is_target_itself,
    keeps_forward,
    text_setting,
)
from i2am.capture.profiles.running_call import RunningCall
from i2am.capture.profiles.text_tokens import without_text

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["cross_attention"]


def cross_attention(
    denoiser: nn.Module,
    *,
    suffix: str = ".attn2",
    layout: Layout | Callable[[int], ReferenceLayout] = square_layout,
) -> Iterator[LayerTap]:
    """Return a tap for each cross-attention layer whose keys are all reference tokens.

    Parameters
    ----------
    denoiser : Module
    suffix : str
        How the layers' paths end.
    layout : callable (number of reference tokens, grid of the queries) -> ReferenceLayout
        A square, with or without a class token, unless given; `query_grid_layout` where the tokens
        lie as the layer's queries do. One that takes the number alone warns.

    Returns
    -------
    iterator of LayerTap
        Resolved when asked for: layers with an adapter or fused projections as they are then.

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
    return _cross_attention(denoiser, suffix, _of_tokens_and_grid(layout))


def _cross_attention(denoiser: nn.Module, suffix: str, layout: Layout) -> Iterator[LayerTap]:
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
    layout: Layout,
    projected: ProjectionOutputs,
) -> Iterator[AttentionInputs]:
    # Without a context these classes attend to the generated image itself.
    if not projected.keys[0] or projected.options.get("encoder_hidden_states", ...) is None:
        return
    check_no_mask(name, projected.options)
    query = heads_of(attention, projected.query)
    key = heads_of(attention, projected.keys[0][-1])
    frames = projected.states[0] // projected.source.batch
    positions = projected.states[-2] * projected.states[-1]
    folded: Literal["frame", "position"] | None = None
    if ".temporal_transformer_blocks." in name:
        # The batch is (sample, position), tokens are frames; the keys are the first frame's for all.
        query = _split_batch(query, positions).permute(0, 2, 3, 1, 4).flatten(2, 3)
        key = _split_batch(key, positions)[:, 0]
        folded = "position"
    elif frames > 1:
        # The batch is (sample, frame), and every frame has the same keys.
        query = _split_batch(query, frames).transpose(1, 2).flatten(2, 3)
        key = _split_batch(key, frames)[:, 0]
        folded = "frame"
    height, width = patch_grid(name, projected.states, query.shape[2] // frames)
    tokens = key.shape[2]
    yield AttentionInputs(
        query,
        key,
        scale_of(attention, query.shape[-1]),
        (frames * height, width),
        (ReferenceKeys(slice(0, tokens), layout(tokens, (height, width))),),
        frames=frames,
        folded=folded,
    )


def _of_tokens_and_grid(layout: Layout | Callable[[int], ReferenceLayout]) -> Layout:
    """Return a layout that takes the queries' grid, too; one that does not is an old one."""
    try:
        inspect.signature(layout).bind(0, (0, 0))
    except TypeError:
        old: Any = layout
        msg = (
            "layout= gets the grid of the queries, too: layout(tokens, grid). One that takes the "
            "number of tokens alone goes with the next release."
        )
        warnings.warn(msg, DeprecationWarning, stacklevel=3)
        return lambda tokens, _grid: old(tokens)
    new: Any = layout
    found: Layout = new
    return found


def _split_batch(states: torch.Tensor, count: int) -> torch.Tensor:
    """(sample · count, …) -> (sample, count, …)."""
    return states.reshape(-1, count, *states.shape[1:])


def _is_bare_unet(target: Any, denoiser: nn.Module) -> bool:
    # Whoever passes a bare UNet says that its cross-attention reads the reference; a pipeline's may
    # read text, and so does that of a UNet with an IP-Adapter, or whose configuration or context says
    # so.
    return (
        is_target_itself(target, denoiser)
        and is_known_unet(target, denoiser, _UNETS)
        and keeps_forward(denoiser)
        and text_setting(denoiser) is None
        and not has_adapter_layers(denoiser)
    )


_UNETS = ("UNet2DConditionModel", "UNetSpatioTemporalConditionModel")
register(
    Profile(
        "unet",
        _UNETS,
        cross_attention,
        recognise=_is_bare_unet,
        find_unnamed_taps=partial(without_text, "unet", cross_attention),
        notes=ModelNotes(
            serves="a bare `UNet2DConditionModel`, or that of Stable Video Diffusion, whose "
            "cross-attention reads the reference",
            tokens="any but a text encoder's",
            grid="a square, maybe after one special token; others –",
            shares="–",
            prepared="prepared by you: a picture must have the shape of its tokens' grid, or you give its box",
            unseen="what you put into the latents, channels or embeddings beside them",
            example="""\
with capture(unet, "run.zarr", sample="one") as recording:
    for timestep in scheduler.timesteps:
        noise = unet(latents, timestep, reference_tokens).sample
        latents = scheduler.step(noise, timestep, latents).prev_sample
    recording.add_images(generated=decode(latents), reference=reference)""",
        ),
    )
)


def _encoded_for_each_sample(call: RunningCall) -> Preparations:
    """Return how each sample's own picture came to CLIP; several samples may share one."""
    samples_of_one, rest = divmod(call.samples, len(call.pictures) or 1)
    pictures = None if rest else encoded_pictures(call, call.samples // samples_of_one)
    return pictures and [pictures[call.sample // samples_of_one]]


_BY_CLIP = "resized and cropped in the middle by the pipeline's CLIP processor, by its settings"
_MASKED_LATENTS = "the masked picture, which enters as channels of the latents"


def _register_pipeline(
    name: str, pipeline: str, package: str, prepares: Prepares, notes: ModelNotes
) -> None:
    register(
        Profile(name, (pipeline,), cross_attention, package=package, prepares=prepares, notes=notes)
    )


_register_pipeline(
    "i2am-tiny",
    "ReferenceInpaintPipeline",
    "i2am",
    stretched,
    ModelNotes(
        serves="the shipped model",
        tokens="1 + 256",
        grid="16 × 16, after one special token",
        shares="–",
        prepared="resized to 64 × 64, whatever its shape",
        unseen=_MASKED_LATENTS,
        example="""\
pipe = load_pipeline("i2am-tiny")
with capture(pipe, "run.zarr", sample="one") as recording:
    image = pipe(example_image=reference, image=source, mask_image=mask).images[0]
    recording.add_images(generated=image, reference=reference, inpainting_mask=mask)""",
    ),
)
_register_pipeline(
    "paint-by-example",
    "PaintByExamplePipeline",
    DIFFUSERS,
    _encoded_for_each_sample,
    ModelNotes(
        serves="`PaintByExamplePipeline`",
        tokens="1",
        grid="–",
        shares="–",
        prepared=_BY_CLIP,
        unseen=f"which part of the reference is used: one token has no parts; {_MASKED_LATENTS}",
        example="""\
with capture(pipe, "run.zarr", sample="one") as recording:
    image = pipe(example_image=reference, image=source, mask_image=mask).images[0]
    recording.add_images(generated=image, reference=reference, inpainting_mask=mask)""",
    ),
)
_register_pipeline(
    "image-variation",
    "StableDiffusionImageVariationPipeline",
    DIFFUSERS,
    _encoded_for_each_sample,
    ModelNotes(
        serves="`StableDiffusionImageVariationPipeline`",
        tokens="1",
        grid="–",
        shares="–",
        prepared=_BY_CLIP,
        unseen="which part of the reference is used: one token has no parts",
        example="""\
with capture(pipe, "run.zarr", sample="one") as recording:
    image = pipe(image=reference).images[0]
    recording.add_images(generated=image, reference=reference)""",
    ),
)
_register_pipeline(
    "stable-video-diffusion",
    "StableVideoDiffusionPipeline",
    DIFFUSERS,
    # To 224 × 224 pixels, antialiased, before its CLIP processor, which only normalises.
    stretched,
    ModelNotes(
        serves="`StableVideoDiffusionPipeline`, spatial and temporal layers",
        tokens="1",
        grid="–",
        shares="–",
        prepared="resized to 224 × 224, whatever its shape",
        unseen="the reference's own latents, which enter as channels of every frame: its detail",
        example="""\
with capture(pipe, "run.zarr", sample="one") as recording:
    frames = pipe(image=reference).frames[0]
    recording.add_images(generated=np.concatenate(frames), reference=reference)""",
    ),
)
