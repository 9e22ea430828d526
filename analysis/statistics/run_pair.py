"""Two runs: the samples that both have, and maps that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import dask
import xarray as xr

from i2am.analysis.kernel.resize import largest_grid
from i2am.analysis.maps.analyze import maps_of
from i2am.analysis.statistics.differences import boxes_alike, difference_maps
from i2am.analysis.statistics.groups import shared_pixels
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import image_under
from i2am.analysis.stores.reader import Maps, Run, open_maps, open_run
from i2am.analysis.stores.related import find_maps
from i2am.schemas import AnalysisError, Box, StoreError, did_you_mean
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.schemas.text import safe_text
from i2am.storage.addresses import StoreLike

__all__ = ["RunPair", "SampleWithMaps", "differences_of", "lie_alike", "pair_runs"]

_NAMED: Final = 3
# Convention and normalisation of maps that are computed on demand.
_DEFAULT: Final = ("i2am", "mass")


class SampleWithMaps(NamedTuple):
    """A captured sample, and its maps."""

    sample: xr.DataTree
    maps: xr.DataTree

    def seen_share(self, direction: DirectionName) -> Box | None:
        """Return the part of the image that the maps lie over, in shares of its height and width.

        None where the image is not stored.
        """
        images = self.sample.children.get("images")
        if images is None:
            return None
        name = image_under(self.sample, self.maps, direction)
        if name not in images.dataset:
            return None
        height, width = images.dataset[name].shape[:2]
        y0, x0, y1, x1 = image_box(self.sample, name)
        return Box(y0 / height, x0 / width, y1 / height, x1 / width)


def lie_alike(a: SampleWithMaps, b: SampleWithMaps, direction: DirectionName) -> bool:
    """Return whether the maps of two samples lie over the same part of their images.

    If not, position by position they cannot be compared: the models saw other things there.
    """
    of_a, of_b = a.seen_share(direction), b.seen_share(direction)
    if of_a is None or of_b is None:
        return True
    grid = largest_grid(
        (own.maps[direction].dataset["ulam"].shape[0], own.maps[direction].dataset["ulam"].shape[1])
        for own in (a, b)
    )
    return boxes_alike(of_a, of_b, grid)


def differences_of(a: SampleWithMaps, b: SampleWithMaps) -> xr.DataTree:
    """Return `difference_maps` of the directions that can be compared; empty if none can."""
    directions = [d for d in DIRECTIONS if d in a.maps.children and d in b.maps.children]
    alike = [d for d in directions if lie_alike(a, b, d)]
    if directions and not alike:
        return xr.DataTree(name=b.maps.name)
    cut: list[dict[str, xr.Dataset]] = [{}, {}]
    for direction in alike:
        both = [own.maps[direction].to_dataset() for own in (a, b)]
        if len(shared_pixels(*both)) < len(DIRECTIONS[direction].plane):
            # The same part of images of other sizes: there are no pixels that both have.
            both = [own.drop_vars(DIRECTIONS[direction].plane, errors="ignore") for own in both]
        for own, one in zip(cut, both, strict=True):
            own[direction] = one
    names = a.maps.name, b.maps.name
    return difference_maps(
        *(xr.DataTree.from_dict(own, name=name) for own, name in zip(cut, names, strict=True))
    )


@dataclass(frozen=True)
class RunPair:
    """Two runs, A and B, with their maps and the samples to compare; `pair_runs` makes it.

    Parameters
    ----------
    run_a, run_b : Run
    maps_a, maps_b : Mapping of str to DataTree
        Of every sample of the run, stored or analyzed on demand.
    names : tuple of str
        The samples to compare.
    convention, normalisation : str
        Of all maps.
    only_a, only_b : int
        How many samples the other run does not have.

    Examples
    --------
    >>> import i2am
    >>> from i2am.analysis import pair_runs
    >>> pair = pair_runs(i2am.DEMO_RUN, i2am.DEMO_RUN)
    >>> pair.only_a, pair.only_b, pair.convention
    (0, 0, 'i2am')
    """

    run_a: Run
    run_b: Run
    maps_a: Mapping[str, xr.DataTree]
    maps_b: Mapping[str, xr.DataTree]
    names: tuple[str, ...]
    convention: str
    normalisation: str
    only_a: int
    only_b: int

    def __repr__(self) -> str:
        """Return what is compared, and what to call next."""
        left_out = f"; left out: {self.only_a} of A alone, {self.only_b} of B alone"
        lines = [
            f"<i2am pair of runs, {self.convention} maps, {self.normalisation}>",
            f"A        {safe_text(self.run_a.path)}",
            f"B        {safe_text(self.run_b.path)}",
            f"samples  {len(self.names)}: {safe_text(_few(list(self.names)))}"
            + (left_out if self.only_a or self.only_b else ""),
            "next     compare_runs(pair) is the table, summarise_comparison(table) its means",
        ]
        return "\n    ".join(lines)

    def opened(self) -> Iterator[tuple[str, SampleWithMaps, SampleWithMaps]]:
        """Yield each pair's name, and the two samples with their maps: levels in memory, volumes lazy.

        Maps that no store holds are computed here, and their volume again when it is used.
        """
        for name in self.names:
            a = SampleWithMaps(self.run_a[name], _with_levels(self.maps_a[name]))
            yield name, a, SampleWithMaps(self.run_b[name], _with_levels(self.maps_b[name]))


def pair_runs(
    run_a: StoreLike,
    run_b: StoreLike,
    *,
    maps_a: StoreLike | None = None,
    maps_b: StoreLike | None = None,
    samples: Iterable[str] | None = None,
) -> RunPair:
    """Open two runs to compare them; samples are paired by name.

    Parameters
    ----------
    run_a, run_b : str, Path or zarr Store
        They may be the same one, with other maps.
    maps_a, maps_b : str, Path or zarr Store, optional
        By default those beside each run. Samples that they lack are analyzed on demand.
    samples : iterable of str, optional
        By default all that both runs hold.

    Returns
    -------
    RunPair

    Raises
    ------
    StoreError
        If a store is missing or of the wrong kind, the runs share no sample, none is named, or one
        that is named is not in both.
    AnalysisError
        If the maps differ in convention, normalisation, weights or the patches that they are of, or share
        no direction.

    Examples
    --------
    >>> import i2am
    >>> pair_runs(i2am.DEMO_RUN, i2am.DEMO_RUN, samples=["truck", "frog"]).names
    ('truck', 'frog')
    """
    opened_a, opened_b = open_run(run_a), open_run(run_b)
    stored_a, stored_b = _stored(run_a, maps_a), _stored(run_b, maps_b)
    all_a, all_b = list(opened_a), set(opened_b)
    shared = [name for name in all_a if name in all_b]
    if not shared:
        msg = (
            f"Expected samples that both runs hold, got {_few(all_a)} at {run_a} and "
            f"{_few(sorted(all_b))} at {run_b}. Capture both with the same sample names."
        )
        raise StoreError(msg)
    names = tuple(shared if samples is None else dict.fromkeys(samples))
    for name in names:
        if name not in shared:
            msg = f"Expected a sample that both runs hold, got {name!r}, at {run_a} and {run_b}. "
            raise StoreError(msg + did_you_mean(name, shared))
    if not names:
        msg = f"Expected at least one sample, got none, at samples. Known: {_few(shared)}."
        raise StoreError(msg)
    convention, normalisation, *_ = _kinds(names, stored_a, stored_b)
    mapped_a = maps_of(opened_a, None if stored_a is None else stored_a.path)
    mapped_b = maps_of(opened_b, None if stored_b is None else stored_b.path)
    # Lazy: an error comes before anything is computed or written.
    first = names[0]
    differences_of(
        SampleWithMaps(opened_a[first], mapped_a[first]),
        SampleWithMaps(opened_b[first], mapped_b[first]),
    )
    return RunPair(
        opened_a,
        opened_b,
        mapped_a,
        mapped_b,
        names,
        convention,
        normalisation,
        only_a=len(all_a) - len(shared),
        only_b=len(all_b) - len(shared),
    )


def _with_levels(maps: xr.DataTree) -> xr.DataTree:
    nodes = {direction: node.to_dataset() for direction, node in maps.children.items()}
    # All at once: they share what they are computed from.
    levels = dask.compute(*(node.drop_vars("volume") for node in nodes.values()))
    found = {
        direction: read.assign(volume=node["volume"])
        for (direction, node), read in zip(nodes.items(), levels, strict=True)
    }
    return xr.DataTree.from_dict(found, name=maps.name)


def _stored(run: StoreLike, maps: StoreLike | None) -> Maps | None:
    if maps is None and isinstance(run, str | Path):
        maps = find_maps(run)
    return None if maps is None else open_maps(maps)


def _kinds(names: Iterable[str], a: Maps | None, b: Maps | None) -> tuple[str, ...]:
    """Return convention and normalisation of all the maps, and what else is not the default.

    An error if two differ.
    """
    held_a, held_b = (set() if maps is None else set(maps) for maps in (a, b))
    wanted = None
    for name in names:
        for maps, held in ((a, held_a), (b, held_b)):
            kind = _DEFAULT
            if maps is not None and name in held:
                own = maps.attributes
                more = [f"{key}={value!r}" for key, value in sorted(maps.not_default.items())]
                kind = (own["convention"], own["normalisation"], *more)
            wanted = wanted or kind
            if kind != wanted:
                msg = (
                    f"Expected maps of one convention and normalisation, got {' and '.join(wanted)}"
                    f" beside {' and '.join(kind)}, at sample {name!r}. Analyze both runs with the "
                    "same options, and name the maps."
                )
                raise AnalysisError(msg)
    return wanted or _DEFAULT


def _few(names: list[str]) -> str:
    more = ", …" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more if names else "none"
