"""Means and variances of maps over the samples of a run, or over each group of them.

The result has one node per group of samples, in memory or in a store of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
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
from zarr.storage import MemoryStore

from i2am.analysis.statistics.groups import (
    SampleGroup,
    check_same_layout,
    group_samples,
    shared_pixels,
)
from i2am.analysis.stores.maps_writer import (
    MAP_CODECS,
    write_coordinate,
    write_coordinates,
)
from i2am.analysis.stores.reader import Maps, open_maps, open_tree
from i2am.analysis.stores.related import named_path, run_of
from i2am.files import check_not_in_store, folder_written_whole, restore_replaced
from i2am.schemas import SCHEMA_VERSION, AnalysisError, I2AMError, StoreError, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY, root_attributes
from i2am.schemas.choices import LEVEL_NAMES
from i2am.storage.addresses import StoreLike, is_url, open_group, own_attributes
from i2am.storage.sources import source_of

__all__ = [
    "RunningMoments",
    "average_maps",
    "default_average_path",
    "memory_passes",
    "write_averages",
]

# Values whose mean and variance are accumulated in one pass over the samples, 16 bytes each.
MAX_PASS_VALUES: Final = 4 * 2**20
_KIND: Final = "average"


def average_maps(
    maps: StoreLike,
    *,
    run: StoreLike | None = None,
    by: str | Iterable[str] = (),
    samples: Iterable[str] | None = None,
    levels: str | Iterable[str] = ("ulam", "tlam", "hlam", "llam"),
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    max_pass_values: int = MAX_PASS_VALUES,
) -> xr.DataTree:
    """Return means and variances of maps over samples, for all or by their labels.

    Parameters
    ----------
    maps : str, Path or zarr Store
    run : str, Path or zarr Store, optional
        Where the labels are; by default what the maps' ``source`` says.
    by : str or iterable of str
        Columns of the run's table: a manifest's own columns by their name, or what the capture
        noted, as ``guidance_scale``. Samples that agree in all of them are a group.
    samples : iterable of str, optional
        All by default.
    levels : str or iterable of str
        Of ulam, tlam, hlam, llam, volume and, where the maps have it, mass.
    out : str or Path, optional
        A new Zarr store to write to; without it the result is in memory.
    overwrite : bool
        Replace an earlier average at `out`.
    progress : bool
        Show a bar over the samples.
    max_pass_values : int
        Values of the maps to accumulate in one pass over the samples; it limits the memory.

    Returns
    -------
    DataTree
        One node per group, named by its labels (``all`` without `by`), with the labels and the
        number of samples in its attribute ``i2am``. In it ``r2g`` and, where the maps have it,
        ``g2r``: each level as NAME, the mean, and NAME_variance, unbiased and NaN for one sample;
        float32; and the scalar ``count`` of samples. In memory, or lazy from `out`.

    Raises
    ------
    AnalysisError
        If a level or column is unknown, or samples of one group differ in grid, layers, heads or
        time.
    StoreError
        If a store is missing or of the wrong kind, a sample does not exist, or `out` is something
        else than an average that may be replaced, or inside a store.

    Notes
    -----
    Accumulated in float64 by Welford's recurrence. A large volume is accumulated part by part, with
    one pass over the samples for each.

    Examples
    --------
    >>> import i2am, tempfile
    >>> from i2am.analysis import analyze_run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     maps = analyze_run(i2am.DEMO_RUN, f"{folder}/maps.zarr", progress=False)
    ...     mean = average_maps(maps)["all/r2g/ulam"].compute()
    >>> mean.dims
    ('y', 'x')
    """
    wanted = _known_levels([levels] if isinstance(levels, str) else list(levels))
    columns = [by] if isinstance(by, str) else list(by)
    path = None if out is None else _check_output(out, overwrite=overwrite)
    opened = open_maps(maps)
    if path is not None:
        check_not_in_store(path)
    names = _names(opened, samples)
    if columns:
        groups = group_samples(run_of(opened, run), names, columns)
    else:
        groups = [SampleGroup("all", {}, tuple(names))]
    attributes = {
        "kind": _KIND,
        "schema": SCHEMA_VERSION,
        **{key: opened.attributes.get(key) for key in ("convention", "normalisation")},
        **opened.not_default,
        "source": str(maps) if path is None else source_of(maps, path),
        "by": columns,
    }
    options: Any = {"progress": progress, "max_pass_values": max_pass_values}
    if path is None:
        memory = MemoryStore()
        write_averages(memory, attributes, opened, groups, wanted, **options)
        return open_tree(open_group(memory)).load()
    with folder_written_whole(path) as unfinished:
        write_averages(unfinished, attributes, opened, groups, wanted, **options)
    return open_tree(open_group(path))


def default_average_path(maps_path: str | Path) -> Path:
    """Return where averages go unless the user says otherwise.

    Beside the maps; those of maps at a URL go to the current folder.

    Parameters
    ----------
    maps_path : str or Path

    Examples
    --------
    >>> default_average_path("out/maps.zarr").as_posix()
    'out/maps.average.zarr'
    """
    path = Path(maps_path) if is_url(maps_path) else named_path(maps_path)
    name = f"{path.name.removesuffix('.zarr')}.average.zarr"
    return Path(name) if is_url(maps_path) else path.with_name(name)


def _known_levels(levels: list[str]) -> list[str]:
    for level in levels:
        if level not in LEVEL_NAMES:
            hint = did_you_mean(level, LEVEL_NAMES)
            msg = f"Expected a level of the maps, got {level!r}, at levels. {hint}"
            raise AnalysisError(msg)
    if not levels:
        msg = "Expected at least one level, got none, at levels. Name one, as 'ulam'."
        raise AnalysisError(msg)
    return list(dict.fromkeys(levels))


def _names(maps: Maps, samples: Iterable[str] | None) -> list[str]:
    known = list(maps)
    names = known if samples is None else list(dict.fromkeys(samples))
    for name in names:
        if name not in known:
            maps[name]  # Raises, and names the samples that exist.
    if not names:
        msg = f"Expected samples to average, got none, at {maps.path}. Run 'i2am analyze' first."
        raise StoreError(msg)
    return names


def _check_output(out: str | Path, *, overwrite: bool) -> Path:
    """Return the path to write to: it does not exist, or holds an average that may be replaced."""
    if is_url(out):
        msg = f"Expected a local folder for the averages, got a URL, at {out}. Write them locally."
        raise StoreError(msg)
    path = Path(out)
    restore_replaced(path)
    if path.exists():
        try:
            kind = own_attributes(open_group(path)).get("kind")
        except I2AMError:
            kind = None
        if kind != _KIND or not overwrite:
            found = "an average" if kind == _KIND else "something else"
            hint = "Overwrite it, or name" if kind == _KIND else "Name"
            msg = (
                f"Expected nothing to be there yet, got {found}, at {path}. {hint} another output."
            )
            raise StoreError(msg)
    return path


def write_averages(
    store: Store | Path,
    attributes: dict[str, Any],
    maps: Maps,
    groups: Sequence[SampleGroup],
    levels: list[str],
    *,
    progress: bool,
    max_pass_values: int = MAX_PASS_VALUES,
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
    max_pass_values : int
        Values of the maps to accumulate in one pass over the samples; it limits the memory.

    Raises
    ------
    AnalysisError
        If the maps lack a level, or samples of one group differ in layout.
    """
    root = zarr.create_group(store, attributes=root_attributes(attributes))
    total = sum(len(group.samples) for group in groups)
    with tqdm(total=total, desc="average", unit="sample", disable=not progress) as bar:
        for group in groups:
            own = {"labels": group.labels, "samples": len(group.samples)}
            node = root.create_group(group.node, attributes={ATTRIBUTE_KEY: own})
            _write_group(node, maps, group, levels, bar, max_pass_values)


