"""Queries and keys from the outputs of projections, for attention that uses them as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import Softmax
from i2am.capture.hooks.taps import LayerTap, Receive, Source

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Heard", "Projection", "ProjectionTap"]


@dataclass(frozen=True)
class Projection:
    """A module whose output holds queries or keys: all of it, or one of several equal parts."""

    module: nn.Module = field(repr=False)
    part: int = 0
    parts: int = 1

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """Return this projection's part of the module's output."""
        found: torch.Tensor = output.detach() if output.requires_grad else output
        return found if self.parts == 1 else found.chunk(self.parts, -1)[self.part]


@dataclass(frozen=True)
class Heard:
    """What a layer's projections gave in one call, and the call itself.

    Parameters
    ----------
    query : Tensor
        As the projection gave it.
    keys : tuple of tuple of Tensor
        For each key projection, its outputs in the order in which they came; maybe none.
    states : tuple of int
        Shape of what the module that knows the grid was given.
    options : mapping
        The attention module's own keyword arguments.
    source : Source
    """

    query: torch.Tensor
    keys: tuple[tuple[torch.Tensor, ...], ...]
    states: tuple[int, ...]
    options: Mapping[str, Any]
    source: Source


@dataclass(frozen=True)
class ProjectionTap(LayerTap):
    """Reads the outputs of projections (or of the norms that follow them) with forward hooks.

    Parameters
    ----------
    query : Projection
    keys : tuple of Projection
    read : callable (Heard) -> iterable of Softmax
        Says what the tokens are. Nothing, where the call has no reference tokens.
    grid_source : Module
        Its first input has the spatial size of the queries.
    """

    query: Projection
    keys: tuple[Projection, ...]
    read: Callable[[Heard], Iterable[Softmax]] = field(repr=False)
    grid_source: nn.Module = field(repr=False)

    def attach(
        self, receive: Receive, running: Callable[[], Source | None], stack: ExitStack
    ) -> None:
        """See `LayerTap`."""
        ears = _Ears(self, receive, running)
        handles = [
            self.grid_source.register_forward_pre_hook(ears.on_states, with_kwargs=True),
            self.attention.register_forward_pre_hook(ears.on_start, with_kwargs=True),
            self.query.module.register_forward_hook(ears.on_query),
            *(
                key.module.register_forward_hook(ears.on_key(place))
                for place, key in enumerate(self.keys)
            ),
            self.attention.register_forward_hook(ears.on_end),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        # An exception between the hooks would leave tensors behind, and with them device memory.
        stack.callback(ears.forget)


class _Ears:
    """The hooks of one projection tap, and what they have heard in the running call."""

    def __init__(
        self, tap: ProjectionTap, receive: Receive, running: Callable[[], Source | None]
    ) -> None:
        self._tap, self._receive, self._running = tap, receive, running
        self._states: tuple[int, ...] = ()
        self.forget()

    def forget(self) -> None:
        self._query: torch.Tensor | None = None
        self._keys: tuple[list[torch.Tensor], ...] = tuple([] for _ in self._tap.keys)
        self._options: Mapping[str, Any] = {}

    def on_states(self, _module: nn.Module, arguments: Sequence[Any], options: Any) -> None:
        states = arguments[0] if arguments else options.get("hidden_states", options.get("x"))
        self._states = tuple(states.shape)

    def on_start(self, _module: nn.Module, _arguments: Any, options: Mapping[str, Any]) -> None:
        self.forget()
        self._options = options

    def on_query(self, _module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
        self._query = self._tap.query.of(output)

    def on_key(self, place: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hear(_module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
            self._keys[place].append(self._tap.keys[place].of(output))

        return hear

    def on_end(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        source, query, keys = self._running(), self._query, tuple(map(tuple, self._keys))
        options = self._options
        self.forget()
        if source is None or query is None:
            return
        heard = Heard(query, keys, self._states, options, source)
        if softmaxes := list(self._tap.read(heard)):
            self._receive(self._tap, softmaxes)
