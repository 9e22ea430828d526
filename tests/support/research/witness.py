"""An explicit attention kernel: probabilities computed inside the model, in the run that is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.support.explicit_attention import Attended

__all__ = ["explicit_kernels"]


# (the layer's path, number of its kernel's call, scores (batch, head, query, key)) -> those used instead
Change = Callable[[str, int, torch.Tensor], torch.Tensor]


def _unchanged(_path: str, _call: int, scores: torch.Tensor) -> torch.Tensor:
    return scores


@contextmanager
def explicit_kernels(
    denoiser: nn.Module, change: Change = _unchanged
) -> Iterator[dict[str, list[Attended]]]:
    """Compute every fused attention of a denoiser explicitly, whatever its processor, and keep it.

    Yields
    ------
    dict of str to list of Attended
        By the layer's path, in the order of the kernel's calls.
    """
    kept: dict[str, list[Attended]] = {}
    running: list[str] = []
    with ExitStack() as stack:
        for name, module in denoiser.named_modules():
            if hasattr(module, "to_q") and hasattr(module, "to_k"):
                enter = module.register_forward_pre_hook(lambda *_, n=name: running.append(n))
                leave = module.register_forward_hook(lambda *_: (running.pop(), None)[1])
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        stack.enter_context(_ExplicitKernel(running, kept, change))
        yield kept


class _ExplicitKernel(TorchFunctionMode):
    def __init__(self, running: list[str], kept: dict[str, list[Attended]], change: Change) -> None:
        super().__init__()
        self._running, self._kept, self._change = running, kept, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not self._running:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        assert given.get("attn_mask") is None
        assert not given.get("is_causal")
        query, key = given["query"], given["key"]
        scale = given.get("scale") or query.shape[-1] ** -0.5
        calls = self._kept.setdefault(path := self._running[-1], [])
        scores = self._change(path, len(calls), query @ key.transpose(-1, -2) * scale)
        # A query that may see nothing gets zeros from the fused kernel.
        is_blind = scores.isneginf().all(-1, keepdim=True)
        probabilities = scores.softmax(-1).masked_fill(is_blind, 0.0)
        calls.append(Attended(scores.clone(), probabilities.clone()))
        mixed: torch.Tensor = probabilities @ given["value"]
        return mixed
