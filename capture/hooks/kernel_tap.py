"""Taps on the fused attention call itself, for layers that rotate or join their tokens first.

Joint-attention transformers concatenate text, target and reference, normalise and rotate them, and
call one kernel. What that kernel is given is read there: from PyTorch's scaled dot-product
attention, and from diffusers' dispatch for every other backend (flex, flash, sage, xformers …).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from i2am.capture.hooks.attention import ReferenceKeys, Softmax, Tokens
from i2am.capture.hooks.taps import LayerTap, Receive, Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FusedCall", "FusedTap"]

Backend = Callable[..., Any]

_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask")


@dataclass(frozen=True)
class FusedCall:
    """What a layer handed to the attention kernel.

    Parameters
    ----------
    query, key : Tensor, dims (row, head, token, channel)
    scale : float
    mask : Tensor, optional
        As the kernel takes it.
    source : Source
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask: torch.Tensor | None
    source: Source

    def softmax(
        self,
        generated: Tokens,
        grid: tuple[int, int],
        references: tuple[ReferenceKeys, ...],
        frames: int = 1,
    ) -> Softmax:
        """Return the softmax of the generated patches, whose places among the queries are told."""
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., generated, :]
        query = self.query[:, :, generated]
        return Softmax(query, self.key, self.scale, grid, references, mask, frames)


@dataclass(frozen=True)
class FusedTap(LayerTap):
    """Reads the attention kernel's arguments while the layer's forward runs.

    Parameters
    ----------
    read : callable (FusedCall) -> iterable of Softmax
        Says what the tokens are. Nothing, where the call has no reference tokens.
    """

    read: Callable[[FusedCall], Iterable[Softmax]] = field(repr=False)

    def attach(
        self, receive: Receive, running: Callable[[], Source | None], stack: ExitStack
    ) -> None:
        """See `LayerTap`."""
        stack.enter_context(_backends.wrapped())
        listener = _Listener(self, receive, running)
        handles = (
            self.attention.register_forward_pre_hook(listener.on_start),
            # Also after an exception, or the mode would stay on.
            self.attention.register_forward_hook(listener.on_end, always_call=True),
        )
        for handle in handles:
            stack.callback(handle.remove)
        stack.callback(listener.stop)


class _Listener(TorchFunctionMode):
    """Listens to one layer's kernel calls, from the start to the end of its forward."""

    def __init__(
        self, tap: FusedTap, receive: Receive, running: Callable[[], Source | None]
    ) -> None:
        super().__init__()
        self._tap, self._receive, self._running = tap, receive, running
        self._stack = ExitStack()
        self._softmaxes: list[Softmax] = []
        self._is_inside_backend = False

    def on_start(self, _module: nn.Module, _arguments: Any) -> None:
        self.stop()
        if self._running() is not None:
            self._stack.enter_context(self)
            self._stack.enter_context(_backends.heard_by(self._on_backend))

    def on_end(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        found = self._softmaxes
        self.stop()
        if found:
            self._receive(self._tap, found)

    def stop(self) -> None:
        self._stack.close()
        self._softmaxes, self._is_inside_backend = [], False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments of scaled dot-product attention, and let every call pass."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and not self._is_inside_backend:
            given = dict(zip(_SDPA_PARAMETERS, args, strict=False)) | kwargs
            self._hear(given["query"], given["key"], given)
        return func(*args, **kwargs)

    def _on_backend(self, backend: Backend, given: Mapping[str, Any]) -> Any:
        # The backends' layout is (row, token, head, channel).
        self._hear(given["query"].transpose(1, 2), given["key"].transpose(1, 2), given)
        self._is_inside_backend = True  # The native one calls the function listened to above.
        try:
            return backend(**given)
        finally:
            self._is_inside_backend = False

    def _hear(self, query: torch.Tensor, key: torch.Tensor, given: Mapping[str, Any]) -> None:
        source = self._running()
        if source is None:
            return
        scale = given.get("scale")
        call = FusedCall(
            query.detach(),
            key.detach(),
            float(query.shape[-1] ** -0.5 if scale is None else scale),
            given.get("attn_mask"),
            source,
        )
        self._softmaxes += self._tap.read(call)


class _Backends:
    """Diffusers' table of attention backends, each wrapped while any capture is running."""

    def __init__(self) -> None:
        self._captures = 0
        self._wrapped: dict[Any, tuple[Backend, Backend]] = {}  # the wrapper, the backend
        self._lock = threading.Lock()
        self._thread = threading.local()

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        with self._lock:
            self._captures += 1
            if self._captures == 1:
                self._wrap()
        try:
            yield
        finally:
            with self._lock:
                self._captures -= 1
                if not self._captures:
                    self._unwrap()

    @contextmanager
    def heard_by(self, ear: Callable[[Backend, Mapping[str, Any]], Any]) -> Iterator[None]:
        before = getattr(self._thread, "ear", None)
        self._thread.ear = ear
        try:
            yield
        finally:
            self._thread.ear = before

    def _wrap(self) -> None:
        table = _backend_table()
        for name, backend in table.items():
            self._wrapped[name] = (self._wrapper(backend), backend)
            table[name] = self._wrapped[name][0]

    def _unwrap(self) -> None:
        table = _backend_table()
        for name, (wrapper, backend) in self._wrapped.items():
            if table.get(name) is wrapper:
                table[name] = backend
        self._wrapped = {}

    def _wrapper(self, backend: Backend) -> Backend:
        signature = inspect.signature(backend)

        @functools.wraps(backend)
        def listened(*args: Any, **kwargs: Any) -> Any:
            if (ear := getattr(self._thread, "ear", None)) is None:
                return backend(*args, **kwargs)
            return ear(backend, signature.bind(*args, **kwargs).arguments)

        return listened


_backends = _Backends()


def _backend_table() -> dict[Any, Backend]:
    """Return diffusers' table of attention backends; empty where this version has none.

    It is private: there is no public way to look on, and the public function that dispatches is
    bound by name in every model's module.
    """
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:
        return {}
    found: dict[Any, Backend] = _AttentionBackendRegistry._backends
    return found
