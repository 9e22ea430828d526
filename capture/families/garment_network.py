"""Reference networks: self-attention that also attends to what a second network made of the reference.

A copy of the denoiser runs on the reference (a garment, in try-on), and hands over what its
self-attentions were given. The denoiser's own append that to their tokens: the keys of their softmax are
the layer's own patches and, on the same grid, the reference's. Some append it to their queries, too, and
drop that half of the output. Calls without the reference's keys are left out.

`garment_network` finds such layers in UNets, `joint_garment_network` in transformers whose attention
is read at its kernel. A further model is one line at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from PIL import Image

from i2am.capture.families.ip_adapter import ip_adapter_layers
from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    Tokens,
    query_grid_layout,
)
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    check_no_mask,
    heads_of,
    key_projection,
    latent_grid,
    lies_within,
    query_projection,
    scale_of,
    transformer_of,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import Preparation, SeenPart
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import class_names, forward_parameters
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box, CaptureError
from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Split", "garment_network", "joint_garment_network", "own_first"]

# (patches of the layer, keys) -> which of the keys are its own, and which each reference's
Split = Callable[[int, int], tuple[Tokens, tuple[Tokens, ...]]]


def own_first(patches: int, keys: int) -> tuple[Tokens, tuple[Tokens, ...]]:
    """Return the layer's own tokens, then as many of each reference.

    Examples
    --------
    >>> own_first(6, 18)
    (slice(0, 6, None), (slice(6, 12, None), slice(12, 18, None)))
    """
    parts = [slice(start, start + patches) for start in range(0, keys, patches)]
    return parts[0], tuple(parts[1:])


def garment_network(
    denoiser: nn.Module,
    *,
    suffix: str = ".attn1",
    within: str | tuple[str, ...] = "",
    grid_from: Callable[[str], str] = transformer_of,
    split: Split = own_first,
    weight: float = 1.0,
    keeps_unconditional: bool = True,
) -> Iterator[LayerTap]:
    """Yield a tap for each self-attention of a UNet that a reference's tokens join.

    Parameters
    ----------
    denoiser : Module
    suffix : str
        How the layers' paths end.
    within : str or tuple of str
        A module that lies on their paths, or one of several; all by default.
    grid_from : callable (path of a layer) -> path of a module
        Whose first input is (batch, channel, y, x) of the layer's own patches; by default the
        transformer of diffusers that the layer lies in.
    split : callable (number of patches, number of keys) -> (own tokens, sequence of references' tokens)
        Slices or indices among the keys, each as many as the layer has patches and row-major on its
        grid; by default the layer's own come first. Where the queries are as many as the keys, they
        lie alike. A wrong order cannot be noticed.
    weight : float
        Factor by which the layer multiplies what it reads with the reference's keys.
    keeps_unconditional : bool
        False of a model that lets its unconditional rows read the reference, and then replaces what
        they read by what they read without it.

    Raises
    ------
    CaptureError
        From within the model's call, if queries or keys are of other numbers, if a layer gets an
        attention mask, or unconditional rows are to be kept that the model drops.

    Examples
    --------
    >>> from diffusers import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(
    ...     block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
    ...     down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
    ...     cross_attention_dim=8, mid_block_type=None,
    ... )
    >>> [tap.name for tap in garment_network(unet)]
    ['down_blocks.0.attentions.0.transformer_blocks.0.attn1']
    """
    for name, attention in denoiser.named_modules():
        is_own = lies_within(name, within) and name.endswith(suffix)
        if is_own and hasattr(attention, "to_q"):
            yield ProjectionTap(
                name,
                attention,
                block_of(name),
                query=query_projection(attention),
                keys=(key_projection(attention),),
                read=_SelfAttention(name, attention, split, weight, keeps_unconditional).read,
                grid_source=denoiser.get_submodule(grid_from(name)),
            )


@dataclass(frozen=True)
class _SelfAttention:
    """Reads one self-attention of a UNet."""

    name: str
    attention: Any
    split: Split
    weight: float
    keeps_unconditional: bool

    def read(self, projected: ProjectionOutputs) -> Iterator[AttentionInputs]:
        """Yield the inputs of a call with reference tokens."""
        query = heads_of(self.attention, projected.query)
        height, width = projected.states[-2:]
        patches = height * width
        if not projected.keys[0] or projected.keys[0][-1].shape[-2] == patches:
            return
        key = heads_of(self.attention, projected.keys[0][-1])
        check_no_mask(self.name, projected.options)
        if not self.keeps_unconditional:
            self._check_conditional(projected.source)
        _check_counts(self.name, (height, width), query.shape[2], key.shape[2])
        own, references = self.split(patches, key.shape[2])
        where = None if query.shape[2] == patches else own
        yield AttentionInputs(
            query if where is None else query[:, :, where],
            key,
            scale_of(self.attention, query.shape[-1]),
            (height, width),
            _reference_keys(references, (height, width), self.weight),
            query_tokens=where,
        )

    def _check_conditional(self, call: DenoiserCall) -> None:
        if 2 * len(call.rows) <= call.batch:
            return
        msg = (
            f"Expected the conditional branch alone, got {len(call.rows)} of {call.batch} rows to keep, at "
            f"layer {self.name!r}: what the unconditional one reads there, the model drops. Give "
            "guidance='conditional'."
        )
        raise CaptureError(msg)


def joint_garment_network(
    denoiser: nn.Module, *, suffix: str = ".attn", split: Split = own_first
) -> Iterator[LayerTap]:
    """Yield a tap for each attention layer of a transformer that a reference's tokens join.

    Parameters
    ----------
    denoiser : Module
        Its latents are (batch, channel, y, x), and ``config.patch_size`` says how many lie in a token.
    suffix, split
        See `garment_network`.

    Raises
    ------
    CaptureError
        From within the model's call, if queries or keys are of other numbers.

    Examples
    --------
    ::

        profile = register(Profile("mine", ("MyTransformer",), joint_garment_network))
    """
    for name, attention in denoiser.named_modules():
        if name.endswith(suffix) and hasattr(attention, "to_q"):
            yield KernelTap(
                name, attention, block_of(name), read=_JointAttention(name, denoiser, split).read
            )


@dataclass(frozen=True)
class _JointAttention:
    """Reads one attention layer of a transformer."""

    name: str
    denoiser: nn.Module
    split: Split

    def read(self, call: KernelCall) -> Iterator[AttentionInputs]:
        """Yield the inputs of a call with reference tokens."""
        grid = latent_grid(self.denoiser, call.source.arguments)
        patches, queries, keys = grid[0] * grid[1], call.query.shape[2], call.key.shape[2]
        if keys == patches:
            return
        _check_counts(self.name, grid, queries, keys)
        own, references = self.split(patches, keys)
        generated = slice(0, patches) if queries == patches else own
        yield call.attention_inputs(generated, grid, _reference_keys(references, grid, 1.0))


def _check_counts(name: str, grid: tuple[int, int], queries: int, keys: int) -> None:
    """Refuse queries and keys that do not lie on the layer's grid, once or several times."""
    height, width = grid
    patches = height * width
    if queries not in (patches, keys):
        msg = (
            f"Expected {height}×{width} queries, got {queries}, at layer {name!r}. Its profile names the "
            "wrong module for the grid: give grid_from=."
        )
        raise CaptureError(msg)
    if keys % patches:
        msg = (
            f"Expected references on the queries' own grid of {height}×{width}, got {keys} keys, at layer "
            f"{name!r}. Give the reference the generated image's size, or pass a Profile of your own."
        )
        raise CaptureError(msg)


def _reference_keys(
    references: Any, grid: tuple[int, int], weight: float
) -> tuple[ReferenceKeys, ...]:
    layout = query_grid_layout(0, grid)
    if not isinstance(references, list | tuple) or not references:
        msg = (
            f"Expected split= to return (own tokens, [tokens of each reference]), got {references!r} in "
            "place of the list."
        )
        raise CaptureError(msg)
    return tuple(ReferenceKeys(own, layout, index, weight) for index, own in enumerate(references))


# --- The models, which are known by what their denoisers take: their classes have diffusers' names.


def _takes(argument: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether a denoiser's ``forward`` has an argument of this name."""
    return lambda _target, denoiser: argument in forward_parameters(denoiser)


def _idm_vton(denoiser: nn.Module) -> Iterator[LayerTap]:
    """Yield the layers that read the garment's own patches, and those that read its IP-Adapter."""
    return chain(garment_network(denoiser), ip_adapter_layers(denoiser))


def _has_class(name: str) -> Callable[[Any, nn.Module], bool]:
    """Return whether the pipeline or its denoiser is of a class of this name."""
    return lambda target, denoiser: name in class_names(target) | class_names(denoiser)


def _mimicbrush_prepares(call: RunningCall) -> Preparation | None:
    """Return that the source is resized, whatever its shape."""
    source = call.variables.get("source_image")
    if not isinstance(source, Image.Image):
        return None  # A tensor, or several pictures.
    return SeenPart(source.height, source.width, Box.whole(source.height, source.width))


_OWN_GRID = "the layer's own"
_OWN_PATCHES = "the generated patches"
_BY_YOU = "resized by you to the size of the generated image"

register(
    Profile(
        "garment-network",
        (),
        garment_network,
        notes=ModelNotes(
            serves="if you name the profile: a UNet whose `attn1` reads [own patches, reference's patches]",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares=_OWN_PATCHES,
            prepared=_BY_YOU,
            unseen="what else your model reads of the reference",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt", profile="garment-network") as recording:\n'
                "    image = pipe(**inputs).images[0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
register(
    Profile(
        "idm-vton",
        (),  # Its pipeline has the name of one of diffusers'.
        _idm_vton,
        recognise=_takes("garment_features"),
        notes=ModelNotes(
            serves="IDM-VTON's pipeline and its UNet",
            tokens="as many as the layer has patches (`attn1`); 16 of an IP-Adapter (`attn2`)",
            grid=f"{_OWN_GRID}; –",
            shares=f"{_OWN_PATCHES}; –",
            prepared=_BY_YOU,
            unseen="the garment's caption, and the pose and the person, which are channels",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt", layers="*.attn1") as recording:\n'
                "    image = pipe(image=person, mask_image=mask, pose_img=pose, cloth=garment_tensor,\n"
                "                 ip_adapter_image=garment, text_embeds_cloth=caption, **texts)[0][0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
register(
    Profile(
        "ootdiffusion",
        ("OotdPipeline", "UNetVton2DConditionModel"),
        garment_network,
        guidance=(CONDITIONAL, UNCONDITIONAL),
        recognise=_has_class("UNetVton2DConditionModel"),
        notes=ModelNotes(
            serves="OOTDiffusion's `OotdPipeline` (its `unet_vton`) and `UNetVton2DConditionModel`",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares=_OWN_PATCHES,
            prepared=_BY_YOU,
            unseen="the garment's embedding by CLIP, which is among the tokens of `attn2`",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt") as recording:\n'
                "    image = pipe(prompt_embeds=embeds, image_garm=garment, image_vton=masked,\n"
                "                 mask=mask, image_ori=person, num_inference_steps=20).images[0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
register(
    Profile(
        "leffa",
        ("LeffaPipeline",),
        garment_network,
        recognise=_takes("reference_features"),
        notes=ModelNotes(
            serves="Leffa's `LeffaPipeline` and its UNet, also with `ref_acceleration`",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares=_OWN_PATCHES,
            prepared=_BY_YOU,
            unseen="–",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt") as recording:\n'
                "    (images,) = pipe(src_image, ref_image, mask, densepose, num_inference_steps=30)\n"
                "    recording.add_images(generated=images[0], reference=garment)"
            ),
        ),
    )
)
register(
    Profile(
        "mimicbrush",
        ("MimicBrushPipeline",),
        # In the others nothing is appended. The output is half of this, half of the own patches alone.
        lambda denoiser: garment_network(
            denoiser, within=("mid_block", "up_blocks"), weight=0.5, keeps_unconditional=False
        ),
        recognise=_has_class("MimicBrushPipeline"),
        prepares=_mimicbrush_prepares,
        notes=ModelNotes(
            serves="MimicBrush's `MimicBrushPipeline`, middle and up blocks",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares=f"{_OWN_PATCHES}; half of the output is what they read alone (`weight` 0.5)",
            prepared="resized to the generated image's size",
            unseen='its 1 + 16 × 16 CLIP tokens in `attn2`: capture these with `profile="unet"`',
            example=(
                'with capture(model.pipe, "run.zarr", sample="bag") as recording:\n'
                "    (image,), _ = model.generate(pil_image=reference, depth_image=depth, image=target,\n"
                "                                 mask_image=mask, num_samples=1)\n"
                "    recording.add_images(generated=image, reference=reference)"
            ),
        ),
    )
)
register(
    Profile(
        "fitdit",
        ("StableDiffusion3TryOnPipeline",),
        joint_garment_network,
        recognise=_takes("ref_key"),
        notes=ModelNotes(
            serves="FitDiT's `StableDiffusion3TryOnPipeline` (its `transformer_vton`) and that transformer",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares=_OWN_PATCHES,
            prepared=_BY_YOU,
            unseen="the garment's pooled embeddings by CLIP",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt") as recording:\n'
                "    image = pipe(cloth_image=garment, model_image=person, mask=mask, pose_image=pose,\n"
                "                 height=1024, width=768, num_inference_steps=20).images[0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
