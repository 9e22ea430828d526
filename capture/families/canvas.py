"""Reference and generated image on one canvas: self-attention carries the one over to the other.

The model paints a picture of several parts. Some are given (the garment below the person, the left half of
a diptych), one is generated; each token of the latter may read all of the former, in every self-attention
(UNets) or joint attention (transformers). Which tokens are whose follows from two boxes, in fractions of
the canvas. The generated part's own keys, the rest of the canvas and the text share the softmax.

`canvas` finds the layers, and `canvas_part` says where the generated part lies on a stored canvas. A further
model is one line at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.attention import (
    AttentionInputs,
    ReferenceKeys,
    ReferenceLayout,
    Tokens,
)
from i2am.capture.hooks.kernel_tap import KernelCall, KernelTap
from i2am.capture.hooks.projection_tap import ProjectionOutputs, ProjectionTap
from i2am.capture.hooks.taps import LayerTap
from i2am.capture.profiles.attention_modules import (
    block_of,
    check_no_mask,
    grid_source,
    heads_of,
    key_projection,
    latent_grid,
    patch_grid,
    query_projection,
    scale_of,
)
from i2am.capture.profiles.notes import ModelNotes
from i2am.capture.profiles.preparation import CanvasPart, Preparation, SeenPart, painted_part
from i2am.capture.profiles.profile import Profile, class_names, register
from i2am.capture.profiles.recognition import skips_cross_attention
from i2am.capture.profiles.running_call import RunningCall
from i2am.schemas import Box, CaptureError
from i2am.schemas.dims import CONDITIONAL, IMAGE, UNCONDITIONAL

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Part", "Picture", "box_tokens", "canvas", "canvas_part", "host_ids", "picture_grid"]

# (y0, x0, y1, x1) in fractions of the canvas.
Part = Sequence[float]


@dataclass(frozen=True)
class Picture:
    """Where the canvas lies among the keys and queries of one attention call.

    Parameters
    ----------
    grid : (height, width)
        In tokens, which are row-major.
    start : int
        Index of its first token.
    text : slice, optional
        Indices of the text, where there is some.
    """

    grid: tuple[int, int]
    start: int = 0
    text: slice | None = None


def canvas(
    denoiser: nn.Module, *, target: Part, reference: Part | Sequence[Part]
) -> Iterator[LayerTap]:
    """Yield a tap for each layer in which the tokens of one canvas attend to each other.

    Parameters
    ----------
    denoiser : Module
        A UNet of diffusers, whose layers ``attn1`` these are; or a transformer of FLUX, of Stable
        Diffusion 3 or of HiDream, with its joint attention.
    target : (y0, x0, y1, x1)
        The generated part, in fractions of the canvas.
    reference : (y0, x0, y1, x1), or several of these
        The reference's part; or each reference's.

    Raises
    ------
    CaptureError
        If a part is none. From within the model's call, if an edge of a part lies inside a token, or
        the tokens are not those of one canvas.

    Examples
    --------
    >>> from diffusers import UNet2DConditionModel
    >>> unet = UNet2DConditionModel(
    ...     block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, attention_head_dim=2,
    ...     down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
    ...     cross_attention_dim=8, mid_block_type=None,
    ... )
    >>> [tap.name for tap in canvas(unet, target=(0, 0, 0.5, 1), reference=(0.5, 0, 1, 1))]
    ['down_blocks.0.attentions.0.transformer_blocks.0.attn1']
    """
    references = _several(reference)
    parts = _Parts(_checked(target), tuple(_checked(part) for part in references))
    for kind, find_taps in _TRANSFORMERS.items():
        if kind in class_names(denoiser):
            return find_taps(denoiser, parts)
    return _self_attention(denoiser, parts)


def canvas_part(call: RunningCall, *, target: Part) -> Preparation | None:
    """Return where the generated part lies on a stored canvas; see `Profile.paints`.

    Parameters
    ----------
    call : RunningCall
    target : (y0, x0, y1, x1)
        As `canvas` has it.

    Examples
    --------
    ::

        lower_half = (0.5, 0.0, 1.0, 1.0)
        profile = Profile("mine", ("MyTransformer",), taps, paints=partial(canvas_part, target=lower_half))
    """
    part = _checked(target)
    crop = painted_part(call)
    if isinstance(crop, SeenPart):  # The canvas was pasted into a larger picture.
        (y0, x0, _, _), height, width = crop.seen, crop.seen.height, crop.seen.width
        inner = Box(
            y0 + part.y0 * height, x0 + part.x0 * width, y0 + part.y1 * height, x0 + part.x1 * width
        )
        return SeenPart(crop.height, crop.width, inner, crop.is_stretched)
    return None if call.grid is None else CanvasPart(call.grid, part)


def box_tokens(
    part: Box, picture: Picture, layer: str, device: torch.device | None = None
) -> tuple[Tokens, tuple[int, int]]:
    """Return the indices of a part's tokens, row-major, and its (height, width) in tokens.

    Parameters
    ----------
    part : Box
        In fractions of the canvas.
    picture : Picture
        The canvas, in a layer.
    layer : str
        Its name, for messages.
    device : torch.device, optional
        Of the layer: indices elsewhere make it wait.

    Raises
    ------
    CaptureError
        If an edge of the part lies inside a token: it is then of both sides.

    Examples
    --------
    >>> box_tokens(Box(0, 0.5, 1, 1), Picture((2, 4)), "up.attn1")
    (tensor([2, 3, 6, 7]), (2, 2))
    >>> box_tokens(Box(0.5, 0, 1, 1), Picture((2, 4), start=6), "up.attn1")
    (slice(10, 14, None), (1, 4))
    """
    rows, columns = picture.grid
    edges = [edge * side for edge, side in zip(part, (rows, columns) * 2, strict=True)]
    y0, x0, y1, x1 = (round(edge) for edge in edges)
    if any(abs(edge - round(edge)) > _ROUNDING for edge in edges) or y0 == y1 or x0 == x1:
        msg = (
            f"Expected parts of the canvas that end where tokens do, got {_told(part)} of {rows}×{columns} "
            f"tokens, at layer {layer!r}. Paint a canvas whose sides divide, or leave the layer out "
            "with layers=."
        )
        raise CaptureError(msg)
    tokens = _indices(picture.start, columns, (y0, x0, y1, x1), device)
    return tokens, (y1 - y0, x1 - x0)


# Fractions such as 1/3 are not exact.
_ROUNDING = 1e-6


@cache
def _indices(
    start: int, columns: int, box: tuple[int, int, int, int], device: torch.device | None
) -> Tokens:
    y0, x0, y1, x1 = box
    if (x0, x1) == (0, columns):  # Whole rows follow each other.
        return slice(start + y0 * columns, start + y1 * columns)
    with torch.inference_mode(False):
        rows, own = torch.arange(y0, y1, device=device), torch.arange(x0, x1, device=device)
        return (start + rows[:, None] * columns + own).flatten()


@dataclass(frozen=True)
class _Parts:
    """The boxes of a canvas, in fractions of it."""

    target: Box
    references: tuple[Box, ...]

    def tokens(
        self, picture: Picture, layer: str, device: torch.device
    ) -> tuple[Tokens, tuple[int, int], tuple[ReferenceKeys, ...]]:
        """Return the generated patches, their grid, and the references' keys in one layer."""
        generated, grid = box_tokens(self.target, picture, layer, device)
        references = []
        for index, part in enumerate(self.references):
            tokens, own = box_tokens(part, picture, layer, device)
            references.append(ReferenceKeys(tokens, ReferenceLayout(0, own), index))
        return generated, grid, tuple(references)


