"""What is exported: the maps or effects of a store of any kind, sample by sample.

A sample's volumes are lazy, so a format decides how much of them is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import dask
import xarray as xr
import zarr
from tqdm.auto import tqdm

from i2am.analysis.inspection.address import RESULT_KINDS, open_any
from i2am.analysis.maps.analyze import maps_of
from i2am.analysis.stores.effects import open_effects
from i2am.analysis.stores.layers import image_under
from i2am.analysis.stores.reader import Maps, Run, open_maps, open_run, open_tree
from i2am.analysis.stores.related import find_maps, run_of
from i2am.schemas import AnalysisError, StoreError, did_you_mean
from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.choices import LEVEL_NAMES, check_choice
from i2am.schemas.dims import STEP
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.storage.addresses import StoreLike, own_attributes
from i2am.storage.inventory import DIGEST

__all__ = [
    "ALL_KINDS",
    "DEFAULT_LEVELS",
    "PLANES",
    "WITH_PICTURES",
    "ExportSample",
    "ExportSource",
    "Kind",
    "Pictures",
    "open_source",
]

Kind = Literal["run", "maps", "average", "differences", "effects"]
Pictures = Literal["none", "found", "needed"]
ALL_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
# Stores of one sample's maps each, which lie over pictures of the run.
WITH_PICTURES: Final[tuple[Kind, ...]] = ("run", "maps")

# A volume has a map of each layer, step and head: gigabytes of a large run, so it is asked for by name.
DEFAULT_LEVELS: Final = tuple(level for level in LEVEL_NAMES if level != "volume")
# The last two dimensions of what is exported, where it is a map.
PLANES: Final = frozenset(own.plane for own in DIRECTIONS.values())

_DERIVED: Final = ("", "_variance")
# Of the root of a store: what is said of it alone.
_OF_STORE: Final = ("kind", "schema", DIGEST)


@dataclass(frozen=True)
class ExportSample:
    """What is exported of one sample, or of one group of samples of an average.

    Parameters
    ----------
    name : str
    groups : mapping of str to Dataset
        By direction; measured effects, which have none, under the empty text. Volumes are lazy, all else
        is in memory.
    attributes : mapping
        What the store says of it: convention, normalisation, options.
    maps : DataTree, optional
        All maps of the sample, lazy; effects have none.
    captured : DataTree, optional
        The sample of the run, with its pictures.
    """

    name: str
    groups: Mapping[str, xr.Dataset]
    attributes: Mapping[str, Any]
    maps: xr.DataTree | None = None
    captured: xr.DataTree | None = None

    def picture_under(self, direction: DirectionName) -> str:
        """Return the name of the stored picture that a direction's maps lie over."""
        if self.captured is None or self.maps is None:
            return DIRECTIONS[direction].image
        return image_under(self.captured, self.maps, direction)


