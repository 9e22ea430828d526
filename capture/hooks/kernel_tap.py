"""Taps on the attention kernel, for layers that rotate or concatenate their tokens first.

Joint-attention transformers concatenate text, target and reference, normalise and rotate them, and
call one fused kernel. Its arguments are read: those of PyTorch's scaled dot-product attention, and
in diffusers' dispatch those of every other backend (flex, flash, sage, xformers …).
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from i2am.capture.hooks.attention import AttentionInputs, ReferenceKeys, TextTokens, Tokens
from i2am.capture.hooks.taps import DenoiserCall, LayerTap, Receive

if TYPE_CHECKING:
    from torch import nn

__all__ = ["KernelCall", "KernelTap"]

Backend = Callable[..., Any]

_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask")


@dataclass(frozen=True)
class KernelCall:
    """The arguments of one call of the attention kernel.

    Parameters
    ----------
    query, key : Tensor, dims (batch, head, token, channel)
        On the model's device and in its dtype.
    scale : float
        Factor of Q·K before the softmax.
    mask : Tensor or None
        As the kernel takes it; broadcasts to (batch, head, query token, key token).
    source : DenoiserCall
        The running call of the denoiser.

    Examples
    --------
    ::

        def read(call: KernelCall) -> Iterator[AttentionInputs]:
            reference = ReferenceKeys(slice(64, 128), ReferenceLayout(0, (8, 8)))
            yield call.attention_inputs(slice(0, 64), (8, 8), (reference,))
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask: torch.Tensor | None
    source: DenoiserCall

    def attention_inputs(
        self,
        generated: Tokens,
        grid: tuple[int, int],
        references: tuple[ReferenceKeys, ...],
        frames: int = 1,
        text: Tokens | None = None,
        text_queries: Tokens | None = None,
    ) -> AttentionInputs:
        """Return the inputs of the generated patches' softmax.

        Parameters
        ----------
        generated : slice, or Tensor (patch,) of int
            Indices of the generated patches among the queries, row-major over `grid`.
        grid, references, frames
            See `AttentionInputs`.
        text : slice, or Tensor (token,) of int, optional
            Indices of the text among the keys, where that is known.
        text_queries : slice, or Tensor (token,) of int, optional
            Indices of the same tokens among the queries; None where they read nothing in this call.
        """
        query, mask = self._of_queries(generated)
        of_text = None
        if text is not None:
            own = (None, None) if text_queries is None else self._of_queries(text_queries)
            of_text = TextTokens(text, *own)
        return AttentionInputs(query, self.key, self.scale, grid, references, mask, frames, of_text)

    def _of_queries(self, some: Tokens) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return some of the queries, and their mask."""
        mask = self.mask
        if mask is not None and mask.shape[-2] > 1:
            mask = mask[..., some, :]
        return self.query[:, :, some], mask

    def softmax(
        self,
        generated: Tokens,
        grid: tuple[int, int],
        references: tuple[ReferenceKeys, ...],
        frames: int = 1,
    ) -> AttentionInputs:
        """Old name of `attention_inputs`."""
        msg = (
            "KernelCall.softmax is now KernelCall.attention_inputs; the old name goes with the next "
            "release."
        )
        warnings.warn(msg, DeprecationWarning, stacklevel=2)
        return self.attention_inputs(generated, grid, references, frames)


@dataclass(frozen=True)
class KernelTap(LayerTap):
    """Reads the attention kernel's arguments while the layer's forward runs.

    Parameters
    ----------
    name, attention, block
        See `LayerTap`.
    read : callable (KernelCall) -> iterable of AttentionInputs
        Says which tokens are the reference's. Yields nothing for a call without reference tokens.

    Examples
    --------
    ::

        KernelTap("transformer_blocks.0.attn", block.attn, "transformer_blocks", read=read)
    """

    read: Callable[[KernelCall], Iterable[AttentionInputs]] = field(repr=False)

    def attach(
        self, receive: Receive, current_call: Callable[[], DenoiserCall | None], stack: ExitStack
    ) -> None:
        """See `LayerTap`."""
        stack.enter_context(_backends.wrapped())
        reader = _KernelCallReader(self, receive, current_call)
        handles = (
            self.attention.register_forward_pre_hook(reader.on_start),
            # Also after an exception, or the mode would stay on.
            self.attention.register_forward_hook(reader.on_end, always_call=True),
        )
        for handle in handles:
            stack.callback(handle.remove)
        stack.callback(reader.stop)


class _KernelCallReader(TorchFunctionMode):
    """Reads one layer's kernel calls, from the start to the end of its forward."""

    def __init__(
        self, tap: KernelTap, receive: Receive, current_call: Callable[[], DenoiserCall | None]
    ) -> None:
        super().__init__()
        self._tap, self._receive, self._current_call = tap, receive, current_call
        self._stack = ExitStack()
        self._layer_inputs: list[AttentionInputs] = []
        self._is_inside_backend = False

    def on_start(self, _module: nn.Module, _arguments: Any) -> None:
        self.stop()
        if self._current_call() is not None:
            self._stack.enter_context(self)
            self._stack.enter_context(_backends.calling(self._on_backend))

    def on_end(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        found = self._layer_inputs
        self.stop()
        if found:
            self._receive(self._tap, found)

    def stop(self) -> None:
        self._stack.close()
        self._layer_inputs, self._is_inside_backend = [], False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Read the arguments of scaled dot-product attention, and pass every call on."""
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and not self._is_inside_backend:
            given = dict(zip(_SDPA_PARAMETERS, args, strict=False)) | kwargs
            self._read_kernel_call(given["query"], given["key"], given)
        return func(*args, **kwargs)

    def _on_backend(self, backend: Backend, given: Mapping[str, Any]) -> Any:
        # The backends' layout is (batch, token, head, channel).
        self._read_kernel_call(given["query"].transpose(1, 2), given["key"].transpose(1, 2), given)
        self._is_inside_backend = True  # The native one calls the function that is read above.
        try:
            return backend(**given)
        finally:
            self._is_inside_backend = False

    def _read_kernel_call(
        self, query: torch.Tensor, key: torch.Tensor, given: Mapping[str, Any]
    ) -> None:
        source = self._current_call()
        if source is None:
            return
        scale = given.get("scale")
        call = KernelCall(
            query.detach(),
            key.detach(),
            float(query.shape[-1] ** -0.5 if scale is None else scale),
            given.get("attn_mask"),
            source,
        )
        self._layer_inputs += self._tap.read(call)


class _Backends:
    """Diffusers' table of attention backends; each is wrapped while any capture is running."""

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
    def calling(self, callback: Callable[[Backend, Mapping[str, Any]], Any]) -> Iterator[None]:
        """Let this thread's backend calls go through `callback`."""
        before = getattr(self._thread, "callback", None)
        self._thread.callback = callback
        try:
            yield
        finally:
            self._thread.callback = before

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
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if (callback := getattr(self._thread, "callback", None)) is None:
                return backend(*args, **kwargs)
            return callback(backend, signature.bind(*args, **kwargs).arguments)

        return wrapper


_backends = _Backends()


def _backend_table() -> dict[Any, Backend]:
    """Return diffusers' table of attention backends; empty where this version has none.

    It is private: there is no public way to observe calls, and the public function that dispatches
    is imported by name into every model's module.
    """
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:
        return {}
    found: dict[Any, Backend] = _AttentionBackendRegistry._backends
    return found
