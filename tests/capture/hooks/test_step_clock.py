"""The step clock with real schedulers: which evaluations count, and what their timesteps are."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import diffusers
import pytest
import torch

from i2am.capture import CaptureOptions
from i2am.capture.hooks.denoiser import bind
from i2am.capture.hooks.step_clock import StepClock, read_timestep
from i2am.schemas import CaptureError, SchemaError

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # in some schedulers
STEPS = 4
# Scheduler, its options, and the evaluations (in calls of the denoiser) at which steps start.
SCHEDULERS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "DDIM": ("DDIMScheduler", {}, [0, 1, 2, 3]),
    "Euler": ("EulerDiscreteScheduler", {}, [0, 1, 2, 3]),
    "EulerAncestral": ("EulerAncestralDiscreteScheduler", {}, [0, 1, 2, 3]),
    "LMS": ("LMSDiscreteScheduler", {}, [0, 1, 2, 3]),
    "DPM++ multistep": ("DPMSolverMultistepScheduler", {}, [0, 1, 2, 3]),
    "DPM++ singlestep": ("DPMSolverSinglestepScheduler", {}, [0, 1, 2, 3]),
    "UniPC": ("UniPCMultistepScheduler", {}, [0, 1, 2, 3]),
    "DEIS": ("DEISMultistepScheduler", {}, [0, 1, 2, 3]),
    "Heun": ("HeunDiscreteScheduler", {}, [0, 2, 4, 6]),
    "KDPM2": ("KDPM2DiscreteScheduler", {}, [0, 2, 4, 6]),
    "KDPM2 ancestral": ("KDPM2AncestralDiscreteScheduler", {}, [0, 2, 4, 6]),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}, [0, 2, 3, 4]),
    "PNDM with PRK": ("PNDMScheduler", {"skip_prk_steps": False}, [0, 4, 8, 12]),
    "flow Euler": ("FlowMatchEulerDiscreteScheduler", {}, [0, 1, 2, 3]),
    "flow Heun": ("FlowMatchHeunDiscreteScheduler", {}, [0, 2, 4, 6]),
}


def scheduler_of(name: str) -> Any:
    kind, options, _ = SCHEDULERS[name]
    return getattr(diffusers, kind)(**options)


def sample(
    clock: StepClock, scheduler: Any, stepper: Any = None, calls: int = 1, after_last: Any = None
) -> list[Any]:
    """Run a sampler's loop, and return the position of each call of the denoiser."""
    stepper = stepper or scheduler
    stepper.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    positions = []
    with ExitStack() as stack:
        clock.watch(stack, after_last)
        for timestep in stepper.timesteps:
            if hasattr(stepper, "scale_model_input"):
                stepper.scale_model_input(latents, timestep)
            positions += [clock.tick(timestep) for _ in range(calls)]
            latents = stepper.step(latents, timestep, latents, return_dict=False)[0]
    return positions


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_counts_at_the_evaluation_at_which_it_starts(name: str) -> None:
    scheduler = scheduler_of(name)
    clock = StepClock(scheduler)
    positions = sample(clock, scheduler)
    starts = SCHEDULERS[name][2]
    assert [call for call, m in enumerate(positions) if m.step is not None] == starts
    assert [m.step for m in positions if m.step is not None] == [0, 1, 2, 3]
    expected = scheduler.timesteps[starts].tolist()
    assert clock.timesteps == pytest.approx(dict(enumerate(expected)))
    assert expected == sorted(expected, reverse=True), "noisiest first"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_step_is_reported_once_and_after_all_calls(name: str) -> None:
    scheduler = scheduler_of(name)
    ended: list[int] = []
    clock = StepClock(scheduler)
    sample(clock, scheduler, after_last=lambda: ended.append(len(clock.timesteps)))
    assert ended == [STEPS]


def test_a_pipeline_that_leaves_steps_out_is_not_reported_to_have_ended() -> None:
    scheduler = scheduler_of("DDIM")
    ended: list[int] = []
    clock = StepClock(scheduler)
    scheduler.set_timesteps(STEPS)
    with ExitStack() as stack:
        clock.watch(stack, after_last=lambda: ended.append(0))
        for timestep in scheduler.timesteps[1:]:
            clock.tick(timestep)
            scheduler.step(torch.zeros(1, 4, 8, 8), timestep, torch.zeros(1, 4, 8, 8))
    assert len(clock.timesteps) == STEPS - 1
    assert ended == []


