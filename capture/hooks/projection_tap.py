"""Queries and keys from the outputs of projections, for attention that uses them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.taps import DenoiserCall, LayerTap, Receive

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Projection", "ProjectionOutputs", "ProjectionTap"]


@dataclass(frozen=True)
class Projection:
    """A module whose output holds queries or keys: all of it, or one of several equal parts.

    Parameters
    ----------
    module : Module
        A projection, or the norm that follows it. Its output has dims (batch, token, channel) or
        (batch, head, token, channel).
    part, parts : int
        Which of how many equal parts of the last dimension holds them, from 0.

    Examples
    --------
    The keys of a projection that returns keys and values side by side:

    >>> import torch
    >>> from torch import nn
    >>> to_kv = nn.Linear(4, 16)
    >>> Projection(to_kv, part=0, parts=2).of(to_kv(torch.zeros(1, 3, 4))).shape
    torch.Size([1, 3, 8])
    """

    module: nn.Module = field(repr=False)
    part: int = 0
    parts: int = 1

    def of(self, output: torch.Tensor) -> torch.Tensor:
        """Return this projection's part of the module's output."""
        found: torch.Tensor = output.detach() if output.requires_grad else output
        return found if self.parts == 1 else found.chunk(self.parts, -1)[self.part]


@dataclass(frozen=True)
class ProjectionOutputs:
    """The outputs of a layer's projections in one call, and the call itself.

    Parameters
    ----------
    query : Tensor, dims (batch, token, head · channel) or (batch, head, token, channel)
        Output of the query projection, on the model's device and in its dtype.
    keys : tuple of tuple of Tensor, dims as `query`
        For each key projection, its outputs in the order of its calls; empty where it had none.
    states : tuple of int
        Shape of the input of `ProjectionTap.grid_source`; its last two are (height, width).
    options : mapping of str to object
        Keyword arguments of the attention module's call.
    source : DenoiserCall
        The running call of the denoiser.

    Examples
    --------
    ::

        def read(outputs: ProjectionOutputs) -> Iterator[AttentionInputs]:
            query, key = (split_heads(states) for states in (outputs.query, outputs.keys[0][-1]))
            reference = ReferenceKeys(slice(0, key.shape[2]), ReferenceLayout(1, (16, 16)))
            yield AttentionInputs(query, key, scale, outputs.states[-2:], (reference,))
    """

    query: torch.Tensor
    keys: tuple[tuple[torch.Tensor, ...], ...]
    states: tuple[int, ...]
    options: Mapping[str, Any]
    source: DenoiserCall


@dataclass(frozen=True)
class ProjectionTap(LayerTap):
    """Reads the outputs of projections (or of the norms that follow them) with forward hooks.

    Parameters
    ----------
    name, attention, block
        See `LayerTap`.
    query : Projection
    keys : tuple of Projection
    read : callable (ProjectionOutputs) -> iterable of AttentionInputs
        Says which tokens are the reference's. Yields nothing for a call without reference tokens.
    grid_source : Module
        The last two dims of its first input are the grid of the queries, (height, width).

    Examples
    --------
    ::

        ProjectionTap(
            "mid.attn2",
            denoiser.mid.attn2,
            "mid",
            query=Projection(denoiser.mid.attn2.to_q),
            keys=(Projection(denoiser.mid.attn2.to_k),),
            read=read,
            grid_source=denoiser.mid,
        )
    """

    query: Projection
    keys: tuple[Projection, ...]
    read: Callable[[ProjectionOutputs], Iterable[AttentionInputs]] = field(repr=False)
    grid_source: nn.Module = field(repr=False)

    def attach(
        self, receive: Receive, current_call: Callable[[], DenoiserCall | None], stack: ExitStack
    ) -> None:
        """See `LayerTap`."""
        hooks = _ProjectionHooks(self, receive, current_call)
        handles = [
            self.grid_source.register_forward_pre_hook(hooks.on_states, with_kwargs=True),
            self.attention.register_forward_pre_hook(hooks.on_start, with_kwargs=True),
            self.query.module.register_forward_hook(hooks.on_query),
            *(
                key.module.register_forward_hook(hooks.on_key(index))
                for index, key in enumerate(self.keys)
            ),
            self.attention.register_forward_hook(hooks.on_end),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        # After an exception between two hooks, tensors would hold device memory.
        stack.callback(hooks.clear)


class _ProjectionHooks:
    """The hooks of one projection tap, and the outputs of the running call so far."""

    def __init__(
        self,
        tap: ProjectionTap,
        receive: Receive,
        current_call: Callable[[], DenoiserCall | None],
    ) -> None:
        self._tap, self._receive, self._current_call = tap, receive, current_call
        self._states: tuple[int, ...] = ()
        self._query: torch.Tensor | None = None
        self._keys: tuple[list[torch.Tensor], ...] = ()
        self._options: Mapping[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        self._query, self._options = None, {}
        self._keys = tuple([] for _ in self._tap.keys)

    def on_states(self, _module: nn.Module, arguments: Sequence[Any], options: Any) -> None:
        states = arguments[0] if arguments else options.get("hidden_states", options.get("x"))
        self._states = tuple(states.shape)

    def on_start(self, _module: nn.Module, _arguments: Any, options: Mapping[str, Any]) -> None:
        self.clear()
        self._options = options

    def on_query(self, _module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
        self._query = self._tap.query.of(output)

    def on_key(self, index: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def append(_module: nn.Module, _arguments: Any, output: torch.Tensor) -> None:
            self._keys[index].append(self._tap.keys[index].of(output))

        return append

    def on_end(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        source, query, keys = self._current_call(), self._query, tuple(map(tuple, self._keys))
        options = self._options
        self.clear()
        if source is None or query is None:
            return
        outputs = ProjectionOutputs(query, keys, self._states, options, source)
        if layer_inputs := list(self._tap.read(outputs)):
            self._receive(self._tap, layer_inputs)
