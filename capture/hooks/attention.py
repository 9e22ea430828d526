"""The inputs of one attention call: queries, keys, mask, and which keys are the reference's.

A family's profile says which queries are the generated patches and which keys belong to which
reference image. The other keys of the same softmax (text, the generated image itself) count in its
normaliser alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch

from i2am.schemas import LayerAttributes
from i2am.schemas.choices import Representation

__all__ = [
    "AttentionInputs",
    "Layout",
    "ReferenceKeys",
    "ReferenceLayout",
    "TextTokens",
    "Tokens",
    "layer_attributes",
    "query_grid_layout",
    "square_layout",
]

# A contiguous run of tokens, or the indices of scattered ones.
Tokens = slice | torch.Tensor


@dataclass(frozen=True)
class ReferenceLayout:
    """How reference tokens are laid out: leading special tokens, then a row-major grid.

    Parameters
    ----------
    special_tokens : int
        How many tokens stand before the grid (a class token, say).
    grid : (height, width) or None
        In tokens; None for tokens that are no places of the image.

    Examples
    --------
    CLIP ViT-L/14 at 224 px has a class token, then 16 × 16 patches:

    >>> ReferenceLayout(special_tokens=1, grid=(16, 16))
    ReferenceLayout(special_tokens=1, grid=(16, 16))
    """

    special_tokens: int
    grid: tuple[int, int] | None


# (number of reference tokens, (height, width) of the queries) -> how the tokens lie
Layout = Callable[[int, tuple[int, int]], ReferenceLayout]


@cache
def square_layout(tokens: int, _query_grid: tuple[int, int] | None = None) -> ReferenceLayout:
    """Return the layout of a vision transformer's tokens: a square, with or without a class token.

    Other numbers of tokens have no grid. A square number of tokens does not prove that
    they fill a square: if the profile does not say how the picture is prepared, the picture must be
    a square, too, or it is refused.

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


def query_grid_layout(_tokens: int, query_grid: tuple[int, int]) -> ReferenceLayout:
    """Return the layout of tokens that lie as the layer's own queries do.

    They lie so if a second network beside the denoiser computes the reference's features at each
    of its levels. A layer with another number of tokens is refused.

    Examples
    --------
    >>> query_grid_layout(144, (9, 16))
    ReferenceLayout(special_tokens=0, grid=(9, 16))
    """
    return ReferenceLayout(0, query_grid)


@dataclass(frozen=True)
class ReferenceKeys:
    """The keys of one reference image.

    Parameters
    ----------
    tokens : slice, or Tensor (token,) of int
        Their indices among the keys of the softmax.
    layout : ReferenceLayout
        How they lie on the image.
    index : int
        Number of the reference image, from 0, in the order in which the model takes them.
    weight : float
        Factor by which the layer multiplies their contribution (an IP-Adapter's scale).
    region : Tensor, dims (batch or 1, generated), float32, 0..1, on the host, optional
        Factor by which it multiplies what they contribute to each patch (an IP-Adapter's mask).

    Examples
    --------
    The image tokens behind 77 tokens of text:

    >>> ReferenceKeys(slice(77, 77 + 256), ReferenceLayout(0, (16, 16))).index
    0
    """

    tokens: Tokens
    layout: ReferenceLayout
    index: int = 0
    weight: float = 1.0
    region: torch.Tensor | None = None

    def select_batch_index(self, batch_index: int) -> ReferenceKeys:
        """Return the keys with the region of one batch index, whose dimension stays, with length 1."""
        if self.region is None or len(self.region) == 1:
            return self
        return replace(self, region=self.region[batch_index : batch_index + 1])


@dataclass(frozen=True)
class TextTokens:
    """The text that shares a softmax with the reference, which reaches patches through it, too.

    Parameters
    ----------
    tokens : slice, or Tensor (token,) of int
        Its indices among the keys of the softmax.
    query : Tensor, dims (batch, head, text, channel), optional
        Queries of the same tokens, which attend over the same keys. None where the text reads
        nothing in this call.
    mask : Tensor, optional
        Of these queries; broadcasts to (batch, head, text, key).
    query_tokens : slice, or Tensor (token,) of int, optional
        Their indices among the queries of the call.

    Examples
    --------
    >>> import torch
    >>> text = TextTokens(slice(0, 3), torch.zeros(2, 4, 3, 8))
    >>> text.select_batch_index(1).query.shape
    torch.Size([1, 4, 3, 8])
    """

    tokens: Tokens
    query: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    query_tokens: Tokens | None = None

    def select_batch_index(self, batch_index: int) -> TextTokens:
        """Return the text of one batch index; the batch dimension stays, with length 1."""
        one = slice(batch_index, batch_index + 1)
        query = None if self.query is None else self.query[one]
        return replace(self, query=query, mask=_of_batch_index(self.mask, one))

    def select_heads(self, heads: list[int]) -> TextTokens:
        """Return the text of some heads."""
        query = None if self.query is None else self.query[:, heads]
        return replace(self, query=query, mask=_of_heads(self.mask, heads))


