"""Bounded host memory between the device and the store, and the threads that empty it.

The model's thread copies tensors into host buffers that are lent here: at once on a CPU; on an
accelerator beside the model's work (`device_copies`). Full buffers go to a pool of writers, which
store their values and return the memory. When the store is slower than the model, `StagingArea.lend`
waits.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from i2am.capture.writer.device_copies import Accelerator, DeviceCopies
from i2am.capture.writer.zarr_objects import Array
from i2am.schemas import CaptureError, I2AMError, SchemaError, StorageError
from i2am.storage.failures import storage_error

__all__ = ["MAX_SHARD_BYTES", "NotStoredError", "StagingArea"]

MAX_SHARD_BYTES = 32 * 2**20
_Kind = tuple[tuple[int, ...], torch.dtype, bool]


class _BufferCache:
    """A little memory that outlives its staging area, so that the next one need not touch new pages.

    For a small model new pages cost as much as everything else. PyTorch itself keeps all pinned
    memory.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self._tensors: list[tuple[_Kind, torch.Tensor]] = []  # the oldest first
        self._bytes = 0

    def keep(self, kind: _Kind, tensors: Iterable[torch.Tensor]) -> None:
        with self._lock:
            for tensor in tensors:
                self._tensors.append((kind, tensor))
                self._bytes += _host_bytes(kind)
                while self._bytes > self._max_bytes:
                    self._bytes -= _host_bytes(self._tensors.pop(0)[0])

    def take(self, kind: _Kind) -> torch.Tensor | None:
        with self._lock:
            for index, (own, tensor) in enumerate(self._tensors):
                if own == kind:
                    del self._tensors[index]
                    self._bytes -= _host_bytes(kind)
                    return tensor
        return None


_buffer_cache = _BufferCache(64 * 2**20)


