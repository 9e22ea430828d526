"""Cross-attention to a feature map on the query's own grid, as super-resolution has it.

A network beside the denoiser (a ControlNet) makes features of the low-resolution picture at each of its
levels. Layers of their own read them, row-major on the grid of the layer's queries: as many keys as
queries, whatever the picture's shape. The cross-attention ``attn2`` beside them reads text.

`own_grid_cross_attention` finds such layers. A further model is one line at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import (
    AttentionInputs,
    Layout,
    ReferenceKeys,
    query_grid_layout,
    square_layout,
)
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    check_no_mask,
    heads_of,
    key_projection,
    lies_within,
    patch_grid,
    query_projection,
    scale_of,
    transformer_of,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.profile import Profile, register
from i2am.capture.profiles.recognition import holds

if TYPE_CHECKING:
    from torch import nn

__all__ = ["own_grid_cross_attention"]


def own_grid_cross_attention(
    denoiser: nn.Module,
    *,
    suffix: str = ".attn2",
    within: str | tuple[str, ...] = "",
    grid_from: Callable[[str], str] = transformer_of,
    layout: Layout = query_grid_layout,
    weight: str | None = None,
) -> Iterator[LayerTap]:
    """Yield a tap for each cross-attention that reads a feature map on its queries' grid.

    Parameters
    ----------
    denoiser : Module
    suffix : str
        How the layers' paths end.
    within : str or tuple of str
        A module that lies on their paths, or one of several; all by default.
    grid_from : callable (path of a layer) -> path of a module
        Whose first input is (batch, channel, y, x) of the queries.
    layout : callable (number of reference tokens, grid of the queries) -> ReferenceLayout
        For features on a grid of their own.
    weight : str, optional
        The denoiser's argument by which these layers' outputs are multiplied; 1 where it is not given.

    Raises
    ------
    CaptureError
        From within the model's call, if a layer gets an attention mask, or its queries or keys do not
        fill the grid.

    Examples
    --------
    >>> from diffusers import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(
    ...     block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
    ...     down_block_types=("DownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    ...     cross_attention_dim=8, mid_block_type=None,
    ... )
    >>> [tap.block for tap in own_grid_cross_attention(unet, within="attentions")]
    ['up', 'up']
    """
    for name, attention in denoiser.named_modules():
        is_within = lies_within(name, within)
        if is_within and name.endswith(suffix) and hasattr(attention, "to_q"):
            yield ProjectionTap(
                name,
                attention,
                block_of(name),
                query=query_projection(attention),
                keys=(key_projection(attention),),
                read=_Layer(name, attention, layout, weight).read,
                grid_source=denoiser.get_submodule(grid_from(name)),
            )


@dataclass(frozen=True)
class _Layer:
    """Reads one cross-attention."""

    name: str
    attention: Any
    layout: Layout
    weight: str | None

    def read(self, projected: ProjectionOutputs) -> Iterator[AttentionInputs]:
        """Yield the inputs of a call with features to read."""
        # Without them these classes attend to the generated image itself.
        if not projected.keys[0] or projected.options.get("encoder_hidden_states", ...) is None:
            return
        check_no_mask(self.name, projected.options)
        query = heads_of(self.attention, projected.query)
        key = heads_of(self.attention, projected.keys[0][-1])
        grid, tokens = patch_grid(self.name, projected.states, query.shape[2]), key.shape[2]
        weight = 1.0
        if self.weight is not None:
            weight = float(projected.source.arguments.get(self.weight, 1.0))
        reference = ReferenceKeys(slice(0, tokens), self.layout(tokens, grid), weight=weight)
        yield AttentionInputs(
            query, key, scale_of(self.attention, query.shape[-1]), grid, (reference,)
        )


# --- The models, which are known by the layers that they add: their classes have diffusers' names.


def _parent_of(name: str) -> str:
    return name.rpartition(".")[0]


def _holds(part: str) -> Callable[[Any, nn.Module], bool]:
    return lambda _target, denoiser: holds(denoiser, part)


_OWN_GRID = "the layer's own"
_BY_YOU = "resized by you to the size of the generated image"
_MIXED = "what the ControlNet took from the noisy latents: its features mix both"
_EXAMPLE = (
    'with capture(pipe, "run.zarr", sample="street") as recording:\n'
    "    image = pipe(args, prompt, enlarged, num_inference_steps=20).images[0]\n"
    "    recording.add_images(generated=image, reference=enlarged)"
)

register(
    Profile(
        "pasd",
        (),  # Its pipeline and its UNet have the names of diffusers'.
        partial(own_grid_cross_attention, within="pixel_attentions"),
        recognise=_holds("pixel_attentions"),
        notes=ModelNotes(
            serves="PASD's pipeline (also SDXL's) and its UNet, known by `pixel_attentions`",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares="–",
            prepared=_BY_YOU,
            unseen=_MIXED,
            example=_EXAMPLE,
        ),
    )
)
register(
    Profile(
        "pasd-light",
        (),
        partial(own_grid_cross_attention, suffix=".attn2_plus"),
        recognise=_holds("attn2_plus"),
        notes=ModelNotes(
            serves="PASD-light's pipeline and its UNet, known by `attn2_plus`",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares="–",
            prepared=_BY_YOU,
            unseen=_MIXED,
            example=_EXAMPLE,
        ),
    )
)
register(
    Profile(
        "seesr",
        (),
        partial(own_grid_cross_attention, within="image_attentions", layout=square_layout),
        recognise=_holds("image_attentions"),
        notes=ModelNotes(
            serves="SeeSR's pipeline and its UNet, known by `image_attentions`",
            tokens="1 + 144",
            grid="1 + 12 × 12, of RAM's encoder",
            shares="–",
            prepared="resized by you to a square, as its scripts do",
            unseen="what its ControlNet adds to the UNet's features, and the tags that RAM finds",
            example=(
                'with capture(pipe, "run.zarr", sample="street") as recording:\n'
                "    image = pipe(prompt, enlarged, ram_encoder_hidden_states=embeds, **settings).images[0]\n"
                "    whole = (0, 0, enlarged.height, enlarged.width)\n"
                "    recording.add_images(\n"
                '        generated=image, reference=enlarged, boxes={"reference": whole}\n'
                "    )"
            ),
        ),
    )
)
register(
    Profile(
        "supir",
        ("LightGLVUNet", "SUPIRModel"),
        partial(
            own_grid_cross_attention,
            suffix=".attn",
            within="project_modules",
            grid_from=_parent_of,
            weight="control_scale",
        ),
        recognise=_holds("project_modules"),
        notes=ModelNotes(
            serves="SUPIR's `SUPIRModel` and its `LightGLVUNet`, known by `project_modules`",
            tokens="as many as the layer has patches",
            grid=_OWN_GRID,
            shares="–",
            prepared=_BY_YOU,
            unseen="most of it: only 2 of its 12 project modules are attention, the others (`ZeroSFT`) convolutions",
            example=(
                'with capture(model, "run.zarr", sample="street") as recording:\n'
                "    samples = model.batchify_sample(enlarged, captions, num_steps=50)\n"
                "    recording.add_images(generated=(samples[0] / 2 + 0.5).clamp(0, 1), reference=picture)"
            ),
        ),
    )
)
