"""Watching the attention kernel while one layer runs: its arguments, and what becomes of them.

The kernel is PyTorch's scaled dot-product attention, in diffusers' dispatch every other backend (flex,
flash, sage, xformers …). Who watches may have it compute something else; then it is the model's own
kernel that does. Attention that is written out calls none: there the softmax is watched.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from i2am.capture.hooks.attention_cut import Attend, AttentionCut
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CallShape", "KernelArguments", "KernelWatcher", "watch_kernel"]

Backend = Callable[..., Any]

_SDPA_PARAMETERS = (
    "query",
    "key",
    "value",
    "attn_mask",
    "dropout_p",
    "is_causal",
    "scale",
    "enable_gqa",
)
_SOFTMAX = (torch.softmax, torch.Tensor.softmax, functional.softmax)


class CallShape(NamedTuple):
    """The sizes of an attention call, and where it runs."""

    batch: int
    heads: int
    queries: int
    keys: int
    device: torch.device


@dataclass(frozen=True)
class KernelArguments:
    """The arguments of one call of the attention kernel.

    Parameters
    ----------
    query, key : Tensor, dims (batch, head, token, channel)
    mask : Tensor or None
        As the kernel takes it.
    scale : float
        Factor of Q·K.
    """

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    scale: float

    @property
    def shape(self) -> CallShape:
        """The sizes of the call."""
        batch, heads, queries, _ = self.query.shape
        return CallShape(batch, heads, queries, self.key.shape[2], self.query.device)


class KernelWatcher(Protocol):
    """Sees one layer's kernel calls."""

    def on_start(self) -> bool:
        """Take note that the layer's forward begins; return whether to watch it."""

    def on_end(self, *, has_failed: bool) -> None:
        """Take note that it has ended, with an exception or without."""

    def on_kernel(self, arguments: KernelArguments) -> AttentionCut | None:
        """Take a call's arguments; return what is taken out of it, if anything is."""

    def on_softmax(self, logits: torch.Tensor) -> AttentionCut | None:
        """Take the argument of a softmax outside of a kernel; return what is taken out of it."""


def watch_kernel(layer: nn.Module, watcher: KernelWatcher, stack: ExitStack) -> None:
    """Show a layer's kernel calls to a watcher, until `stack` closes.

    Parameters
    ----------
    layer : Module
    watcher : KernelWatcher
    stack : ExitStack
    """
    stack.enter_context(_backends.wrapped())
    mode = _WatchingMode(watcher)
    handles = (
        layer.register_forward_pre_hook(mode.on_start),
        # Also after an exception, or the mode would stay on.
        layer.register_forward_hook(mode.on_end, always_call=True),
    )
    for handle in handles:
        stack.callback(handle.remove)
    stack.callback(mode.stop)


class _WatchingMode(TorchFunctionMode):
    """Shows a watcher the kernel calls from the start to the end of a layer's forward."""

    def __init__(self, watcher: KernelWatcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._stack = ExitStack()
        self._is_inside_kernel = False

    def on_start(self, _module: nn.Module, _arguments: Any) -> None:
        self.stop()
        if self._watcher.on_start():
            self._stack.enter_context(self)
            self._stack.enter_context(_backends.calling(self._on_backend))

    def on_end(self, _module: nn.Module, _arguments: Any, output: Any) -> None:
        self.stop()
        self._watcher.on_end(has_failed=output is None)

    def stop(self) -> None:
        self._stack.close()
        self._is_inside_kernel = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Show the arguments of attention, and pass every other call on."""
        kwargs = kwargs or {}
        if self._is_inside_kernel:
            return func(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return self._on_sdpa(func, args, kwargs)
        if func in _SOFTMAX and (cut := self._watcher.on_softmax(args[0])) is not None:
            return _changed_softmax(cut, func, args, kwargs)
        return func(*args, **kwargs)

    def _on_sdpa(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = dict(zip(_SDPA_PARAMETERS, args, strict=False)) | kwargs
        cut = self._watcher.on_kernel(_arguments(given["query"], given["key"], given))
        if cut is None:
            return func(*args, **kwargs)

        def attend(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            mask: torch.Tensor | None,
            scale: float | None,
        ) -> Any:
            own = {"query": query, "key": key, "value": value, "attn_mask": mask}
            return func(**(given | own | ({} if scale is None else {"scale": scale})))

        states = (given["query"], given["key"], given["value"])
        return _cut_call(cut, attend, states, given, given.get("attn_mask"))

    def _on_backend(self, backend: Backend, given: Mapping[str, Any]) -> Any:
        # The backends' layout is (batch, token, head, channel).
        query, key, value = (given[name].transpose(1, 2) for name in ("query", "key", "value"))
        self._is_inside_kernel = True  # The native one calls the function that is watched.
        try:
            cut = self._watcher.on_kernel(_arguments(query, key, given))
            if cut is None:
                return backend(**given)

            def attend(
                query: torch.Tensor,
                key: torch.Tensor,
                value: torch.Tensor,
                mask: torch.Tensor | None,
                scale: float | None,
            ) -> Any:
                states = {"query": query, "key": key, "value": value}
                changed: dict[str, Any] = {
                    name: own.transpose(1, 2) for name, own in states.items()
                }
                if scale is not None:
                    changed["scale"] = scale
                if given.get("attn_mask") is not None:
                    changed["attn_mask"] = mask
                return backend(**{**given, **changed}).transpose(1, 2)

            mask = given.get("attn_mask")
            if mask is not None and mask.ndim == 2:  # Of the keys, one for each row.
                mask = mask[:, None, None]
            return _cut_call(cut, attend, (query, key, value), given, mask).transpose(1, 2)
        finally:
            self._is_inside_kernel = False


def _arguments(query: torch.Tensor, key: torch.Tensor, given: Mapping[str, Any]) -> KernelArguments:
    return KernelArguments(query, key, given.get("attn_mask"), _scale_of(query, given))


def _scale_of(query: torch.Tensor, given: Mapping[str, Any]) -> float:
    scale = given.get("scale")
    return float(query.shape[-1] ** -0.5 if scale is None else scale)


def _cut_call(
    cut: AttentionCut,
    attend: Attend,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    given: Mapping[str, Any],
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return the output of a kernel's call, of queries, keys and values, without what is cut."""
    for name in ("is_causal", "return_lse"):
        if given.get(name):
            msg = (
                f"Expected attention that can be cut, got a kernel's call with {name}, whose keys cannot "
                "be taken out. Leave the layer out with layers=."
            )
            raise CaptureError(msg)
    query, key, value = states
    return cut.apply(attend, query, key, value, mask, _scale_of(query, given))


def _changed_softmax(cut: AttentionCut, func: Any, args: Any, kwargs: Any) -> Any:
    """Return the model's own softmax of other logits, (batch · head, query, key) or with both apart."""
    logits, *others = args
    shape = cut.batch, cut.heads, cut.queries, cut.keys
    changed = cut.change_logits(logits.reshape(shape)).reshape(logits.shape)
    found = func(changed, *others, **kwargs)
    return cut.clear_blind(found.reshape(shape)).reshape(found.shape)


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