class StagingArea:
    """Lends host memory, fills it from a device, and submits it to the writers.

    Parameters
    ----------
    memory_bytes : int
        Host memory that may be held at once: seven eighths by buffers, the rest by the writers. A
        single larger buffer is still lent.
    layers : int
        Number of layers that share the memory.
    threads : int
        Number of writers, each of which stores one buffer at a time.
    accelerator : Accelerator, optional
        Where tensors that are not on the CPU come from; a simulated one in tests.

    Raises
    ------
    SchemaError
        If one of them is not positive.

    Attributes
    ----------
    block_bytes : int
        What a layer should be lent at once, so that it can fill a block while its previous one is
        written.
    """

    def __init__(
        self,
        memory_bytes: int = 2 * 2**30,
        *,
        layers: int = 1,
        threads: int = 2,
        accelerator: Accelerator | None = None,
    ) -> None:
        if min(memory_bytes, layers, threads) < 1:
            msg = (
                f"Expected memory in bytes and numbers of layers and threads above 0, got "
                f"{memory_bytes}, {layers} and {threads}. Leave them out for 2 GiB and two threads."
            )
            raise SchemaError(msg)
        self._max_bytes = memory_bytes * 7 // 8
        writers_share = memory_bytes // (16 * threads)
        self.block_bytes = max(1, min(self._max_bytes // (2 * layers), writers_share))
        self._held_bytes = self._writing = 0
        self._free: dict[_Kind, list[torch.Tensor]] = {}
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._writers = ThreadPoolExecutor(
            threads, thread_name_prefix="i2am-writer", initializer=_limit_threads
        )
        self._scratch = threading.local()
        self._accelerator = accelerator or Accelerator()
        self._copies = DeviceCopies(self._accelerator)

    def lend(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Return a host tensor to fill from `device`; waits while the memory is full.

        Its values are arbitrary. `submit` takes it back.

        Raises
        ------
        CaptureError
            If something could not be written.
        """
        kind = tuple(shape), dtype, self._copies.are_pinned(device)
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(kind))
            self._check()
            if free := self._free.get(kind):
                return free.pop()
            self._held_bytes += _host_bytes(kind)
        if (found := _buffer_cache.take(kind)) is not None:
            return found
        with torch.inference_mode(False):  # It may be filled in that mode now, and without later.
            if kind[2]:
                return self._accelerator.empty_pinned(kind[0], dtype)
            return torch.empty(kind[0], dtype=dtype)

    def fill(
        self, block: Mapping[str, torch.Tensor], index: int, arrays: Mapping[str, torch.Tensor]
    ) -> None:
        """Copy arrays into one index of lent tensors; they may change as soon as this returns.

        From an accelerator the copies start with the next `flush`: once for a whole call of the
        model.

        Parameters
        ----------
        block : mapping of str to Tensor, dims (index, …)
            Lent tensors.
        index : int
        arrays : mapping of str to Tensor, dims (…)
            By the same names.
        """
        for name, source in arrays.items():
            target = block[name][index]
            if source.is_cpu:
                target.copy_(source)
            else:
                self._copies.add(source, target)

    def flush(self) -> None:
        """Start the copies from an accelerator that `fill` has collected."""
        self._copies.start()

    def submit(self, work: Callable[[Array], None], lent: Sequence[torch.Tensor] = ()) -> None:
        """Let a writer do `work` once all copies so far have arrived, and take tensors back.

        Parameters
        ----------
        work : callable (Array of bytes) -> None
            Called with scratch memory for a shard, which the next work will overwrite.
        lent : sequence of Tensor
            Lent again after `work`; the caller must not use them any more.
        """
        self.flush()
        arrivals = self._copies.arrivals()

        def run() -> None:
            for arrival in arrivals:  # Also before memory is returned that nobody will read.
                arrival.synchronize()
            if self._error is None and not self._is_abandoned:
                work(self._scratch_memory())

        with self._changed:
            self._writing += 1
        self._writers.submit(run).add_done_callback(lambda future: self._done(future, lent))

    def drain(self) -> None:
        """Wait until all work that was submitted is done.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)
        self._check()

    def abandon(self) -> None:
        """Drop the work that waits for a writer: gigabytes that belong to a sample that failed."""
        self._is_abandoned = True

    def close(self) -> None:
        """Wait until all work that was submitted is done, and free the memory.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        self._writers.shutdown(wait=True)
        self._copies.drop()
        for kind, free in self._free.items():
            _buffer_cache.keep(kind, free)
        self._free.clear()
        self._check()

    def _has_room(self, kind: _Kind) -> bool:
        """Return whether a tensor may be lent, after freeing unused ones of other kinds."""
        if self._error or self._free.get(kind) or not self._writing:
            return True  # Without a writer at work no memory would be returned: it would wait for ever.
        size_bytes = _host_bytes(kind)
        for other, free in self._free.items():
            while free and self._held_bytes + size_bytes > self._max_bytes:
                free.pop()
                self._held_bytes -= _host_bytes(other)
        return self._held_bytes + size_bytes <= self._max_bytes

    def _done(self, future: Future[None], lent: Sequence[torch.Tensor]) -> None:
        with self._changed:
            for tensor in lent:
                kind = tuple(tensor.shape), tensor.dtype, self._accelerator.is_pinned(tensor)
                self._free.setdefault(kind, []).append(tensor)
            self._writing -= 1
            self._error = self._error or future.exception()
            self._changed.notify_all()

    def _scratch_memory(self) -> Array:
        found: Array | None = getattr(self._scratch, "bytes", None)
        if found is None:
            # Tiles at the end and a shard's index take a little more than the values.
            max_bytes = min(self.block_bytes, MAX_SHARD_BYTES)
            found = np.empty(max_bytes + max_bytes // 16 + 2**16, np.uint8)
            self._scratch.bytes = found
        return found

    def _check(self) -> None:
        error = self._error
        if error is None:
            return
        if isinstance(error, StorageError | OSError):
            raise _not_stored(error) from error
        if isinstance(error, I2AMError):
            raise error
        reason = str(error).partition("\n")[0]
        msg = (
            f"Expected to write the capture, got {type(error).__name__}: {reason}, on a writer's "
            "thread. Run the sample again."
        )
        raise CaptureError(msg) from error


class NotStoredError(CaptureError, StorageError):
    """What was captured could not be stored: the store fails, not the model."""


def _not_stored(error: StorageError | OSError) -> NotStoredError:
    found = error if isinstance(error, StorageError) else storage_error(error, "the run")
    return NotStoredError(str(found))


def _limit_threads() -> None:
    """Let PyTorch compute on a writer's own thread alone.

    It would start threads for each writer, which compete with the model's on a CPU: each of the
    model's own operations would then wait for its threads to wake.
    """
    torch.get_num_threads()  # Sets PyTorch's own number, once in each thread.
    _libraries().limit(limits=1, user_api="openmp")  # For this thread alone.


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _host_bytes(kind: _Kind) -> int:
    """Return the bytes that a tensor takes on the host: pinned memory comes in powers of two."""
    shape, dtype, is_pinned = kind
    size_bytes = math.prod(shape) * dtype.itemsize
    return 1 << (size_bytes - 1).bit_length() if is_pinned and size_bytes else size_bytes