@dataclass(frozen=True)
class ExportSource:
    """The samples of a store that are exported, in their order.

    Parameters
    ----------
    kind : str
        Of the store: run, maps, average, differences or effects.
    names : tuple of str
        Of the samples.
    samples : mapping of str to DataTree or Dataset
    attributes : mapping
        Of the store's root.
    levels : tuple of str, optional
        Which maps are taken; None takes all that there is.
    is_asked : bool
        Whether the levels were named, so that each must be there.
    run : Run, optional
        Where the pictures are.
    """

    kind: Kind
    names: tuple[str, ...]
    samples: Mapping[str, Any]
    attributes: Mapping[str, Any]
    levels: tuple[str, ...] | None
    is_asked: bool
    run: Run | None

    def opened(self, *, progress: bool = False) -> Iterator[ExportSample]:
        """Open the samples one by one.

        Parameters
        ----------
        progress : bool
            Show a bar over the samples.

        Raises
        ------
        AnalysisError
            If a level that was asked for is not there.
        """
        for name in tqdm(self.names, "export", unit="sample", disable=not progress):
            yield self._open(name)

    def _open(self, name: str) -> ExportSample:
        found = self.samples[name]
        own = {**self.attributes, **found.attrs.get(ATTRIBUTE_KEY, {})}
        if isinstance(found, xr.Dataset):
            return ExportSample(name, _loaded({"": found.drop_attrs(deep=False)}), own)
        captured = None if self.run is None else self.run.get(name)
        return ExportSample(name, _loaded(self._chosen(name, found)), own, found, captured)

    def _chosen(self, name: str, tree: xr.DataTree) -> dict[str, xr.Dataset]:
        """Return the chosen levels of each direction."""
        wanted = [f"{level}{end}" for level in self.levels or () for end in _DERIVED] + ["count"]
        groups: dict[str, xr.Dataset] = {}
        for direction in (direction for direction in DIRECTIONS if direction in tree.children):
            levels = tree.children[direction].to_dataset()
            found = levels[[own for own in wanted if own in levels.data_vars]]
            if set(found.data_vars) - {"count"}:
                groups[direction] = found.drop_attrs(deep=False)
        for level in self.levels or ():
            if self.is_asked and not any(level in group for group in groups.values()):
                msg = f"Expected maps with {level}, got none, at {name}. Leave it out of levels."
                raise AnalysisError(msg)
        return groups


