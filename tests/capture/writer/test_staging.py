"""The stream: what is copied arrives as it was, within the memory; failures reach the caller."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch

from i2am.capture.writer.staging import Stream
from i2am.schemas import CaptureError, SchemaError, StoreError

CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MIB = 2**20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_arrive_as_they_were_when_they_were_copied(device: str, dtype: torch.dtype) -> None:
    arrived: list[torch.Tensor] = []
    stream = Stream()
    values = torch.zeros((64, 6, 50), dtype=dtype, device=device)
    for number in range(50):
        values.fill_(number)
        view = values.transpose(0, 1)[:, ::2]
        host = stream.borrow((2, *view.shape), dtype, view.device)
        stream.copy(view, host[0])
        stream.copy(values.transpose(0, 1)[:, 1::2], host[1])
        values.fill_(-1)  # The model goes on in place.
        stream.write(partial(_note, arrived, host), [host])
        if number % 7 == 0:
            stream.flush()
    stream.close()
    assert sorted(int(host[0, 0, 0, 0]) for host in arrived) == list(range(50))
    for host in arrived:
        assert bool((host == host[0, 0, 0, 0]).all())


def test_borrowing_waits_while_the_memory_is_held() -> None:
    stream, gate = Stream(4 * MIB), threading.Event()
    first = stream.borrow((3 * MIB,), torch.uint8, CPU)
    stream.write(lambda _: _wait(gate), [first])
    waiting = threading.Thread(target=stream.borrow, args=((MIB // 2 + 1,), torch.uint8, CPU))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive(), "3 and a little more than ½ MiB are more than seven eighths of 4"
    gate.set()
    waiting.join(10)
    assert not waiting.is_alive()
    stream.close()


def test_memory_that_came_back_is_lent_again() -> None:
    stream = Stream(4 * MIB)
    first = stream.borrow((MIB,), torch.uint8, CPU)
    stream.write(_nothing, [first])
    stream.drain()
    assert stream.borrow((MIB,), torch.uint8, CPU) is first
    stream.close()


def test_memory_of_one_capture_serves_the_next_in_another_mode_of_autograd() -> None:
    shape = (3, 1234)
    first = Stream()
    with torch.inference_mode():
        lent = first.borrow(shape, torch.float32, CPU)
        first.copy(torch.ones(shape), lent)
    first.write(_nothing, [lent])
    first.close()
    second = Stream()
    again = second.borrow(shape, torch.float32, CPU)
    assert again is lent
    second.copy(torch.zeros(shape), again)
    second.close()
    assert not again.any()


def test_free_memory_makes_room_for_another_shape() -> None:
    stream, gate = Stream(4 * MIB, threads=1), threading.Event()
    stream.write(_nothing, [stream.borrow((2 * MIB,), torch.uint8, CPU)])
    stream.drain()
    stream.write(lambda _: _wait(gate))  # So that it could wait for a writer, if it had to.
    assert stream.borrow((3 * MIB,), torch.uint8, CPU).numel() == 3 * MIB
    gate.set()
    stream.close()


def test_a_single_larger_piece_is_lent() -> None:
    stream = Stream(memory_bytes=100)
    assert stream.borrow((10_000,), torch.float32, CPU).numel() == 10_000
    stream.close()


@pytest.mark.parametrize(
    ("memory", "layers", "threads", "wanted"),
    [(64 * MIB, 1, 1, 4 * MIB), (64 * MIB, 28, 2, MIB), (1, 5, 1, 1)],
    ids=["the writers' copies", "many layers", "hardly any"],
)
def test_every_layer_may_fill_a_block_while_the_one_before_is_written(
    memory: int, layers: int, threads: int, wanted: int
) -> None:
    stream = Stream(memory, layers=layers, threads=threads)
    stream.close()
    assert stream.block_bytes == wanted


def test_writers_work_at_once_each_with_its_own_scratch_memory() -> None:
    stream = Stream(threads=2)
    together, scratch = threading.Barrier(2, timeout=10), list[int]()

    def work(memory: Any) -> None:
        together.wait()  # Only if both run at the same time.
        scratch.append(id(memory))

    for _ in range(4):
        stream.write(work)
    stream.drain()
    assert len(scratch) == 4
    assert len(set(scratch)) == 2, "each writer uses one, again and again"
    stream.close()


def test_a_failure_reaches_the_next_call_and_the_end_and_stops_the_work() -> None:
    stream, later = Stream(threads=1), list[str]()

    def fail(_: Any) -> None:
        raise OSError("no space left\nand pages of detail")

    stream.write(fail)
    stream.write(lambda _: later.append("x"))
    wanted = pytest.raises(CaptureError, match=r"OSError: no space left\. Check the store's place")
    with wanted:
        stream.drain()
    with wanted:
        stream.borrow((1,), torch.uint8, CPU)
    with wanted:
        stream.close()
    assert later == []


def test_an_error_of_our_own_keeps_its_kind_and_words() -> None:
    stream = Stream()

    def fail(_: Any) -> None:
        raise StoreError("Expected a run, got a picture.")

    stream.write(fail)
    with pytest.raises(StoreError, match="got a picture"):
        stream.close()


def test_the_model_never_hangs_on_a_failed_stream() -> None:
    stream, gate = Stream(4 * MIB, threads=1), threading.Event()

    def fail(_: Any) -> None:
        _wait(gate)
        raise OSError("gone")

    stream.write(fail, [stream.borrow((3 * MIB,), torch.uint8, CPU)])
    stream.write(lambda _: None, [torch.zeros(1)])
    errors: list[Any] = []

    def borrow() -> None:
        try:
            stream.borrow((2 * MIB,), torch.uint8, CPU)
        except CaptureError as error:
            errors.append(error)

    thread = threading.Thread(target=borrow)
    thread.start()
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(CaptureError, match="gone"):
        stream.close()


@pytest.mark.parametrize(
    ("memory", "layers", "threads"), [(0, 1, 1), (-1, 1, 1), (1, 0, 1), (1, 1, 0)]
)
def test_memory_layers_and_threads_must_be_positive(memory: int, layers: int, threads: int) -> None:
    with pytest.raises(SchemaError, match=f"got {memory}, {layers} and {threads}"):
        Stream(memory, layers=layers, threads=threads)


def _note(arrived: list[torch.Tensor], host: torch.Tensor, _scratch: Any) -> None:
    arrived.append(host.clone())


def _nothing(_scratch: Any) -> None:
    pass


def _wait(event: threading.Event) -> None:
    assert event.wait(10)