def _several(reference: Part | Sequence[Part]) -> Sequence[Part]:
    found: Any = reference
    return [found] if found and isinstance(found[0], int | float) else found


def _checked(part: Part) -> Box:
    """Return a part of the canvas as a box; refuse what is none."""
    is_box = len(part) == 4 and all(isinstance(edge, int | float) for edge in part)
    if is_box and 0 <= part[0] < part[2] <= 1 and 0 <= part[1] < part[3] <= 1:
        return Box(*part)
    msg = (
        f"Expected a part (y0, x0, y1, x1) of the canvas in fractions of it, 0 to 1, got {tuple(part)}. The "
        "right half is (0, 0.5, 1, 1)."
    )
    raise CaptureError(msg)


def _told(part: Box) -> str:
    return f"({', '.join(f'{edge:.4g}' for edge in part)})"


# --- How each kind of denoiser has the canvas among its tokens.


def _self_attention(denoiser: nn.Module, parts: _Parts) -> Iterator[LayerTap]:
    """Yield the self-attentions of a UNet."""
    for name, attention in denoiser.named_modules():
        if name.endswith(".attn1") and ".transformer_blocks." in name:
            yield ProjectionTap(
                name,
                attention,
                block_of(name),
                query=query_projection(attention),
                keys=(key_projection(attention),),
                read=partial(_read_self_attention, name, attention, parts),
                grid_source=grid_source(denoiser, name),
            )