def _write_group(
    node: zarr.Group,
    maps: Maps,
    group: SampleGroup,
    levels: list[str],
    bar: Any,
    max_pass_values: int,
) -> None:
    """Write one group's averages, in as many passes over its samples as its maps need."""
    first = group.samples[0]
    template = _select_levels(maps[first], levels)
    shared = {direction: shared_pixels(found, found) for direction, found in template.items()}
    for direction, found in template.items():
        _create(
            node.create_group(direction), found.drop_vars(shared[direction]), len(group.samples)
        )
    passes = list(memory_passes(template, max_pass_values))
    bar.total += (len(passes) - 1) * len(group.samples)
    for number, parts in enumerate(passes):
        moments = [RunningMoments(part.shape) for part in parts]
        for name in group.samples:
            sample = _select_levels(maps[name], levels)
            if number == 0:
                check_same_layout(name, sample, first, template)
                for direction, found in template.items():
                    if shared_pixels(sample[direction], found) != shared[direction]:
                        shared[direction] = []  # The mean then lies over no one part of an image.
            lazy = [sample[p.direction][p.level].data[p.slices] for p in parts]
            for moment, values in zip(moments, dask.compute(*lazy), strict=True):
                moment.add(values)
            bar.update()
        for part, moment in zip(parts, moments, strict=True):
            own: Any = node[part.direction]
            for name, values in (
                (part.level, moment.mean),
                (f"{part.level}_variance", moment.variance()),
            ):
                # Chunks of NaN, too, so that one that is missing is seen.
                array = own[name].with_config(MAP_CODECS["config"])
                array[part.slices] = values.astype(np.float32)
    for direction, dims in shared.items():
        own = node[direction]
        for dim in dims:
            write_coordinate(own, template[direction].coords[dim])


def _select_levels(sample: xr.DataTree, levels: list[str]) -> dict[str, xr.Dataset]:
    """Return the wanted levels of each direction, with the coordinates that they have."""
    for level in levels:
        if level not in sample["r2g"]:
            msg = f"Expected maps with {level}, got none, at {sample.name}. Leave it out of levels."
            raise AnalysisError(msg)
    found = {direction: node.to_dataset() for direction, node in sample.children.items()}
    return {d: maps[[level for level in levels if level in maps]] for d, maps in found.items()}


def memory_passes(template: dict[str, xr.Dataset], max_values: int) -> Iterator[list[_Part]]:
    """Yield the parts of each pass: chunks of the levels, together no more than `max_values`."""
    parts: list[_Part] = []
    room = max_values
    for direction, found in template.items():
        for level, values in found.data_vars.items():
            for slices in slices_from_chunks(values.chunks):
                part = _Part(direction, str(level), slices)
                if parts and math.prod(part.shape) > room:
                    yield parts
                    parts, room = [], max_values
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
                **MAP_CODECS,
            )
    group.create_array("count", data=np.array(count), dimension_names=[], **MAP_CODECS)


class RunningMoments:
    """Running mean and sum of squared deviations of one part of a level."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape)
        self.squares = np.zeros(shape)

    def add(self, values: NDArray[Any]) -> None:
        """Add one more sample; NaN stays NaN."""
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
    """A chunk of a level."""

    direction: str
    level: str
    slices: tuple[slice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(s.stop - s.start for s in self.slices)
