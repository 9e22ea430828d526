"""Arrays that grow step by step in a Zarr store while the next step computes.

Steps gather in memory until they fill a shard, which a writer of the stream then encodes and
stores. How many steps a shard holds is settled by the first one: as many as its size allows, or as
there were when the memory got short. The array's metadata come last, when its length is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.buffer.cpu import Buffer
from zarr.core.sync import sync
from zarr.storage import StorePath

from i2am.capture.codec import (
    COMPRESSOR,
    MOST_CHUNK_STEPS,
    Array,
    ShardLayout,
    encode_shard,
    plan_shards,
)
from i2am.capture.stream import Stream
from i2am.schemas import CaptureError
from i2am.schemas.dims import GUIDANCE, GUIDANCE_LABELS, STEP

__all__ = ["GrowingArray", "write_array"]

_INTEGER_OR_FLOAT = "fiu"


def write_array(
    group: zarr.Group, name: str, values: Array, dims: Sequence[str], chunks: Any = "auto"
) -> zarr.Array[Any]:
    """Write a whole array, labelled and compressed."""
    return group.create_array(
        name,
        data=values,
        dimension_names=list(dims),
        chunks=chunks,
        compressors=COMPRESSOR if values.dtype.kind in _INTEGER_OR_FLOAT else "auto",
    )


@dataclass
class _Half:
    """The steps of one guidance half that are not stored yet."""

    start: int = 0
    slabs: list[Array] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.slabs)


class GrowingArray:
    """An array with a step dimension, and with a guidance dimension where there are two halves.

    All methods are for the assembler thread of the stream.

    Parameters
    ----------
    place : zarr.StorePath
        Where the array is to be.
    dims : sequence of str
        Dimensions of one step: head, token[, channel].
    dtype : dtype
        float16 or float32.
    stream : Stream
    halves : tuple of str, optional
        The guidance halves in their order; None while they are not known.
    may_be_constant : bool
        Whether steps that are all the same are stored once, without a step dimension.
    """

    def __init__(
        self,
        place: StorePath,
        dims: Sequence[str],
        dtype: np.dtype[Any],
        stream: Stream,
        halves: tuple[str, ...] | None,
        *,
        may_be_constant: bool,
    ) -> None:
        self._place, self._dims, self._dtype = place, tuple(dims), dtype
        self._stream, self._order = stream, halves
        self._is_constant = may_be_constant
        self._halves: dict[str, _Half] = {}
        self._slab_shape: tuple[int, ...] = ()
        self._layout: ShardLayout | None = None
        self._held_bytes = 0
        stream.add_buffer(self)

    def put(self, position: int, half: str, slab: Array) -> None:
        """Take one step's values, already of this array's dtype. The latest may come again.

        Raises
        ------
        CaptureError
            If a step was left out, or the shape is another one than before.
        """
        steps = self._halves.setdefault(half, _Half())
        self._slab_shape = self._slab_shape or slab.shape
        if not steps.end - 1 <= position <= steps.end or slab.shape != self._slab_shape:
            msg = (
                f"Expected step {steps.end} of shape {self._slab_shape}, got step {position} of "
                f"shape {slab.shape}, at {self._place} ({half}). Capture a model whose layers "
                "all run at every step, on pictures of one size."
            )
            raise CaptureError(msg)
        if position < steps.end:
            self._drop_latest(steps)
        if self._is_constant and steps.slabs:
            if np.array_equal(slab, steps.slabs[0]):
                slab = steps.slabs[0]
            else:
                self._is_constant = False
        steps.slabs.append(slab)
        self._count()
        if not self._is_constant:
            wanted = _whole_chunks(self._stream.shard_bytes / max(1, slab.nbytes))
            if self._layout is None and len(steps.slabs) > wanted:
                self._settle(wanted)
            self._write_full_shards(half, spare=1)

    def widen(self) -> None:
        """Go on as float32; what is stored already is converted."""
        if (layout := self._layout) is not None:
            self._stream.drain()
            for half, steps in self._halves.items():
                for shard in range(steps.start // layout.steps):
                    place = self._shard_place(half, shard)
                    slabs = _read_shard(place, layout, self._dtype).astype(np.float32)
                    _store(place, list(slabs), layout)
        self._dtype = np.dtype(np.float32)
        for steps in self._halves.values():
            # A constant array repeats one slab, which stays one.
            wide = {id(slab): slab.astype(np.float32) for slab in steps.slabs}
            steps.slabs = [wide[id(slab)] for slab in steps.slabs]
        self._count()

    def relieve(self, *, newest: bool) -> None:
        """Hand whole steps to the writers; with `newest`, also a first one that stands alone."""
        if self._is_constant:
            return
        for half, steps in self._halves.items():
            whole = len(steps.slabs) - 1
            if self._layout is None and whole > 0:
                self._settle(whole // MOST_CHUNK_STEPS * MOST_CHUNK_STEPS or whole)
            elif self._layout is None and newest and self._order is not None:
                self._settle(1)
            holds_one = self._layout is not None and self._layout.steps == 1
            self._write_full_shards(half, spare=0 if newest and holds_one else 1)

    def close(self, halves: tuple[str, ...]) -> None:
        """Hand the rest to the writers; the metadata come after it.

        Raises
        ------
        CaptureError
            If the halves are others than those that came, or not equally long.
        """
        ends = {half: steps.end for half, steps in self._halves.items()}
        is_reordered = self._layout is not None and self._order != halves
        if set(ends) != set(halves) or len(set(ends.values())) > 1 or is_reordered:
            msg = (
                f"Expected equally many steps of the halves {list(halves)}, got {ends} in the "
                f"order {self._order}, at {self._place}. Capture guidance='conditional' alone."
            )
            raise CaptureError(msg)
        self._order = halves
        if self._is_constant:
            return
        if self._layout is None:
            self._settle(max(ends.values()))
        for half in self._halves:
            self._write_full_shards(half, spare=0)
            self._write_shard(half, len(self._halves[half].slabs))

    def write_metadata(self, group: zarr.Group, name: str) -> None:
        """Make it an array for readers, and store what never changed; after `close`."""
        order = self._order or ()
        guidance = (GUIDANCE,) if len(order) > 1 else ()
        if self._is_constant:
            slabs = [self._halves[half].slabs[0] for half in order]
            values = np.stack(slabs) if guidance else slabs[0]
            write_array(group, name, values, (*guidance, *self._dims), values.shape)
        elif self._layout is not None:
            steps = self._halves[order[0]].start
            lead = (len(order),) if guidance else ()
            group.create_array(
                name,
                shape=(*lead, steps, *self._slab_shape),
                chunks=(*(1 for _ in guidance), *self._layout.chunk),
                shards=(*(1 for _ in guidance), *self._layout.shape),
                dtype=self._dtype,
                dimension_names=[*guidance, STEP, *self._dims],
                compressors=COMPRESSOR,
            )

    def _drop_latest(self, steps: _Half) -> None:
        if steps.slabs:
            steps.slabs.pop()
            return
        # Only shards of one step are handed over before the next step comes.
        self._stream.drain()
        steps.start -= 1

    def _count(self) -> None:
        """Tell the stream what is held; a constant array holds one slab however long it is."""
        counts = [len(steps.slabs) for steps in self._halves.values()]
        slabs = sum(map(bool, counts)) if self._is_constant else sum(counts)
        held_bytes = slabs * math.prod(self._slab_shape) * self._dtype.itemsize
        change, self._held_bytes = held_bytes - self._held_bytes, held_bytes
        self._stream.hold(change)

    def _settle(self, steps: int) -> None:
        """Fix for good how many steps a shard holds, and the order of the halves."""
        self._layout = plan_shards(steps, self._slab_shape, self._dtype.itemsize)
        if self._order is None:
            self._order = tuple(label for label in GUIDANCE_LABELS if label in self._halves)

    def _write_full_shards(self, half: str, *, spare: int) -> None:
        """Hand over full shards; `spare` steps stay, because the latest may come again."""
        while self._layout and len(self._halves[half].slabs) - spare >= self._layout.steps:
            self._write_shard(half, self._layout.steps)

    def _write_shard(self, half: str, count: int) -> None:
        steps, layout = self._halves[half], self._layout
        if not count or layout is None:
            return
        slabs, steps.slabs = steps.slabs[:count], steps.slabs[count:]
        place = self._shard_place(half, steps.start // layout.steps)
        steps.start += count
        size_bytes = sum(slab.nbytes for slab in slabs)
        self._held_bytes -= size_bytes
        self._stream.write(size_bytes, partial(_store, place, slabs, layout))

    def _shard_place(self, half: str, shard: int) -> StorePath:
        order = self._order or ()
        lead = [order.index(half)] if len(order) > 1 else []
        return self._place / "/".join(map(str, ["c", *lead, shard, *(0 for _ in self._dims)]))


def _whole_chunks(steps: float) -> int:
    """Return the nearest number of steps that fills the chunks of a shard."""
    if steps < MOST_CHUNK_STEPS:
        return max(1, int(steps))
    return round(steps / MOST_CHUNK_STEPS) * MOST_CHUNK_STEPS


def _store(place: StorePath, slabs: Sequence[Array], layout: ShardLayout) -> None:
    sync(place.set(Buffer(encode_shard(slabs, layout))))


def _read_shard(place: StorePath, layout: ShardLayout, dtype: np.dtype[Any]) -> Array:
    """Read a full shard back, through an array of its own in memory."""
    heads, _width, *channels = layout.chunk[1:]
    array = zarr.create_array(
        {},
        shape=(layout.steps, heads, layout.tokens, *channels),
        chunks=layout.chunk,
        shards=layout.shape,
        dtype=dtype,
        compressors=COMPRESSOR,
    )
    origin = "/".join(["c", *("0" for _ in layout.chunk)])
    if (shard := sync(place.get())) is None:
        msg = f"Expected a shard that was just stored, got none, at {place}. Run the sample again."
        raise CaptureError(msg)
    sync((array.store_path / origin).set(shard))
    return np.asarray(array[...])
