"""One layer of one sample on its way to the store: factors, logits or maps.

Steps gather in borrowed host memory until they fill a shard of each of the layer's arrays; a writer
of the stream then encodes and stores it while the next step computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from zarr.storage import StorePath

from i2am.capture.writer.sharded_array import MOST_CHUNK_STEPS, ShardedArray, plan_shards
from i2am.capture.writer.staging import MOST_SHARD_BYTES, Stream
from i2am.capture.writer.zarr_objects import Array, Node, group_metadata, write_nodes
from i2am.schemas import CaptureError, LayerAttributes
from i2am.schemas.dims import GUIDANCE_LABELS, LAYER_ARRAYS, STEP

__all__ = ["LayerWriter", "write_layers"]

# So that small layers, too, are written while the model still runs.
MOST_SHARD_STEPS = 5 * MOST_CHUNK_STEPS
_HALF_LIMIT = 65_520  # The smallest number that float16 rounds to infinity.
_NARROW_ARRAYS = {"query", "key", "logits"}  # The others are always float32.

_Kind = tuple[torch.Size, torch.dtype]


@dataclass
class _Block:
    """The latest steps of one guidance branch, in host memory."""

    start: int
    values: dict[str, torch.Tensor]  # (step, head, token[, channel])
    count: int = 0


class LayerWriter:
    """Gathers the steps of one layer, and hands them to the stream's writers shard by shard.

    Parameters
    ----------
    parent : zarr.StorePath
        The sample's group ``layers``.
    name : str
        The layer's group.
    attributes : LayerAttributes
    dtype : dtype
        Wanted dtype of queries, keys and logits, float16 or float32. A finite value that does not
        fit turns them all to float32.
    stream : Stream
    branches : tuple of str, optional
        Labels of the guidance branches, in their order; one half alone has no guidance dimension.
        None while it is not known which will come.
    sharers : int
        How many writers share the memory that the stream counts for one layer: one a reference.
    """

    def __init__(
        self,
        parent: StorePath,
        name: str,
        attributes: LayerAttributes,
        dtype: np.dtype[np.floating],
        stream: Stream,
        branches: tuple[str, ...] | None,
        sharers: int = 1,
    ) -> None:
        self.name = name
        self._most_bytes = stream.block_bytes // sharers
        self._place, self._attributes = parent / name, attributes
        self._narrow, self._stream, self._order = dtype == np.float16, stream, branches
        self._kinds: dict[str, _Kind] = {}  # of one step
        self._shard_steps = 0
        self._blocks: dict[str, _Block] = {}
        self._ends: dict[str, int] = {}
        self._arrays: dict[str, ShardedArray] = {}

    def put(self, position: int, branch: str, arrays: Mapping[str, torch.Tensor]) -> None:
        """Take one guidance branch of one step; waits while the memory is full.

        Parameters
        ----------
        position : int
            0, 1, 2 … among the steps that are kept. The latest may be put again: it replaces.
        half : str
        arrays : mapping of str to Tensor, dims (head, token[, channel])
            By the contract's names; any device, float32, float16 or bfloat16, may be views.

        Raises
        ------
        CaptureError
            If a step was left out or has another shape than the one before, or something that was
            put before could not be written.
        """
        self._check(position, branch, arrays)
        block = self._blocks.get(branch)
        if block is not None and position == block.start + self._shard_steps:
            # Not as soon as it was full, since its latest step might have been put again.
            self._hand_over(branch)
            block = None
        if block is None:
            if position < self._ends.get(branch, 0):
                self._stream.drain()
            block = self._blocks[branch] = self._open(position, arrays)
        place = position - block.start
        for name, tensor in arrays.items():
            self._stream.copy(tensor, block.values[name][place])
        block.count, self._ends[branch] = place + 1, position + 1
        if self._shard_steps == 1 and self._order is not None:
            self._hand_over(branch)  # Memory is short: a step may be replaced in the store, too.

    def hand_over(self) -> None:
        """Hand the writers what they may have before `close`; no step is put again after this.

        More steps may come: what is handed over is a shard, or a first one of fewer whole chunks.
        """
        for branch, block in list(self._blocks.items()):
            is_first_shard = not block.start and _whole_chunks(block.count) == block.count
            if block.count == self._shard_steps or is_first_shard:
                self._hand_over(branch)

    def close(self, branches: tuple[str, ...]) -> None:
        """Hand what is left to the writers.

        Parameters
        ----------
        branches : tuple of str
            Labels of the guidance branches that were put, in the order of the store.

        Raises
        ------
        CaptureError
            If the branches are others than those that came, or not equally long.
        """
        is_reordered = bool(self._arrays) and self._order != branches
        if set(self._ends) != set(branches) or len(set(self._ends.values())) > 1 or is_reordered:
            msg = (
                f"Expected equally many steps of the branches {list(branches)}, got {self._ends} in "
                f"the order {self._order}, at {self._place}. Capture guidance='conditional' alone."
            )
            raise CaptureError(msg)
        self._order = branches
        for branch in list(self._blocks):
            self._hand_over(branch)

    def settle(self) -> None:
        """Hand over what could not be told before the last step; the stream must be drained."""
        for name, array in self._arrays.items():
            for work in array.settle(self._steps, self._dtype(name)):
                self._stream.write(work)

    def describe(self, nodes: dict[str, Node], values: dict[str, Array]) -> None:
        """Add the group and its arrays, and the values of those that never changed.

        By path below ``layers``.
        """
        nodes[self.name] = group_metadata(self._attributes.to_store())
        for name, array in self._arrays.items():
            (shape, _), dtype = self._kinds[name], self._dtype(name)
            nodes[f"{self.name}/{name}"], whole = array.describe(self._steps, shape, dtype)
            if whole is not None:
                values[f"{self.name}/{name}"] = whole

    @property
    def _steps(self) -> int:
        return max(self._ends.values())

    def _dtype(self, name: str) -> np.dtype[np.floating]:
        is_narrow = self._narrow and name in _NARROW_ARRAYS
        return np.dtype(np.float16 if is_narrow else np.float32)

    def _check(self, position: int, branch: str, arrays: Mapping[str, torch.Tensor]) -> None:
        end = self._ends.get(branch, 0)
        kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in arrays.items()}
        self._kinds = self._kinds or kinds
        if not end - 1 <= position <= end or kinds != self._kinds:
            msg = (
                f"Expected step {end} of {_format(self._kinds)}, got step {position} of "
                f"{_format(kinds)}, at {self._place} ({branch}). Capture a model whose layers all "
                "run at every step, on pictures of one size."
            )
            raise CaptureError(msg)

    def _open(self, start: int, arrays: Mapping[str, torch.Tensor]) -> _Block:
        """Borrow memory for the steps of a shard, in the tensors' own dtypes."""
        if not self._shard_steps:
            sent_bytes = sum(tensor.nbytes for tensor in arrays.values())
            stored_bytes = sum(t.numel() * self._dtype(n).itemsize for n, t in arrays.items())
            self._shard_steps = _whole_chunks(
                min(
                    self._most_bytes // max(1, sent_bytes),
                    MOST_SHARD_BYTES // max(1, stored_bytes),
                )
            )
        return _Block(
            start,
            {
                name: self._stream.borrow(
                    (self._shard_steps, *tensor.shape), tensor.dtype, tensor.device
                )
                for name, tensor in arrays.items()
            },
        )

    def _hand_over(self, branch: str) -> None:
        block = self._blocks.pop(branch)
        if not self._arrays:
            self._settle_layout(block.count)
        work = partial(self._store, branch, block)
        self._stream.write(work, list(block.values.values()))

    def _settle_layout(self, steps: int) -> None:
        """Fix for good how many steps a shard holds, and the order of the branches."""
        if self._order is None:
            self._order = tuple(label for label in GUIDANCE_LABELS if label in self._ends)
        self._shard_steps = steps
        for name, (shape, _) in self._kinds.items():
            left_out, required = LAYER_ARRAYS[name]
            self._arrays[name] = ShardedArray(
                self._place / name,
                [dim for dim in required if dim != STEP],
                plan_shards(steps, shape, self._dtype(name).itemsize),
                self._order,
                may_be_constant=STEP in left_out,
            )

    def _store(self, branch: str, block: _Block, scratch: Array) -> None:
        """Bring a block to the store; on a writer's thread."""
        shard = block.start // self._shard_steps
        for name, tensor in block.values.items():
            values = tensor[: block.count]
            if self._dtype(name) == np.float16 and _overflows(values):
                self._narrow = False
            self._arrays[name].store(branch, shard, values, self._dtype(name), scratch)


