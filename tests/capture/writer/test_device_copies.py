"""Copies from a device: never read too early, in memory that nobody else has, on any accelerator.

The devices are simulated, so that work is done as early and as late as streams allow. Without any one
of its waits, events and notes to the allocator, the code fails here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from i2am.capture.writer.device_copies import Accelerator
from i2am.capture.writer.layer_writer import LayerWriter, write_layers
from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, LayerAttributes
from i2am.storage.addresses import path_to_write
from tests.support.simulated_accelerator import Hurry, SimulatedAccelerator
from tests.support.tiny_pipelines import models

FIRST, SECOND = torch.device("xpu:0"), torch.device("xpu:1")
STEPS, SHAPE = 12, (3, 5)
STORES = ("fast", "slow")
HURRIES = get_args(Hurry)
Model = Callable[[int], dict[str, torch.Tensor]]


@pytest.fixture(params=HURRIES)
def accelerator(request: pytest.FixtureRequest) -> SimulatedAccelerator:
    return SimulatedAccelerator(request.param)


def model(accelerator: SimulatedAccelerator, **devices: torch.device) -> Model:
    """Return a model that computes into the same memory at every step, as caches do."""
    outputs = {n: accelerator.tensor(torch.zeros(SHAPE), d) for n, d in devices.items()}

    def run(step: int) -> dict[str, torch.Tensor]:
        for number, output in enumerate(outputs.values()):
            output.fill_(10 * step + number)
        return {name: output.transpose(0, 1) for name, output in outputs.items()}

    return run


def stage(
    staging: StagingArea, model: Model, *, submit_each: int = 1, store: str = "fast"
) -> list[tuple[int, dict[str, torch.Tensor]]]:
    """Run a model and return what the writers found of each step; a slow store begins at the end."""
    found: list[tuple[int, dict[str, torch.Tensor]]] = []
    gate = threading.Event()
    if store == "slow":
        staging.submit(lambda _: _wait(gate))

    def write(step: int, block: dict[str, torch.Tensor], _scratch: Any) -> None:
        found.extend(
            (step + n, {name: values[n].clone() for name, values in block.items()})
            for n in range(submit_each)
        )

    block: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        arrays = model(step)
        if step % submit_each == 0:
            block = {
                name: staging.lend((submit_each, *array.shape), array.dtype, array.device)
                for name, array in arrays.items()
            }
        staging.fill(block, step % submit_each, arrays)
        if step % 3:  # Otherwise `submit` starts the copies.
            staging.flush()
        if step % submit_each == submit_each - 1:
            staging.submit(partial(write, step + 1 - submit_each, block), list(block.values()))
    gate.set()
    staging.close()
    return found


def check(found: list[tuple[int, dict[str, torch.Tensor]]]) -> None:
    assert sorted(step for step, _ in found) == list(range(STEPS))
    for step, arrays in found:
        for number, values in enumerate(arrays.values()):
            assert set(values.flatten().tolist()) == {10 * step + number}, f"step {step}"


@pytest.mark.parametrize("submit_each", [1, 4])
@pytest.mark.parametrize("store", STORES)
def test_a_copy_is_what_the_model_had_however_early_or_late_the_device_works(
    accelerator: SimulatedAccelerator, store: str, submit_each: int
) -> None:
    staging = StagingArea(threads=1, accelerator=accelerator)
    run = model(accelerator, query=FIRST)
    check(stage(staging, run, submit_each=submit_each, store=store))


@pytest.mark.parametrize("store", STORES)
def test_two_devices_at_once_each_have_a_stream_and_events(
    accelerator: SimulatedAccelerator, store: str
) -> None:
    staging = StagingArea(threads=1, accelerator=accelerator)
    run = model(accelerator, query=FIRST, key=SECOND)
    check(stage(staging, run, submit_each=2, store=store))
    sides = [stream.device for stream in accelerator.streams if stream.owner == "copies"]
    assert sorted(map(str, sides)) == ["xpu:0", "xpu:1"]


def test_the_model_never_waits_for_a_device(accelerator: SimulatedAccelerator) -> None:
    staging = StagingArea(accelerator=accelerator)
    stage(staging, model(accelerator, query=FIRST))
    assert len(accelerator.waiting) == STEPS
    assert all(name.startswith("i2am-writer") for name in accelerator.waiting)


def test_work_of_the_model_goes_to_its_own_stream_again(accelerator: SimulatedAccelerator) -> None:
    own = accelerator.current_stream(FIRST)
    staging = StagingArea(accelerator=accelerator)
    stage(staging, model(accelerator, query=FIRST))
    assert accelerator.current_stream(FIRST) is own


@pytest.mark.parametrize("why", ["abandoned", "failed"])
def test_memory_of_a_sample_that_failed_is_lent_again_when_its_copies_have_come(
    accelerator: SimulatedAccelerator, why: str
) -> None:
    shape = (7, 11)  # Of no other test, whose memory would be lent.
    staging, gate = StagingArea(threads=1, accelerator=accelerator), threading.Event()
    source = accelerator.tensor(torch.ones(shape), FIRST)

    def work(_scratch: Any) -> None:
        _wait(gate)
        if why == "failed":
            msg = "the disk is gone"
            raise OSError(msg)

    staging.submit(work)
    lent = staging.lend((1, *shape), torch.float32, FIRST)
    staging.fill({"query": lent}, 0, {"query": source})
    staging.submit(lambda _: None, [lent])
    if why == "abandoned":
        staging.abandon()
    gate.set()
    if why == "failed":
        with pytest.raises(CaptureError, match="the disk is gone"):
            staging.close()
    else:
        staging.close()
    again = StagingArea(accelerator=accelerator)
    lent_again = again.lend((1, *shape), torch.float32, FIRST)
    assert lent_again is lent
    lent_again.fill_(2)
    accelerator.finish()
    assert set(lent_again.flatten().tolist()) == {2}
    again.close()


def test_memory_is_pinned_where_copies_run_beside_the_model() -> None:
    accelerator = SimulatedAccelerator("nobody")
    staging = StagingArea(accelerator=accelerator)
    for device, is_pinned in ((FIRST, True), (torch.device("cpu"), False)):
        lent = staging.lend((2, 13), torch.float16, device)
        assert accelerator.is_pinned(lent) == is_pinned
        staging.submit(lambda _: None, [lent])
        staging.drain()
        assert staging.lend((2, 13), torch.float16, device) is lent
    staging.close()


@pytest.mark.parametrize("hurry", HURRIES)
def test_where_a_device_has_one_stream_the_model_waits_and_nothing_is_pinned(hurry: Hurry) -> None:
    accelerator, device = SimulatedAccelerator(hurry, has_side_streams=False), torch.device("mps:0")
    staging = StagingArea(accelerator=accelerator)
    lent = staging.lend((1, 17), torch.float32, device)
    assert not accelerator.is_pinned(lent)
    check(stage(staging, model(accelerator, query=device)))
    assert accelerator.waiting == [threading.current_thread().name] * STEPS


def test_a_layer_from_a_device_is_stored_as_one_from_the_cpu(
    accelerator: SimulatedAccelerator, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(2, 9, 4, generator=generator) for _ in range(11)]
    key = torch.randn(2, 6, 4, generator=generator)
    for name, on_device in (("cpu", lambda t: t), ("device", partial(_to, accelerator, FIRST))):
        parent = ObjectFolder(path_to_write(tmp_path) / name)
        staging = StagingArea(1 << 16, accelerator=accelerator)
        layer = LayerWriter(parent, "layer", ATTRIBUTES, np.dtype("f2"), staging, ("conditional",))
        for step, query in enumerate(steps):
            arrays = {"query": on_device(query), "key": on_device(key)}
            layer.append(step, "conditional", arrays)
            staging.flush()
        layer.close(("conditional",))
        write_layers(parent, [layer], staging)
        staging.close()
    stored, expected = (models.opened(tmp_path / name / "layer") for name in ("device", "cpu"))
    for array in ("query", "key"):
        assert np.array_equal(stored[array][...], expected[array][...])
    assert np.array_equal(stored["query"][...], torch.stack(steps).half().numpy())


def test_a_device_that_torch_does_not_drive_has_no_streams() -> None:
    assert Accelerator().side_stream(torch.device("meta")) is None


ATTRIBUTES = LayerAttributes(
    scale=0.5,
    generated_grid=(3, 3),
    reference_grid=(2, 3),
    special_tokens=0,
    order=0,
    block="down",
    representation="factors",
)


def _to(
    accelerator: SimulatedAccelerator, device: torch.device, values: torch.Tensor
) -> torch.Tensor:
    return accelerator.tensor(values, device)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)
