"""Arrays that grow step by step in a Zarr store while the next step computes.

Memory stays bounded: each array buffers the steps of one row of chunks, and no more than a stated
number of bytes may wait for the disk; when the disk is slower than the model, the model waits.
Chunks hold few steps and few patches, because the reader in a hurry is the click on one patch,
which wants all steps of it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from i2am.schemas import CaptureError
from i2am.schemas.dims import STEP

__all__ = ["BackgroundWriter", "GrowingArray", "plan_chunks", "write_array"]

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_BYTES = 2 * 2**20
FEWEST_STEPS, MOST_STEPS = 8, 32


class BackgroundWriter:
    """One thread that writes, in order; waiting work is bounded in bytes.

    Parameters
    ----------
    limit_bytes : int
        `submit` blocks while more than this waits. A single larger piece is still taken.
    """

    def __init__(self, limit_bytes: int = 512 * 2**20) -> None:
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._room = threading.Condition()
        self._error: BaseException | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="i2am-writer")

    def submit(self, size_bytes: int, work: Callable[[], None]) -> None:
        """Queue `work`, which holds `size_bytes` until it is done.

        Raises
        ------
        CaptureError
            If earlier work failed.
        """
        with self._room:
            self._room.wait_for(
                lambda: not self._waiting_bytes or self._waiting_bytes < self._limit_bytes
            )
            self._check()
            self._waiting_bytes += size_bytes
        self._executor.submit(work).add_done_callback(lambda f: self._done(f, size_bytes))

    def close(self) -> None:
        """Wait until everything is written.

        Raises
        ------
        CaptureError
            If anything could not be written.
        """
        self._executor.shutdown(wait=True)
        self._check()

    def _done(self, future: Future[None], size_bytes: int) -> None:
        with self._room:
            self._waiting_bytes -= size_bytes
            self._error = self._error or future.exception()
            self._room.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            msg = (
                f"Expected to write the capture, got {type(self._error).__name__}: {self._error}. "
                "Check the store's place and free space, then run the sample again."
            )
            raise CaptureError(msg) from self._error


def plan_chunks(dims: Sequence[str], shape: Sequence[int], item_bytes: int) -> tuple[int, ...]:
    """Return the chunk shape of an array whose dims end in (step, head, token[, …]).

    A chunk holds one guidance half, all heads and about two MiB: many steps of a small layer, or
    eight steps of some patches of a large one.

    Examples
    --------
    >>> plan_chunks(("step", "head", "generated", "channel"), (50, 8, 4096, 40), 2)
    (8, 8, 410, 40)
    """
    axis = dims.index(STEP)
    _steps, heads, tokens = shape[axis : axis + 3]
    token_bytes = item_bytes * heads * math.prod(shape[axis + 3 :])
    many = CHUNK_BYTES // max(1, token_bytes * tokens)
    chunk_steps = max(FEWEST_STEPS, min(MOST_STEPS, many))
    tiles = math.ceil(tokens * token_bytes * chunk_steps / CHUNK_BYTES)
    return (1,) * axis + (chunk_steps, heads, math.ceil(tokens / tiles), *shape[axis + 3 :])


def write_array(
    group: zarr.Group, name: str, values: Array, dims: Sequence[str], chunks: Any = "auto"
) -> zarr.Array[Any]:
    """Write a whole array, labelled and compressed."""
    return group.create_array(
        name,
        data=values,
        dimension_names=list(dims),
        chunks=chunks,
        compressors=_codec() if values.dtype.kind in "fiu" else "auto",
    )


class GrowingArray:
    """An array with a step dimension, filled step by step.

    Parameters
    ----------
    group : zarr.Group
    name : str
    dims : sequence of str
        Holds "step" at place 0 or 1 (after "guidance").
    slab_shape : sequence of int
        Shape of one step: `dims` without "step".
    dtype : dtype
        float16 or float32.
    writer : BackgroundWriter
    """

    def __init__(
        self,
        group: zarr.Group,
        name: str,
        dims: Sequence[str],
        slab_shape: Sequence[int],
        dtype: np.dtype[Any],
        writer: BackgroundWriter,
    ) -> None:
        self._group, self._name, self._dims, self._dtype = group, name, dims, dtype
        self._axis = list(dims).index(STEP)
        self._slab_shape = tuple(slab_shape)
        self._writer = writer
        self._chunks = plan_chunks(dims, self._full_shape(1), dtype.itemsize)
        self._span = self._chunks[self._axis]
        self._buffer = np.zeros(self._full_shape(self._span), dtype)
        self._start, self._filled = 0, 0
        self._array: zarr.Array[Any] | None = None

    def put(self, step: int, slab: Array) -> None:
        """Take one step's values, already of this array's dtype. A step given again replaces it."""
        if step >= self._start + self._span:
            self._flush()
        self._buffer[self._place(slice(step - self._start, step - self._start + 1))] = (
            np.expand_dims(slab, self._axis)
        )
        self._filled = max(self._filled, step - self._start + 1)

    def widen(self) -> None:
        """Go on as float32; what is stored already is converted."""
        self._dtype = np.dtype(np.float32)
        self._buffer = self._buffer.astype(self._dtype)
        self._writer.submit(0, self._convert_stored)

    def close(self) -> None:
        """Write what is buffered."""
        if self._filled:
            self._flush()

    def _flush(self) -> None:
        values, start, dtype = self._buffer, self._start, self._dtype
        values = values[self._place(slice(0, self._filled))]
        self._buffer = np.zeros_like(self._buffer)
        self._start, self._filled = start + self._span, 0
        self._writer.submit(values.nbytes, lambda: self._write(start, values, dtype))

    def _write(self, start: int, values: Array, dtype: np.dtype[Any]) -> None:
        stop = start + values.shape[self._axis]
        if self._array is None:
            self._array = self._create(stop, dtype)
        self._array.resize(self._full_shape(stop))
        self._array[self._place(slice(start, stop))] = values

    def _convert_stored(self) -> None:
        if self._array is None:
            return
        stored = np.asarray(self._array[...]).astype(np.float32)
        del self._group[self._name]
        self._array = self._create(stored.shape[self._axis], stored.dtype)
        self._array[...] = stored

    def _create(self, steps: int, dtype: np.dtype[Any]) -> zarr.Array[Any]:
        return self._group.create_array(
            self._name,
            shape=self._full_shape(steps),
            chunks=self._chunks,
            dtype=dtype,
            dimension_names=list(self._dims),
            compressors=_codec(),
        )

    def _full_shape(self, steps: int) -> tuple[int, ...]:
        return (*self._slab_shape[: self._axis], steps, *self._slab_shape[self._axis :])

    def _place(self, steps: slice) -> tuple[slice, ...]:
        return (slice(None),) * self._axis + (steps,)


def _codec() -> BloscCodec:
    """Fast, and it halves the bytes of smooth float16; reading is as fast as without."""
    return BloscCodec(cname="lz4", shuffle="shuffle")
