"""Reading diffusers' attention modules: projections, heads, scale, grid of patches, block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from i2am.capture.hooks.projection_tap import Projection
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "block_of",
    "grid_source",
    "heads_of",
    "key_projection",
    "patch_grid",
    "query_projection",
    "scale_of",
    "split_heads",
]


def query_projection(attention: Any) -> Projection:
    """Return where a layer's queries come from: the norm after the projection, if there is one."""
    norm = getattr(attention, "norm_q", None)
    return Projection(attention.to_q if norm is None else norm)


def key_projection(attention: Any) -> Projection:
    """Return where a layer's keys come from; fused projections hold the values, too."""
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
        "Its profile names the wrong module for the grid."
    )
    raise CaptureError(msg)


def block_of(name: str) -> str:
    """Return the part of the denoiser that a layer belongs to: "down", "mid", "up" or another."""
    place = name.split(".", maxsplit=1)[0]
    known = {
        "down_blocks": "down",
        "mid_block": "mid",
        "up_blocks": "up",
        "input_blocks": "down",
        "middle_block": "mid",
        "output_blocks": "up",
    }
    return known.get(place, place)


def heads_of(attention: Any, projected: torch.Tensor) -> torch.Tensor:
    """Return a projection's output as (row, head, token, channel).

    A norm that follows the projection sees the heads apart already.
    """
    return projected if projected.ndim == 4 else split_heads(projected, attention.heads)


def grid_source(denoiser: nn.Module, name: str) -> nn.Module:
    """Return the enclosing transformer, which is given pictures: (row, channel, y, x)."""
    for blocks in (".transformer_blocks.", ".temporal_transformer_blocks."):
        if blocks in name:
            return denoiser.get_submodule(name.split(blocks)[0])
    return denoiser.get_submodule(name)


def split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(row, token, head · channel) -> (row, head, token, channel), without a copy."""
    rows, tokens, width = projected.shape
    return projected.view(rows, tokens, heads, width // heads).transpose(1, 2)
