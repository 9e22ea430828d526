"""One layer of one sample on its way to the store: factors, logits or maps.

Steps gather in lent host memory until they fill a shard of each of the layer's arrays. A writer then
encodes and stores the shard while the model computes the next step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from i2am.capture.writer.object_folder import ObjectFolder
from i2am.capture.writer.sharded_array import MAX_CHUNK_STEPS, ShardedArray, plan_shards
from i2am.capture.writer.staging import MAX_SHARD_BYTES, StagingArea
from i2am.capture.writer.zarr_objects import (
    Array,
    NodeMetadata,
    group_metadata,
    single_chunk_metadata,
    write_nodes,
)
from i2am.schemas import CaptureError, LayerAttributes
from i2am.schemas.dims import GUIDANCE_LABELS, LAYER_ARRAYS, STEP

__all__ = ["LayerWriter", "write_layers"]

# So that small layers, too, are written while the model still runs.
MAX_SHARD_STEPS = 5 * MAX_CHUNK_STEPS
_FLOAT16_LIMIT = 65_520  # The smallest number that float16 rounds to infinity.
_NARROW_ARRAYS = {
    "query",
    "key",
    "logits",
    "text_key",
    "text_query",
}  # The others are always float32.

_Kind = tuple[torch.Size, torch.dtype]


@dataclass
class _Block:
    """The latest steps of one guidance branch, in host memory."""

    start: int
    values: dict[str, torch.Tensor]  # (step, head, token[, channel])
    count: int = 0


class LayerWriter:
    """Gathers the steps of one layer, and submits them to the writers shard by shard.

    Parameters
    ----------
    parent : ObjectFolder
        The sample's group ``layers``.
    name : str
        The layer's group.
    attributes : LayerAttributes
    dtype : dtype
        Wanted dtype of queries, keys and logits, float16 or float32. If a finite value does not fit,
        all of them are stored as float32.
    staging : StagingArea
    branches : tuple of str, optional
        Labels of the guidance branches, in their order; one branch alone has no guidance dimension.
        None while they are not known.
    sharers : int
        Number of writers that share one layer's part of the memory: one per reference.
    """

    def __init__(
        self,
        parent: ObjectFolder,
        name: str,
        attributes: LayerAttributes,
        dtype: np.dtype[np.floating],
        staging: StagingArea,
        branches: tuple[str, ...] | None,
        sharers: int = 1,
    ) -> None:
        self.name = name
        self._max_bytes = staging.block_bytes // sharers
        self._folder, self._attributes = parent / name, attributes
        self._narrow, self._staging, self._order = dtype == np.float16, staging, branches
        self._kinds: dict[str, _Kind] = {}  # of one step
        self._shard_steps = 0
        self._blocks: dict[str, _Block] = {}
        self._ends: dict[str, int] = {}
        self._arrays: dict[str, ShardedArray] = {}
        self._constants: dict[str, Array] = {}

    def append(self, step_index: int, branch: str, arrays: Mapping[str, torch.Tensor]) -> None:
        """Append one guidance branch of one step; waits while the memory is full.

        Parameters
        ----------
        step_index : int
            0, 1, 2 … among the steps that are kept. The latest may come again and is replaced.
        branch : str
            Label of the guidance branch.
        arrays : mapping of str to Tensor, dims (head, token[, channel])
            By the store's names; on any device, of any float dtype; views are allowed.

        Raises
        ------
        CaptureError
            If a step was left out or has another shape than the one before, or an earlier step
            could not be written.
        """
        self._check(step_index, branch, arrays)
        block = self._blocks.get(branch)
        if block is not None and step_index == block.start + self._shard_steps:
            # Not as soon as it was full: its latest step might have been replaced.
            self._submit(branch)
            block = None
        if block is None:
            if step_index < self._ends.get(branch, 0):
                self._staging.drain()
            block = self._blocks[branch] = self._open(step_index, arrays)
        index = step_index - block.start
        self._staging.fill(block.values, index, arrays)
        block.count, self._ends[branch] = index + 1, step_index + 1
        if self._shard_steps == 1 and self._order is not None:
            self._submit(branch)  # Memory is short: a step may be replaced in the store, too.

    def flush(self) -> None:
        """Submit what can be written before `close`; no step is replaced after this.

        That is a full shard, or a first one of fewer whole chunks. More steps may come.
        """
        for branch, block in list(self._blocks.items()):
            is_first_shard = not block.start and _whole_chunks(block.count) == block.count
            if block.count == self._shard_steps or is_first_shard:
                self._submit(branch)

    def close(self, branches: tuple[str, ...]) -> None:
        """Submit the remaining steps.

        Parameters
        ----------
        branches : tuple of str
            Labels of the guidance branches of the run, in the order of the store.

        Raises
        ------
        CaptureError
            If other branches were appended, or not all have the same number of steps.
        """
        is_reordered = bool(self._arrays) and self._order != branches
        if set(self._ends) != set(branches) or len(set(self._ends.values())) > 1 or is_reordered:
            msg = (
                f"Expected equally many steps of the branches {list(branches)}, got {self._ends} in "
                f"the order {self._order}, at {self._folder.path}. Capture with guidance='conditional'."
            )
            raise CaptureError(msg)
        self._order = branches
        for branch in list(self._blocks):
            self._submit(branch)

    def conclude(self, attributes: LayerAttributes, constants: Mapping[str, Array]) -> None:
        """Take what is known after the last step alone.

        Parameters
        ----------
        attributes : LayerAttributes
            In place of those that the layer was opened with.
        constants : mapping of str to Array
            Small arrays that are stored in one piece, beside those that were appended.
        """
        self._attributes, self._constants = attributes, dict(constants)

    def finalize(self) -> None:
        """Submit the work that needs all steps; the staging area must be drained before."""
        for name, array in self._arrays.items():
            for work in array.finalize(self.steps, self._dtype(name)):
                self._staging.submit(work)

    def metadata(self, nodes: dict[str, NodeMetadata], values: dict[str, Array]) -> None:
        """Add the metadata of the group and its arrays, and the values of arrays that never change.

        Parameters
        ----------
        nodes, values : dict
            By path below ``layers``; see `write_nodes`.
        """
        nodes[self.name] = group_metadata(self._attributes.to_store())
        for name, array in self._arrays.items():
            (shape, _), dtype = self._kinds[name], self._dtype(name)
            nodes[f"{self.name}/{name}"], whole = array.metadata(self.steps, shape, dtype)
            if whole is not None:
                values[f"{self.name}/{name}"] = whole
        for name, constant in self._constants.items():
            nodes[f"{self.name}/{name}"] = single_chunk_metadata(constant, LAYER_ARRAYS[name][1])
            values[f"{self.name}/{name}"] = constant

    @property
    def attributes(self) -> LayerAttributes:
        """The layer's own."""
        return self._attributes

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return max(self._ends.values(), default=0)

    def _dtype(self, name: str) -> np.dtype[np.floating]:
        is_narrow = self._narrow and name in _NARROW_ARRAYS
        return np.dtype(np.float16 if is_narrow else np.float32)

    def _check(self, step_index: int, branch: str, arrays: Mapping[str, torch.Tensor]) -> None:
        end = self._ends.get(branch, 0)
        kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in arrays.items()}
        self._kinds = self._kinds or kinds
        if not end - 1 <= step_index <= end or kinds != self._kinds:
            msg = (
                f"Expected step {end} of {_format(self._kinds)}, got step {step_index} of "
                f"{_format(kinds)}, at {self._folder.path} ({branch}). Capture a model whose layers all "
                "run at every step, on images of one size."
            )
            raise CaptureError(msg)

    def _open(self, start: int, arrays: Mapping[str, torch.Tensor]) -> _Block:
        """Return lent memory for the steps of a shard, in the tensors' own dtypes."""
        if not self._shard_steps:
            sent_bytes = sum(tensor.nbytes for tensor in arrays.values())
            stored_bytes = sum(t.numel() * self._dtype(n).itemsize for n, t in arrays.items())
            self._shard_steps = _whole_chunks(
                min(
                    self._max_bytes // max(1, sent_bytes),
                    MAX_SHARD_BYTES // max(1, stored_bytes),
                )
            )
        return _Block(
            start,
            {
                name: self._staging.lend(
                    (self._shard_steps, *tensor.shape), tensor.dtype, tensor.device
                )
                for name, tensor in arrays.items()
            },
        )

    def _submit(self, branch: str) -> None:
        block = self._blocks.pop(branch)
        if not self._arrays:
            self._fix_layout(block.count)
        work = partial(self._store, branch, block)
        self._staging.submit(work, list(block.values.values()))

    def _fix_layout(self, steps: int) -> None:
        """Fix the number of steps in a shard, and the order of the branches."""
        if self._order is None:
            self._order = tuple(label for label in GUIDANCE_LABELS if label in self._ends)
        self._shard_steps = steps
        for name, (shape, _) in self._kinds.items():
            left_out, required = LAYER_ARRAYS[name]
            self._arrays[name] = ShardedArray(
                self._folder / name,
                [dim for dim in required if dim != STEP],
                plan_shards(steps, shape, self._dtype(name).itemsize),
                self._order,
                may_be_constant=STEP in left_out,
            )

    def _store(self, branch: str, block: _Block, scratch: Array) -> None:
        """Store a block; on a writer's thread."""
        shard = block.start // self._shard_steps
        for name, tensor in block.values.items():
            values = tensor[: block.count]
            if self._dtype(name) == np.float16 and _overflows(values):
                self._narrow = False
            self._arrays[name].store(branch, shard, values, self._dtype(name), scratch)


