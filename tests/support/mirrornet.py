"""A made-up try-on model: its mixers read the garment's tokens before their own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    """Self-attention over [garment, own] tokens."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, own: torch.Tensor, garment: torch.Tensor) -> torch.Tensor:
        both = torch.cat([garment, own], dim=1)
        projected = self.to_q(own), self.to_k(both), self.to_v(both)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in projected)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(1, 2).flatten(2)


class Stage(nn.Module):
    """One level of the denoiser; its input is (batch, channel, y, x)."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = Mixer()

    def forward(self, picture: torch.Tensor, garment: torch.Tensor) -> torch.Tensor:
        tokens, worn = (part.flatten(2).mT for part in (picture, garment))
        mixed: torch.Tensor = self.mixer(tokens, worn)
        return picture + mixed.mT.reshape(picture.shape)


class MirrorNet(nn.Module):
    """The denoiser. Guided batches have the conditional images first."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage() for _ in range(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor, garment: torch.Tensor) -> torch.Tensor:
        for stage in self.stages:
            x = stage(x, garment)
        return x
