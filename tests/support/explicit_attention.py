"""Explicit attention: probabilities computed inside the model, in the same run that is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import attention_processor
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Attended", "explicit_attention"]

# (the layer's path, scores (batch, head, query, key)) -> the scores that are used instead
Change = Callable[[str, torch.Tensor], torch.Tensor]
_Changed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Attended:
    """One softmax as the model computed it, dims (batch, head, query, key)."""

    scores: torch.Tensor
    probabilities: torch.Tensor

    def as_float(self) -> Attended:
        """Return it in float32, on the host."""
        return Attended(self.scores.float().cpu(), self.probabilities.float().cpu())


@contextmanager
def explicit_attention(
    *denoisers: nn.Module, change: Change | None = None
) -> Iterator[dict[str, list[Attended]]]:
    """Make every attention layer compute its probabilities explicitly, and keep them.

    Of several denoisers that share the steps, layers of one name are one. `change` may put other scores
    in place of a layer's.

    Yields
    ------
    dict of str to list of Attended
        By the layer's path, in the order of its calls.
    """
    kept: dict[str, list[Attended]] = {}
    running: list[str] = []

    def changed(scores: torch.Tensor) -> torch.Tensor:
        return change(running[-1], scores) if change and running else scores

    with ExitStack() as stack:
        modules = (pair for denoiser in denoisers for pair in denoiser.named_modules())
        for name, module in modules:
            if not (hasattr(module, "processor") and hasattr(module, "heads")):
                continue
            if "token_refiner" in name:  # Of the text, before it meets the picture.
                continue
            stack.callback(module.register_forward_pre_hook(_enter(running, name)).remove)
            stack.callback(module.register_forward_hook(_leave(running)).remove)
            if isinstance(module, attention_processor.Attention) and not (
                hasattr(module.processor, "_attention_backend") or _calls_kernel(module.processor)
            ):
                stack.callback(module.set_processor, module.processor)
                module.set_processor(_explicit_processor(module.processor))
                module.get_attention_scores = _scores(module, running, kept, changed)
                stack.callback(delattr, module, "get_attention_scores")
        table = _AttentionBackendRegistry._backends
        native = AttentionBackendName.NATIVE
        stack.callback(table.__setitem__, native, table[native])
        table[native] = _backend(running, kept, changed)
        stack.enter_context(_Kernel(running, kept, changed))
        yield kept


# Processors of joint attention that call the kernel themselves, and have no explicit kin.
_OWN_CALLS = {"OmniGenAttnProcessor2_0", "SD3IPAdapterJointAttnProcessor2_0"}


def _calls_kernel(processor: Any) -> bool:
    return type(processor).__name__ in _OWN_CALLS


class _Kernel(TorchFunctionMode):
    """Computes explicitly what such a processor asks of the kernel."""

    def __init__(
        self, running: list[str], kept: dict[str, list[Attended]], changed: _Changed
    ) -> None:
        super().__init__()
        self._running, self._kept, self._changed = running, kept, changed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not self._running:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, args, strict=False)) | kwargs
        mixed, attended = _attend(
            given["query"], given["key"], given["value"], given.get("attn_mask"), self._changed
        )
        self._kept.setdefault(self._running[-1], []).append(attended)
        # In memory as the fused kernel leaves it, heads after tokens.
        return mixed.transpose(1, 2).contiguous().transpose(1, 2)


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    changed: _Changed,
) -> tuple[torch.Tensor, Attended]:
    """Return what attention gives, dims (batch, head, query, channel), and its probabilities."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        is_added = mask.dtype.is_floating_point
        scores = scores + mask if is_added else scores.masked_fill(~mask.bool(), -torch.inf)
    scores = changed(scores)
    probabilities = _probabilities(scores)
    return probabilities @ value, Attended(scores.clone(), probabilities.clone())


def _probabilities(scores: torch.Tensor) -> torch.Tensor:
    # A query that may see nothing, as of padding, gets zeros from the fused kernel.
    is_blind = scores.isneginf().all(-1, keepdim=True)
    return scores.softmax(-1).masked_fill(is_blind, 0.0)


def _enter(running: list[str], name: str) -> Any:
    def hook(*_: Any) -> None:
        running.append(name)

    return hook


def _leave(running: list[str]) -> Any:
    def hook(*_: Any) -> None:
        running.pop()

    return hook


def _explicit_processor(fused: Any) -> Any:
    """Return diffusers' own processor that calls no fused kernel."""
    if isinstance(fused, attention_processor.IPAdapterAttnProcessor2_0):
        explicit = attention_processor.IPAdapterAttnProcessor(
            fused.hidden_size, fused.cross_attention_dim, fused.num_tokens, fused.scale
        )
        explicit.load_state_dict(fused.state_dict())
        return explicit.to(fused.to_k_ip[0].weight)  # Its device and dtype.
    if isinstance(fused, attention_processor.AttnAddedKVProcessor2_0):
        return attention_processor.AttnAddedKVProcessor()
    return attention_processor.AttnProcessor()


def _scores(
    module: Any, running: list[str], kept: dict[str, list[Attended]], changed: _Changed
) -> Any:
    def get_attention_scores(
        query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert mask is None
        scores = torch.baddbmm(
            query.new_zeros(len(query), query.shape[1], key.shape[1]),
            query,
            key.transpose(-1, -2),
            beta=0,
            alpha=module.scale,
        )
        apart = changed(scores.reshape(-1, module.heads, *scores.shape[1:]))
        probabilities = _probabilities(apart)
        kept.setdefault(running[-1], []).append(Attended(apart.clone(), probabilities.clone()))
        return probabilities.reshape(scores.shape)

    return get_attention_scores


def _backend(running: list[str], kept: dict[str, list[Attended]], changed: _Changed) -> Any:
    def explicit(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> torch.Tensor:
        assert (dropout_p, is_causal, enable_gqa, scale) == (0.0, False, False, None)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed, attended = _attend(query, key, value, attn_mask, changed)
        if running:  # Else the attention is that of another part of the pipeline.
            kept.setdefault(running[-1], []).append(attended)
        return mixed.transpose(1, 2)

    return explicit