def write_layers(parent: StorePath, layers: Iterable[LayerWriter], stream: Stream) -> None:
    """Settle closed layers, and describe them to readers once all else is in the store.

    Raises
    ------
    CaptureError
        If anything could not be written.
    """
    layers = list(layers)
    stream.drain()
    for layer in layers:
        layer.settle()
    stream.drain()
    nodes: dict[str, Node] = {}
    values: dict[str, Array] = {}
    for layer in layers:
        layer.describe(nodes, values)
    stream.write(lambda _scratch: write_nodes(parent, nodes, values))
    stream.drain()


def _overflows(values: torch.Tensor) -> bool:
    """Return whether float16 makes a finite value infinite."""
    if values.dtype == torch.float16:
        return False
    # One call to NumPy rather than many to PyTorch: the model's thread wants the interpreter, too.
    parts = [values] if values.dtype == torch.float32 else (step.float() for step in values)
    return any(_exceeds_half(part.numpy()) for part in parts)


def _exceeds_half(values: Array) -> bool:
    with np.errstate(invalid="ignore"):
        if values.min() > -_HALF_LIMIT and values.max() < _HALF_LIMIT:
            return False
    is_beyond = np.abs(values) >= _HALF_LIMIT
    return bool((is_beyond & np.isfinite(values)).any())  # Some are infinite themselves.


def _format(kinds: Mapping[str, _Kind]) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        for name, (shape, dtype) in kinds.items()
    )


def _whole_chunks(steps: int) -> int:
    """Return a number of steps that fills the chunks of a shard."""
    if steps < MOST_CHUNK_STEPS:
        return max(1, steps)
    return min(steps // MOST_CHUNK_STEPS * MOST_CHUNK_STEPS, MOST_SHARD_STEPS)
