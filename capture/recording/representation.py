"""What is kept of a layer: logits, their factors or its maps; and the reduction on the device.

"auto" takes logits or factors, whichever needs fewer bytes; both serve either softmax direction.
Probabilities are never kept: they have lost the normaliser of each query row, and with it R2G. Maps
are the result of a layer that is reduced while it is captured, for runs that never need SRAM.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, TextTokens, Tokens
from i2am.schemas.choices import EdgeName, Representation, RepresentationOption

__all__ = [
    "TILE_BYTES",
    "Kept",
    "autocast_disabled",
    "choose",
    "directional_maps",
    "hides_any",
    "keep",
    "log_normaliser",
    "reference_logits",
    "visible_text",
]

TILE_BYTES = 64 * 2**20
_thread = threading.local()
# On a CPU the logits of some heads at a time stay in its caches: twice as fast as all at once.
_CACHED_BYTES = 4 * 2**20


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


class Kept(NamedTuple):
    """What is kept of one reference at one batch index.

    Parameters
    ----------
    reference : ReferenceKeys
    representation : {"factors", "logits", "maps"}
    arrays : dict of str to Tensor, dims (head, token[, channel])
        By their names in the store; factors are views in the model's dtype, all others float32.
    """

    reference: ReferenceKeys
    representation: Representation
    arrays: dict[str, torch.Tensor]


def keep(
    inputs: AttentionInputs,
    batch_index: int,
    option: RepresentationOption,
    edges: Collection[EdgeName] = (),
) -> list[Kept]:
    """Return what is kept of one batch index, for each reference.

    Where other keys share the softmax, its normaliser ``logsumexp`` is kept beside factors and
    logits. With `edges` through the text its keys and queries are kept, too, whose products with
    the queries and keys beside them are the roads' logits.
    """
    _, _, patches, channels = inputs.query.shape
    keys = inputs.key.shape[2]
    normaliser: torch.Tensor | None = None
    text = _reduce_text(inputs.select_batch_index(batch_index), edges) if edges else {}
    kept = []
    for reference in inputs.references:
        tokens = inputs.token_count(reference)
        representation = choose(option, patches, tokens, channels)
        arrays = _reduce(inputs, batch_index, reference, representation)
        if tokens < keys and representation != "maps":
            if normaliser is None:
                normaliser = _normaliser(inputs.select_batch_index(batch_index))
            arrays["logsumexp"] = normaliser
        kept.append(Kept(reference, representation, arrays | text))
    return kept


def _reduce_text(inputs: AttentionInputs, edges: Collection[EdgeName]) -> dict[str, torch.Tensor]:
    """Return the arrays of the text of one batch index, dims (head, text[, channel])."""
    text = visible_text(inputs)
    arrays: dict[str, torch.Tensor] = {}
    if text is not None and "text->generated" in edges:
        arrays["text_key"] = inputs.key[0][:, text.tokens]
    if text is not None and text.query is not None and "reference->text" in edges:
        own = AttentionInputs(text.query, inputs.key, inputs.scale, inputs.grid, (), text.mask)
        arrays |= {"text_query": text.query[0], "text_logsumexp": _normaliser(own)}
    return arrays


def visible_text(inputs: AttentionInputs) -> TextTokens | None:
    """Return the text of one batch index without what no patch may see: no road leads there."""
    text = inputs.text
    if text is None or inputs.mask is None:
        return text
    own = inputs.mask[..., text.tokens]
    # What is added to hide a token is infinite, or the smallest number.
    is_seen = own if own.dtype == torch.bool else own > torch.finfo(own.dtype).min
    seen = is_seen.flatten(0, -2).any(0).nonzero()[:, 0]
    indices = torch.arange(inputs.key.shape[2], device=seen.device)[text.tokens][seen]
    query = None if text.query is None else text.query[:, :, seen]
    mask = text.mask
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., seen, :]
    return TextTokens(indices, query, mask)


def _reduce(
    inputs: AttentionInputs,
    batch_index: int,
    reference: ReferenceKeys,
    representation: Representation,
) -> dict[str, torch.Tensor]:
    """Return the arrays of one reference at one batch index, dims (head, token[, channel])."""
    if representation == "factors":
        key = inputs.key[batch_index][:, reference.tokens]
        return {"query": inputs.query[batch_index], "key": key}
    own = inputs.select_batch_index(batch_index)
    with autocast_disabled(inputs.query.device.type):
        if representation == "maps":
            maps = directional_maps(own, reference.select_batch_index(batch_index))
            return {name: values[0] for name, values in maps.items()}
        return {"logits": reference_logits(own, reference)[0]}


def _normaliser(inputs: AttentionInputs) -> torch.Tensor:
    """Return log of the sum of exp over all keys, dims (head, generated), float32."""
    with autocast_disabled(inputs.query.device.type):
        return log_normaliser(inputs)[0]


def hides_any(mask: torch.Tensor | None, tokens: Tokens) -> bool:
    """Return whether a mask hides a token from any query, or changes its logit."""
    if mask is None:
        return False
    own = mask[..., tokens]
    return bool((~own).any() if own.dtype == torch.bool else (own != 0).any())


def autocast_disabled(device: str) -> AbstractContextManager[None]:
    """Disable autocast: in half precision the logits would not be those of the attention."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def reference_logits(inputs: AttentionInputs, reference: ReferenceKeys) -> torch.Tensor:
    """Return scaled Q·K, dims (batch, head, generated, reference), float32, before any softmax."""
    key = inputs.key[:, :, reference.tokens].float()
    # Scaled after the product, as in attention itself: another order rounds differently.
    logits = (inputs.query.float() @ key.transpose(-1, -2)).mul_(inputs.scale)
    return _masked(logits, inputs.mask, slice(None), reference.tokens)


