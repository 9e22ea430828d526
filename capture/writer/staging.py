"""The way of captured tensors off the device and into the store, while the model goes on.

The model's thread copies tensors into host buffers that it borrows here: at once on a CPU; on a GPU
into pinned memory on a stream of its own, so that the model's kernels need not wait. Full buffers
go to a pool of writers, which bring them to the store and give them back. Host memory is bounded:
when the store is slower than the model, borrowing waits.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from i2am.capture.writer.zarr_objects import Array
from i2am.schemas import CaptureError, I2AMError, SchemaError

__all__ = ["MOST_SHARD_BYTES", "Stream"]

MOST_SHARD_BYTES = 32 * 2**20
_Kind = tuple[tuple[int, ...], torch.dtype, bool]


class _Kept:
    """A little memory that outlives its stream, so that the next one need not touch new pages.

    For a small model they would cost as much as everything else. PyTorch itself keeps all pinned
    memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._lock = most_bytes, threading.Lock()
        self._tensors: list[tuple[_Kind, torch.Tensor]] = []  # the oldest first
        self._bytes = 0

    def keep(self, kind: _Kind, tensors: Iterable[torch.Tensor]) -> None:
        with self._lock:
            for tensor in tensors:
                self._tensors.append((kind, tensor))
                self._bytes += _host_bytes(kind)
                while self._bytes > self._most_bytes:
                    self._bytes -= _host_bytes(self._tensors.pop(0)[0])

    def take(self, kind: _Kind) -> torch.Tensor | None:
        with self._lock:
            for place, (own, tensor) in enumerate(self._tensors):
                if own == kind:
                    del self._tensors[place]
                    self._bytes -= _host_bytes(kind)
                    return tensor
        return None


_kept = _Kept(64 * 2**20)