@dataclass(frozen=True)
class AttentionInputs:
    """The inputs of one softmax, on the model's device and in its dtype.

    Parameters
    ----------
    query : Tensor, dims (batch, head, generated, channel), any float dtype
        Of the generated patches alone, row-major over `grid`.
    key : Tensor, dims (batch, head, token, channel), as `query`
        All keys of the softmax.
    scale : float
        Factor of Q·K before the softmax.
    grid : (height, width)
        In patches.
    references : tuple of ReferenceKeys
        Which keys belong to which reference image.
    mask : Tensor, optional
        As attention takes it: bool (true takes part) or a float that is added to the logits;
        broadcasts to (batch, head, generated, token).
    frames : int
        Number of a video's frames, which are stacked along the grid's height.
    text : TextTokens, optional
        Which of the keys are text; None where that is not known, or there is none.
    query_tokens : slice, or Tensor (patch,) of int, optional
        The generated patches' indices among the queries of the call; None where there are no others.
    folded : {"frame", "position"}, optional
        Of which the layer folds each into the batch of its attention, where it does.

    Examples
    --------
    Two images with 4 heads, 6 patches and 5 keys, four of which are the reference's:

    >>> import torch
    >>> reference = ReferenceKeys(slice(1, 5), ReferenceLayout(0, (2, 2)))
    >>> query, key = torch.zeros(2, 4, 6, 8), torch.zeros(2, 4, 5, 8)
    >>> inputs = AttentionInputs(query, key, 8**-0.5, (2, 3), (reference,))
    >>> inputs.token_count(reference), inputs.is_shared(reference)
    (4, True)
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    grid: tuple[int, int]
    references: tuple[ReferenceKeys, ...]
    mask: torch.Tensor | None = None
    frames: int = 1
    text: TextTokens | None = None
    query_tokens: Tokens | None = None
    folded: Literal["frame", "position"] | None = None

    def select_batch_index(self, batch_index: int) -> AttentionInputs:
        """Return the inputs of one batch index; the batch dimension stays, with length 1."""
        if len(self.query) == 1:
            return self
        one = slice(batch_index, batch_index + 1)
        mask = _of_batch_index(self.mask, one)
        references = tuple(own.select_batch_index(batch_index) for own in self.references)
        text = self.text and self.text.select_batch_index(batch_index)
        own = self.query[one], self.key[one]  # Not replace(): it takes as long as both.
        where = self.query_tokens, self.folded
        return AttentionInputs(
            *own, self.scale, self.grid, references, mask, self.frames, text, *where
        )

    def select_heads(self, heads: list[int]) -> AttentionInputs:
        """Return the inputs of some heads."""
        return replace(
            self,
            query=self.query[:, heads],
            key=self.key[:, heads],
            mask=_of_heads(self.mask, heads),
            text=self.text and self.text.select_heads(heads),
        )

    def is_shared(self, reference: ReferenceKeys) -> bool:
        """Return whether the softmax also covers keys that are not this reference's."""
        return self.token_count(reference) < self.key.shape[2]

    def token_count(self, reference: ReferenceKeys) -> int:
        """Return the number of a reference's keys."""
        tokens = reference.tokens
        if isinstance(tokens, slice):
            return len(range(*tokens.indices(self.key.shape[2])))
        return len(tokens)


def layer_attributes(
    inputs: AttentionInputs,
    reference: ReferenceKeys,
    block: str,
    *,
    order: int = 0,
    representation: Representation = "factors",
    **others: Any,
) -> LayerAttributes:
    """Return what a store says of a layer and one of its references.

    Parameters
    ----------
    inputs : AttentionInputs
    reference : ReferenceKeys
    block : str
        That the layer is in.
    order : int
        Of the layer, in execution.
    representation : {"logits", "factors", "maps"}
    **others
        Further fields.
    """
    return LayerAttributes(
        scale=inputs.scale,
        generated_grid=inputs.grid,
        reference_grid=reference.layout.grid,
        special_tokens=reference.layout.special_tokens,
        order=order,
        block=block,
        representation=representation,
        reference_index=reference.index,
        frames=inputs.frames,
        **others,
    )


def _of_batch_index(mask: torch.Tensor | None, one: slice) -> torch.Tensor | None:
    return mask[one] if mask is not None and mask.ndim == 4 and len(mask) > 1 else mask


def _of_heads(mask: torch.Tensor | None, heads: list[int]) -> torch.Tensor | None:
    return mask[:, heads] if mask is not None and mask.ndim == 4 and mask.shape[1] > 1 else mask
