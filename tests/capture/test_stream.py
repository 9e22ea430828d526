"""The stream: in order, off the model's thread, within its memory; failures reach the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from i2am.capture.stream import Stream
from i2am.schemas import CaptureError, SchemaError, StoreError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_arrive_in_order_as_they_were_when_sent(device: str, dtype: torch.dtype) -> None:
    arrived: list[tuple[torch.Tensor, torch.Tensor]] = []
    stream = Stream()
    values = torch.zeros((64, 6, 50), dtype=dtype, device=device)
    for number in range(50):
        values.fill_(number)
        view = values.transpose(0, 1)[:, ::2]
        stream.send(
            {"view": view, "row": values[3]},
            lambda host: arrived.append((host["view"], host["row"])),
        )
        values.fill_(-1)  # The model goes on in place.
    stream.close()
    for number, (view, row) in enumerate(arrived):
        assert torch.equal(view, torch.full((6, 32, 50), number, dtype=dtype))
        assert torch.equal(row, torch.full((6, 50), number, dtype=dtype))
        assert view.is_contiguous()


def test_work_runs_on_one_other_thread_in_the_order_of_sending() -> None:
    ran: list[tuple[int, int]] = []
    stream = Stream()

    def note(number: int) -> Callable[..., None]:
        return lambda *_: ran.append((number, threading.get_ident()))

    for number in range(0, 100, 2):
        stream.send({"a": torch.zeros(1)}, note(number))
        stream.call(note(number + 1))
    stream.close()
    assert [number for number, _ in ran] == list(range(100))
    assert len({thread for _, thread in ran}) == 1
    assert threading.get_ident() not in {thread for _, thread in ran}


def test_send_waits_while_an_eighth_of_the_memory_waits_to_be_assembled() -> None:
    stream, gate = Stream(memory_bytes=8000), threading.Event()
    stream.send({"a": torch.zeros(200)}, lambda _: _wait(gate))  # 800 of 1000 bytes
    thread = threading.Thread(target=stream.send, args=({"a": torch.zeros(100)}, lambda _: None))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive(), "800 and 400 bytes are more than an eighth of 8000"
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    stream.close()


def test_a_single_larger_piece_is_taken() -> None:
    stream, arrived = Stream(memory_bytes=100), list[int]()
    stream.send({"a": torch.zeros(10_000)}, lambda host: arrived.append(host["a"].numel()))
    stream.close()
    assert arrived == [10_000]


def test_writers_work_at_once_and_the_assembler_waits_for_their_room() -> None:
    stream = Stream(memory_bytes=2000, threads=2)
    together, gate = threading.Barrier(3, timeout=10), threading.Event()
    done: list[str] = []

    def slow() -> None:
        together.wait()  # Only if both run at the same time.
        _wait(gate)
        done.append("written")

    def assemble() -> None:
        for _ in range(2):
            stream.hold(300)
            stream.write(300, slow)
        stream.hold(300)  # 900 bytes are more than three eighths of 2000.
        done.append("held")

    stream.call(assemble)
    together.wait()
    assert done == []
    gate.set()
    stream.close()
    assert done[0] == "written"
    assert sorted(done) == ["held", "written", "written"]


class _Greedy:
    """A buffer that notes how it is asked for its bytes."""

    def __init__(self, stream: Stream, whole_bytes: int) -> None:
        self.stream, self.whole_bytes, self.asked = stream, whole_bytes, list[bool]()

    def relieve(self, *, newest: bool) -> None:
        self.asked.append(newest)
        self.stream.write(self.whole_bytes, lambda: None)
        self.whole_bytes = 0


@pytest.mark.parametrize(
    ("held", "whole", "asked"),
    [(375, 100, []), (376, 100, [False]), (500, 100, [False, True])],
    ids=["fits", "whole steps are enough", "the newest must go too"],
)
def test_buffers_are_asked_for_bytes_when_they_hold_three_eighths_of_the_memory(
    held: int, whole: int, asked: list[bool]
) -> None:
    stream = Stream(memory_bytes=1000)
    buffer = _Greedy(stream, whole)
    stream.add_buffer(buffer)
    stream.call(lambda: stream.hold(held))
    stream.close()
    assert buffer.asked == asked


@pytest.mark.parametrize("place", ["assembler", "writer"])
def test_a_failure_reaches_the_next_call_and_the_end_and_stops_the_work(place: str) -> None:
    stream, later = Stream(), list[str]()

    def fail() -> None:
        raise OSError("no space left\nand pages of detail")

    stream.call(fail if place == "assembler" else lambda: stream.write(0, fail))
    wanted = pytest.raises(CaptureError, match=r"OSError: no space left\. Check the store's place")
    with wanted:
        for _ in range(10_000):
            stream.send({"a": torch.zeros(1)}, lambda _: later.append("x"))
    count = len(later)
    with wanted:
        stream.call(lambda: later.append("x"))
    with wanted:
        stream.close()
    assert len(later) in (count, count + 1)  # One may have been running.


def test_an_error_of_our_own_keeps_its_kind_and_words() -> None:
    stream = Stream()

    def fail() -> None:
        raise StoreError("Expected a run, got a picture.")

    stream.call(fail)
    with pytest.raises(StoreError, match="got a picture"):
        stream.close()


def test_the_model_never_hangs_on_a_failed_stream() -> None:
    stream, gate = Stream(memory_bytes=8000), threading.Event()

    def fail() -> None:
        _wait(gate)
        raise OSError("gone")

    stream.call(fail)
    stream.send({"a": torch.zeros(250)}, lambda _: None)
    errors: list[Any] = []

    def send() -> None:
        try:
            stream.send({"a": torch.zeros(250)}, lambda _: None)
        except CaptureError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    gate.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(CaptureError, match="gone"):
        stream.close()


@pytest.mark.parametrize(("memory", "threads"), [(0, 1), (-1, 1), (1, 0)])
def test_memory_and_threads_must_be_positive(memory: int, threads: int) -> None:
    with pytest.raises(SchemaError, match=f"got {memory} and {threads}"):
        Stream(memory, threads)


def _wait(event: threading.Event) -> None:
    assert event.wait(10)