@pytest.mark.parametrize("name", ["DDIM", "Heun"])
def test_guidance_in_separate_calls_is_distinguished(name: str) -> None:
    scheduler = scheduler_of(name)
    positions = sample(StepClock(scheduler), scheduler, calls=2)
    assert [m.call for m in positions] == [0, 1] * (len(positions) // 2)
    assert [m.step for m in positions if m.step is not None] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("calls", [1, 2])
def test_a_pipeline_that_steps_with_a_copy_of_its_scheduler_is_counted_by_timesteps(
    calls: int,
) -> None:
    scheduler = scheduler_of("DDIM")
    own = copy.deepcopy(scheduler)
    clock = StepClock(scheduler)
    positions = sample(clock, scheduler, own, calls)
    assert [m.step for m in positions] == [step for step in range(STEPS) for _ in range(calls)]
    assert [m.call for m in positions] == list(range(calls)) * STEPS
    assert list(clock.timesteps.values()) == own.timesteps.tolist()


@pytest.mark.parametrize(
    ("timesteps", "expected"),
    [
        pytest.param([9, 6, 3], [(0, 0), (1, 0), (2, 0)], id="once a timestep"),
        pytest.param([9, 6, 6, 3], [(0, 0), (1, 0), (1, 0), (2, 0)], id="PLMS corrects its first"),
        pytest.param([9, 9, 6, 6], [(0, 0), (0, 1), (1, 0), (1, 1)], id="guidance in two calls"),
        pytest.param(
            [9, 9, 6, 6, 6, 6, 3, 3],
            [(0, 0), (0, 1), (1, 0), (1, 1), (1, 0), (1, 1), (2, 0), (2, 1)],
            id="both",
        ),
    ],
)
def test_without_a_scheduler_steps_are_distinct_timesteps(
    timesteps: list[int], expected: list[tuple[int, int]]
) -> None:
    clock = StepClock()
    positions = [clock.tick(torch.full((2,), t)) for t in timesteps]
    assert [(m.step, m.call) for m in positions] == expected
    assert list(clock.timesteps.values()) == sorted(set(timesteps), reverse=True)


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        pytest.param([9, 6, 3, 9], r"one way, got 9 after 3: a second sampling", id="again"),
        pytest.param([9, 6, 3, 6, 3], r"one way, got 6 after 3", id="resampled"),
        pytest.param([9, 6, 3, 3, 2, 1], r"Expected 1 call of .* got 2 at 3", id="repeated once"),
        pytest.param([9, 6, 6, 3, 2, 2, 1], r"got 2 at 2", id="repeated twice, with PLMS"),
        pytest.param([9, 6, 6, 6, 3], r"got 3 at 6", id="in three parts"),
        pytest.param([9, 9, 6, 6, 3, 2], r"Expected 2 calls .* got 1 at 3", id="guidance cut off"),
        pytest.param([9, 6, 3, 3], r"got 2 at 3", id="the last one repeated"),
        pytest.param([9, 6, 6, 3, 3, 2, 1], r"got 1 at 2", id="no more corrected"),
        pytest.param([9, 9], r"got 2 calls at 9 alone: guidance, a correction or a", id="one step"),
    ],
)
def test_steps_that_timesteps_cannot_tell_are_refused(timesteps: list[int], message: str) -> None:
    clock = StepClock()

    def count() -> None:
        for timestep in timesteps:
            clock.tick(timestep)
        clock.check_ended()

    with pytest.raises(CaptureError, match=message):
        count()


@pytest.mark.parametrize(
    "timesteps",
    [
        pytest.param([1, 4, 7], id="noised"),
        pytest.param([9, 6, 6, 3, 3, 1], id="Heun"),
        pytest.param([9, 6, 6, 3, 3], id="Heun, corrected to the end"),
        pytest.param([9, 6, 6], id="PLMS in two steps"),
        pytest.param([9], id="one step"),
    ],
)
def test_steps_that_timesteps_tell_are_counted(timesteps: list[int]) -> None:
    clock = StepClock()
    for timestep in timesteps:
        clock.tick(timestep)
    clock.check_ended()
    assert clock.step_count == len(set(timesteps))


