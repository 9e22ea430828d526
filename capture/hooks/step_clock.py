"""The step clock: which denoising step a call of the denoiser belongs to.

A step is one step of the sampler, and the evaluation at which it starts is kept. Solvers of higher
order evaluate the denoiser several times a step, to correct the previous step or to predict the
middle of the next. With a scheduler the clock counts the scheduler's own steps. Without one it
counts distinct timesteps; of several calls at one timestep the last is kept (the ones before it
correct the previous step). What neither rule can count is refused: a second sampling, timesteps that
turn round, timesteps that repeat without a rule, steps that the scheduler's own schedule has not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from i2am.capture.hooks.instance_method import call_before
from i2am.schemas import CaptureError

__all__ = ["CallPosition", "StepClock", "read_timestep", "step_of_evaluation"]


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
        self._given: list[Any] = []  # the timestep of each of the scheduler's own steps
        self._latest: float | None = None
        self._is_restarted = False
        self._descends: bool | None = None
        self._repeats: list[int] = []  # of each timestep so far, over the calls at the first

    @property
    def timesteps(self) -> dict[int, float]:
        """The timestep of each step so far."""
        return {step: _to_float(timestep) for step, timestep in self._timesteps.items()}

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

        def before_step(*args: Any, **kwargs: Any) -> None:
            given = kwargs["timestep"] if "timestep" in kwargs else args[1]
            if self._end_evaluation(given) and after_last is not None:
                after_last()

        def before_set_timesteps(*_args: Any, **_kwargs: Any) -> None:
            self._is_restarted = self._is_restarted or self._evaluation > 0

        call_before(scheduler, "step", before_step, stack)
        if hasattr(scheduler, "set_timesteps"):
            call_before(scheduler, "set_timesteps", before_set_timesteps, stack)

    def tick(self, timestep: Any) -> CallPosition:
        """Count a call of the denoiser, and return its position.

        Parameters
        ----------
        timestep : Tensor or number
            Argument of the denoiser's call. It is read (which waits for the device) only where the
            scheduler's own steps do not suffice.

        Raises
        ------
        CaptureError
            If it cannot be told which step this is.
        """
        if self._is_restarted:
            msg = (
                f"Expected one sampling under a sample's name, got a second one after "
                f"{self.step_count} steps. Call recording.next_sample('NAME') before each further "
                "call of the pipeline."
            )
            raise CaptureError(msg)
        if self._scheduler is not None and not self._has_stepped and self._call:
            value = read_timestep(timestep)
            if value != self._latest:  # The pipeline steps with another scheduler than its own.
                self._scheduler = None
                self._timesteps = {0: self._latest}
        if self._scheduler is None:
            return self._tick_by_timestep(read_timestep(timestep))
        if not self._has_stepped:
            if self._latest is None:
                self._check_schedule_goes_one_way()
            self._latest = read_timestep(timestep)
        step = step_of_evaluation(self._scheduler, self._evaluation)
        if step is not None:  # Replaced by the scheduler's value at its own step.
            self._timesteps.setdefault(step, _snapshot(timestep))
        self._call += 1
        return CallPosition(step, self._call - 1)

    @property
    def step_count(self) -> int:
        """Number of steps so far."""
        return len(self._timesteps)

    def check_ended(self) -> None:
        """Check what can be told, or told without waiting for the device, at the end alone.

        Raises
        ------
        CaptureError
            If the scheduler's steps were not those of its schedule, in their order; without a
            scheduler, if the calls at the last timestep are more or fewer than those before, or
            several at the only one.
        """
        if not self._has_stepped and self._call > 1 and self.step_count == 1:
            msg = (
                f"Expected one call of the denoiser, or more than one timestep, got {self._call} calls "
                f"at {self._latest:g} alone: guidance, a correction or a second sampling. Sample in two "
                "steps or more, or capture the pipeline, which tells."
            )
            raise CaptureError(msg)
        if self._scheduler is not None:
            self._check_schedule()
        elif self._calls_per_timestep is not None:
            self._end_timestep(is_last=True)

    def _schedule(self) -> list[float]:
        """Return the timesteps of the scheduler's evaluations, which waits for the device."""
        schedule = getattr(self._scheduler, "timesteps", None)
        found: list[float] = (
            [] if schedule is None else torch.as_tensor(schedule).flatten().tolist()
        )
        return found

    def _check_schedule_goes_one_way(self) -> None:
        """Refuse a schedule with resampling: its steps are not in the order of the noise."""
        starts = [
            timestep
            for evaluation, timestep in enumerate(self._schedule())
            if step_of_evaluation(self._scheduler, evaluation)
            is not None  # The others may lie anywhere.
        ]
        if (turn := _first_turn(starts)) is not None:
            raise CaptureError(_goes_back(*turn))

    def _check_schedule(self) -> None:
        """Refuse steps that are not the schedule's: taken again, or for several parts of the image.

        Some may be left out: a strength below 1 does so.
        """
        schedule, given = self._schedule(), [_to_float(timestep) for timestep in self._given]
        if not set(given) <= set(schedule):  # Rounded on the way, or not the schedule's at all.
            if (turn := _first_turn(list(self.timesteps.values()))) is not None:
                raise CaptureError(_goes_back(*turn))
            return
        planned, counts = Counter(schedule), Counter(given)
        position = -1
        for timestep in given:
            if counts[timestep] > planned[timestep]:
                steps = "one step" if planned[timestep] == 1 else f"{planned[timestep]} steps"
                msg = (
                    f"Expected {steps} at timestep {timestep:g}, as the scheduler has, got "
                    f"{counts[timestep]}: the image may be painted in parts (tiles, views), or steps be "
                    "sampled again. Paint it whole, without resampling."
                )
                raise CaptureError(msg)
            try:
                position = schedule.index(timestep, position + 1)
            except ValueError as e:
                raise CaptureError(_goes_back(timestep, schedule[position])) from e

    def _end_evaluation(self, timestep: Any) -> bool:
        """Count one evaluation, and return whether it was the scheduler's last."""
        if self._scheduler is None or not self._call:
            return False  # A step that belongs to no call of this denoiser.
        self._given.append(_snapshot(timestep))
        if (step := step_of_evaluation(self._scheduler, self._evaluation)) is not None:
            self._timesteps[step] = self._given[-1]
        self._has_stepped = True
        self._evaluation += 1
        self._call = 0
        return self._evaluation == len(getattr(self._scheduler, "timesteps", ()))

    def _tick_by_timestep(self, timestep: float) -> CallPosition:
        if timestep != self._latest:
            if self._latest is not None:
                self._check_direction(timestep)
                if self._calls_per_timestep is None:
                    self._calls_per_timestep = self._call
                self._end_timestep()
            self._timesteps[len(self._timesteps)] = self._latest = timestep
            self._call = 0
        # Further guidance calls at one timestep replace the ones before.
        call = self._call % (self._calls_per_timestep or self._call + 1)
        self._call += 1
        return CallPosition(len(self._timesteps) - 1, call)

    def _check_direction(self, timestep: float) -> None:
        assert self._latest is not None
        descends = timestep < self._latest
        if self._descends not in (None, descends):
            raise CaptureError(_goes_back(timestep, self._latest))
        self._descends = descends

    def _end_timestep(self, *, is_last: bool = False) -> None:
        """Check that the calls at the latest timestep follow the rule of those before.

        Solvers call once at each timestep; or, to correct the step before, twice at each but the
        first, or twice at the second alone (PLMS).
        """
        assert self._calls_per_timestep is not None
        seen = self._repeats
        if len(seen) == 1 and self._call == 1:
            self._calls_per_timestep = 1  # Only the first timestep was repeated.
        repeats, rest = divmod(self._call, self._calls_per_timestep)
        # What may come at the first, second and third timestep; the third sets the rule.
        first, second, third = {1}, {1, 2}, {1, *seen[1:2]}
        allowed = [first, second, third][len(seen)] if len(seen) < 3 else {seen[2]}
        if is_last:
            allowed.add(1)  # Nothing follows that could correct it.
        if rest or repeats not in allowed:
            plural = "" if self._calls_per_timestep == 1 else "s"
            msg = (
                f"Expected {self._calls_per_timestep} call{plural} of the denoiser at a timestep, as at "
                f"the first, got {self._call} at {self._latest:g}: it is repeated, or sampled in parts. "
                "Capture the pipeline instead of its denoiser, which tells its steps."
            )
            raise CaptureError(msg)
        seen.append(repeats)