class Stream:
    """Lends host memory, fills it from a device, and lets writers bring it to the store.

    Parameters
    ----------
    memory_bytes : int
        Host memory that may be held at once: seven eighths of it by buffers, the rest is for the
        writers. A single larger piece is still taken.
    layers : int
        How many layers share the memory.
    threads : int
        Writers: how many buffers are stored at once.

    Raises
    ------
    SchemaError
        If one of them is not positive.

    Attributes
    ----------
    block_bytes : int
        What a layer should borrow at once: then every layer may fill a block while the one before
        is written.
    """

    def __init__(self, memory_bytes: int = 2 * 2**30, *, layers: int = 1, threads: int = 2) -> None:
        if min(memory_bytes, layers, threads) < 1:
            msg = (
                f"Expected memory in bytes and numbers of layers and threads above 0, got "
                f"{memory_bytes}, {layers} and {threads}. Leave them out for 2 GiB and two threads."
            )
            raise SchemaError(msg)
        self._most_bytes = memory_bytes * 7 // 8
        writers_share = memory_bytes // (16 * threads)
        self.block_bytes = max(1, min(self._most_bytes // (2 * layers), writers_share))
        self._held_bytes = self._writing = 0
        self._free: dict[_Kind, list[torch.Tensor]] = {}
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._writers = ThreadPoolExecutor(
            threads, thread_name_prefix="i2am-writer", initializer=_compute_alone
        )
        self._scratch = threading.local()
        self._sides: dict[torch.device, torch.cuda.Stream] = {}
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []

    def borrow(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Return a host tensor to fill from `device`; waits while the memory is full.

        Its values are arbitrary. It goes back with `write`.

        Raises
        ------
        CaptureError
            If something could not be written.
        """
        kind = tuple(shape), dtype, device.type == "cuda"
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(kind))
            self._check()
            if free := self._free.get(kind):
                return free.pop()
            self._held_bytes += _host_bytes(kind)
        if (found := _kept.take(kind)) is not None:
            return found
        with torch.inference_mode(False):  # It may be filled in that mode now, and without later.
            return torch.empty(kind[0], dtype=dtype, pin_memory=kind[2])

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Fill (a part of) a borrowed tensor; `source` may be changed as soon as this returns.

        From a GPU the copy starts with the next `flush`, so that one wait of the side stream
        serves a whole call of the model.
        """
        if source.is_cuda:
            # A copy of its own on the device first: the model may go on working in place.
            own = source.detach().clone(memory_format=torch.contiguous_format)
            self._pending.append((own, target))
        else:
            target.copy_(source)

    def flush(self) -> None:
        """Start the copies from the GPU that have come since the last time."""
        pending, self._pending = self._pending, []
        for device in {own.device for own, _ in pending}:
            if device not in self._sides:
                self._sides[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            side = self._sides[device]
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for own, target in pending:
                    if own.device == device:
                        target.copy_(own, non_blocking=True)
                        own.record_stream(side)

    def write(self, work: Callable[[Array], None], borrowed: Sequence[torch.Tensor] = ()) -> None:
        """Let a writer do `work`, once what was copied so far is there, and take tensors back.

        Parameters
        ----------
        work : callable (Array of bytes) -> None
            Gets scratch memory for a shard, which the next one will use, too.
        borrowed : sequence of Tensor
            Not to be touched again by the caller.
        """
        self.flush()
        arrived = [side.record_event() for side in self._sides.values()]

        def run() -> None:
            for event in arrived:
                event.synchronize()
            if self._error is None:
                work(self._scratch_memory())

        with self._changed:
            self._writing += 1
        self._writers.submit(run).add_done_callback(lambda future: self._done(future, borrowed))

    def drain(self) -> None:
        """Wait until everything that was handed to the writers is written.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)
        self._check()

    def close(self) -> None:
        """Wait until everything is written, and let go of the memory.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        self._writers.shutdown(wait=True)
        self._pending.clear()
        for kind, free in self._free.items():
            _kept.keep(kind, free)
        self._free.clear()
        self._check()

    def _has_room(self, kind: _Kind) -> bool:
        """Return whether a tensor may be lent, after letting go of free ones of other kinds."""
        if self._error or self._free.get(kind) or not self._writing:
            return True  # Without a writer at work nothing will come back: waiting were for ever.
        size_bytes = _host_bytes(kind)
        for other, free in self._free.items():
            while free and self._held_bytes + size_bytes > self._most_bytes:
                free.pop()
                self._held_bytes -= _host_bytes(other)
        return self._held_bytes + size_bytes <= self._most_bytes

    def _done(self, future: Future[None], borrowed: Sequence[torch.Tensor]) -> None:
        with self._changed:
            for tensor in borrowed:
                kind = tuple(tensor.shape), tensor.dtype, tensor.is_pinned()
                self._free.setdefault(kind, []).append(tensor)
            self._writing -= 1
            self._error = self._error or future.exception()
            self._changed.notify_all()

    def _scratch_memory(self) -> Array:
        found: Array | None = getattr(self._scratch, "bytes", None)
        if found is None:
            # Tiles at the end and a shard's index take a little more than the values.
            most_bytes = min(self.block_bytes, MOST_SHARD_BYTES)
            found = np.empty(most_bytes + most_bytes // 16 + 2**16, np.uint8)
            self._scratch.bytes = found
        return found

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


def _compute_alone() -> None:
    """Keep what a writer computes on its own thread.

    PyTorch would start threads for it, which on a CPU take turns with the model's: each of the
    model's own operations would then wait for its threads to wake.
    """
    torch.get_num_threads()  # Sets PyTorch's own number, once in each thread.
    _libraries().limit(limits=1, user_api="openmp")  # For this thread alone.


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _host_bytes(kind: _Kind) -> int:
    """Return what a tensor takes on the host: pinned memory comes in powers of two."""
    shape, dtype, is_pinned = kind
    size_bytes = math.prod(shape) * dtype.itemsize
    return 1 << (size_bytes - 1).bit_length() if is_pinned and size_bytes else size_bytes