def write_layers(parent: ObjectFolder, layers: Iterable[LayerWriter], staging: StagingArea) -> None:
    """Finalize closed layers; their metadata are written after all values.

    Raises
    ------
    CaptureError
        If anything could not be written.
    """
    layers = list(layers)
    staging.drain()
    for layer in layers:
        layer.finalize()
    staging.drain()
    nodes: dict[str, NodeMetadata] = {}
    values: dict[str, Array] = {}
    for layer in layers:
        layer.metadata(nodes, values)
    staging.submit(lambda _scratch: write_nodes(parent, nodes, values))
    staging.drain()


def _overflows(values: torch.Tensor) -> bool:
    """Return whether float16 makes a finite value infinite."""
    if values.dtype == torch.float16:
        return False
    # One call of NumPy instead of many of PyTorch: the model's thread needs the interpreter lock.
    parts = [values] if values.dtype == torch.float32 else (step.float() for step in values)
    return any(_exceeds_float16(part.numpy()) for part in parts)


def _exceeds_float16(values: Array) -> bool:
    with np.errstate(invalid="ignore"):
        if values.min() > -_FLOAT16_LIMIT and values.max() < _FLOAT16_LIMIT:
            return False
    is_beyond = np.abs(values) >= _FLOAT16_LIMIT
    return bool((is_beyond & np.isfinite(values)).any())  # Some are infinite themselves.


def _format(kinds: Mapping[str, _Kind]) -> str:
    return ", ".join(
        f"{name} {'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        for name, (shape, dtype) in kinds.items()
    )


def _whole_chunks(steps: int) -> int:
    """Return the largest number of steps, at most so many, that fills whole chunks."""
    if steps < MAX_CHUNK_STEPS:
        return max(1, steps)
    return min(steps // MAX_CHUNK_STEPS * MAX_CHUNK_STEPS, MAX_SHARD_STEPS)
