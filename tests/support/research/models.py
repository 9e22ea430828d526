"""What a research model is to a test: how it runs, and what each of its layers must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from i2am.schemas.dims import CONDITIONAL, UNCONDITIONAL

__all__ = [
    "Layer",
    "Reference",
    "Research",
    "doubled",
    "halves",
    "move_latents",
    "noise",
    "tokens_of",
    "whiten",
]


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
    text : sequence of int
        The text, among keys and queries alike.
    """

    generated: Sequence[int]
    grid: tuple[int, int]
    references: tuple[Reference, ...]
    kernel: int = 0
    kernels: int = 1
    text: Sequence[int] = ()


def move_latents(target: Any, place: tuple[int, int]) -> None:
    """Change the latents of the reference at a place (y, x)."""
    target.garment = target.garment.clone()
    target.garment[..., place[0], place[1]] += 8


def whiten(picture: Image.Image, place: tuple[int, int], side: int) -> Image.Image:
    """Return a picture whose cell (y, x) of so many pixels a side is white."""
    values = np.array(picture)
    values[place[0] * side : (place[0] + 1) * side, place[1] * side : (place[1] + 1) * side] = 255
    return Image.fromarray(values)


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
    cells : (height, width)
        Of the reference, in which `move` counts.
    move : callable (target, (y, x))
        Changes what the (first) reference has at a place; None where it is generated, too.
    weights : tuple of float
        Of each step, where a layer's weight changes.
    given : sequence of Image
        The references' pictures, where the call has them; else pictures of their shape are made up.
    boxes : dict of str to list of float
        Of the stored images that the model did not see whole.
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
    cells: tuple[int, int] = (8, 12)
    move: Callable[[Any, tuple[int, int]], None] | None = move_latents
    weights: tuple[float, ...] = ()
    given: Sequence[Image.Image] = ()
    boxes: dict[str, list[float]] = field(default_factory=dict)

    def pictures(self) -> dict[str, Any]:
        """Return pictures of the shapes that the grids have."""
        own = np.arange(3 * np.prod(self.picture)).reshape(*self.picture, 3).astype(np.uint8)
        size = self.picture_of_reference or self.picture
        reference = np.arange(3 * np.prod(size)).reshape(*size, 3).astype(np.uint8)
        count = max(len(layer.references) for layer in self.layers.values())
        names = ["reference", *(f"reference_{index}" for index in range(1, count))]
        found: Sequence[Any] = self.given or [reference] * count
        return {"generated": own, **dict(zip(names, found, strict=True))}


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
