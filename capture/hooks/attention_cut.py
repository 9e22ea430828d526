"""Taking keys out of a running attention call, or weighing them otherwise.

The model's own kernel computes it, whichever that is: the keys and values are dropped before it, and
where some queries, heads or rows of the batch alone lose them, it is called once for each such part. In
attention that is written out, the model's own softmax gets other logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Attend", "AttentionCut", "KeyCut"]

Indices = NDArray[np.intp]
# (query, key, value, mask, scale or None for the kernel's own) -> output, dims (batch, head, token, channel)
Attend = Callable[..., torch.Tensor]

# Fused kernels take heads whose channels are a multiple of this.
_CHANNELS = 8


@dataclass(frozen=True)
class KeyCut:
    """Some keys of an attention call, and who loses them.

    Parameters
    ----------
    keys : array (key,) of int
    rows : tuple of int
        Of the call's batch.
    queries : array (query,) of int, optional
        None for all of them.
    heads : tuple of int, optional
        None for all of them.
    weight : float
        What their exponential is multiplied by: 0 takes them out.
    is_reordered : bool
        They are put into another order, and nothing else: what changes is rounding.

    Examples
    --------
    >>> KeyCut(np.arange(4), rows=(1,)).weight
    0.0
    """

    keys: Indices
    rows: tuple[int, ...]
    queries: Indices | None = None
    heads: tuple[int, ...] | None = None
    weight: float = 0.0
    is_reordered: bool = False


@dataclass(frozen=True)
class _Part:
    """Rows, heads and queries that share their keys; None stands for all."""

    rows: torch.Tensor | None
    heads: torch.Tensor | None
    queries: torch.Tensor | None
    keys: torch.Tensor | None
    log_weights: torch.Tensor | None  # of `keys`
    changed: tuple[torch.Tensor, torch.Tensor] | None  # keys, and what is added to their logits
    is_blind: bool  # no key is left

    @property
    def is_whole(self) -> bool:
        return self.rows is self.heads is self.queries is None

    @property
    def is_untouched(self) -> bool:
        return self.keys is None and self.log_weights is None and not self.is_blind


@dataclass(frozen=True)
class AttentionCut:
    """What is taken out of attention calls of one shape.

    Parameters
    ----------
    cuts : sequence of KeyCut
        Where one key is weighed by several, the weights are multiplied.
    batch, heads, queries, keys : int
        Of the call.
    device : torch.device

    Examples
    --------
    >>> from torch.nn import functional
    >>> query, key, value = torch.randn(3, 1, 2, 6, 8)
    >>> cut = AttentionCut([KeyCut(np.arange(4), (0,))], 1, 2, 6, 6, query.device)
    >>> def attend(query, key, value, mask, scale):
    ...     return functional.scaled_dot_product_attention(query, key, value, mask, scale=scale)
    >>> found = cut.apply(attend, query, key, value, None, 8**-0.5)
    >>> torch.allclose(found, attend(query, key[:, :, 4:], value[:, :, 4:], None, None), atol=1e-6)
    True
    """

    cuts: Sequence[KeyCut] = field(repr=False)
    batch: int
    heads: int
    queries: int
    keys: int
    device: torch.device
    _parts: list[_Part] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the parts of the call that are computed at once."""
        with torch.inference_mode(False):
            object.__setattr__(self, "_parts", list(self._iter_parts()))

    @property
    def changed_rows(self) -> frozenset[int]:
        """The rows of the batch in which anything is changed."""
        return frozenset(
            row
            for part in self._parts
            if not part.is_untouched
            for row in (range(self.batch) if part.rows is None else part.rows.tolist())
        )

    def apply(
        self,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
    ) -> torch.Tensor:
        """Return the attention's output without what is cut.

        Parameters
        ----------
        attend : callable (query, key, value, mask, scale) -> Tensor
            The model's kernel; a scale of None is the call's own.
        query, key, value : Tensor, dims (batch, head, token, channel)
        mask : Tensor, optional
            Broadcasts to (batch, head, query, key).
        scale : float
            Of the call: the factor of Q·K.
        """
        if len(self._parts) == 1 and self._parts[0].is_whole:
            return _attend_part(self._parts[0], attend, query, key, value, mask, scale)
        found = _zeros(query, value)
        if key.shape[1] != query.shape[1] and any(part.heads is not None for part in self._parts):
            repeats = query.shape[1] // key.shape[1]  # Several heads share one of the keys.
            key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
        for part in self._parts:
            own_query = _take(query, part.rows, part.heads, part.queries)
            own_key, own_value = (_take(states, part.rows, part.heads) for states in (key, value))
            own_mask = None if mask is None else _take(mask, part.rows, part.heads, part.queries)
            piece = _attend_part(part, attend, own_query, own_key, own_value, own_mask, scale)
            _put(found, piece, part)
        return found

    def change_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits (batch, head, query, key) as the softmax is to have them."""
        found = logits.clone()
        for part in self._parts:
            if part.changed is None:
                continue
            keys, added = part.changed
            where = _where(found, part, keys)
            found[where] = found[where] + added.to(found.dtype)
        return found

    def clear_blind(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Return the probabilities with zeros for queries that have no key left."""
        if not any(part.is_blind for part in self._parts):
            return probabilities
        found = probabilities.clone()
        for part in self._parts:
            if part.is_blind:
                found[_where(found, part, torch.arange(self.keys, device=found.device))] = 0
        return found

    def _iter_parts(self) -> Iterator[_Part]:
        for rows, of_rows in _groups(self.batch, self.cuts, lambda cut: cut.rows):
            for heads, of_heads in _groups(self.heads, of_rows, lambda cut: cut.heads):
                for queries, own in _groups(self.queries, of_heads, lambda cut: cut.queries):
                    yield self._part(rows, heads, queries, own)

    def _part(
        self,
        rows: Indices | None,
        heads: Indices | None,
        queries: Indices | None,
        cuts: Sequence[KeyCut],
    ) -> _Part:
        weights, order = np.ones(self.keys), np.arange(self.keys)
        for cut in cuts:
            if cut.is_reordered:
                order[np.sort(cut.keys)] = order[np.sort(cut.keys)[::-1]]
            else:
                weights[cut.keys] *= cut.weight
        kept = order[weights[order] > 0]
        is_same = np.array_equal(kept, np.arange(self.keys))
        # To weigh all keys alike changes nothing, since their shares sum to 1.
        is_weighed = len(np.unique(weights[kept])) > 1
        changed = np.flatnonzero(weights != 1)
        with np.errstate(divide="ignore"):
            logs = np.log(weights)
        return _Part(
            self._tensor(rows),
            self._tensor(heads),
            self._tensor(queries),
            None if is_same else self._tensor(kept),
            self._tensor(logs[kept], torch.float32) if is_weighed else None,
            (self._tensor(changed), self._tensor(logs[changed], torch.float32))
            if len(changed)
            else None,
            is_blind=not len(kept),
        )

    def _tensor(self, values: Any, dtype: torch.dtype = torch.int64) -> Any:
        if values is None:
            return None
        return torch.as_tensor(np.array(values), dtype=dtype, device=self.device)


