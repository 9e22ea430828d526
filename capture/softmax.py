"""One softmax of one layer in one call of the denoiser, and what is kept of it.

A family's profile says which queries are the generated patches and which keys belong to which
reference image. What else shares the softmax (text, the generated image itself) takes part in the
normaliser alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch

__all__ = [
    "ReferenceKeys",
    "ReferenceLayout",
    "Softmax",
    "Tokens",
    "directional_maps",
    "exact_products",
    "log_normaliser",
    "reference_logits",
    "split_heads",
    "square_layout",
]

# A contiguous run of tokens, or the indices of scattered ones.
Tokens = slice | torch.Tensor

_TILE_BYTES = 64 * 2**20
_own = threading.local()
# What float32 loses below its smallest number is then less than its rounding.
_LEAST_EXACT_SUM = 1e-30


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


def split_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(row, token, head · channel) -> (row, head, token, channel), without a copy."""
    rows, tokens, width = projected.shape
    return projected.view(rows, tokens, heads, width // heads).transpose(1, 2)


def exact_products(device: str) -> AbstractContextManager[None]:
    """Keep autocast's half precision from making of logits what attention never saw."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def reference_logits(softmax: Softmax, reference: ReferenceKeys) -> torch.Tensor:
    """Return scaled Q·K, dims (row, head, generated, reference), float32, before any softmax."""
    key = softmax.key[:, :, reference.tokens].float()
    # Scaled after the product, as attention itself does: other orders round otherwise.
    logits = (softmax.query.float() @ key.transpose(-1, -2)).mul_(softmax.scale)
    return _masked(logits, softmax.mask, slice(None), reference.tokens)


def log_normaliser(softmax: Softmax) -> torch.Tensor:
    """Return log of the sum of exp over all keys, dims (row, head, generated), float32."""
    tiles = [logits.logsumexp(-1) for _, logits in _tiles(softmax)]
    return torch.cat(tiles, dim=2)


def directional_maps(softmax: Softmax, reference: ReferenceKeys) -> dict[str, torch.Tensor]:
    """Reduce a softmax to its two directional maps, on the device, tile by tile.

    Returns
    -------
    dict of Tensor, float32
        r2g (row, head, generated): mean over the reference tokens of the softmax over patches.
        g2r (row, head, reference), with more than one token: mean over the patches of the
        attention to each token, which is normalised over all keys. mass (row, head, generated),
        where other keys share the softmax: the attention that goes to the reference.
    """
    # Asking whether the quick way is exact would make a GPU wait, whose exponentials cost little.
    if softmax.key.device.type == "cpu" and not softmax.is_shared(reference):
        tiles = _tiles(softmax)
        some, logits = next(tiles)
        if some.stop >= softmax.query.shape[2]:
            maps = _by_one_exponential(logits)
            if maps is not None:
                return maps
    peaks, sums = _over_patches(softmax, reference)
    r2g, g2r, mass = [], [], []
    for _, logits in _tiles(softmax):
        own = logits[..., reference.tokens]
        r2g.append(((own - peaks).exp() / sums).mean(-1))
        attention = (own - logits.logsumexp(-1, keepdim=True)).exp()
        g2r.append(attention.sum(2))
        mass.append(attention.sum(-1))
    maps = {"r2g": torch.cat(r2g, dim=2)}
    if peaks.shape[-1] > 1:
        maps["g2r"] = torch.stack(g2r).sum(0) / softmax.query.shape[2]
    if softmax.is_shared(reference):
        maps["mass"] = torch.cat(mass, dim=2)
    return maps


def _by_one_exponential(logits: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Return both maps of logits over all keys, which are lost; None where that were inexact.

    With e = exp(S - row maximum) and w = exp(row maximum - maximum), w·e is the exponential that
    the softmax over patches needs; it vanishes for a token that all patches ignore.
    """
    peaks = logits.amax(-1, keepdim=True)
    weights = (peaks - peaks.amax(2, keepdim=True)).exp()
    exponentials = logits.sub_(peaks).exp_()
    over_patches = weights.mT @ exponentials
    if float(over_patches.min()) < _LEAST_EXACT_SUM:
        return None
    patches, tokens = logits.shape[2:]
    maps = {"r2g": (weights * (exponentials @ over_patches.reciprocal().mT)).squeeze(-1) / tokens}
    if tokens > 1:
        over_tokens = exponentials.sum(-1, keepdim=True)
        maps["g2r"] = (over_tokens.reciprocal().mT @ exponentials).squeeze(2) / patches
    return maps


def _over_patches(softmax: Softmax, reference: ReferenceKeys) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's largest logit and the sum of exp below it, (row, head, 1, reference)."""
    peaks: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    for _, logits in _tiles(softmax):
        own = logits[..., reference.tokens]
        peak = own.amax(2, keepdim=True)
        if peaks is None or sums is None:
            peaks, sums = peak, (own - peak).exp().sum(2, keepdim=True)
            continue
        higher = torch.maximum(peaks, peak)
        sums = sums * (peaks - higher).exp() + (own - higher).exp().sum(2, keepdim=True)
        peaks = higher
    if peaks is None or sums is None:
        msg = "a softmax without patches"
        raise ValueError(msg)
    return peaks, sums


def _tiles(softmax: Softmax) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logits over all keys, some patches at a time: never all of them at once.

    Each tile is lost when the next one is asked for, by this thread.
    """
    rows, heads, patches, _ = softmax.query.shape
    tokens = softmax.key.shape[2]
    tile = max(1, _TILE_BYTES // (4 * rows * heads * tokens))
    key = softmax.key.float().transpose(-1, -2)
    for start in range(0, patches, tile):
        some = slice(start, start + tile)
        query = softmax.query[:, :, some].float()
        logits = torch.matmul(query, key, out=_scratch(query, tokens)).mul_(softmax.scale)
        yield some, _masked(logits, softmax.mask, some, slice(None))


def _scratch(query: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return memory for a tile, on a CPU always the same: new pages cost more than the product."""
    shape = (*query.shape[:-1], tokens)
    if query.device.type != "cpu":
        return query.new_empty(shape)
    size = math.prod(shape)
    memory: torch.Tensor | None = getattr(_own, "memory", None)
    if memory is None or len(memory) < size:
        with torch.inference_mode(False):
            memory = _own.memory = torch.empty(size)
    return memory[:size].view(shape)


def _masked(
    logits: torch.Tensor, mask: torch.Tensor | None, patches: slice, tokens: Tokens
) -> torch.Tensor:
    if mask is None:
        return logits
    mask = mask[..., patches, :] if mask.shape[-2] > 1 else mask
    mask = mask[..., tokens]
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, -torch.inf)
    return logits + mask.float()
