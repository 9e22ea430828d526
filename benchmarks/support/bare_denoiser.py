"""A denoiser that does next to nothing but what capture reads: queries and keys of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from i2am.capture import Profile, ReferenceLayout, capture, cross_attention

__all__ = ["BareDenoiser"]

_WIDTH = 8  # of what is projected: little work
_PICTURE = np.zeros((64, 64, 3), np.uint8)


class _Projections(nn.Module):
    """The projections of one cross-attention layer, without the attention."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k = (nn.Linear(_WIDTH, heads * channels) for _ in range(2))

    def forward(self, picture: torch.Tensor, reference: torch.Tensor) -> None:
        self.to_q(picture.flatten(2).mT)
        self.to_k(reference)


class BareDenoiser(nn.Module):
    """Layers of projections.

    Parameters
    ----------
    layers, heads, channels : int
    grid, reference_grid : (int, int)
        Of the patches and of the reference's tokens.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        channels: int,
        grid: tuple[int, int],
        reference_grid: tuple[int, int],
    ) -> None:
        super().__init__()
        self._reference_grid = reference_grid
        self.blocks = nn.ModuleDict(
            {f"{number}-cross": _Projections(heads, channels) for number in range(layers)}
        )
        generator = torch.Generator().manual_seed(0)
        self._picture = torch.randn(1, _WIDTH, *grid, generator=generator)
        self._tokens = torch.randn(1, math.prod(reference_grid), _WIDTH, generator=generator)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, reference: torch.Tensor) -> None:
        """Project; nothing is denoised."""
        del timesteps  # Capture reads it.
        for projections in self.blocks.values():
            projections(x, reference)

    @torch.no_grad()
    def generate(self, steps: int) -> None:
        """Call the denoiser at so many timesteps, of a picture that changes."""
        for timestep in range(steps, 0, -1):
            self(self._picture * timestep, torch.tensor([timestep]), self._tokens)

    def capture(self, run: Path, steps: int) -> None:
        """Do the same inside `capture`."""
        profile = Profile("bare", ("BareDenoiser",), self._find_taps)
        with capture(self, run, sample="a", profile=profile, durable=False) as recording:
            self.generate(steps)
            recording.add_images(generated=_PICTURE, reference=_PICTURE)

    def _find_taps(self, denoiser: nn.Module) -> Iterator[Any]:
        return cross_attention(
            denoiser,
            suffix="-cross",
            layout=lambda _tokens, _grid: ReferenceLayout(0, self._reference_grid),
        )