def _loaded(groups: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Return groups with all but volumes in memory; computed together, they share what they read."""
    small = {
        name: own[[key for key, values in own.data_vars.items() if STEP not in values.dims]]
        for name, own in groups.items()
    }
    loaded = dict(zip(small, dask.compute(*small.values()), strict=True))
    return {name: own.assign(loaded[name].data_vars) for name, own in groups.items()}


def open_source(
    store: StoreLike,
    kinds: Iterable[Kind],
    *,
    maps: StoreLike | None = None,
    samples: Iterable[str] | None = None,
    levels: Iterable[str] | None = None,
    selection: Mapping[str, Any] | None = None,
    pictures: Pictures = "none",
) -> ExportSource:
    """Open what is exported; everything that can be refused is refused here.

    Parameters
    ----------
    store : str, Path or zarr Store
    kinds : iterable of str
        The kinds of stores that the format takes.
    maps : str, Path or zarr Store, optional
        The maps of a run; by default those beside it, or else they are made from it.
    samples : iterable of str, optional
        All by default.
    levels : iterable of str, optional
        Of `LEVEL_NAMES`; by default all but the volume.
    selection : mapping, optional
        What `analyze` takes, by name: with any of it the maps are made from the run, with the options of
        the maps store for the rest. None is no selection.
    pictures : "none", "found" or "needed"
        Whether the captured samples are opened, too, in which the pictures are; of maps whose run is not
        found there are none, unless they are needed.

    Raises
    ------
    StoreError
        If the store is missing, not ours or of a kind that the format does not take, a sample is not in it,
        or the run is needed and not found.
    AnalysisError
        If a level is unknown, or levels or a selection are given for a store that has none.
    """
    root = open_any(store)
    kind: Kind = own_attributes(root)["kind"]
    _check_kind(kind, kinds, store)
    asked = None if levels is None else tuple(dict.fromkeys(levels))
    for level in asked or ():
        check_choice("level", level, LEVEL_NAMES, AnalysisError)
    given = {name: own for name, own in (selection or {}).items() if own is not None}
    if kind == "effects" and asked is not None:
        msg = (
            f"Expected no levels of measured effects, got {asked[0]!r}, at {store}. Leave them out."
        )
        raise AnalysisError(msg)
    if maps is not None and kind != "run":
        msg = (
            f"Expected a run beside maps, got a store of kind {kind!r}, at {store}. Leave maps out."
        )
        raise AnalysisError(msg)
    if given and kind not in ("run", "maps"):
        msg = (
            f"Expected a run to select {next(iter(given))} of, got a store of kind {kind!r}, at {store}. "
            "Give the run, or leave the selection out."
        )
        raise AnalysisError(msg)
    found, known, run = _open(kind, store, root, maps, given, pictures)
    names = tuple(known) if samples is None else tuple(dict.fromkeys(samples))
    for name in names if samples is not None else ():
        if name not in known:
            msg = f"Expected a sample of the store, got {name!r}, at {store}. {did_you_mean(name, known)}"
            raise StoreError(msg)
    if not names:
        msg = f"Expected a sample to export, got none, at {store}. Capture or analyze one first."
        raise StoreError(msg)
    taken = None if kind == "effects" else asked or DEFAULT_LEVELS
    # What a maps store says of all samples, each sample says itself; of a part it would not be true.
    own = {} if kind in ("run", "maps") else _attributes(root)
    if pictures == "none":
        run = None
    return ExportSource(kind, names, found, own, taken, asked is not None, run)


def _check_kind(kind: Kind, kinds: Iterable[Kind], store: StoreLike) -> None:
    known = list(kinds)
    if kind not in known:
        words = f"{', '.join(known[:-1])} or {known[-1]}"
        msg = (
            f"Expected a store of kind {words} for this format, got one of kind {kind!r}, at {store}. "
            "Give another store, or another format."
        )
        raise StoreError(msg)


def _attributes(root: zarr.Group) -> dict[str, Any]:
    """Return what the root says of all samples."""
    return {key: value for key, value in own_attributes(root).items() if key not in _OF_STORE}


def _open(
    kind: Kind,
    store: StoreLike,
    root: zarr.Group,
    maps: StoreLike | None,
    selection: Mapping[str, Any],
    pictures: Pictures,
) -> tuple[Mapping[str, Any], Mapping[str, Any], Run | None]:
    """Return what opens a sample by its name, the names that are exported, and the run."""
    if kind == "effects":
        effects = open_effects(store)
        return effects, effects, None
    if kind in RESULT_KINDS:
        groups = _Groups(root)
        return groups, groups, None
    if kind == "maps":
        stored = open_maps(store)
        run = None
        if selection or pictures != "none":
            run = _run_of(stored, is_needed=bool(selection) or pictures == "needed")
        if run is None or not selection:
            return stored, stored, run
        return maps_of(run, **{**_options_of(stored), **selection}), stored, run
    run = open_run(store)
    if maps is None and isinstance(store, str | Path):
        maps = find_maps(store)
    if not selection:
        return maps_of(run, maps), run, run
    options = {} if maps is None else _options_of(open_maps(maps))
    return maps_of(run, **{**options, **selection}), run, run


class _Groups(Mapping[str, xr.DataTree]):
    """The groups of an average or of differences; each is opened when it is asked for."""

    def __init__(self, root: zarr.Group) -> None:
        self._root = root
        self._names = sorted(self._root.group_keys())

    def __getitem__(self, name: str) -> xr.DataTree:
        group = self._root[name]
        if not isinstance(group, zarr.Group):
            raise KeyError(name)
        return open_tree(group, name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _run_of(maps: Maps, *, is_needed: bool) -> Run | None:
    """Return the run that maps were made from; None where it is not found and not needed."""
    try:
        return run_of(maps)
    except StoreError as e:
        if not is_needed:
            return None
        source = maps.attributes.get("source")
        msg = (
            f"Expected the run of these maps, got none that opens at their source {source!r}, at {maps.path}. "
            "Give the run itself, and name the maps: --maps MAPS, or maps= in Python."
        )
        raise StoreError(msg) from e


def _options_of(maps: Maps) -> dict[str, Any]:
    """Return the options of maps, as `analyze` takes them, so that a part of them is made alike."""
    own = maps.attributes
    options = {**(own.get("options") or {})}
    if options.pop("weights", None) is not None:
        msg = (
            f"Expected maps whose layers count alike to select of, got some weighed by effects, at {maps.path}. "
            "Leave the selection out, or give the run and no such maps."
        )
        raise AnalysisError(msg)
    options.pop("effects", None)
    given = {name: own[name] for name in ("convention", "normalisation") if name in own} | options
    return {name: value for name, value in given.items() if value is not None}
