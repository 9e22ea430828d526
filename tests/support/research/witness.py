"""An explicit attention kernel: probabilities computed inside the model, in the run that is captured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tests.support.explicit_attention import Attended

__all__ = ["explicit_kernels"]


@contextmanager
def explicit_kernels(denoiser: nn.Module) -> Iterator[dict[str, list[Attended]]]:
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
        stack.enter_context(_ExplicitKernel(running, kept))
        yield kept


class _ExplicitKernel(TorchFunctionMode):
    def __init__(self, running: list[str], kept: dict[str, list[Attended]]) -> None:
        super().__init__()
        self._running, self._kept = running, kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention or not self._running:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        assert given.get("attn_mask") is None
        assert not given.get("is_causal")
        query, key = given["query"], given["key"]
        scale = given.get("scale") or query.shape[-1] ** -0.5
        scores = query @ key.transpose(-1, -2) * scale
        probabilities = scores.softmax(-1)
        found = Attended(scores.clone(), probabilities.clone())
        self._kept.setdefault(self._running[-1], []).append(found)
        mixed: torch.Tensor = probabilities @ given["value"]
        return mixed
