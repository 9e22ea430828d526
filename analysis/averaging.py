"""The averages themselves: running means over samples, a part of their maps at a time.

Samples are read one after the other and each but once, as long as their maps are small; a large
volume takes several passes. So memory does not grow with the number of samples, and a running mean
loses no digits to an offset that all have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import dask
import numpy as np
import xarray as xr
import zarr
from dask.array.core import slices_from_chunks
from numpy.typing import NDArray
from tqdm.auto import tqdm
from zarr.abc.store import Store

from i2am.analysis.alike import check_alike
from i2am.analysis.groups import SampleGroup
from i2am.analysis.maps_store import write_coordinates
from i2am.analysis.store import Maps
from i2am.schemas import AnalysisError
from i2am.schemas.attributes import ATTRIBUTE_KEY

__all__ = ["write_averages"]

# Values whose mean and variance are worked on in one pass over the samples, 16 bytes each.
_PASS_VALUES: Final = 4 * 2**20


def write_averages(
    store: Store | Path,
    attributes: dict[str, Any],
    maps: Maps,
    groups: Sequence[SampleGroup],
    levels: list[str],
    *,
    progress: bool,
) -> None:
    """Write means, variances and counts of each group of samples to a new store.

    Parameters
    ----------
    store : Store or Path
    attributes : dict
        Of the root.
    maps : Maps
    groups : sequence of SampleGroup
    levels : list of str
    progress : bool
        Show a bar over the samples.

    Raises
    ------
    AnalysisError
        If the maps lack a level, or samples of one group are not alike.
    """
    root = zarr.create_group(store, attributes={ATTRIBUTE_KEY: attributes})
    total = sum(len(group.samples) for group in groups)
    with tqdm(total=total, desc="average", unit="sample", disable=not progress) as bar:
        for group in groups:
            own = {"labels": group.labels, "samples": len(group.samples)}
            node = root.create_group(group.node, attributes={ATTRIBUTE_KEY: own})
            _write_group(node, maps, group, levels, bar)


def _write_group(
    node: zarr.Group, maps: Maps, group: SampleGroup, levels: list[str], bar: Any
) -> None:
    """Write one group's averages, in as many passes over its samples as its maps need."""
    first = group.samples[0]
    template = _cut(maps[first], levels)
    for direction, found in template.items():
        _create(node.create_group(direction), found, len(group.samples))
    passes = list(_passes(template))
    bar.total += (len(passes) - 1) * len(group.samples)
    for number, parts in enumerate(passes):
        moments = [_Moments(part.shape) for part in parts]
        for name in group.samples:
            sample = _cut(maps[name], levels)
            if number == 0:
                check_alike(name, sample, first, template)
            asked = [sample[p.direction][p.level].data[p.slices] for p in parts]
            for moment, values in zip(moments, dask.compute(*asked), strict=True):
                moment.add(values)
            bar.update()
        for part, moment in zip(parts, moments, strict=True):
            arrays: Any = node[part.direction]
            arrays[part.level][part.slices] = moment.mean.astype(np.float32)
            arrays[f"{part.level}_variance"][part.slices] = moment.variance().astype(np.float32)


def _cut(sample: xr.DataTree, levels: list[str]) -> dict[str, xr.Dataset]:
    """Return the wanted levels of each direction, with the coordinates that they have."""
    for level in levels:
        if level not in sample["r2g"]:
            msg = f"Expected maps with {level}, got none, at {sample.name}. Leave it out of levels."
            raise AnalysisError(msg)
    found = {direction: node.to_dataset() for direction, node in sample.children.items()}
    return {d: maps[[level for level in levels if level in maps]] for d, maps in found.items()}


def _passes(template: dict[str, xr.Dataset]) -> Iterator[list[_Part]]:
    """Yield parts that fit the memory together: whole levels, a volume by its chunks."""
    parts: list[_Part] = []
    room = _PASS_VALUES
    for direction, found in template.items():
        for level, values in found.data_vars.items():
            for slices in slices_from_chunks(values.chunks):
                part = _Part(direction, str(level), slices)
                if parts and math.prod(part.shape) > room:
                    yield parts
                    parts, room = [], _PASS_VALUES
                parts.append(part)
                room -= math.prod(part.shape)
    yield parts


def _create(group: zarr.Group, template: xr.Dataset, count: int) -> None:
    """Create a direction's arrays, and write its coordinates."""
    write_coordinates(group, template)
    for level, values in template.data_vars.items():
        for name in (str(level), f"{level}_variance"):
            group.create_array(
                name,
                shape=values.shape,
                dtype="float32",
                chunks=values.data.chunksize,
                fill_value=np.nan,
                dimension_names=[str(dim) for dim in values.dims],
            )
    group.create_array("count", data=np.array(count), dimension_names=[])


class _Moments:
    """Running mean and sum of squared deviations of one part of a level."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape)
        self.squares = np.zeros(shape)

    def add(self, values: NDArray[Any]) -> None:
        """Take in one more sample; NaN stays NaN."""
        self.count += 1
        deviation = values - self.mean
        self.mean += deviation / self.count
        self.squares += deviation * (values - self.mean)

    def variance(self) -> NDArray[np.float64]:
        """Return the unbiased variance; of one sample there is none."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        return self.squares / (self.count - 1)


class _Part(NamedTuple):
    """A part of a level that is worked on at a time."""

    direction: str
    level: str
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.slices)
