"""What a research model is to a test: how it runs, and what each of its layers must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

__all__ = ["Layer", "Reference", "Research", "halves", "noise", "tokens_of"]


@dataclass(frozen=True)
class Reference:
    """One reference in one layer.

    Parameters
    ----------
    tokens : sequence of int
        Its keys, among those of the kernel.
    grid : (height, width) or None
    special : int
    weight : float
    """

    tokens: Sequence[int]
    grid: tuple[int, int] | None
    special: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Layer:
    """What is known of one layer, by hand.

    Parameters
    ----------
    generated : sequence of int
        The generated patches, among the queries of the kernel.
    grid : (height, width)
        Of these.
    references : tuple of Reference
    kernel, kernels : int
        Which of the kernel's calls in a step reads the reference, of how many.
    """

    generated: Sequence[int]
    grid: tuple[int, int]
    references: tuple[Reference, ...]
    kernel: int = 0
    kernels: int = 1


@dataclass(frozen=True)
class Research:
    """A research model.

    Parameters
    ----------
    target : object
        What `capture` is given.
    denoiser : Module
    sample : callable (steps, guided) -> Tensor
        Runs it, always from the same noise, and returns the latents.
    profile : str
    layers : dict of str to Layer
        In execution order.
    guidance : tuple of str
        Of a guided batch, in its order; the conditional branch alone for a model without guidance.
    options : dict
        Of its capture.
    picture, picture_of_reference : (height, width)
        Shapes of the pictures that fit its grids; of the reference the same by default.
    latents : (height, width)
        Of the reference.
    """

    target: Any
    denoiser: nn.Module
    sample: Callable[..., torch.Tensor]
    profile: str
    layers: dict[str, Layer]
    guidance: tuple[str, ...] = (UNCONDITIONAL, CONDITIONAL)
    options: dict[str, Any] = field(default_factory=dict)
    picture: tuple[int, int] = (8, 12)
    picture_of_reference: tuple[int, int] | None = None
    latents: tuple[int, int] = (8, 12)

    def move(self, place: tuple[int, int]) -> None:
        """Change what the reference's latents have at a place (y, x)."""
        self.target.garment = self.target.garment.clone()
        self.target.garment[..., place[0], place[1]] += 8

    def pictures(self) -> dict[str, Any]:
        """Return pictures of the shapes that the grids have."""
        own = np.arange(3 * np.prod(self.picture)).reshape(*self.picture, 3).astype(np.uint8)
        size = self.picture_of_reference or self.picture
        reference = np.arange(3 * np.prod(size)).reshape(*size, 3).astype(np.uint8)
        count = max(len(layer.references) for layer in self.layers.values())
        names = ["reference", *(f"reference_{index}" for index in range(1, count))]
        return {"generated": own, **dict.fromkeys(names, reference)}


def tokens_of(
    grid: tuple[int, int], box: tuple[int, int, int, int] | None = None, start: int = 0
) -> list[int]:
    """Return the indices of a picture's tokens, or of a box (y0, x0, y1, x1) of it, row by row."""
    y0, x0, y1, x1 = box or (0, 0, *grid)
    return [start + y * grid[1] + x for y in range(y0, y1) for x in range(x0, x1)]


def halves(grid: tuple[int, int], weight: float = 1.0, **more: Any) -> Layer:
    """Return a layer whose keys are its own patches, then as many of the reference's."""
    patches = grid[0] * grid[1]
    reference = Reference(range(patches, 2 * patches), grid, weight=weight)
    return Layer(range(patches), grid, (reference,), **more)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def doubled(guided: bool, tensor: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
    """Return a batch of both branches, or of the conditional one."""
    if not guided:
        return tensor
    return torch.cat([tensor if first is None else first, tensor])


def flat(parts: Sequence[Sequence[Any]]) -> Iterator[Any]:
    return chain.from_iterable(parts)
