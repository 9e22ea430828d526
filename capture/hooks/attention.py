"""What one attention call sees: queries, keys, mask, and where the reference's tokens lie in it.

A family's profile says which queries are the generated patches and which keys belong to which
reference image. What else shares the softmax (text, the generated image itself) takes part in the
normaliser alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch

__all__ = ["ReferenceKeys", "ReferenceLayout", "Softmax", "Tokens", "square_layout"]

# A contiguous run of tokens, or the indices of scattered ones.
Tokens = slice | torch.Tensor


@dataclass(frozen=True)
class ReferenceLayout:
    """How reference tokens are laid out: leading special tokens, then a row-major grid."""

    special_tokens: int
    grid: tuple[int, int] | None


@cache
def square_layout(tokens: int) -> ReferenceLayout:
    """Return the layout of a vision transformer's tokens: a square, maybe after one class token.

    Examples
    --------
    >>> square_layout(257)
    ReferenceLayout(special_tokens=1, grid=(16, 16))
    >>> square_layout(1)
    ReferenceLayout(special_tokens=0, grid=None)
    """
    for special in (1, 0):
        side = math.isqrt(max(0, tokens - special))
        if side > 1 and side * side == tokens - special:
            return ReferenceLayout(special, (side, side))
    return ReferenceLayout(0, None)


@dataclass(frozen=True)
class ReferenceKeys:
    """The keys of one reference image.

    Parameters
    ----------
    tokens : slice or Tensor of int
        Their places among the softmax's keys.
    layout : ReferenceLayout
    index : int
        Which of the reference images they come from, in the order in which the model takes them.
    weight : float
        Factor of their share in the layer's output (an IP-Adapter's scale).
    """

    tokens: Tokens
    layout: ReferenceLayout
    index: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class Softmax:
    """What one softmax sees, on the model's device and in its dtype.

    Parameters
    ----------
    query : Tensor, dims (row, head, generated, channel)
        The generated patches' queries alone, row-major over `grid`.
    key : Tensor, dims (row, head, token, channel)
        All keys of the softmax.
    scale : float
        Factor of Q·K before the softmax.
    grid : (height, width)
    references : tuple of ReferenceKeys
    mask : Tensor, optional
        As attention takes it: bool (true takes part) or added to the logits; broadcasts to
        (row, head, generated, token).
    frames : int
        Of a video, stacked along the grid's height.
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    grid: tuple[int, int]
    references: tuple[ReferenceKeys, ...]
    mask: torch.Tensor | None = None
    frames: int = 1

    def row(self, index: int) -> Softmax:
        """Return the softmax of one row of the batch, without the row dimension's other values."""
        if len(self.query) == 1:
            return self
        rows = slice(index, index + 1)
        mask = self.mask
        if mask is not None and mask.ndim == 4 and len(mask) > 1:
            mask = mask[rows]
        own = self.query[rows], self.key[rows]  # Not replace(): it takes as long as both.
        return Softmax(*own, self.scale, self.grid, self.references, mask, self.frames)

    def heads(self, indices: list[int]) -> Softmax:
        """Return the softmax of some heads."""
        mask = self.mask
        if mask is not None and mask.ndim == 4 and mask.shape[1] > 1:
            mask = mask[:, indices]
        return replace(self, query=self.query[:, indices], key=self.key[:, indices], mask=mask)

    def is_shared(self, reference: ReferenceKeys) -> bool:
        """Return whether keys other than this reference's share its softmax."""
        return self.token_count(reference) < self.key.shape[2]

    def token_count(self, reference: ReferenceKeys) -> int:
        """Return how many keys are a reference's."""
        tokens = reference.tokens
        if isinstance(tokens, slice):
            return len(range(*tokens.indices(self.key.shape[2])))
        return len(tokens)
