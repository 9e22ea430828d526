"""Queries and keys from the outputs of projections, for attention that uses them unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.attention_cut import AttentionCut
from i2am.capture.hooks.kernel_watch import CallShape, KernelArguments, watch_kernel
from i2am.capture.hooks.taps import DenoiserCall, Edit, LayerTap, Receive
from i2am.schemas import CaptureError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Projection", "ProjectionOutputs", "ProjectionTap"]

# Between what was read and what the kernel gets, of the largest value; other keys differ by all of it.
_ROUNDING = 0.02


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
    is_whole : bool
        False while the layer still runs: more keys may come.

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
    is_whole: bool = True


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
        self,
        receive: Receive,
        current_call: Callable[[], DenoiserCall | None],
        stack: ExitStack,
        edit: Edit | None = None,
    ) -> None:
        """See `LayerTap`."""
        hooks = _ProjectionHooks(self, receive, current_call)
        if edit is not None:
            watch_kernel(self.attention, _LayerCutter(self, hooks, edit), stack)
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
        layer_inputs = self.read()
        self.clear()
        if layer_inputs:
            self._receive(self._tap, layer_inputs)

    def heads(self) -> int | None:
        """Return the number of heads of what was read first; None where nothing was."""
        found = self.read(is_whole=False)
        return found[0].query.shape[1] if found else None

    @property
    def is_kept(self) -> bool:
        """Whether the running call of the denoiser is kept."""
        return self._current_call() is not None

    def read(self, *, is_whole: bool = True) -> list[AttentionInputs]:
        """Return the inputs of each softmax so far; none where no call is kept."""
        source, query, keys = self._current_call(), self._query, tuple(map(tuple, self._keys))
        if source is None or query is None:
            return []
        outputs = ProjectionOutputs(query, keys, self._states, self._options, source, is_whole)
        return list(self._tap.read(outputs))


class _LayerCutter:
    """Finds which of a layer's attention calls are those that its projections were read for.

    They come in the order in which they are read, with as many keys. That they are the same keys is
    looked at once for each place in the layer; a layer that computes them elsewhere is refused.
    """

    def __init__(self, tap: ProjectionTap, hooks: _ProjectionHooks, edit: Edit) -> None:
        self._tap, self._hooks, self._edit = tap, hooks, edit
        self._calls = self._found = 0  # in the running call of the layer
        self._is_ours: dict[tuple[int, int], bool] = {}  # number of the call, of its keys

    def on_start(self) -> bool:
        """See `KernelWatcher`."""
        self._calls = self._found = 0
        return self._hooks.is_kept

    def on_end(self, *, has_failed: bool) -> None:
        """See `KernelWatcher`."""
        # It runs before the hook that reads the whole call, and clears it.
        if not has_failed and (missing := len(self._hooks.read()) - self._found) > 0:
            raise CaptureError(_not_found(self._tap.name, missing))

    def on_kernel(self, arguments: KernelArguments) -> AttentionCut | None:
        """See `KernelWatcher`."""
        return self._cut(arguments.shape, lambda inputs: _is_same(inputs.key, arguments.key))

    def on_softmax(self, logits: torch.Tensor) -> AttentionCut | None:
        """See `KernelWatcher`."""
        if logits.ndim < 3 or (heads := self._hooks.heads()) is None:
            return None
        queries, keys = logits.shape[-2:]
        batch, rest = divmod(logits.numel(), heads * queries * keys)
        if rest:
            return None
        shape = CallShape(batch, heads, queries, keys, logits.device)
        return self._cut(
            shape, lambda inputs: _is_product(inputs, logits.detach().reshape(shape[:4]))
        )

    def _cut(
        self, shape: CallShape, is_of: Callable[[AttentionInputs], bool]
    ) -> AttentionCut | None:
        self._calls += 1
        read = self._hooks.read(is_whole=False)
        if self._found >= len(read) or read[self._found].key.shape[2] != shape.keys:
            return None
        inputs, place = read[self._found], (self._calls, shape.keys)
        if place not in self._is_ours:
            self._is_ours[place] = is_of(inputs)
        if not self._is_ours[place]:
            return None
        self._found += 1
        return self._edit(self._tap, [inputs], shape)


def _is_same(read: torch.Tensor, key: torch.Tensor) -> bool:
    return read[0].shape == key[0].shape and _is_close(read[0], key[0])


def _is_product(inputs: AttentionInputs, logits: torch.Tensor) -> bool:
    """Return whether these are the logits, dims (batch, head, query, key), of what was read."""
    query, key, given = inputs.query[0, 0].float(), inputs.key[0, 0].float(), logits[0, 0]
    if inputs.query_tokens is not None:
        given = given[inputs.query_tokens]
    if inputs.folded == "frame":  # A row of the batch holds one.
        query = query[: len(given)]
    elif inputs.folded == "position":
        query = query[:: len(query) // inputs.frames]
    return len(query) == len(given) and _is_close(query @ key.mT * inputs.scale, given)


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are equal, but for the rounding of another dtype."""
    one, other = one.float(), other.float()
    return bool((one - other).abs().max() <= _ROUNDING * other.abs().max())


def _not_found(layer: str, missing: int) -> str:
    return (
        f"Expected attention that can be cut, got {missing} of the layer's without a call of PyTorch's or "
        f"diffusers' kernels and without a softmax of its own, at layer {layer!r}. Turn xformers and slicing "
        "off, or leave the layer out with layers=."
    )