def _goes_back(timestep: float, latest: float) -> str:
    """Return what to say of timesteps that turn round."""
    return (
        f"Expected timesteps that go one way, got {timestep:g} after {latest:g}: a second sampling, or "
        "steps that are sampled again. Call recording.next_sample('NAME') before a second sampling, "
        "and sample without resampling."
    )


def _first_turn(timesteps: Sequence[float]) -> tuple[float, float] | None:
    """Return the first timestep that goes another way than those before it, and the one before."""
    way = 0.0
    for before, timestep in pairwise(timesteps):
        if (timestep - before) * way < 0:
            return timestep, before
        way = way or timestep - before
    return None


def _to_float(timestep: Any) -> float:
    return float(_of_samples(timestep)[0])


def _snapshot(timestep: Any) -> Any:
    return _of_samples(timestep).clone() if isinstance(timestep, torch.Tensor) else timestep


def _of_samples(timestep: Any) -> torch.Tensor:
    """Return the timestep of each sample: that of its noisiest token, where tokens have their own."""
    timesteps = torch.as_tensor(timestep).detach()
    return timesteps.flatten(1).amax(1) if timesteps.ndim > 1 else timesteps.flatten()


def step_of_evaluation(scheduler: Any, evaluation: int) -> int | None:
    """Return the step that starts at one of a scheduler's evaluations; None where none does."""
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

    Parameters
    ----------
    value : number, or Tensor, dims (), (sample,) or (sample, token)
        Of several tokens the noisiest counts: those that are given are at 0.

    Raises
    ------
    CaptureError
        If the samples of a batch are at different timesteps.
    """
    timesteps = _of_samples(value)
    if len(timesteps) > 1 and bool((timesteps != timesteps[0]).any()):
        msg = (
            f"Expected one timestep for the whole batch, got {timesteps.tolist()}. "
            "Capture samples at different timesteps one by one."
        )
        raise CaptureError(msg)
    return float(timesteps[0])
