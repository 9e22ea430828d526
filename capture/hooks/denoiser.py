"""Hooks on a denoiser: which step, guidance branch and layer each of its calls belongs to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from i2am.capture.hooks.attention import AttentionInputs
from i2am.capture.hooks.attention_cut import AttentionCut
from i2am.capture.hooks.kernel_watch import CallShape
from i2am.capture.hooks.step_clock import CallPosition, StepClock
from i2am.capture.hooks.taps import DenoiserCall, LayerTap
from i2am.schemas import CaptureError
from i2am.schemas.choices import GuidanceOption
from i2am.schemas.dims import CONDITIONAL, PERTURBED

__all__ = [
    "DenoiserHooks",
    "GuidanceBranches",
    "HookedDenoiser",
    "LayerCall",
    "LayerEditor",
    "LayerSink",
    "bind",
    "guidance_branches",
]


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
        The guidance branches to keep, each with the batch index of its first sample.
    run_branches : tuple of str or None
        The guidance branches of the whole run; None until the first guided call.
    """

    tap: LayerTap
    inputs: list[AttentionInputs]
    step_index: int
    branches: tuple[tuple[str, int], ...]
    run_branches: tuple[str, ...] | None


class LayerEditor(Protocol):
    """Says what is taken out of a layer's attention."""

    def is_edited(self, layer: str) -> bool:
        """Return whether anything is taken out of a layer; else it is left alone."""

    def edit(self, call: LayerCall, step: int, shape: CallShape) -> AttentionCut | None:
        """Return what is taken out of one attention call; None to leave it as it is.

        Parameters
        ----------
        call : LayerCall
            With what was read of this attention call.
        step : int
            Of the denoising.
        shape : CallShape
            The sizes of the attention call.
        """


class LayerSink(Protocol):
    """Takes what the hooks read."""

    def receive(self, call: LayerCall) -> None:
        """Take the inputs of one layer in one call of the denoiser."""

    def call_ended(self) -> None:
        """Take note that a kept call of the denoiser has returned or failed."""

    def last_step(self) -> None:
        """Take note of the last step, where it is known; the pipeline still decodes the image."""


