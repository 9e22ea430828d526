"""Hooks on a denoiser: which step, guidance branch and layer each of its calls belongs to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.step_clock import StepClock
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.schemas import CaptureError
from i2am.schemas.dims import CONDITIONAL

__all__ = ["DenoiserHooks", "GuidanceOption", "LayerCall", "bind", "guidance_branches"]

GuidanceOption = Literal["conditional", "both"]


_LATENT_ARGUMENTS = ("sample", "hidden_states", "x", "latents")


_TIMESTEP_ARGUMENTS = ("timestep", "timesteps", "t")


@dataclass(frozen=True)
class LayerCall:
    """The inputs of one layer's softmaxes in one call of the denoiser.

    Parameters
    ----------
    tap : LayerTap
    inputs : list of AttentionInputs
        Each over the whole batch.
    step_index : int
        Index of the call's step among the steps that are kept.
    branches : tuple of (str, int)
        The guidance branches that are kept, each with the batch index of its first sample.
    """

    tap: LayerTap
    inputs: list[AttentionInputs]
    step_index: int
    branches: tuple[tuple[str, int], ...]


@dataclass
class _Running:
    """The running call of the denoiser, when it is kept."""

    call: DenoiserCall
    step_index: int
    branches: tuple[tuple[str, int], ...]


@dataclass
class DenoiserHooks:
    """Hooks a denoiser and its layers, and tells what each layer computed at which step.

    Parameters
    ----------
    denoiser : Module
    taps : sequence of LayerTap
    labels : tuple of str
        Of the branches of a guided batch, in the batch's order; see `Profile.guidance`.
    call_labels : tuple of str
        Of the calls of one step, of a model that is called once per branch; see `Profile.calls`.
    samples : int
        Images that the call generates.
    guidance : {"conditional", "both"}
    keeps_step : callable (step) -> bool
    scheduler : object or None
    is_compiled : bool
        Whether the denoiser was compiled; it then runs eagerly while it is hooked, because
        compiled code does not call hooks that came later.
    receive : callable (LayerCall)
    after_call : callable ()
        Called when a call of the denoiser that is kept has returned, or failed.
    after_last : callable ()
        Called after the last step, where that can be told; the pipeline still has work to do.
    """

    denoiser: nn.Module
    taps: Sequence[LayerTap]
    labels: tuple[str, ...]
    call_labels: tuple[str, ...]
    samples: int
    guidance: GuidanceOption
    keeps_step: Callable[[int], bool]
    scheduler: Any
    is_compiled: bool
    receive: Callable[[LayerCall], None]
    after_call: Callable[[], None]
    after_last: Callable[[], None]
    steps: list[int] = field(default_factory=list)
    calls: int = 0

    def attach(self, stack: ExitStack) -> None:
        """Attach hooks to the denoiser and its layers, until `stack` closes."""
        self._clock = StepClock(self.scheduler, self.after_last)
        self._running: _Running | None = None
        self._layers_read: set[tuple[str, str]] = set()  # layer, guidance branch
        self._branches: set[str] = set()
        if self.is_compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for handle in (
            self.denoiser.register_forward_pre_hook(self._on_call, with_kwargs=True),
            self.denoiser.register_forward_hook(self._on_return, always_call=True),
        ):
            stack.callback(handle.remove)
        self._clock.watch(stack)
        for tap in self.taps:
            tap.attach(self._on_layer, self._current_call, stack)

    @property
    def timesteps(self) -> list[float]:
        """The timesteps of the steps that were kept."""
        found = self._clock.timesteps
        return [found[step] for step in self.steps]

    @property
    def step_count(self) -> int:
        """How many steps there were, kept or not."""
        return len(self._clock.timesteps)

    @property
    def branches(self) -> tuple[str, ...]:
        """The guidance branches that were kept, in the order of the profile."""
        return tuple(branch for branch in self.labels if branch in self._branches)

    def expected_branches(self) -> tuple[str, ...] | None:
        """Return the guidance branches of this run; None until the first guided call."""
        if self.guidance == "conditional":
            return (CONDITIONAL,)
        return self.branches if len(self.branches) > 1 else None

    def check_all_layers_read(self) -> None:
        """Check that every layer was read at the latest step.

        Raises
        ------
        CaptureError
            Naming a layer that was not, and the likely cause.
        """
        expected = [(tap.name, branch) for branch in self.branches for tap in self.taps]
        missing = [key for key in expected if key not in self._layers_read]
        if not self.steps or not missing:
            return
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        msg = (
            f"Expected queries and keys of every layer, got none at step {self.steps[-1]} "
            f"({missing[0][1]} branch) from {missing[0][0]!r}{others}. {_likely_cause(self.denoiser)}"
        )
        raise CaptureError(msg)

    def _on_call(
        self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        named = bind(type(module).forward, (module, *arguments), options)
        self.calls += 1
        position = self._clock.tick(_argument(named, _TIMESTEP_ARGUMENTS, "a timestep"))
        if position.step is None or not self.keeps_step(position.step):
            return
        batch = len(_argument(named, _LATENT_ARGUMENTS, "the noisy latents"))
        branches = guidance_branches(batch, self.samples, self.labels)
        if len(branches) == 1:
            branches = (self._label(position.call),)
        wanted = branches if self.guidance == "both" else (CONDITIONAL,)
        if CONDITIONAL not in branches and self.guidance == "conditional":
            return
        if not self.steps or self.steps[-1] != position.step:
            self.check_all_layers_read()
            self.steps.append(position.step)
            self._layers_read.clear()
        self._branches.update(wanted)
        starts = tuple((branch, branches.index(branch) * self.samples) for branch in wanted)
        self._running = _Running(DenoiserCall(named, batch), len(self.steps) - 1, starts)

    def _label(self, call: int) -> str:
        if call < len(self.call_labels):
            return self.call_labels[call]
        msg = (
            f"Expected at most {len(self.call_labels)} calls of the denoiser in one step "
            f"{self.call_labels}, got another one. Pass a Profile that names them all."
        )
        raise CaptureError(msg)

    def _on_return(self, _module: nn.Module, _arguments: Any, _output: Any) -> None:
        if self._running is not None:
            self._running = None
            self.after_call()

    def _current_call(self) -> DenoiserCall | None:
        return self._running.call if self._running else None

    def _on_layer(self, tap: LayerTap, layer_inputs: list[AttentionInputs]) -> None:
        running = self._running
        if running is None:
            return
        self._layers_read.update((tap.name, branch) for branch, _ in running.branches)
        for inputs in layer_inputs:
            if len(inputs.query) != running.call.batch:
                msg = (
                    f"Expected a batch of {running.call.batch}, got {len(inputs.query)}, at layer "
                    f"{tap.name!r}. This layer folds other axes into the batch; leave it out."
                )
                raise CaptureError(msg)
        self.receive(LayerCall(tap, layer_inputs, running.step_index, running.branches))


def _argument(named: dict[str, Any], names: tuple[str, ...], what: str) -> Any:
    for name in names:
        if named.get(name) is not None:
            return named[name]
    msg = (
        f"Expected {what} among the denoiser's arguments ({' or '.join(names)}), got "
        f"{sorted(named)}. Pass the module that is called at every step."
    )
    raise CaptureError(msg)


def _likely_cause(denoiser: nn.Module) -> str:
    if getattr(denoiser, "is_cache_enabled", False):
        return "The denoiser caches what its layers gave: call disable_cache() before the capture."
    return (
        "The likely cause: this call has no reference tokens, guidance was switched off on the "
        "way, the reference was (an IP-Adapter's scale of 0), or an attention processor of its own "
        "bypasses the projections. Undo that, or leave the layer out with layers=."
    )


def bind(
    forward: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by the names of the function's signature."""
    return {**dict(zip(_positional_names(forward), arguments, strict=False)), **options}


@functools.lru_cache(maxsize=64)
def _positional_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of what may be given by position; binding anew each time takes longer."""
    given = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in given)


def guidance_branches(batch: int, samples: int, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of a batch's guidance branches, in their order.

    Raises
    ------
    CaptureError
        If the batch does not divide among the samples, or by a number of branches that the
        profile does not know.

    Examples
    --------
    >>> guidance_branches(4, 2, ("unconditional", "conditional"))
    ('unconditional', 'conditional')
    >>> guidance_branches(2, 2, ("unconditional", "conditional"))
    ('conditional',)
    """
    branches, rest = divmod(batch, samples)
    if rest == 0 and branches == 1:
        return (CONDITIONAL,)
    if rest == 0 and branches == len(labels):
        return labels
    msg = (
        f"Expected a batch of {samples} or of {samples} × {len(labels)} (guidance branches), "
        f"got {batch}, for {samples} sample names. Name every image that the call generates."
    )
    raise CaptureError(msg)