def _read_self_attention(
    name: str, attention: Any, parts: _Parts, projected: ProjectionOutputs
) -> Iterator[AttentionInputs]:
    if not projected.keys[0]:
        return
    check_no_mask(name, projected.options)
    query = heads_of(attention, projected.query)
    key = heads_of(attention, projected.keys[0][-1])
    picture = Picture(patch_grid(name, projected.states, query.shape[2]))
    patch_grid(name, projected.states, key.shape[2])  # More would be a reference network's.
    generated, grid, references = parts.tokens(picture, name, query.device)
    scale = scale_of(attention, query.shape[-1])
    own = query[:, :, generated]
    yield AttentionInputs(own, key, scale, grid, references, query_tokens=generated)


_Where = Callable[[KernelCall], Picture | None]


def _joint_attention(
    denoiser: nn.Module,
    parts: _Parts,
    kind: str,
    where: Callable[[nn.Module, KernelCall], Picture | None],
) -> Iterator[LayerTap]:
    """Yield the joint attention layers of a transformer, known by their class."""
    for name, module in denoiser.named_modules():
        if kind in class_names(module):
            read = partial(_read_joint_attention, name, parts, partial(where, denoiser))
            yield KernelTap(name, module, block_of(name), read=read)


def _read_joint_attention(
    name: str, parts: _Parts, where: _Where, call: KernelCall
) -> Iterator[AttentionInputs]:
    picture = where(call)
    if picture is None:
        return
    generated, grid, references = parts.tokens(picture, name, call.query.device)
    text = picture.text
    yield call.attention_inputs(generated, grid, references, text=text, text_queries=text)


def _in_flux(_denoiser: nn.Module, call: KernelCall) -> Picture | None:
    """Return the canvas behind the text; its places are in ``img_ids``."""
    arguments = call.source.arguments
    ids = host_ids(arguments["img_ids"])
    text = arguments["encoder_hidden_states"].shape[1]
    if call.key.shape[2] != text + len(ids):
        return None  # An IP-Adapter's own call, over other tokens.
    return Picture(picture_grid(ids), text, slice(0, text))


def _before_text(denoiser: nn.Module, call: KernelCall) -> Picture | None:
    """Return the canvas before the text, as Stable Diffusion 3 has it."""
    grid = latent_grid(denoiser, call.source.arguments)
    patches, keys = grid[0] * grid[1], call.key.shape[2]
    _check_holds(grid, min(call.query.shape[2], keys))
    return Picture(grid, 0, slice(patches, keys) if keys > patches else None)


def _in_hidream(denoiser: nn.Module, call: KernelCall) -> Picture | None:
    """Return the canvas before the text; if it is no square, padding comes between them."""
    grid = latent_grid(denoiser, call.source.arguments)
    untyped: Any = denoiser
    patches = grid[0] * grid[1] if grid[0] == grid[1] else untyped.max_seq
    keys = call.key.shape[2]
    _check_holds(grid, min(patches, call.query.shape[2], keys))
    return Picture(grid, 0, slice(patches, keys))


def _check_holds(grid: tuple[int, int], tokens: int) -> None:
    if tokens >= grid[0] * grid[1]:
        return
    msg = (
        f"Expected a canvas of {grid[0]}×{grid[1]} tokens in joint attention, got {tokens} tokens. Give a "
        "Profile of your own (docs/how-to/own-models.md)."
    )
    raise CaptureError(msg)


def host_ids(ids: Any) -> torch.Tensor:
    """Return FLUX' ``img_ids`` on the host, (token, 3): image, row, column."""
    found: torch.Tensor = (ids[0] if ids.ndim == 3 else ids).detach().cpu()
    return found


