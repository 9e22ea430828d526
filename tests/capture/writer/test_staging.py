"""The staging area: tensors arrive unchanged, within the memory; failures reach the caller."""

from __future__ import annotations

import errno
import threading
from functools import partial
from typing import Any

import pytest
import torch

from i2am.capture.pipelines.load import default_device
from i2am.capture.writer.staging import StagingArea
from i2am.schemas import CaptureError, SchemaError, StoreError

CPU = torch.device("cpu")
DEVICES = dict.fromkeys(["cpu", default_device()])  # An accelerator as well, if there is one.
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MIB = 2**20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_arrive_as_they_were_when_they_were_copied(device: str, dtype: torch.dtype) -> None:
    arrived: list[torch.Tensor] = []
    staging = StagingArea()
    values = torch.zeros((64, 6, 50), dtype=dtype, device=device)
    for number in range(50):
        values.fill_(number)
        view = values.transpose(0, 1)[:, ::2]
        host = staging.lend((2, *view.shape), dtype, view.device)
        staging.fill({"view": host}, 0, {"view": view})
        staging.fill({"view": host}, 1, {"view": values.transpose(0, 1)[:, 1::2]})
        values.fill_(-1)  # The model changes it in place.
        staging.submit(partial(_note, arrived, host), [host])
        if number % 7 == 0:
            staging.flush()
    staging.close()
    assert sorted(int(host[0, 0, 0, 0]) for host in arrived) == list(range(50))
    for host in arrived:
        assert bool((host == host[0, 0, 0, 0]).all())


def test_lending_waits_while_the_memory_is_held() -> None:
    staging, gate = StagingArea(4 * MIB), threading.Event()
    first = staging.lend((3 * MIB,), torch.uint8, CPU)
    staging.submit(lambda _: _wait(gate), [first])
    waiting = threading.Thread(target=staging.lend, args=((MIB // 2 + 1,), torch.uint8, CPU))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "3 and a little more than ½ MiB are more than seven eighths of 4"
    gate.set()
    waiting.join(10)
    assert not waiting.is_alive()
    staging.close()


def test_memory_that_was_returned_is_lent_again() -> None:
    staging = StagingArea(4 * MIB)
    first = staging.lend((MIB,), torch.uint8, CPU)
    staging.submit(_nothing, [first])
    staging.drain()
    assert staging.lend((MIB,), torch.uint8, CPU) is first
    staging.close()


def test_memory_of_one_capture_serves_the_next_in_another_mode_of_autograd() -> None:
    shape = (3, 1234)
    first = StagingArea()
    with torch.inference_mode():
        lent = first.lend(shape, torch.float32, CPU)
        first.fill({"ones": lent}, 0, {"ones": torch.ones(shape[1:])})
    first.submit(_nothing, [lent])
    first.close()
    second = StagingArea()
    again = second.lend(shape, torch.float32, CPU)
    assert again is lent
    for index in range(shape[0]):
        second.fill({"zeros": again}, index, {"zeros": torch.zeros(shape[1:])})
    second.close()
    assert not again.any()


def test_free_memory_makes_room_for_another_shape() -> None:
    staging, gate = StagingArea(4 * MIB, threads=1), threading.Event()
    staging.submit(_nothing, [staging.lend((2 * MIB,), torch.uint8, CPU)])
    staging.drain()
    staging.submit(lambda _: _wait(gate))  # So that it could wait for a writer, if it had to.
    assert staging.lend((3 * MIB,), torch.uint8, CPU).numel() == 3 * MIB
    gate.set()
    staging.close()


def test_a_single_larger_buffer_is_lent() -> None:
    staging = StagingArea(memory_bytes=100)
    assert staging.lend((10_000,), torch.float32, CPU).numel() == 10_000
    staging.close()


@pytest.mark.parametrize(
    ("memory", "layers", "threads", "wanted"),
    [(64 * MIB, 1, 1, 4 * MIB), (64 * MIB, 28, 2, MIB), (1, 5, 1, 1)],
    ids=["the writers' copies", "many layers", "hardly any"],
)
def test_every_layer_may_fill_a_block_while_the_one_before_is_written(
    memory: int, layers: int, threads: int, wanted: int
) -> None:
    staging = StagingArea(memory, layers=layers, threads=threads)
    staging.close()
    assert staging.block_bytes == wanted


def test_writers_work_at_once_each_with_its_own_scratch_memory() -> None:
    staging = StagingArea(threads=2)
    together, scratch = threading.Barrier(2, timeout=10), list[int]()

    def work(memory: Any) -> None:
        together.wait()  # Only if both run at the same time.
        scratch.append(id(memory))

    for _ in range(4):
        staging.submit(work)
    staging.drain()
    assert len(scratch) == 4
    assert len(set(scratch)) == 2, "each writer uses one, again and again"
    staging.close()


def test_a_failure_reaches_the_next_call_and_the_end_and_stops_the_work() -> None:
    staging, later = StagingArea(threads=1), list[str]()

    def fail(_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left\nand pages of detail")

    staging.submit(fail)
    staging.submit(lambda _: later.append("x"))
    wanted = pytest.raises(
        CaptureError,
        match=r"^Expected room to write, got 'No space left on device', at the run\. Make",
    )
    with wanted:
        staging.drain()
    with wanted:
        staging.lend((1,), torch.uint8, CPU)
    with wanted:
        staging.close()
    assert later == []


def test_an_error_of_our_own_keeps_its_kind_and_words() -> None:
    staging = StagingArea()

    def fail(_: Any) -> None:
        raise StoreError("Expected a run, got an image.")

    staging.submit(fail)
    with pytest.raises(StoreError, match="got an image"):
        staging.close()


def test_the_model_never_hangs_on_failed_writers() -> None:
    staging, gate = StagingArea(4 * MIB, threads=1), threading.Event()

    def fail(_: Any) -> None:
        _wait(gate)
        raise OSError("gone")

    staging.submit(fail, [staging.lend((3 * MIB,), torch.uint8, CPU)])
    staging.submit(lambda _: None, [torch.zeros(1)])
    errors: list[Any] = []

    def lend() -> None:
        try:
            staging.lend((2 * MIB,), torch.uint8, CPU)
        except CaptureError as error:
            errors.append(error)

    thread = threading.Thread(target=lend)
    thread.start()
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(CaptureError, match="gone"):
        staging.close()


@pytest.mark.parametrize(
    ("memory", "layers", "threads"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)]
)
def test_memory_layers_and_threads_must_be_positive(memory: int, layers: int, threads: int) -> None:
    with pytest.raises(SchemaError, match=f"got {memory}, {layers} and {threads}"):
        StagingArea(memory, layers=layers, threads=threads)


def _note(arrived: list[torch.Tensor], host: torch.Tensor, _scratch: Any) -> None:
    arrived.append(host.clone())


def _nothing(_scratch: Any) -> None:
    pass


def _wait(event: threading.Event) -> None:
    assert event.wait(10)


def test_work_that_waits_is_dropped_when_its_sample_has_failed() -> None:
    staging, gate, begun = StagingArea(threads=1), threading.Event(), threading.Event()
    done: list[int] = []

    def work(number: int, _scratch: Any) -> None:
        begun.set()
        _wait(gate)
        done.append(number)

    for number in range(5):
        staging.submit(partial(work, number))
    begun.wait(10)
    staging.abandon()
    gate.set()
    staging.close()
    assert done == [0]
