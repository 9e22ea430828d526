"""The reference encoder of the shipped model: an image becomes one special token and a grid."""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

__all__ = ["ReferenceEncoder"]


class ReferenceEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Encode a reference image as one special token and a row-major grid of tokens.

    Parameters
    ----------
    channels : int
        Width of a token.
    grid : int
        Rows and columns of the token grid; the image has four times as many pixels a side.
    layers, heads : int
        Depth and heads of the transformer over the tokens.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, channels: int = 128, grid: int = 16, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 48, 3, 2, 1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Conv2d(48, 96, 3, 2, 1),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 3, 1, 1),
        )
        tokens = grid * grid + 1
        self.special = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.position = nn.Parameter(_sine_positions(grid, channels))
        self.unconditional = nn.Parameter(torch.randn(1, tokens, channels) * 0.02)
        block = nn.TransformerEncoderLayer(
            channels, heads, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return tokens (batch, 1 + grid², channels) of an image (batch, 3, y, x) in [-1, 1]."""
        patches = self.stem(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.special.expand(len(patches), -1, -1), patches], dim=1)
        encoded: torch.Tensor = self.norm(self.transformer(tokens + self.position))
        return encoded


def _sine_positions(grid: int, channels: int) -> torch.Tensor:
    """Return (1, 1 + grid², channels): zero for the special token, then sines of y and of x.

    Smooth initial positions let neighbouring tokens share what is learned.
    """
    frequencies = math.pi / grid * 2 ** torch.linspace(-1, math.log2(grid), channels // 4)
    angles = torch.arange(grid)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, channels / 2)
    rows, columns = waves[:, None].expand(-1, grid, -1), waves[None].expand(grid, -1, -1)
    positions = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, channels), positions])[None]
