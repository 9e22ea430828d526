"""Real models whose steps or parts nobody can tell: refused before anything is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import zarr

from i2am.capture import capture
from i2am.schemas import CaptureError
from tests.support.compvis.checks import record
from tests.support.compvis.layers import CrossAttention
from tests.support.compvis.models import (
    DDIMSampler,
    PLMSSampler,
    dci_vton,
    stableviton,
    timesteps,
)
from tests.support.tiny_pipelines import models

BLANK = np.zeros((8, 8, 3), np.uint8)
Calls = Iterator[tuple[torch.Tensor, int]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return models.reference_inpaint()


def status(store: Path, sample: str = "one") -> str:
    found: Any = zarr.open_group(store, mode="r")[sample]
    told: str = found.attrs["i2am"]["status"]
    return told


def noise(seed: int = 0, side: int = 16, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 9, side, side, generator=torch.Generator().manual_seed(seed))


def _tiles() -> Calls:
    for timestep in (900, 500, 100):
        for part in torch.split(noise(side=32), 16, dim=-1):
            yield part[:, :, :16], timestep


def _guided_tiles() -> Calls:
    for part, timestep in _tiles():
        yield torch.cat([part, part]), timestep


def _repeated_first_timestep() -> Calls:
    for seed, timestep in enumerate((900, 900, 500, 100)):
        yield noise(seed), timestep


def _each_timestep_twice() -> Calls:
    for seed, timestep in enumerate((900, 900, 500, 500, 100, 100)):
        yield noise(seed), timestep


def _one_step_twice() -> Calls:
    yield noise(0), 900
    yield noise(1), 900


def _one_step_twice_from_one_noise() -> Calls:
    yield noise(0), 900
    yield noise(0), 900


def _guided_batch_and_another_call() -> Calls:
    for seed, timestep in enumerate((900, 500)):
        yield noise(seed, batch=1).repeat(2, 1, 1, 1), timestep
        yield noise(seed), timestep


@pytest.mark.parametrize("option", ["conditional", "both"])
@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (_tiles, r"other latents in call 2: a part of the image \(tile, view\)"),
        (_guided_tiles, "other latents in call 2: a part of the image"),
        (_repeated_first_timestep, r"other latents in call 2: .* a timestep that is sampled again"),
        (_each_timestep_twice, "other latents in call 2"),
        (_one_step_twice, r"other latents in call 2: .* a second sampling"),
        (_one_step_twice_from_one_noise, "got 2 calls at 900 alone"),
        (_guided_batch_and_another_call, "other latents in call 2"),
    ],
)
def test_calls_of_a_bare_denoiser_that_are_no_guidance_are_refused(
    pipeline: Any, store: Path, calls: Callable[[], Calls], message: str, option: Any
) -> None:
    unet = pipeline.unet
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match=message),
        capture(unet, store, sample="one", guidance=option, layers="mid*") as recording,
    ):
        recording.add_images(generated=BLANK, reference=BLANK)
        for latents, timestep in calls():
            tokens = torch.zeros(len(latents), 257, 128)
            unet(latents, timestep, encoder_hidden_states=tokens)
    assert status(store) == "failed"


@pytest.mark.parametrize("is_inference", [False, True])
def test_calls_for_each_branch_are_known_by_their_latents(
    pipeline: Any, store: Path, is_inference: bool
) -> None:
    unet = pipeline.unet
    with (
        torch.inference_mode(is_inference),
        torch.no_grad(),
        capture(unet, store, sample="one", guidance="both", layers="mid*") as recording,
    ):
        recording.add_images(generated=BLANK, reference=BLANK)
        for seed, timestep in enumerate((900, 500)):
            latents = noise(seed)
            unet(latents, timestep, encoder_hidden_states=torch.ones(1, 257, 128))
            unet(latents.clone(), timestep, encoder_hidden_states=torch.zeros(1, 257, 128))
    assert status(store) == "complete"
    sample: Any = zarr.open_group(store, mode="r")["one"]
    assert sample["guidance"][...].tolist() == ["unconditional", "conditional"]


def test_latents_that_are_changed_in_place_between_the_calls_are_others(
    pipeline: Any, store: Path
) -> None:
    unet, latents, tokens = pipeline.unet, noise(), torch.zeros(1, 257, 128)
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match="other latents in call 2"),
        capture(unet, store, sample="one", layers="mid*"),
    ):
        for _ in range(2):
            unet(latents, 900, encoder_hidden_states=tokens)
            latents.add_(1)


class ResamplingSampler(DDIMSampler):
    """RePaint's: each step is taken again from a noisier image."""

    def sample(self, steps: int, batch_size: int = 1, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(batch_size, 4, *self.model.latent_size, generator=torch.manual_seed(0))
        for time in timesteps(steps):
            for _ in range(2):
                x = x - 0.1 * self.estimate(x, 0, time, time, scale)
        return x


class JumpingSampler(ResamplingSampler):
    """RePaint's with jumps: two steps forward, two back."""

    def sample(self, steps: int, batch_size: int = 1, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(batch_size, 4, *self.model.latent_size, generator=torch.manual_seed(0))
        first, second, third = timesteps(3)
        for time in (first, second, third, second, third):
            x = x - 0.1 * self.estimate(x, 0, time, time, scale)
        return x


class ResamplingPLMS(PLMSSampler):
    """PLMS, each of whose steps is taken again."""

    def sample(self, steps: int, batch_size: int = 1, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(batch_size, 4, *self.model.latent_size, generator=torch.manual_seed(0))
        times = timesteps(steps)
        for index, time in enumerate(times):
            for _ in range(2):
                following = times[min(index + 1, steps - 1)]
                x = x - 0.1 * self.estimate(x, index, time, following, scale)
        return x


class OneStepPLMS(PLMSSampler):
    """PLMS in one step, which looks at that step's timestep again."""

    def sample(self, steps: int, batch_size: int = 1, scale: float = 1.0) -> torch.Tensor:
        return super().sample(1, batch_size, scale)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("build", [dci_vton, stableviton])
@pytest.mark.parametrize(
    "sampler", [ResamplingSampler, JumpingSampler, ResamplingPLMS, OneStepPLMS]
)
def test_research_samplers_that_sample_again_are_refused(
    store: Path, build: Any, sampler: type[DDIMSampler], scale: float
) -> None:
    model = build(attention=CrossAttention)
    with pytest.raises(CaptureError, match=r"sampled again|second sampling|sampled in parts"):
        record(model, store, sampler(model), scale, guidance="both")
    assert status(store) == "failed"


def test_a_pipeline_with_a_schedule_that_goes_back_is_refused_at_once(store: Path) -> None:
    pipe = models.reference_inpaint()
    pipe.scheduler = scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(6, jump_length=2, jump_n_sample=2)
    calls = []
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match="sample without resampling"),
        capture(pipe, store, sample="one", layers="mid*"),
    ):
        for timestep in scheduler.timesteps:
            calls.append(timestep)
            pipe.unet(noise(), timestep, encoder_hidden_states=torch.zeros(1, 257, 128))
    assert len(calls) == 1
    assert status(store) == "failed"
