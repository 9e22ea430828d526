"""The step clock: which denoising step a call of the denoiser belongs to.

A step is one step of the sampler, and the evaluation at which it starts is kept. Solvers of higher
order evaluate the denoiser several times a step, to correct the previous step or to predict the
middle of the next. With a scheduler the clock counts the scheduler's own steps. Without one it
counts distinct timesteps; of several calls at one timestep the last is kept (the ones before it
correct the previous step).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from i2am.schemas import CaptureError

__all__ = ["CallPosition", "StepClock", "read_timestep"]


@dataclass(frozen=True)
class CallPosition:
    """Denoising step of a denoiser call, and its number within that step.

    Parameters
    ----------
    step : int or None
        None for an evaluation at which no step starts.
    call : int
        Number of the call at this evaluation, from 0: a model that is called once per guidance
        branch makes several.
    """

    step: int | None
    call: int


class StepClock:
    """Counts the denoising steps, from 0 (the noisiest).

    Parameters
    ----------
    scheduler : object, optional
        A diffusers scheduler whose ``step`` ends every evaluation.
    """

    def __init__(self, scheduler: Any = None) -> None:
        self._scheduler = scheduler if hasattr(scheduler, "step") else None
        self._has_stepped = False
        self._evaluation = self._call = 0
        self._calls_per_timestep: int | None = None
        self._timesteps: dict[int, Any] = {}
        self._latest: float | None = None

    @property
    def timesteps(self) -> dict[int, float]:
        """The timestep of each step so far."""
        return {step: float(torch.as_tensor(t).flatten()[0]) for step, t in self._timesteps.items()}

    def watch(self, stack: ExitStack, after_last: Callable[[], None] | None = None) -> None:
        """Wrap the scheduler's ``step`` on this one instance, until `stack` closes.

        Parameters
        ----------
        stack : ExitStack
        after_last : callable (), optional
            Called when the scheduler has ended the last of its evaluations. Never called where the
            scheduler does not say how many there are, or the pipeline leaves some out.
        """
        scheduler = self._scheduler
        if scheduler is None:
            return
        original = scheduler.step

        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            given = kwargs["timestep"] if "timestep" in kwargs else args[1]
            if self._end_evaluation(given) and after_last is not None:
                after_last()
            return original(*args, **kwargs)

        is_own = "step" in vars(scheduler)
        scheduler.step = step
        stack.callback(_restore, scheduler, original if is_own else None)

    def tick(self, timestep: Any) -> CallPosition:
        """Count a call of the denoiser, and return its position.

        Parameters
        ----------
        timestep : Tensor or number
            Argument of the denoiser's call. It is read (which waits for the device) only where the
            scheduler's own steps do not suffice.
        """
        if self._scheduler is not None and not self._has_stepped and self._call:
            value = read_timestep(timestep)
            if value != self._latest:  # The pipeline steps with another scheduler than its own.
                self._scheduler = None
                self._timesteps = {0: self._latest}
        if self._scheduler is None:
            return self._tick_by_timestep(read_timestep(timestep))
        if not self._has_stepped:
            self._latest = read_timestep(timestep)
        step = _step_of(self._scheduler, self._evaluation)
        if step is not None:  # Replaced by the scheduler's value at its own step.
            self._timesteps.setdefault(step, _snapshot(timestep))
        self._call += 1
        return CallPosition(step, self._call - 1)

    def _end_evaluation(self, timestep: Any) -> bool:
        """Count one evaluation, and return whether it was the scheduler's last."""
        if self._scheduler is None or not self._call:
            return False  # A step that belongs to no call of this denoiser.
        if (step := _step_of(self._scheduler, self._evaluation)) is not None:
            self._timesteps[step] = _snapshot(timestep)
        self._has_stepped = True
        self._evaluation += 1
        self._call = 0
        return self._evaluation == len(getattr(self._scheduler, "timesteps", ()))

    def _tick_by_timestep(self, timestep: float) -> CallPosition:
        if timestep != self._latest:
            if self._latest is not None and self._calls_per_timestep is None:
                self._calls_per_timestep = self._call
            self._timesteps[len(self._timesteps)] = self._latest = timestep
            self._call = 0
        # Further guidance calls at one timestep replace the ones before.
        call = self._call % (self._calls_per_timestep or self._call + 1)
        self._call += 1
        return CallPosition(len(self._timesteps) - 1, call)


def _snapshot(timestep: Any) -> Any:
    return timestep.detach().clone() if isinstance(timestep, torch.Tensor) else timestep


def _restore(scheduler: Any, own: Any) -> None:
    if own is None:
        del scheduler.step
    else:
        scheduler.step = own


def _step_of(scheduler: Any, evaluation: int) -> int | None:
    """Return the step that starts at an evaluation; None where none does."""
    if hasattr(scheduler, "prk_timesteps"):
        return _pndm_step(len(scheduler.prk_timesteps), evaluation)
    step, phase = divmod(evaluation, int(getattr(scheduler, "order", 1)))
    return None if phase else step


def _pndm_step(runge_kutta: int, evaluation: int) -> int | None:
    """PNDM: Runge-Kutta steps of four evaluations first, or one that is corrected once."""
    if evaluation < runge_kutta:
        return None if evaluation % 4 else evaluation // 4
    if runge_kutta:
        return evaluation - runge_kutta + runge_kutta // 4
    return None if evaluation == 1 else max(0, evaluation - 1)


def read_timestep(value: Any) -> float:
    """Return the timestep that all samples of a batch share.

    Raises
    ------
    CaptureError
        If the samples of a batch are at different timesteps.
    """
    timesteps = torch.as_tensor(value).detach().flatten()
    if len(timesteps) > 1 and bool((timesteps != timesteps[0]).any()):
        msg = (
            f"Expected one timestep for the whole batch, got {timesteps.tolist()}. "
            "Capture samples at different timesteps one by one."
        )
        raise CaptureError(msg)
    return float(timesteps[0])
