"""What is kept of a layer: logits, their factors or its maps; and the reduction on the device.

"auto" takes whichever of logits and factors needs fewer bytes, and still allows both softmax
directions. Probabilities are never kept: the normaliser of each row is lost in them, and with it
R2G. Maps are what remains of a layer that was reduced while it was captured, for runs that never
need SRAM.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, Tokens
from i2am.schemas import SchemaError, did_you_mean

__all__ = [
    "Representation",
    "RepresentationOption",
    "autocast_disabled",
    "check_representation",
    "choose",
    "directional_maps",
    "hides_any",
    "log_normaliser",
    "reduce_row",
    "reference_logits",
    "row_normaliser",
]

Representation = Literal["factors", "logits", "maps"]


RepresentationOption = Literal["auto", "factors", "logits", "maps"]


_OPTIONS = ("auto", "factors", "logits", "maps")


def check_representation(option: str) -> None:
    """Raise SchemaError unless `option` is one of "auto", "factors", "logits", "maps"."""
    if option not in _OPTIONS:
        msg = f"Expected a representation, got {option!r}. {did_you_mean(option, _OPTIONS)}"
        raise SchemaError(msg)


def choose(
    option: RepresentationOption, generated_tokens: int, reference_tokens: int, channels: int
) -> Representation:
    """Return how a layer is stored.

    Parameters
    ----------
    option : {"auto", "factors", "logits", "maps"}
    generated_tokens, reference_tokens, channels : int
        P, R and d: queries, keys, and the width of one head.

    Notes
    -----
    "auto" takes logits when P·R < (P + R)·d, per head and step.

    Examples
    --------
    >>> choose("auto", 4096, 1, 40)
    'logits'
    >>> choose("auto", 4096, 257, 40)
    'factors'
    """
    if option != "auto":
        return option
    products = generated_tokens * reference_tokens
    factors = (generated_tokens + reference_tokens) * channels
    return "logits" if products < factors else "factors"


def reduce_row(
    inputs: AttentionInputs, row: int, reference: ReferenceKeys, stored_as: Representation
) -> dict[str, torch.Tensor]:
    """Return what is kept of one row, dims (head, token[, channel])."""
    if stored_as == "factors":
        return {"query": inputs.query[row], "key": inputs.key[row][:, reference.tokens]}
    own = inputs.select_batch_index(row)
    with autocast_disabled(inputs.query.device.type):
        if stored_as == "maps":
            return {name: rows[0] for name, rows in directional_maps(own, reference).items()}
        return {"logits": reference_logits(own, reference)[0]}


def row_normaliser(inputs: AttentionInputs) -> torch.Tensor:
    """Return log of the sum of exp over all keys of one row, dims (head, generated), float32."""
    with autocast_disabled(inputs.query.device.type):
        return log_normaliser(inputs)[0]


def hides_any(mask: torch.Tensor, reference: ReferenceKeys) -> bool:
    """Return whether a mask hides a reference token from any patch, or weighs it."""
    own = mask[..., reference.tokens]
    return bool((~own).any() if own.dtype == torch.bool else (own != 0).any())


_TILE_BYTES = 64 * 2**20


_own = threading.local()


# What float32 loses below its smallest number is then less than its rounding.
_MIN_EXACT_SUM = 1e-30


def autocast_disabled(device: str) -> AbstractContextManager[None]:
    """Keep autocast's half precision from making of logits what attention never saw."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def reference_logits(inputs: AttentionInputs, reference: ReferenceKeys) -> torch.Tensor:
    """Return scaled Q·K, dims (row, head, generated, reference), float32, before any inputs."""
    key = inputs.key[:, :, reference.tokens].float()
    # Scaled after the product, as attention itself does: other orders round otherwise.
    logits = (inputs.query.float() @ key.transpose(-1, -2)).mul_(inputs.scale)
    return _masked(logits, inputs.mask, slice(None), reference.tokens)


def log_normaliser(inputs: AttentionInputs) -> torch.Tensor:
    """Return log of the sum of exp over all keys, dims (row, head, generated), float32."""
    tiles = [logits.logsumexp(-1) for _, logits in _tiles(inputs)]
    return torch.cat(tiles, dim=2)


def directional_maps(inputs: AttentionInputs, reference: ReferenceKeys) -> dict[str, torch.Tensor]:
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
    if inputs.key.device.type == "cpu" and not inputs.is_shared(reference):
        tiles = _tiles(inputs)
        some, logits = next(tiles)
        if some.stop >= inputs.query.shape[2]:
            maps = _maps_from_shared_exponential(logits)
            if maps is not None:
                return maps
    peaks, sums = _patch_max_and_sum(inputs, reference)
    r2g, g2r, mass = [], [], []
    for _, logits in _tiles(inputs):
        own = logits[..., reference.tokens]
        r2g.append(((own - peaks).exp() / sums).mean(-1))
        attention = (own - logits.logsumexp(-1, keepdim=True)).exp()
        g2r.append(attention.sum(2))
        mass.append(attention.sum(-1))
    maps = {"r2g": torch.cat(r2g, dim=2)}
    if peaks.shape[-1] > 1:
        maps["g2r"] = torch.stack(g2r).sum(0) / inputs.query.shape[2]
    if inputs.is_shared(reference):
        maps["mass"] = torch.cat(mass, dim=2)
    return maps


def _maps_from_shared_exponential(logits: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Return both maps of logits over all keys, which are lost; None where that were inexact.

    With e = exp(S - row maximum) and w = exp(row maximum - maximum), w·e is the exponential that
    the softmax over patches needs; it vanishes for a token that all patches ignore.
    """
    peaks = logits.amax(-1, keepdim=True)
    weights = (peaks - peaks.amax(2, keepdim=True)).exp()
    exponentials = logits.sub_(peaks).exp_()
    over_patches = weights.mT @ exponentials
    if float(over_patches.min()) < _MIN_EXACT_SUM:
        return None
    patches, tokens = logits.shape[2:]
    maps = {"r2g": (weights * (exponentials @ over_patches.reciprocal().mT)).squeeze(-1) / tokens}
    if tokens > 1:
        over_tokens = exponentials.sum(-1, keepdim=True)
        maps["g2r"] = (over_tokens.reciprocal().mT @ exponentials).squeeze(2) / patches
    return maps


def _patch_max_and_sum(
    inputs: AttentionInputs, reference: ReferenceKeys
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's largest logit and the sum of exp below it, (row, head, 1, reference)."""
    peaks: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    for _, logits in _tiles(inputs):
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


def _tiles(inputs: AttentionInputs) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logits over all keys, some patches at a time: never all of them at once.

    Each tile is lost when the next one is asked for, by this thread.
    """
    rows, heads, patches, _ = inputs.query.shape
    tokens = inputs.key.shape[2]
    tile = max(1, _TILE_BYTES // (4 * rows * heads * tokens))
    key = inputs.key.float().transpose(-1, -2)
    for start in range(0, patches, tile):
        some = slice(start, start + tile)
        query = inputs.query[:, :, some].float()
        logits = torch.matmul(query, key, out=_scratch(query, tokens)).mul_(inputs.scale)
        yield some, _masked(logits, inputs.mask, some, slice(None))


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