def _groups(
    count: int, cuts: Sequence[KeyCut], members: Callable[[KeyCut], Iterable[int] | None]
) -> Iterator[tuple[Indices | None, Sequence[KeyCut]]]:
    """Yield the indices that have the same cuts, and these; None where all of them do."""
    has = np.ones((count, len(cuts)), bool)
    for number, cut in enumerate(cuts):
        if (own := members(cut)) is not None:
            has[:, number] = False
            has[np.asarray(own, np.intp), number] = True
    kinds, which = np.unique(has, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        members_of_kind = None if len(kinds) == 1 else np.flatnonzero(which.ravel() == number)
        yield members_of_kind, [cut for cut, is_own in zip(cuts, kind, strict=True) if is_own]


def _attend_part(
    part: _Part,
    attend: Attend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    if part.is_blind:
        return _zeros(query, value)
    if part.keys is not None:
        key, value = key[:, :, part.keys], value[:, :, part.keys]
        if mask is not None and mask.shape[-1] > 1:
            mask = mask[..., part.keys]
    if part.log_weights is None:
        return attend(query, key, value, mask, None)
    return _attend_weighed(attend, query, key, value, mask, scale, part.log_weights)


def _attend_weighed(
    attend: Attend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    log_weights: torch.Tensor,
) -> torch.Tensor:
    """Return attention whose logits get `log_weights`, without a mask, which not every kernel takes.

    One more channel holds 1 in the queries and the logarithm in the keys.
    """
    width = value.shape[-1]
    ones = query.new_zeros((*query.shape[:3], _CHANNELS))
    ones[..., 0] = 1
    logs = key.new_zeros((*key.shape[:3], _CHANNELS))
    logs[..., 0] = (log_weights / scale).to(key.dtype)
    nothing = value.new_zeros((*value.shape[:3], _CHANNELS))
    found = attend(
        torch.cat([query, ones], -1),
        torch.cat([key, logs], -1),
        torch.cat([value, nothing], -1),
        mask,
        scale,
    )
    return found.transpose(1, 2)[..., :width].contiguous().transpose(1, 2)


def _zeros(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return zeros of the output's shape, in memory as fused kernels leave it: heads after tokens.

    Some models see it as (batch, token, channel) without a copy.
    """
    batch, heads, queries, _ = query.shape
    return query.new_zeros((batch, queries, heads, value.shape[3])).transpose(1, 2)


def _take(
    states: torch.Tensor,
    rows: torch.Tensor | None,
    heads: torch.Tensor | None,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return some rows, heads and tokens; dimensions of length 1 are broadcast, and stay."""
    while states.ndim < 4:
        states = states[None]
    for dim, chosen in enumerate((rows, heads, tokens)):
        if chosen is not None and states.shape[dim] > 1:
            states = states.index_select(dim, chosen)
    return states


def _put(found: torch.Tensor, piece: torch.Tensor, part: _Part) -> None:
    batch, heads, queries = _members(found, part)
    found[batch[:, None, None], heads[:, None], queries] = piece


def _where(logits: torch.Tensor, part: _Part, keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch, heads, queries = _members(logits, part)
    return batch[:, None, None, None], heads[:, None, None], queries[:, None], keys


def _members(states: torch.Tensor, part: _Part) -> list[torch.Tensor]:
    """Return the rows, heads and queries of a part, all of them by their indices."""
    return [
        torch.arange(count, device=states.device) if own is None else own
        for count, own in zip(states.shape[:3], (part.rows, part.heads, part.queries), strict=True)
    ]