def log_normaliser(inputs: AttentionInputs, tile_bytes: int = TILE_BYTES) -> torch.Tensor:
    """Return log of the sum of exp over all keys, dims (batch, head, generated), float32."""
    tiles = [logits.logsumexp(-1) for _, logits in _tiles(inputs, tile_bytes)]
    return torch.cat(tiles, dim=2)


def directional_maps(
    inputs: AttentionInputs, reference: ReferenceKeys, tile_bytes: int = TILE_BYTES
) -> dict[str, torch.Tensor]:
    """Reduce the inputs of a softmax to its two directional maps, on the device, tile by tile.

    Parameters
    ----------
    inputs : AttentionInputs
    reference : ReferenceKeys
    tile_bytes : int
        Size of the float32 logits of some patches that are computed at a time.

    Returns
    -------
    dict of Tensor, float32
        r2g (batch, head, generated): mean over the reference tokens of the softmax over patches.
        g2r (batch, head, reference), with more than one token: mean over the patches of the
        attention to each token, which is normalised over all keys. mass (batch, head, generated),
        where other keys share the softmax: the attention that goes to the reference. All are
        those of the contribution: multiplied by the reference's region at each patch, if it has one.
    """
    heads = inputs.query.shape[1]
    head_bytes = _logits_bytes(inputs) // heads
    if head_bytes > tile_bytes:
        return _maps_by_patches(inputs, reference, tile_bytes)
    if inputs.query.device.type == "cpu":
        tile_bytes = min(tile_bytes, _CACHED_BYTES)
    some = max(1, tile_bytes // head_bytes)
    if some >= heads:
        return _maps_of_whole(inputs, reference)
    parts = [
        _maps_of_whole(inputs.select_heads([*range(heads)[first : first + some]]), reference)
        for first in range(0, heads, some)
    ]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _maps_of_whole(inputs: AttentionInputs, reference: ReferenceKeys) -> dict[str, torch.Tensor]:
    """Return the maps from all logits at once: PyTorch's own softmax is faster than its parts."""
    ((_, logits),) = _tiles(inputs, _logits_bytes(inputs))
    is_shared, region = inputs.is_shared(reference), _region(inputs, reference)
    over_patches = (logits[..., reference.tokens] if is_shared else logits).softmax(2)
    attention = logits.softmax(-1)
    if is_shared:
        attention = attention[..., reference.tokens]
    maps = {"r2g": over_patches.mean(-1)}
    if region is not None:
        maps["r2g"] *= region
        attention = attention * region[..., None]
    if attention.shape[-1] > 1:
        maps["g2r"] = attention.mean(2)
    if is_shared:
        maps["mass"] = attention.sum(-1)
    return maps


def _region(inputs: AttentionInputs, reference: ReferenceKeys) -> torch.Tensor | None:
    """Return by what a reference's contribution is multiplied, (batch or 1, 1, generated)."""
    if reference.region is None:
        return None
    return reference.region[:, None].to(inputs.query.device)


def _maps_by_patches(
    inputs: AttentionInputs, reference: ReferenceKeys, tile_bytes: int
) -> dict[str, torch.Tensor]:
    """Return the maps from the logits of some patches at a time, which are computed twice."""
    region = _region(inputs, reference)
    peaks, sums = _patch_max_and_sum(inputs, reference, tile_bytes)
    r2g, g2r, mass = [], [], []
    for some, logits in _tiles(inputs, tile_bytes):
        own = logits[..., reference.tokens]
        r2g.append(((own - peaks).exp() / sums).mean(-1))
        attention = logits.softmax(-1)[..., reference.tokens]
        if region is not None:
            r2g[-1] *= region[..., some]
            attention = attention * region[..., some, None]
        g2r.append(attention.sum(2))
        mass.append(attention.sum(-1))
    maps = {"r2g": torch.cat(r2g, dim=2)}
    if peaks.shape[-1] > 1:
        maps["g2r"] = torch.stack(g2r).sum(0) / inputs.query.shape[2]
    if inputs.is_shared(reference):
        maps["mass"] = torch.cat(mass, dim=2)
    return maps


def _patch_max_and_sum(
    inputs: AttentionInputs, reference: ReferenceKeys, tile_bytes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's largest logit and the sum of exp below it, (batch, head, 1, reference)."""
    peaks: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    for _, logits in _tiles(inputs, tile_bytes):
        own = logits[..., reference.tokens]
        peak = own.amax(2, keepdim=True)
        if peaks is None or sums is None:
            peaks, sums = peak, (own - peak).exp().sum(2, keepdim=True)
            continue
        higher = torch.maximum(peaks, peak)
        sums = sums * (peaks - higher).exp() + (own - higher).exp().sum(2, keepdim=True)
        peaks = higher
    if peaks is None or sums is None:
        msg = "Expected patches, got a softmax without any."
        raise ValueError(msg)
    return peaks, sums


def _logits_bytes(inputs: AttentionInputs) -> int:
    """Return the bytes of the logits over all keys, float32."""
    return 4 * math.prod(inputs.query.shape[:3]) * inputs.key.shape[2]


def _tiles(inputs: AttentionInputs, tile_bytes: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the logits over all keys, for some of the patches at a time.

    The next tile of this thread overwrites the one before.
    """
    batch, heads, patches, _ = inputs.query.shape
    tokens = inputs.key.shape[2]
    tile = max(1, tile_bytes // (4 * batch * heads * tokens))
    key = inputs.key.float().transpose(-1, -2)
    for start in range(0, patches, tile):
        some = slice(start, start + tile)
        query = inputs.query[:, :, some].float()
        logits = torch.matmul(query, key, out=_scratch(query, tokens)).mul_(inputs.scale)
        yield some, _masked(logits, inputs.mask, some, slice(None))


def _scratch(query: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return memory for a tile; on a CPU the same each time: new pages cost more than the product."""
    shape = (*query.shape[:-1], tokens)
    if query.device.type != "cpu":
        return query.new_empty(shape)
    size = math.prod(shape)
    memory: torch.Tensor | None = getattr(_thread, "memory", None)
    if memory is None or len(memory) < size:
        with torch.inference_mode(False):
            memory = _thread.memory = torch.empty(size)
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