@pytest.mark.parametrize("name", ["DDIM", "PNDM", "Heun", "flow Euler"])
def test_a_second_sampling_with_the_scheduler_is_refused(name: str) -> None:
    scheduler = scheduler_of(name)
    clock = StepClock(scheduler)
    with ExitStack() as stack:
        clock.watch(stack)
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        scheduler.set_timesteps(STEPS)
        scheduler.set_timesteps(STEPS)  # Some pipelines do so twice, before they begin.
        for timestep in scheduler.timesteps:
            clock.tick(timestep)
            latents = scheduler.step(latents, timestep, latents, return_dict=False)[0]
        scheduler.set_timesteps(STEPS)
        with pytest.raises(CaptureError, match=r"one sampling .* got a second one after 4 steps"):
            clock.tick(scheduler.timesteps[0])


@pytest.mark.parametrize(
    ("name", "order", "message"),
    [
        ("DDIM", [0, 0, 1, 1, 2, 2, 3, 3], r"one step at timestep \d+, .* got 2: .* sampled again"),
        ("DDIM", [0, 1, 2, 1, 2, 3], r"one step at timestep \d+, .* got 2"),
        ("DDIM", [0, 1, 3, 2], r"one way, got \d+ after \d+"),
        ("DDIM", [0, 1, 2, 3, 0, 1, 2, 3], r"one step at timestep \d+, .* got 2"),
        ("PNDM", [0, 0, 1, 2, 3, 4], r"one step at timestep \d+, .* got 2"),
        ("PNDM", [0, 1, 2, 1, 2, 3, 4], r"2 steps at timestep \d+, .* got 4"),
        ("PNDM", [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], r"got 2"),
        ("Heun", [0, 0, 1, 2, 3, 4, 5, 6], r"got 2"),
        ("flow Euler", [0, 1, 1, 2, 3], r"got 2"),
    ],
)
def test_steps_that_are_not_the_schedules_are_refused(
    name: str, order: list[int], message: str
) -> None:
    scheduler = scheduler_of(name)
    clock = StepClock(scheduler)
    scheduler.set_timesteps(STEPS)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        scheduler.step = lambda _prediction, _timestep, sample: sample  # Whatever it makes of it.
        clock.watch(stack)
        for evaluation in order:
            clock.tick(scheduler.timesteps[evaluation])
            scheduler.step(latents, scheduler.timesteps[evaluation], latents)
    with pytest.raises(CaptureError, match=message):
        clock.check_ended()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("first", [0, 2])
def test_the_schedules_steps_are_accepted_from_any_on(name: str, first: int) -> None:
    scheduler = scheduler_of(name)
    clock = StepClock(scheduler)
    scheduler.set_timesteps(STEPS)
    with ExitStack() as stack:
        scheduler.step = lambda _prediction, _timestep, sample: sample
        clock.watch(stack)
        for timestep in scheduler.timesteps[first * getattr(scheduler, "order", 1) :]:
            clock.tick(timestep)
            scheduler.step(None, timestep, None)
    clock.check_ended()


def test_a_schedule_with_resampling_is_refused_at_its_first_step() -> None:
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(8, jump_length=2, jump_n_sample=2)
    with pytest.raises(CaptureError, match=r"one way, got .* sample without resampling"):
        StepClock(scheduler).tick(scheduler.timesteps[0])
    scheduler.set_timesteps(8, jump_length=2, jump_n_sample=1)
    assert StepClock(scheduler).tick(scheduler.timesteps[0]).step == 0


def test_one_step_of_plms_is_one_evaluation() -> None:
    scheduler = scheduler_of("PNDM")
    scheduler.set_timesteps(1)
    assert len(scheduler.timesteps) == 1
    assert StepClock(scheduler).tick(scheduler.timesteps[0]).step == 0


def test_a_scheduler_gets_its_own_step_back() -> None:
    scheduler = scheduler_of("DDIM")
    before = dict(vars(scheduler))
    with pytest.raises(ZeroDivisionError), ExitStack() as stack:
        StepClock(scheduler).watch(stack)
        assert vars(scheduler).keys() - before.keys() == {"step", "set_timesteps"}
        raise ZeroDivisionError
    assert vars(scheduler) == before
    scheduler.step = own = lambda *_args: None
    with ExitStack() as stack:
        StepClock(scheduler).watch(stack)
        assert scheduler.step is not own
    assert scheduler.step is own


