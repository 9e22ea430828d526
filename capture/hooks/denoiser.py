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

from i2am.capture.hooks.attention import Softmax
from i2am.capture.hooks.step_clock import StepClock
from i2am.capture.hooks.taps import LayerTap, Source
from i2am.schemas import CaptureError
from i2am.schemas.dims import CONDITIONAL

__all__ = ["GuidanceOption", "HeardLayer", "Listener", "bind", "guidance_halves"]

GuidanceOption = Literal["conditional", "both"]


_STATES = ("sample", "hidden_states", "x", "latents")


_TIMESTEPS = ("timestep", "timesteps", "t")


@dataclass(frozen=True)
class HeardLayer:
    """One layer's softmaxes in one call of the denoiser.

    Parameters
    ----------
    tap : LayerTap
    softmaxes : list of Softmax
        Over all rows of the batch.
    position : int
        Index of the call's step among the steps that are kept.
    rows : tuple of (str, int)
        The guidance halves that are kept, and the batch's row of each half's first sample.
    """

    tap: LayerTap
    softmaxes: list[Softmax]
    position: int
    rows: tuple[tuple[str, int], ...]


@dataclass
class _Running:
    """The running call of the denoiser, when it is kept."""

    source: Source
    position: int
    rows: tuple[tuple[str, int], ...]


@dataclass
class Listener:
    """Hooks a denoiser and its layers, and tells what each layer computed at which step.

    Parameters
    ----------
    denoiser : Module
    taps : sequence of LayerTap
    labels : tuple of str
        Of the halves of a guided batch, in the batch's order; see `Profile.guidance`.
    call_labels : tuple of str
        Of the calls of one step, of a model that is called once per half; see `Profile.calls`.
    samples : int
        Images that the call generates.
    guidance : {"conditional", "both"}
    keeps_step : callable (step) -> bool
    scheduler : object or None
    is_compiled : bool
        Whether the denoiser was compiled; it then runs eagerly while it is listened to, because
        compiled code does not call hooks that came later.
    receive : callable (HeardLayer)
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
    receive: Callable[[HeardLayer], None]
    after_call: Callable[[], None]
    after_last: Callable[[], None]
    steps: list[int] = field(default_factory=list)
    calls: int = 0

    def attach(self, stack: ExitStack) -> None:
        """Look on until `stack` closes."""
        self._clock = StepClock(self.scheduler, self.after_last)
        self._running: _Running | None = None
        self._heard: set[tuple[str, str]] = set()  # layer, guidance half
        self._halves: set[str] = set()
        if self.is_compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for handle in (
            self.denoiser.register_forward_pre_hook(self._on_call, with_kwargs=True),
            self.denoiser.register_forward_hook(self._on_return, always_call=True),
        ):
            stack.callback(handle.remove)
        self._clock.watch(stack)
        for tap in self.taps:
            tap.attach(self._on_layer, self._source, stack)

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
    def halves(self) -> tuple[str, ...]:
        """The guidance halves that were kept, in the order of the profile."""
        return tuple(half for half in self.labels if half in self._halves)

    def known_halves(self) -> tuple[str, ...] | None:
        """Return the halves that will come; None while nobody can tell."""
        if self.guidance == "conditional":
            return (CONDITIONAL,)
        return self.halves if len(self.halves) > 1 else None

    def check_heard(self) -> None:
        """Check that every layer was heard at the latest step.

        Raises
        ------
        CaptureError
            Naming a layer that was not, and the likely cause.
        """
        expected = [(tap.name, half) for half in self.halves for tap in self.taps]
        silent = [place for place in expected if place not in self._heard]
        if not self.steps or not silent:
            return
        others = f" and {len(silent) - 1} more" if silent[1:] else ""
        msg = (
            f"Expected queries and keys of every layer, got none at step {self.steps[-1]} "
            f"({silent[0][1]} half) from {silent[0][0]!r}{others}. {_likely_cause(self.denoiser)}"
        )
        raise CaptureError(msg)

    def _on_call(
        self, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        named = bind(type(module).forward, (module, *arguments), options)
        self.calls += 1
        moment = self._clock.tick(_argument(named, _TIMESTEPS, "a timestep"))
        if moment.step is None or not self.keeps_step(moment.step):
            return
        batch = len(_argument(named, _STATES, "the noisy latents"))
        halves = guidance_halves(batch, self.samples, self.labels)
        if len(halves) == 1:
            halves = (self._label(moment.call),)
        wanted = halves if self.guidance == "both" else (CONDITIONAL,)
        if CONDITIONAL not in halves and self.guidance == "conditional":
            return
        if not self.steps or self.steps[-1] != moment.step:
            self.check_heard()
            self.steps.append(moment.step)
            self._heard.clear()
        self._halves.update(wanted)
        rows = tuple((half, halves.index(half) * self.samples) for half in wanted)
        self._running = _Running(Source(named, batch), len(self.steps) - 1, rows)

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

    def _source(self) -> Source | None:
        return self._running.source if self._running else None

    def _on_layer(self, tap: LayerTap, softmaxes: list[Softmax]) -> None:
        running = self._running
        if running is None:
            return
        self._heard.update((tap.name, half) for half, _ in running.rows)
        for softmax in softmaxes:
            if len(softmax.query) != running.source.batch:
                msg = (
                    f"Expected {running.source.batch} rows, got {len(softmax.query)}, at layer "
                    f"{tap.name!r}. This layer folds other axes into the batch; leave it out."
                )
                raise CaptureError(msg)
        self.receive(HeardLayer(tap, softmaxes, running.position, running.rows))


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


def guidance_halves(batch: int, samples: int, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of a batch's guidance halves, in their order.

    Raises
    ------
    CaptureError
        If the batch does not divide among the samples, or by a number of halves that the
        profile does not know.

    Examples
    --------
    >>> guidance_halves(4, 2, ("unconditional", "conditional"))
    ('unconditional', 'conditional')
    >>> guidance_halves(2, 2, ("unconditional", "conditional"))
    ('conditional',)
    """
    halves, rest = divmod(batch, samples)
    if rest == 0 and halves == 1:
        return (CONDITIONAL,)
    if rest == 0 and halves == len(labels):
        return labels
    msg = (
        f"Expected a batch of {samples} or of {samples} × {len(labels)} (guidance halves), "
        f"got {batch}, for {samples} sample names. Name every image that the call generates."
    )
    raise CaptureError(msg)
