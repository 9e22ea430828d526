"""Narrow UNets of diffusers' layers, under the class names and modules of research code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import nn

from tests.support.tiny_pipelines import parts

__all__ = ["GRIDS", "LATENTS", "blocks", "named_as", "narrow_unet", "run_blocks", "self_attentions"]

LATENTS = (8, 12)
# The transformers of a narrow UNet, in the order in which they run, and the grid of each.
GRIDS = {
    "down_blocks.0.attentions.0": (8, 12),
    "down_blocks.1.attentions.0": (4, 6),
    "mid_block.attentions.0": (4, 6),
    "up_blocks.0.attentions.0": (4, 6),
    "up_blocks.0.attentions.1": (4, 6),
    "up_blocks.1.attentions.0": (8, 12),
    "up_blocks.1.attentions.1": (8, 12),
}
Block = Callable[..., torch.Tensor]


def narrow_unet(**options: Any) -> Any:
    settings = {
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "attention_head_dim": (2, 4),
    }
    return parts.unet(**(settings | options)).requires_grad_(False).eval()


def self_attentions() -> dict[str, tuple[int, int]]:
    """Return the paths of a narrow UNet's self-attentions, in execution order, and their grids."""
    return {f"{path}.transformer_blocks.0.attn1": grid for path, grid in GRIDS.items()}


def named_as(unet: Any, name: str, module: str, forward: Callable[..., Any]) -> Any:
    """Give a UNet a class of its own, which copies diffusers' and does not derive from it."""
    kind = diffusers.UNet2DConditionModel
    members = dict(vars(kind)) | {"__module__": module, "forward": forward}
    unet.__class__ = type(name, kind.__bases__, members)
    return unet


def blocks(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield path and block of each transformer, in execution order."""
    for path in GRIDS:
        name = f"{path}.transformer_blocks.0"
        yield name, unet.get_submodule(name)


def run_blocks(unet: nn.Module, of: Callable[[int, Any], Block]) -> None:
    """Run each transformer block in another way: of (its number in execution order, the block)."""
    for index, (_, block) in enumerate(blocks(unet)):
        block.forward = of(index, block)


def run(unet: Any, *arguments: Any, **options: Any) -> torch.Tensor:
    """Run diffusers' own forward of a UNet that has another class."""
    found: torch.Tensor = diffusers.UNet2DConditionModel.forward(
        unet, *arguments, return_dict=False, **options
    )[0]
    return found