def test_a_copy_of_a_watched_scheduler_steps_by_itself() -> None:
    scheduler = scheduler_of("flow Euler")
    clock, latents = StepClock(scheduler), torch.zeros(1, 4, 8, 8)
    with ExitStack() as stack:
        clock.watch(stack)
        clock.watch(stack)  # as of two captures of one pipeline
        scheduler.set_timesteps(STEPS)
        own = copy.deepcopy(scheduler)
        own.set_timesteps(2 * STEPS)
        clock.tick(scheduler.timesteps[0])
        own.step(latents, own.timesteps[0], latents)
    assert (len(scheduler.timesteps), scheduler.step_index) == (STEPS, None)
    assert (len(own.timesteps), own.step_index) == (2 * STEPS, 1)
    assert clock.tick(scheduler.timesteps[0]).call == 1, "no step of the scheduler itself was taken"


def test_a_scheduler_that_is_set_back_to_what_it_held_is_still_watched() -> None:
    scheduler = scheduler_of("DDIM")
    clock, latents = StepClock(scheduler), torch.zeros(1, 4, 8, 8)
    with ExitStack() as stack:
        clock.watch(stack)
        scheduler.set_timesteps(STEPS)
        held = copy.deepcopy(vars(scheduler))  # as pipelines do that paint in views
        vars(scheduler).update(held)
        for step, timestep in enumerate(scheduler.timesteps):
            assert clock.tick(timestep).step == step
            scheduler.step(latents, timestep, latents)
    assert {"step", "set_timesteps"}.isdisjoint(vars(scheduler))


@pytest.mark.parametrize("has_stepped", [True, False])
def test_of_tokens_with_timesteps_of_their_own_the_noisiest_is_the_samples(
    has_stepped: bool,
) -> None:
    scheduler = scheduler_of("flow Euler")
    clock = StepClock(scheduler if has_stepped else None)
    scheduler.set_timesteps(STEPS)
    latents = torch.zeros(2, 4, 8, 8)
    with ExitStack() as stack:
        clock.watch(stack)
        for timestep in scheduler.timesteps:
            of_tokens = timestep * torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
            clock.tick(of_tokens)
            if has_stepped and timestep != scheduler.timesteps[-1]:  # The last was interrupted.
                scheduler.step(latents, timestep, latents)
    assert list(clock.timesteps.values()) == pytest.approx(scheduler.timesteps.tolist())
    with pytest.raises(CaptureError, match="Expected one timestep for the whole batch, got"):
        read_timestep(torch.tensor([[0.0, 5.0], [0.0, 4.0]]))


def test_a_step_that_somebody_else_takes_does_not_count() -> None:
    scheduler = scheduler_of("DDIM")
    clock = StepClock(scheduler)
    scheduler.set_timesteps(STEPS)
    latents = torch.zeros(1, 4, 8, 8)
    with ExitStack() as stack:
        clock.watch(stack)
        scheduler.step(latents, scheduler.timesteps[0], latents)
        assert clock.tick(scheduler.timesteps[0]).step == 0


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        (None, list(range(10))),
        (4, [0, 4, 8]),
        (slice(2, 9, 3), [2, 5, 8]),
        (slice(7, None), [7, 8, 9]),
        (range(1, 4), [1, 2, 3]),
        ([0, 9], [0, 9]),
    ],
)
def test_steps_are_kept_by_number_range_or_list(option: Any, kept: list[int]) -> None:
    options = CaptureOptions(steps=option)
    assert [step for step in range(10) if options.keeps_step(step)] == kept


@pytest.mark.parametrize("option", [0, -1, True, [], [-1], ["1"], "all", slice(-3, None), 1.5])
def test_other_steps_are_refused(option: Any) -> None:
    with pytest.raises(SchemaError, match="Expected steps as"):
        CaptureOptions(steps=option)


def test_arguments_are_known_by_their_names_however_they_are_given() -> None:
    def forward(
        x: Any, t: Any, /, context: Any = None, *, scale: Any = 1, **extra: Any
    ) -> None: ...

    assert bind(forward, (1,), {}) == {"x": 1}
    given: dict[str, Any] = {"scale": 4, "hint": 5}
    assert bind(forward, (1, 2, 3), given) == {"x": 1, "t": 2, "context": 3, **given}
    assert bind(forward, (1, 2), {"context": 3}) == {"x": 1, "t": 2, "context": 3}