@dataclass(frozen=True)
class GuidanceBranches:
    """How the guidance branches lie in the batches and calls of a denoiser, and which are kept.

    Parameters
    ----------
    labels : tuple of str
        Of the branches of a guided batch, in the batch's order; see `Profile.guidance`.
    call_labels : tuple of str
        Of the calls of one step, of a model that is called once per branch; see `Profile.calls`.
    samples : int
        Number of images that the call generates.
    option : {"conditional", "both"}
        Which branches are kept.
    is_batched : bool
        Whether branches may share a batch; see `Profile.is_batched`.
    of_batch : callable () -> tuple of str or None
        The branches of the batch of the running call, where family or pipeline tell them.
    has_side_calls : callable () -> bool
        Whether a step's calls after the first serve guidance alone, and are not kept.
    of_call : callable () -> str or None
        The one branch of the running call, where whoever calls it says that: then the number of the
        call does not count. A perturbed one is not kept: what it leaves out of attention is not known.
    """

    labels: tuple[str, ...]
    call_labels: tuple[str, ...]
    samples: int
    option: GuidanceOption
    is_batched: bool
    of_batch: Callable[[], tuple[str, ...] | None]
    has_side_calls: Callable[[], bool]
    of_call: Callable[[], str | None]

    def kept(self, batch: int, call: int) -> tuple[tuple[str, int], ...]:
        """Return the branches to keep of a call, each with the batch index of its first sample.

        Parameters
        ----------
        batch : int
            Length of the denoiser's batch.
        call : int
            Number of the call within its step.

        Raises
        ------
        CaptureError
            If the batch does not fit the samples, or the step has more calls than labels.
        """
        if call and self.has_side_calls():
            return ()
        alone = self.of_call()
        if alone is None:
            branches = self._branches_of(batch, call)
        else:
            self._check_rows(batch, (alone,), is_batched=False)
            branches = () if alone == PERTURBED else (alone,)
        return tuple(
            (branch, index * self.samples)
            for index, branch in enumerate(branches)
            if self.option == "both" or branch == CONDITIONAL
        )

    def _branches_of(self, batch: int, call: int) -> tuple[str, ...]:
        """Return the branches of a batch, from what the pipeline says of it, and the call's number."""
        told = self.of_batch()
        if told is None:
            branches = guidance_branches(batch, self.samples, self.labels)
        else:
            self._check_rows(batch, told, is_batched=self.is_batched)
            branches = told
        if (told is not None and self.is_batched) or len(branches) > 1:
            self._check_is_only_call(call)
        elif len(branches) == 1:
            branches = (self._label(call),)
        return branches

    def _check_rows(self, batch: int, branches: tuple[str, ...], *, is_batched: bool) -> None:
        if batch != self.samples * len(branches):
            raise CaptureError(_unequal_rows(batch, self.samples, branches, is_batched))

    def has_equal_latents(self) -> bool:
        """Return whether all calls of a step look at the same latents: they differ in guidance alone."""
        return not self._has_other_purposes and not self.has_side_calls()

    @property
    def _has_other_purposes(self) -> bool:
        """Whether calls serve something else: the family says so by calling all conditional."""
        return set(self.call_labels) == {CONDITIONAL}

    def _check_is_only_call(self, call: int) -> None:
        """Refuse another call at a step whose first one held all branches."""
        if call < (len(self.call_labels) if self._has_other_purposes else 1):
            return
        msg = (
            "Expected one call of the denoiser in a step, with all guidance branches, got another one: "
            "the image may be painted in parts (tiles, views). Paint it whole, or capture the "
            "denoiser of one part."
        )
        raise CaptureError(msg)

    def _label(self, call: int) -> str:
        if call < len(self.call_labels):
            return self.call_labels[call]
        msg = (
            f"Expected at most {len(self.call_labels)} calls of the denoiser in one step "
            f"{self.call_labels}, got another one. Pass a Profile that names them all."
        )
        raise CaptureError(msg)


@dataclass(frozen=True)
class _KeptCall:
    """The running call of the denoiser, when it is kept."""

    call: DenoiserCall
    step_index: int
    branches: tuple[tuple[str, int], ...]
    run_branches: tuple[str, ...] | None


@dataclass(frozen=True)
class _FirstLatents:
    """The latents of the first call of a step."""

    tensor: torch.Tensor
    version: int | None  # PyTorch counts the changes in place, but not of inference tensors.

    @classmethod
    def of(cls, latents: torch.Tensor) -> _FirstLatents:
        return cls(latents, None if latents.is_inference() else latents._version)

    def equal(self, latents: torch.Tensor) -> bool:
        """Return whether a later call has the same latents; another tensor makes the device wait."""
        if self.version is not None and self.version != self.tensor._version:
            return False
        return latents is self.tensor or torch.equal(latents, self.tensor)


@dataclass(frozen=True)
class HookedDenoiser:
    """A module that is called at every step, or at some of them, and its layers.

    Parameters
    ----------
    module : Module
    taps : sequence of LayerTap
    """

    module: nn.Module
    taps: Sequence[LayerTap]


