"""A sample's maps written with one task for each block, and one for all levels.

Lazy maps, stored as they are, take a task for each output of a block, its sums and its writes: a dozen for
each block. A scheduler of many workers spends longer on those than the workers on their work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

import dask.array as da
import numpy as np
import zarr
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from i2am.analysis.maps.analyze import Plan
from i2am.analysis.maps.layer_maps import LayerMaps, split_block
from i2am.analysis.maps.levels import block_sums, every_head, levels_of_sums
from i2am.analysis.stores.effects import weights_of_layers
from i2am.analysis.stores.maps_writer import Targets
from i2am.schemas.directions import G2R, R2G

__all__ = ["write_blocks"]

_MASS: Final = "mass"
# In the order of a block's outputs.
_KINDS: Final = (R2G.name, G2R.name, _MASS)
_LEVELS: Final = ("ulam", "tlam", "hlam", "llam")


def write_blocks(plan: Plan, targets: Targets) -> list[da.Array] | None:
    """Return lazy arrays that write all maps of a sample when they are computed.

    None where a block is no whole chunks of its volume: blocks have to be joined before.

    Parameters
    ----------
    plan : Plan
        With layers.
    targets : mapping of (group, name) to zarr Array
        A volume and the four levels of each direction; mass, if there is one, in R2G's group.
    """
    members = {
        kind: [i for i, (_, maps) in enumerate(plan.layers) if kind in _kinds_of(maps)]
        for kind in _KINDS
    }
    heads = {kind: every_head(plan.layers[i][0] for i in own) for kind, own in members.items()}
    written = []
    for i, (layer, maps) in enumerate(plan.layers):
        outputs = maps.outputs.joined
        step_blocks, head_blocks, *_ = outputs.chunks
        starts = np.cumsum([0, *step_blocks]).tolist()
        parts = [
            _Part(
                [heads[kind].index(head) for head in layer.heads],
                len(heads[kind]),
                None if kind == _MASS else targets[kind, "volume"],
                members[kind].index(i),
            )
            for kind in _kinds_of(maps)
        ]
        if len(head_blocks) > 1 or not all(part.holds_blocks(starts[:-1]) for part in parts):
            return None
        written.append(
            outputs.map_blocks(
                _write_block,
                sizes=maps.outputs.sizes,
                parts=parts,
                time_groups=list(plan.time_groups),
                starts=starts,
                # As many dimensions as before, or Dask makes a task of its own of it.
                chunks=((1,) * len(step_blocks), *(((1,),) * (outputs.ndim - 1))),
                meta=np.empty((0,) * outputs.ndim, object),
            )
        )
    levels = [
        _levels_of(plan, kind, own, heads[kind], targets) for kind, own in members.items() if own
    ]
    return [*written, _after(written, levels, plan.time_groups)]


def _kinds_of(maps: LayerMaps) -> list[str]:
    """Return what a layer's blocks give, in the order of their outputs."""
    return [kind for kind in _KINDS if getattr(maps, kind) is not None]


def _levels_of(
    plan: Plan, kind: str, members: Sequence[int], heads: Sequence[int], targets: Targets
) -> _Levels:
    """Return where the levels of some layers' maps come from, and where they go."""
    layers = [plan.layers[i] for i in members]
    weights = None
    if plan.weights is not None:
        weights = weights_of_layers(plan.weights, [layer.name for layer, _ in layers])
    return _Levels(
        [(i, _kinds_of(maps).index(kind)) for i, (_, maps) in zip(members, layers, strict=True)],
        [[heads.index(head) for head in layer.heads] for layer, _ in layers],
        weights,
        {"ulam": targets[R2G.name, _MASS]}
        if kind == _MASS
        else {name: targets[kind, name] for name in _LEVELS},
    )


def _after(
    written: Sequence[da.Array], levels: Sequence[_Levels], time_groups: Sequence[slice]
) -> da.Array:
    """Return the one task that writes all levels from the sums of the blocks."""
    blocks = [
        [(one.name, block, *(0,) * (one.ndim - 1)) for block in range(one.numblocks[0])]
        for one in written
    ]
    sizes = [group.stop - group.start for group in time_groups]
    token = f"levels-{uuid4().hex}"
    task = (partial(_write_levels, levels=levels, sizes=sizes), blocks)
    graph = HighLevelGraph.from_collections(token, {(token, 0): task}, dependencies=written)
    return da.Array(graph, token, ((1,),), np.bool_)


@dataclass(frozen=True)
class _Part:
    """Where one output of a layer's blocks belongs: its heads, of how many, and its place in a volume."""

    heads: list[int]
    head_count: int
    volume: zarr.Array[Any] | None
    layer: int

    def holds_blocks(self, starts: Sequence[int]) -> bool:
        """Return whether blocks of all heads that start at these steps are whole chunks."""
        return self.volume is None or all(start % self.volume.chunks[1] == 0 for start in starts)

    def write(self, maps: NDArray[np.float32], start: int) -> None:
        """Write maps (step, head, y, x); heads that the layer lacks are NaN."""
        if self.volume is None:
            return
        if len(self.heads) < self.head_count or self.heads != sorted(self.heads):
            whole = np.full((len(maps), self.head_count, *maps.shape[2:]), np.nan, maps.dtype)
            whole[:, self.heads] = maps
            maps = whole
        self.volume[self.layer, start : start + len(maps)] = maps


@dataclass(frozen=True)
class _Levels:
    """From which sums a group's levels come, and where they are written.

    `members` are the layers' positions, and that of the output among those of each.
    """

    members: list[tuple[int, int]]
    heads: list[list[int]]
    weights: NDArray[np.float64] | None
    targets: dict[str, zarr.Array[Any]]


def _write_block(
    block: NDArray[np.float32],
    sizes: Sequence[tuple[int, ...]],
    parts: Sequence[_Part],
    time_groups: Sequence[slice],
    starts: Sequence[int],
    block_id: tuple[int, ...],
) -> NDArray[np.object_]:
    """Write what a block has of each volume, and return the sums of each output."""
    start = starts[block_id[0]]
    sums = []
    for part, maps in zip(parts, split_block(block, sizes), strict=True):
        part.write(maps, start)
        sums.append(block_sums(maps, time_groups, start))
    found = np.empty((1,) * block.ndim, object)
    found.flat[0] = sums
    return found


def _write_levels(
    blocks: Sequence[Sequence[NDArray[Any]]], levels: Sequence[_Levels], sizes: Sequence[int]
) -> NDArray[np.bool_]:
    for own in levels:
        sums = [[[block.flat[0][output]] for block in blocks[i]] for i, output in own.members]
        found = levels_of_sums(sums, own.heads, sizes, own.weights)
        for name, target in own.targets.items():
            target[...] = found[name]
    return np.ones(1, np.bool_)