def picture_grid(ids: torch.Tensor) -> tuple[int, int]:
    """Return (height, width) of the one picture whose places these are, row-major.

    Parameters
    ----------
    ids : Tensor, dims (token, 3)
        Image, row and column of each token.

    Raises
    ------
    CaptureError
        If they are not those of one picture.
    """
    rows, columns = (len(set(ids[:, axis].tolist())) for axis in (1, 2))
    places = torch.arange(rows * columns)
    if len(ids) != rows * columns or not all(
        torch.equal(ids[:, axis] - ids[0, axis], wanted.to(ids.dtype))
        for axis, wanted in enumerate((places * 0, places // columns, places % columns))
    ):
        msg = (
            f"Expected one canvas, row by row, got {len(ids)} tokens of {rows} rows and {columns} columns, at "
            "img_ids. Give the profile that fits the pipeline, as 'flux' of Kontext's."
        )
        raise CaptureError(msg)
    return rows, columns


_TRANSFORMERS: Mapping[str, Callable[[nn.Module, _Parts], Iterator[LayerTap]]] = {
    "FluxTransformer2DModel": partial(_joint_attention, kind="FluxAttention", where=_in_flux),
    "SD3Transformer2DModel": partial(_joint_attention, kind="Attention", where=_before_text),
    "HiDreamImageTransformer2DModel": partial(
        _joint_attention, kind="HiDreamAttention", where=_in_hidream
    ),
}


# --- The models.

TOP, BOTTOM = (0, 0, 0.5, 1), (0.5, 0, 1, 1)
LEFT, RIGHT = (0, 0, 1, 0.5), (0, 0.5, 1, 1)
_HALF = "as many as the generated part has patches"
_SHARES = "the generated patches, the rest of the canvas"
_BY_YOU = "placed by you on the canvas"


def _refuse_refining(call: RunningCall) -> None:
    """Refuse HiDream-E1's last steps, in which no reference lies beside the image."""
    if call.variables.get("refine_stage"):
        msg = (
            "Expected a step that edits, with the reference beside the image, got one that refines the "
            "image alone. Keep the steps before it: steps=slice(0, n)."
        )
        raise CaptureError(msg)


def _is_catvton(_target: Any, denoiser: nn.Module) -> bool:
    return skips_cross_attention(denoiser)


def _upper_part(call: RunningCall) -> Preparation | None:
    """Return where CatVTON's person lies; its kin may join the two sideways, which it says by name."""
    if (dim := call.variables.get("concat_dim", -2)) not in (-2, 2):
        msg = (
            f"Expected the garment below the person, got them joined along concat_dim={dim}. Pass a "
            "Profile with canvas(target=…, reference=…) (docs/how-to/own-models.md)."
        )
        raise CaptureError(msg)
    return canvas_part(call, target=TOP)


register(
    Profile(
        "catvton",
        ("CatVTONPipeline",),
        partial(canvas, target=TOP, reference=BOTTOM),
        recognise=_is_catvton,
        paints=_upper_part,
        notes=ModelNotes(
            serves="CatVTON's `CatVTONPipeline` and its UNet, known by the cross-attention that it skips",
            tokens=_HALF,
            grid="the lower half's",
            shares=_SHARES,
            prepared="padded to the generated image's shape, unless you give tensors: store it so, or its box",
            unseen="–",
            example=(
                'with capture(pipe, "run.zarr", sample="shirt") as recording:\n'
                "    garment = resize_and_padding(garment, (768, 1024))  # as the pipeline does\n"
                "    image = pipe(person, garment, mask, num_inference_steps=50)[0]\n"
                "    recording.add_images(generated=image, reference=garment)"
            ),
        ),
    )
)
register(
    Profile(
        "hidream-e1",
        ("HiDreamImageEditingPipeline",),
        partial(canvas, target=LEFT, reference=RIGHT),
        guidance=(UNCONDITIONAL, IMAGE, CONDITIONAL),
        prepares=_refuse_refining,
        paints=partial(canvas_part, target=LEFT),
        notes=ModelNotes(
            serves="HiDream-E1's `HiDreamImageEditingPipeline`",
            tokens=_HALF,
            grid="the right half's",
            shares=f"{_SHARES}, padding, text",
            prepared="resized by you to the size of the generated image",
            unseen="its last steps if they refine: the model does not read the reference in them",
            example=(
                'with capture(pipe, "run.zarr", sample="cat", steps=slice(0, 19)) as recording:\n'
                "    image = pipe(prompt, image=picture, num_inference_steps=28,\n"
                "                 refine_strength=0.3, reload_keys=keys).images[0]\n"
                "    recording.add_images(generated=image, reference=picture)"
            ),
            has_text=True,
        ),
    )
)
for _name, _serves, _unseen in (
    (
        "icedit",
        "if you name the profile: ICEdit on `FluxFillPipeline`, reference left, target right",
        "–",
    ),
    (
        "in-context-lora",
        "if you name the profile: FLUX with an in-context LoRA and two panels, reference left, target right",
        "that the left panel may be generated, too",
    ),
):
    register(
        Profile(
            _name,
            (),
            partial(canvas, target=RIGHT, reference=LEFT),
            is_batched=False,
            paints=partial(canvas_part, target=RIGHT),
            notes=ModelNotes(
                serves=_serves,
                tokens=_HALF,
                grid="the left half's",
                shares=f"{_SHARES}, text",
                prepared=_BY_YOU,
                unseen=_unseen,
                example=(
                    f'with capture(pipe, "run.zarr", sample="cat", profile="{_name}") as recording:\n'
                    "    diptych = pipe(prompt, image=canvas, mask_image=right_half,\n"
                    "                   height=512, width=1024).images[0]\n"
                    "    recording.add_images(generated=diptych, reference=picture)"
                ),
                has_text=True,
            ),
        )
    )
