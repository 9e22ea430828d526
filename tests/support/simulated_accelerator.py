"""Accelerators that the tests' machine does not have: streams, events and memory, run at will.

A real device hides mistakes in the order of events, since it is nearly always done in time. This one
does each piece of work as early or as late as the rules of streams allow: work of one stream in its
order, work of two in any order, unless one waits for the other. Freed memory goes to the next
tensor that asks for as much on the same stream, at once, unless it was recorded for another one. New
memory holds NaN.

Tensors are PyTorch's own, of a subclass whose operations are queued; the values lie in host memory.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch

from i2am.capture.writer.device_copies import Accelerator

__all__ = ["DeviceTensor", "SimulatedAccelerator"]

# Whose work is done as early as possible; the others' is done when somebody waits for it.
Hurry = Literal["model", "copies", "both", "nobody"]
_pinned: set[int] = set()  # Addresses; buffers outlive a capture, and with it an accelerator.


class SimulatedAccelerator(Accelerator):
    """Devices of one maker, each with streams of its own.

    Parameters
    ----------
    hurry : {"model", "copies", "both", "nobody"}
        Whose streams are ahead of the others'.
    has_side_streams : bool
        Whether a device has more than one stream; MPS has not.
    """

    def __init__(self, hurry: Hurry, *, has_side_streams: bool = True) -> None:
        self.hurry, self.has_side_streams = hurry, has_side_streams
        self.lock = threading.RLock()
        self.streams: list[Stream] = []
        self.waiting: list[str] = []  # Names of the threads that waited for a device.
        self._current: dict[torch.device, Stream] = {}
        # Memory that no tensor uses: what stream gave it, and what has to be done before it may again.
        self._freed: list[tuple[Stream, torch.Tensor, list[tuple[Stream, int]]]] = []

    def tensor(self, values: torch.Tensor, device: torch.device) -> DeviceTensor:
        """Return a tensor on a device, whose values come in the order of the model's work."""
        made = self.empty(values, device)
        self.current_stream(device).issue(_copy(made.contents, values.clone()))
        return made

    def side_stream(self, device: torch.device) -> Any:
        return Stream(self, device, "copies") if self.has_side_streams else None

    def current_stream(self, device: torch.device) -> Any:
        if device not in self._current:
            self._current[device] = Stream(self, device, "model")
        return self._current[device]

    def empty_pinned(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        made = torch.empty(shape, dtype=dtype)
        address = made.untyped_storage().data_ptr()
        _pinned.add(address)
        weakref.finalize(made, _pinned.discard, address)
        return made

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in _pinned

    def is_filled_alone(self, tensor: torch.Tensor) -> bool:
        """Return whether a device fills a host tensor while nobody waits, if it is asked to."""
        return self.is_pinned(tensor) or not self.has_side_streams  # MPS fills any memory so.

    def finish(self) -> None:
        """Do all work that is left, as devices do, whether or not anybody waits."""
        with self.lock:
            for stream in self.streams:
                stream.run(stream.issued)

    # What streams and tensors ask for.

    @contextmanager
    def switched(self, stream: Stream) -> Iterator[None]:
        """Make a stream the current one of its device."""
        before = self.current_stream(stream.device)
        self._current[stream.device] = stream
        try:
            yield
        finally:
            self._current[stream.device] = before

    def hasten(self) -> None:
        """Do what those who are in a hurry can do without anybody else's work."""
        ahead = [s for s in self.streams if self.hurry in (s.owner, "both")]
        while any(stream.run_unblocked() for stream in ahead):
            pass

    def empty(self, like: torch.Tensor, device: torch.device) -> DeviceTensor:
        """Return a contiguous tensor of a shape and dtype, in memory that may have been used."""
        with self.lock:
            stream = self.current_stream(device)
            size = like.numel() * like.itemsize
            memory = Memory(self, stream, self._take(size, stream))
            values = memory.contents.view(like.dtype).view(like.shape)
        return DeviceTensor(values, memory)

    def give_back(self, memory: Memory) -> None:
        """Take memory that no tensor uses any more, though queued work may."""
        with self.lock:
            left = [(stream, stream.issued) for stream in memory.recorded]
            self._freed.append((memory.stream, memory.contents, left))

    def wait_for(self, stream: Stream, count: int) -> None:
        """Let the calling thread wait until a stream has done so much."""
        self.waiting.append(threading.current_thread().name)
        with self.lock:
            stream.run(count)
            self.hasten()

    def _take(self, size: int, stream: Stream) -> torch.Tensor:
        for number, (giver, contents, left) in enumerate(self._freed):
            is_idle = all(other.done >= count for other, count in left)
            if giver is stream and len(contents) == size and is_idle:
                del self._freed[number]
                return contents
        return torch.full((size,), 255, dtype=torch.uint8)


class Stream:
    """Work that a device does in order, as `torch.Stream`."""

    def __init__(
        self, accelerator: SimulatedAccelerator, device: torch.device, owner: Hurry
    ) -> None:
        self.accelerator, self.device, self.owner = accelerator, device, owner
        self.issued = self.done = 0
        self._queue: deque[Callable[[], None] | tuple[Stream, int]] = deque()
        self._entered: list[Any] = []
        accelerator.streams.append(self)

    def wait_stream(self, other: Stream) -> None:
        self.issue((other, other.issued))

    def record_event(self) -> Event:
        return Event(self)

    def __enter__(self) -> Self:
        self._entered.append(self.accelerator.switched(self))
        self._entered[-1].__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._entered.pop().__exit__(*raised)

    def issue(self, work: Callable[[], None] | tuple[Stream, int]) -> None:
        """Queue work, or that a count of another stream's is waited for."""
        with self.accelerator.lock:
            self._queue.append(work)
            self.issued += 1
            self.accelerator.hasten()

    def run(self, count: int) -> None:
        """Do the work up to a count, and what it waits for."""
        while self.done < count:
            if isinstance(self._queue[0], tuple):
                other, its_count = self._queue[0]
                other.run(its_count)
            self._do_next()

    def run_unblocked(self) -> bool:
        """Do the work that waits for no other stream; return whether there was any."""
        before = self.done
        while self._queue:
            work = self._queue[0]
            if isinstance(work, tuple) and work[0].done < work[1]:
                break
            self._do_next()
        return self.done > before

    def _do_next(self) -> None:
        work = self._queue.popleft()
        if not isinstance(work, tuple):
            with torch.no_grad():
                work()
        self.done += 1


class Event:
    """A point of a stream's work, as `torch.Event`."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._count = stream, stream.issued

    def synchronize(self) -> None:
        self._stream.accelerator.wait_for(self._stream, self._count)


class Memory:
    """A piece of a device's memory, which goes back when the last tensor in it does."""

    def __init__(
        self, accelerator: SimulatedAccelerator, stream: Stream, contents: torch.Tensor
    ) -> None:
        self.accelerator, self.stream, self.contents = accelerator, stream, contents
        self.recorded: set[Stream] = set()

    def __del__(self) -> None:
        self.accelerator.give_back(self)


class DeviceTensor(torch.Tensor):
    """A tensor on a simulated device: operations on its values are queued on the current stream."""

    contents: torch.Tensor
    memory: Memory

    @staticmethod
    def __new__(cls: Any, contents: torch.Tensor, _memory: Memory) -> Any:
        # Of the device "meta" for PyTorch itself, which knows no guard for one that is not there.
        return torch.Tensor._make_wrapper_subclass(
            cls,
            contents.shape,
            strides=contents.stride(),
            storage_offset=contents.storage_offset(),
            dtype=contents.dtype,
            device=torch.device("meta"),
        )

    def __init__(self, contents: torch.Tensor, memory: Memory) -> None:
        self.contents, self.memory = contents, memory

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.memory.stream.device

    def record_stream(self, stream: Any) -> None:
        self.memory.recorded.add(stream)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        own = next(a for a in args if isinstance(a, DeviceTensor))
        if _is_view(function):  # Which no value matters to.
            return DeviceTensor(function(own.contents, *args[1:], **options), own.memory)
        accelerator = own.memory.accelerator
        stream = accelerator.current_stream(own.device)
        if function is torch.ops.aten.clone.default:
            made = accelerator.empty(own, own.device)
            stream.issue(_copy(made.contents, own.contents))
            return made
        if function is torch.ops.aten.copy_.default:
            target, source, *rest = args
            stream.issue(_copy(_contents(target), _contents(source)))
            is_asynchronous = rest == [True] or options.get("non_blocking", False)
            if not (is_asynchronous and accelerator.is_filled_alone(target)):
                accelerator.wait_for(stream, stream.issued)
            return target
        if function is torch.ops.aten._to_copy.default and options["device"].type == "cpu":
            found = torch.empty_like(own.contents)
            stream.issue(_copy(found, own.contents))
            accelerator.wait_for(stream, stream.issued)
            return found
        if function is torch.ops.aten.fill_.Scalar:
            contents, number = own.contents, args[1]
            stream.issue(lambda: _nothing(contents.fill_(number)))
            return own
        raise NotImplementedError(function)


def _is_view(function: Any) -> bool:
    returned = [r.alias_info for r in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)


def _contents(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contents if isinstance(tensor, DeviceTensor) else tensor


def _copy(target: torch.Tensor, source: torch.Tensor) -> Callable[[], None]:
    return lambda: _nothing(target.copy_(source))


def _nothing(_: object) -> None:
    pass