@dataclass
class DenoiserHooks:
    """Reads the layers of a denoiser, and says which step and guidance branch each call belongs to.

    Parameters
    ----------
    denoisers : sequence of HookedDenoiser
        One; or several of one architecture that share the steps, whose layers have the same names:
        each step of a layer is then that of the denoiser that ran at it.
    guidance : GuidanceBranches
    keeps_step : callable (step) -> bool
    scheduler : object or None
    is_compiled : bool
        Whether the denoiser was compiled. While it is hooked it runs eagerly, because compiled
        code does not call hooks that were registered later.
    is_step : callable (arguments) -> bool, optional
        See `Profile.is_step`.

    Attributes
    ----------
    steps : list of int
        The steps that were kept so far.
    calls : int
        Number of calls of the denoiser so far, kept or not.
    """

    denoisers: Sequence[HookedDenoiser]
    guidance: GuidanceBranches
    keeps_step: Callable[[int], bool]
    scheduler: Any = None
    is_compiled: bool = False
    is_step: Callable[[Mapping[str, Any]], bool] | None = None
    steps: list[int] = field(default_factory=list, init=False)
    calls: int = field(default=0, init=False)
    _running: _KeptCall | None = field(default=None, init=False)
    _layers_read: set[tuple[str, str]] = field(default_factory=set, init=False)  # layer, branch
    _branches: dict[str, None] = field(default_factory=dict, init=False)  # an ordered set
    _latents: _FirstLatents | None = field(default=None, init=False)  # of the latest kept step
    _called: set[str] = field(default_factory=set, init=False)  # branches of its calls, where told
    _latest: HookedDenoiser = field(init=False)
    _turns: dict[int, int] = field(default_factory=dict, init=False)  # denoiser -> its first step
    _clock: StepClock = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._clock = StepClock(self.scheduler)
        self._latest = self.denoisers[0]

    def attach(self, stack: ExitStack, sink: LayerSink, editor: LayerEditor | None = None) -> None:
        """Attach hooks to the denoiser and its layers, until `stack` closes.

        Without an editor nothing of what the model computes changes.
        """
        if self.is_compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for denoiser in self.denoisers:
            module = denoiser.module
            for handle in (
                module.register_forward_pre_hook(
                    partial(self._on_call, denoiser), with_kwargs=True
                ),
                module.register_forward_hook(partial(self._on_return, sink), always_call=True),
            ):
                stack.callback(handle.remove)
            receive = partial(self._on_layer, sink)
            for tap in denoiser.taps:
                is_edited = editor is not None and editor.is_edited(tap.name)
                edit = [partial(self._edit, editor)] if editor is not None and is_edited else []
                tap.attach(receive, self._current_call, stack, *edit)
        self._clock.watch(stack, sink.last_step)

    @property
    def taps(self) -> Sequence[LayerTap]:
        """The layers of the denoiser of the latest step."""
        return self._latest.taps

    @property
    def timesteps(self) -> list[float]:
        """The timesteps of the steps that were kept."""
        found = self._clock.timesteps
        return [found[step] for step in self.steps]

    @property
    def step_count(self) -> int:
        """Number of steps so far, kept or not."""
        return self._clock.step_count

    @property
    def branches(self) -> tuple[str, ...]:
        """The guidance branches that were kept: those of the profile in its order, then others."""
        known = dict.fromkeys(branch for branch in self.guidance.labels if branch in self._branches)
        return tuple(known | self._branches)

    @property
    def first_steps(self) -> list[int | None]:
        """The first kept step of each denoiser; None of one that ran at none."""
        return [self._turns.get(number) for number in range(len(self.denoisers))]

    def expected_branches(self) -> tuple[str, ...] | None:
        """Return the guidance branches of this run; None until the first guided call."""
        if self.guidance.option == "conditional":
            return (CONDITIONAL,)
        branches = self.branches
        return branches if len(branches) > 1 else None

    def check_ended(self) -> None:
        """Check that the run that has ended was whole.

        Raises
        ------
        CaptureError
            If its steps cannot be counted, or a layer was not read at the last one.
        """
        self._clock.check_ended()
        self.check_all_layers_read()

    def check_any_awake(self, step: int) -> None:
        """Check that some layer reads the reference, as the model stands at a step.

        Raises
        ------
        CaptureError
            If what reads it is switched off in all of them.
        """
        if all(tap.is_dormant() for tap in self.taps):
            msg = (
                "Expected an IP-Adapter that is switched on, got a scale of 0 in every layer that is "
                f"captured, at step {step}. Call set_ip_adapter_scale before the capture, or keep the "
                "steps at which it is on, with steps=."
            )
            raise CaptureError(msg)

    def check_all_layers_read(self) -> None:
        """Check that every layer was read at the latest step.

        Raises
        ------
        CaptureError
            Naming a layer that was not, and the likely cause.
        """
        if not self.steps:
            return
        self.check_any_awake(self.steps[-1])
        awake = [tap for tap in self.taps if not tap.is_dormant()]
        expected = [(tap.name, branch) for branch in self.branches for tap in awake]
        missing = [key for key in expected if key not in self._layers_read]
        if not missing:
            return
        layer, branch = missing[0]
        others = f" and {len(missing) - 1} more" if missing[1:] else ""
        msg = (
            f"Expected queries and keys of every layer, got none at step {self.steps[-1]} "
            f"({branch} branch) from {layer!r}{others}. {_likely_cause(self._latest.module)}"
        )
        raise CaptureError(msg)

    def _on_call(
        self,
        denoiser: HookedDenoiser,
        module: nn.Module,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        named = bind(type(module).forward, (module, *arguments), options)
        if self.is_step is not None and not self.is_step(named):
            return
        self.calls += 1
        position = self._clock.tick(_argument(named, _TIMESTEP_ARGUMENTS, "a timestep"))
        if position.step is None or not self.keeps_step(position.step):
            return
        latents = _argument(named, _LATENT_ARGUMENTS, "the noisy latents")
        batch = len(latents)
        self._check_latents(latents, position)
        self._check_is_new_branch(position)
        branches = self.guidance.kept(batch, position.call)
        if not branches:
            return
        if not self.steps or self.steps[-1] != position.step:
            self.check_all_layers_read()
            self._latest = denoiser
            self.steps.append(position.step)
            self._turns.setdefault(self.denoisers.index(denoiser), position.step)
            self._layers_read.clear()
        self._check_began_with(branches, position)
        self._branches |= dict.fromkeys(branch for branch, _ in branches)
        rows = _rows(branches, self.guidance.samples)
        call, index = DenoiserCall(named, batch, rows), len(self.steps) - 1
        self._running = _KeptCall(call, index, branches, self.expected_branches())

    def _check_latents(self, latents: Any, position: CallPosition) -> None:
        """Refuse a further call in a step that is not the same step's with other guidance."""
        if not isinstance(latents, torch.Tensor):
            return
        if position.call == 0:
            self._latents = _FirstLatents.of(latents)
        elif (
            self._latents is not None
            and self.guidance.has_equal_latents()
            and not self._latents.equal(latents)
        ):
            msg = (
                f"Expected calls of the denoiser that differ in guidance alone at step {position.step}, "
                f"got other latents in call {position.call + 1}: a part of the image (tile, view), a "
                "timestep that is sampled again, or a second sampling. Paint the image whole, without "
                "resampling, and capture the pipeline, if there is one: it tells its steps."
            )
            raise CaptureError(msg)

    def _check_began_with(
        self, branches: tuple[tuple[str, int], ...], position: CallPosition
    ) -> None:
        """Refuse a branch that the steps before had not."""
        new = [branch for branch, _ in branches if branch not in self._branches]
        if new and len(self.steps) > 1:
            msg = (
                f"Expected the same guidance branches at every kept step, got the {new[0]} one from step "
                f"{position.step} on: guidance begins on the way. Capture with guidance='conditional', or "
                "keep the steps of one setting, with steps=."
            )
            raise CaptureError(msg)

    def _check_is_new_branch(self, position: CallPosition) -> None:
        """Refuse a second call of one branch in a step, where each call tells its own."""
        branch = self.guidance.of_call()
        if position.call == 0:
            self._called.clear()
        if branch in self._called and branch != PERTURBED:
            msg = (
                f"Expected one call of the denoiser for each guidance branch at step {position.step}, got "
                f"another one that is {branch}: the image may be painted in parts (tiles, views). Paint it "
                "whole, or capture the denoiser of one part."
            )
            raise CaptureError(msg)
        if branch is not None:
            self._called.add(branch)

    def _on_return(
        self, sink: LayerSink, _module: nn.Module, _arguments: Any, _output: Any
    ) -> None:
        if self._running is not None:
            self._running = None
            sink.call_ended()

    def _current_call(self) -> DenoiserCall | None:
        return self._running.call if self._running else None

    def _edit(
        self,
        editor: LayerEditor,
        tap: LayerTap,
        layer_inputs: list[AttentionInputs],
        shape: CallShape,
    ) -> AttentionCut | None:
        kept = self._running
        if kept is None:
            return None
        call = LayerCall(tap, layer_inputs, kept.step_index, kept.branches, kept.run_branches)
        return editor.edit(call, self.steps[-1], shape)

    def _on_layer(
        self, sink: LayerSink, tap: LayerTap, layer_inputs: list[AttentionInputs]
    ) -> None:
        kept = self._running
        if kept is None:
            return
        self._layers_read.update((tap.name, branch) for branch, _ in kept.branches)
        batch = kept.call.batch
        for inputs in layer_inputs:
            if not len(inputs.query) == len(inputs.key) == batch:
                msg = (
                    f"Expected a batch of {batch}, got {len(inputs.query)} of queries and "
                    f"{len(inputs.key)} of keys, at layer {tap.name!r}. This layer folds other axes "
                    "into the batch; leave it out."
                )
                raise CaptureError(msg)
        sink.receive(
            LayerCall(tap, layer_inputs, kept.step_index, kept.branches, kept.run_branches)
        )


def _rows(branches: tuple[tuple[str, int], ...], samples: int) -> tuple[int, ...]:
    """Return the batch indices that are kept, each of a sample in a branch."""
    return tuple(first + sample for _, first in branches for sample in range(samples))


def _unequal_rows(batch: int, samples: int, branches: tuple[str, ...], is_batched: bool) -> str:
    """Return what to say of a batch that does not hold the branches of the named samples."""
    images, rest = divmod(batch, len(branches))
    shares = f"{len(branches)} branches ({', '.join(branches)})" if branches[1:] else "1 branch"
    wanted = (
        f"Expected {_count(samples * len(branches), 'row')} in the denoiser's batch = "
        f"{_count(samples, 'sample name')} × {shares}"
    )
    if rest:
        return (
            f"{wanted}, got {batch}. This call batches otherwise than its pipeline says: capture "
            "the denoiser itself, with a Profile whose guidance names its branches."
        )
    several = "" if is_batched else "; this model gets its branches in calls of their own"
    way_out = (
        f"name all {images} images: sample=[…]"
        if images > samples
        else "generate the named images in one call, or give one name a call: sample='a' and, before "
        "the next call, recording.next_sample('b')"
    )
    return f"{wanted}, got {batch} = {_count(images, 'image')}{several}. Please {way_out}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


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
        return "The denoiser caches its layers' outputs: call disable_cache() before the capture."
    return (
        "Likely causes: this call has no reference tokens, guidance was switched off during the "
        "run, the reference was (an IP-Adapter's scale of 0), or a custom attention processor "
        "bypasses the projections. Undo that, or leave the layer out with layers=."
    )


def bind(
    forward: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments, by the names in the function's signature."""
    return {**dict(zip(_positional_names(forward), arguments, strict=False)), **options}


@functools.lru_cache(maxsize=64)
def _positional_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of positional parameters; to bind a signature each time takes longer."""
    given = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind in given)


def guidance_branches(batch: int, samples: int, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels of a batch's guidance branches, in their order.

    Raises
    ------
    CaptureError
        If the batch does not divide into the samples, or into a number of branches other than one
        and the number of labels.

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
        f"got {batch}, for {samples} sample names. Name every image that the call generates, and call "
        "recording.next_sample(…) before a further call."
    )
    raise CaptureError(msg)
