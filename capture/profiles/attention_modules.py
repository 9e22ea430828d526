"""Reading diffusers' attention modules: projections, heads, scale, grid of patches, block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.projection_tap import Projection
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "block_of",
    "check_no_mask",
    "grid_source",
    "heads_of",
    "key_projection",
    "latent_grid",
    "lies_within",
    "patch_grid",
    "query_lora",
    "query_projection",
    "scale_of",
    "split_heads",
    "transformer_of",
]


def query_projection(attention: Any) -> Projection:
    """Return the projection of a layer's queries, or the norm after it, if there is one.

    Raises
    ------
    CaptureError
        If the layer's processor adds something of its own to them.
    """
    if (lora := query_lora(attention)) is not None:
        msg = (
            "Expected an attention processor that takes the layer's queries as they are, got "
            f"{type(attention.processor).__name__}, which adds a {type(lora).__name__} to them. Load the "
            "LoRA into the layers, as diffusers does."
        )
        raise CaptureError(msg)
    norm = getattr(attention, "norm_q", None)
    return Projection(attention.to_q if norm is None else norm)


def query_lora(attention: Any) -> nn.Module | None:
    """Return the LoRA that a layer's processor adds to its queries; None where it does not."""
    found: nn.Module | None = getattr(getattr(attention, "processor", None), "to_q_lora", None)
    return found


def key_projection(attention: Any) -> Projection:
    """Return the projection of a layer's keys, or the norm after it; fused ones hold values, too."""
    if getattr(attention, "norm_k", None) is not None:
        return Projection(attention.norm_k)
    if getattr(attention, "fused_projections", False):
        return Projection(attention.to_kv, 0, 2)
    return Projection(attention.to_k)


def scale_of(attention: Any, channels: int) -> float:
    """Return the factor of Q·K before the softmax."""
    return float(getattr(attention, "scale", None) or channels**-0.5)


def patch_grid(name: str, states: tuple[int, ...], patches: int) -> tuple[int, int]:
    """Return (height, width) of a layer's patches.

    Raises
    ------
    CaptureError
        If the patches do not fill the grid.
    """
    height, width = states[-2:]
    if height * width == patches:
        return height, width
    msg = (
        f"Expected {height}×{width} queries, got {patches}, at layer {name!r}. "
        "Its profile names the wrong module for the grid: give grid_from=."
    )
    raise CaptureError(msg)


def latent_grid(denoiser: Any, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Return (height, width) of a transformer's own tokens: of its latents, over its patch size.

    Parameters
    ----------
    denoiser : Module
    arguments : mapping of str to object
        Of its call, by name; the latents are (batch, channel, y, x).
    """
    height, width = arguments["hidden_states"].shape[-2:]
    patch = denoiser.config.patch_size
    return height // patch, width // patch


def check_no_mask(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an attention mask: the projections' outputs do not have it in them.

    Parameters
    ----------
    name : str
        Of the layer.
    options : mapping of str to object
        Keyword arguments of its call.

    Raises
    ------
    CaptureError
    """
    if options.get("attention_mask") is None and options.get("mask") is None:
        return
    msg = (
        f"Expected attention without a mask, got one, at layer {name!r}. Call the model without a mask, "
        "or leave the layer out with layers=."
    )
    raise CaptureError(msg)


def block_of(name: str) -> str:
    """Return the part of the denoiser that a layer belongs to: "down", "mid", "up" or another."""
    part = name.split(".", maxsplit=1)[0]
    known = {
        "down_blocks": "down",
        "mid_block": "mid",
        "up_blocks": "up",
        "input_blocks": "down",
        "middle_block": "mid",
        "output_blocks": "up",
    }
    return known.get(part, part)


def heads_of(attention: Any, projected: torch.Tensor) -> torch.Tensor:
    """Return a projection's output as (batch, head, token, channel).

    The output of a norm that follows the projection is split into heads already.
    """
    return projected if projected.ndim == 4 else split_heads(projected, attention.heads)


def grid_source(denoiser: nn.Module, name: str) -> nn.Module:
    """Return the enclosing transformer, whose input is (batch, channel, y, x)."""
    return denoiser.get_submodule(transformer_of(name))


def lies_within(name: str, within: str | tuple[str, ...]) -> bool:
    """Return whether a module of one of these names lies on a layer's path; of none, any path is right.

    Examples
    --------
    >>> lies_within("up_blocks.0.attn1", ("mid_block", "up_blocks")), lies_within("up.attn1", "")
    (True, True)
    """
    names = {within} if isinstance(within, str) else set(within)
    return names == {""} or not names.isdisjoint(name.split("."))


def transformer_of(name: str) -> str:
    """Return the path of the transformer that a layer lies in; of none, its own.

    Examples
    --------
    >>> transformer_of("up_blocks.0.pixel_attentions.1.transformer_blocks.0.attn2")
    'up_blocks.0.pixel_attentions.1'
    """
    for blocks in (".transformer_blocks.", ".temporal_transformer_blocks."):
        name = name.partition(blocks)[0]
    return name


def split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, token, head · channel) -> (batch, head, token, channel), without a copy."""
    batch, tokens, width = projected.shape
    return projected.view(batch, tokens, heads, width // heads).transpose(1, 2)
