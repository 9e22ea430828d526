"""The way of captured tensors off the device and into the store, while the model goes on.

Three stations, each on its own threads: the model's thread starts a copy to the host, one assembler
thread takes the copies in the order of sending, and a pool of writers encodes and stores what the
assembler hands over. Host memory is bounded: an eighth of it is for what waits to be assembled,
three eighths for what is buffered or being written, and the rest for the writers' own copies and
what allocators waste. When the store is slower than the model, the model waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

from i2am.schemas import CaptureError, I2AMError, SchemaError

__all__ = ["Buffer", "Stream"]

MOST_SHARD_BYTES = 32 * 2**20
Tensors = dict[str, torch.Tensor]


class Buffer(Protocol):
    """What gathers steps until they fill a shard."""

    def relieve(self, *, newest: bool) -> None:
        """Hand over what is whole; with `newest`, also what may still be replaced."""


class Stream:
    """Takes tensors from the model's thread and brings them, in order, to the store.

    Parameters
    ----------
    memory_bytes : int
        Host memory that may be held at once. A single larger piece is still taken.
    threads : int
        Writers: how many shards are encoded and stored at once.

    Raises
    ------
    SchemaError
        If either is not positive.
    """

    def __init__(self, memory_bytes: int = 2 * 2**30, threads: int = 2) -> None:
        if memory_bytes < 1 or threads < 1:
            msg = (
                f"Expected memory in bytes and a number of threads above 0, got {memory_bytes} "
                f"and {threads}. Leave them out for 2 GiB and two threads."
            )
            raise SchemaError(msg)
        # So that the copies that writers make of a shard each take a quarter at most.
        self.shard_bytes = min(MOST_SHARD_BYTES, max(1, memory_bytes // (16 * threads)))
        self._most_sent_bytes, self._most_kept_bytes = memory_bytes // 8, memory_bytes * 3 // 8
        self._sent_bytes = self._buffered_bytes = self._written_bytes = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._buffers: list[Buffer] = []
        self._assembler = ThreadPoolExecutor(1, thread_name_prefix="i2am-assembler")
        self._writers = ThreadPoolExecutor(threads, thread_name_prefix="i2am-writer")
        self._side_streams: dict[torch.device, torch.cuda.Stream] = {}

    def send(self, tensors: Mapping[str, torch.Tensor], receive: Callable[[Tensors], None]) -> None:
        """Copy tensors to the host and call `receive` with them on the assembler thread.

        The caller may change or free the tensors as soon as this returns, which it does at once
        unless the memory is full.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            Any device and dtype; may be views.
        receive : callable (dict of str to Tensor) -> None
            Gets contiguous tensors on the host, in their own dtype; not to be kept.

        Raises
        ------
        CaptureError
            If something that was sent before could not be written.
        """
        size_bytes = sum(_host_bytes(tensor) for tensor in tensors.values())
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._sent_bytes or self._sent_bytes + size_bytes <= self._most_sent_bytes
                )
            )
            self._sent_bytes += size_bytes
        self._check()
        copies = [(name, *self._start_copy(tensor)) for name, tensor in tensors.items()]

        def work() -> None:
            for *_, arrived in copies:
                if arrived is not None:
                    arrived.synchronize()
            receive({name: host for name, host, _ in copies})

        self._assemble(work, size_bytes)

    def call(self, work: Callable[[], None]) -> None:
        """Call `work` on the assembler thread, after everything that was sent before.

        Raises
        ------
        CaptureError
            If something that was sent before could not be written.
        """
        self._check()
        self._assemble(work, 0)

    def close(self) -> None:
        """Wait until everything is written.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        self._assembler.shutdown(wait=True)
        self._writers.shutdown(wait=True)
        self._buffers.clear()
        self._check()

    # What follows is for the assembler thread.

    def add_buffer(self, buffer: Buffer) -> None:
        """Let `buffer` be asked for its bytes when the memory gets short."""
        self._buffers.append(buffer)

    def hold(self, size_bytes: int) -> None:
        """Count bytes that a buffer took (or let go, if negative), and make room for them."""
        self._buffered_bytes += size_bytes
        for newest in (False, True):
            if size_bytes > 0 and self._buffered_bytes > self._most_kept_bytes:
                for buffer in self._buffers:
                    buffer.relieve(newest=newest)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._written_bytes
                    or self._buffered_bytes + self._written_bytes <= self._most_kept_bytes
                )
            )

    def write(self, size_bytes: int, work: Callable[[], None]) -> None:
        """Let a writer do `work`, which lets go of `size_bytes` of what was held."""
        self._buffered_bytes -= size_bytes
        with self._changed:
            self._written_bytes += size_bytes
        self._writers.submit(self._unless_failed(work)).add_done_callback(
            lambda future: self._done(future, written_bytes=size_bytes)
        )

    def drain(self) -> None:
        """Wait until all that was handed to the writers is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._written_bytes)

    def _assemble(self, work: Callable[[], None], size_bytes: int) -> None:
        self._assembler.submit(self._unless_failed(work)).add_done_callback(
            lambda future: self._done(future, sent_bytes=size_bytes)
        )

    def _unless_failed(self, work: Callable[[], None]) -> Callable[[], None]:
        return lambda: None if self._error else work()

    def _done(self, future: Future[None], *, sent_bytes: int = 0, written_bytes: int = 0) -> None:
        with self._changed:
            self._sent_bytes -= sent_bytes
            self._written_bytes -= written_bytes
            self._error = self._error or future.exception()
            self._changed.notify_all()

    def _check(self) -> None:
        error = self._error
        if isinstance(error, I2AMError):
            raise error
        if error is not None:
            reason = str(error).partition("\n")[0]  # An object store's errors go on for pages.
            msg = (
                f"Expected to write the capture, got {type(error).__name__}: {reason}. "
                "Check the store's place and free space, then run the sample again."
            )
            raise CaptureError(msg) from error

    def _start_copy(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        """Return a tensor on the host, and what to wait for before it is read."""
        # A copy of its own on the same device first: the model may go on working in place.
        own = tensor.detach().clone(memory_format=torch.contiguous_format)
        if own.device.type != "cuda":
            return own.cpu(), None
        side = self._side_streams.get(own.device)
        if side is None:
            side = torch.cuda.Stream(own.device)  # type: ignore[no-untyped-call]
            self._side_streams[own.device] = side
        side.wait_stream(torch.cuda.current_stream(own.device))
        with torch.cuda.stream(side):
            host = torch.empty(own.shape, dtype=own.dtype, pin_memory=True)
            host.copy_(own, non_blocking=True)
            own.record_stream(side)
            return host, side.record_event()


def _host_bytes(tensor: torch.Tensor) -> int:
    """Return what a tensor takes on the host: pinned memory comes in powers of two."""
    size_bytes = tensor.numel() * tensor.element_size()
    return 1 << (size_bytes - 1).bit_length() if tensor.device.type == "cuda" else size_bytes
