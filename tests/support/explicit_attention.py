"""Explicit attention: probabilities computed inside the model, in the same run that is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models import attention_processor
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import nn

__all__ = ["Attended", "explicit_attention"]


@dataclass(frozen=True)
class Attended:
    """One softmax as the model computed it, dims (batch, head, query, key)."""

    scores: torch.Tensor
    probabilities: torch.Tensor

    def as_float(self) -> Attended:
        """Return it in float32."""
        return Attended(self.scores.float(), self.probabilities.float())


@contextmanager
def explicit_attention(*denoisers: nn.Module) -> Iterator[dict[str, list[Attended]]]:
    """Make every attention layer compute its probabilities explicitly, and keep them.

    Of several denoisers that share the steps, layers of one name are one.

    Yields
    ------
    dict of str to list of Attended
        By the layer's path, in the order of its calls.
    """
    kept: dict[str, list[Attended]] = {}
    running: list[str] = []
    with ExitStack() as stack:
        modules = (pair for denoiser in denoisers for pair in denoiser.named_modules())
        for name, module in modules:
            if not (hasattr(module, "processor") and hasattr(module, "heads")):
                continue
            if "token_refiner" in name:  # Of the text, before it meets the picture.
                continue
            stack.callback(module.register_forward_pre_hook(_enter(running, name)).remove)
            stack.callback(module.register_forward_hook(_leave(running)).remove)
            if isinstance(module, attention_processor.Attention) and not hasattr(
                module.processor, "_attention_backend"
            ):
                stack.callback(module.set_processor, module.processor)
                module.set_processor(_explicit_processor(module.processor))
                module.get_attention_scores = _scores(module, running, kept)
                stack.callback(delattr, module, "get_attention_scores")
        table = _AttentionBackendRegistry._backends
        native = AttentionBackendName.NATIVE
        stack.callback(table.__setitem__, native, table[native])
        table[native] = _backend(running, kept)
        yield kept


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
        return explicit
    if isinstance(fused, attention_processor.AttnAddedKVProcessor2_0):
        return attention_processor.AttnAddedKVProcessor()
    return attention_processor.AttnProcessor()


def _scores(module: Any, running: list[str], kept: dict[str, list[Attended]]) -> Any:
    def get_attention_scores(
        query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        assert mask is None
        scores = torch.baddbmm(
            torch.zeros(len(query), query.shape[1], key.shape[1], dtype=query.dtype),
            query,
            key.transpose(-1, -2),
            beta=0,
            alpha=module.scale,
        )
        probabilities = scores.softmax(-1)
        apart = (-1, module.heads, *scores.shape[1:])
        found = (part.reshape(apart).clone() for part in (scores, probabilities))
        kept.setdefault(running[-1], []).append(Attended(*found))
        return probabilities

    return get_attention_scores


def _backend(running: list[str], kept: dict[str, list[Attended]]) -> Any:
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
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if attn_mask is not None:
            is_bool = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if is_bool else scores + attn_mask
        # A query that may see nothing, as of padding, gets zeros from the fused kernel.
        is_blind = scores.isneginf().all(-1, keepdim=True)
        probabilities = scores.softmax(-1).masked_fill(is_blind, 0.0)
        if running:  # Else the attention is that of another part of the pipeline.
            kept.setdefault(running[-1], []).append(Attended(scores.clone(), probabilities.clone()))
        mixed: torch.Tensor = (probabilities @ value).transpose(1, 2)
        return mixed

    return explicit
