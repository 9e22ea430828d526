"""Measured effects of a sample: what cutting parts of the reference changed in the generated image.

Read from the store beside the run, or from one that was named. A sample that was captured anew since
its effects were measured has none: they would lie over another picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from i2am.schemas.attributes import check_schema
from i2am.schemas.boxes import Box
from i2am.schemas.dims import LAYER, X, Y
from i2am.schemas.errors import StoreError
from i2am.storage.addresses import open_group, own_attributes
from i2am.storage.guard.guarded_store import check_read_whole
from i2am.storage.listing import Unreadable, member_metadata, own_of
from i2am.storage.sample_state import SampleState

__all__ = [
    "LEAST_SHARE",
    "Effects",
    "NoEffects",
    "check_effects",
    "default_effects_path",
    "read_effects",
    "share_in_words",
    "share_label",
]

Floats = NDArray[np.float32]
Store = str | PathLike[str]
Area = tuple[int, int, int, int]

# Of a layer: less of the effect of cutting everything is none.
LEAST_SHARE: Final = 0.02
_CUT: Final = "cut"
_DIMS: Final[dict[str, tuple[str, ...]]] = {
    "region": (_CUT, Y, X),
    "cut_box": (_CUT, "corner"),
    "ceiling": (Y, X),
    "floor": (Y, X),
    Y: (Y,),
    X: (X,),
}
_LAYER_DIMS: Final[dict[str, tuple[str, ...]]] = {
    "layer": (LAYER, Y, X),
    "layer_name": (LAYER,),
}
# Of the reference's boxes drawn as an array: more cannot be told apart.
_MAX_RASTER: Final = 512
_SAME_EDGE: Final = 1e-6  # of a length
_SAME_CELL: Final = 1e-2  # of a cell


@dataclass(frozen=True)
class NoEffects:
    """Why a sample in view has no measured effects.

    Parameters
    ----------
    reason : str
        A sentence.
    is_refused : bool
        Whether there are some, which must not be shown.
    """

    reason: str
    is_refused: bool = False


@dataclass(frozen=True, eq=False)
class Effects:
    """The total effects of a sample, in units of its latents.

    Parameters
    ----------
    path : str
        The store.
    region : array (cut, y, x), float32
        How much each patch of the generated image changed when a region of the reference was cut.
    cut_boxes : array (cut, corner), float64
        Corners y0, x0, y1, x1 of the regions, in pixels of the stored reference.
    ceiling, floor : array (y, x), float32
        The same when all of the reference was cut; and when nothing was: rounding alone.
    box : Box
        The part of the stored generated image that the patches cover, in its pixels.
    layer_shares : mapping of str to float
        What cutting the reference in one layer alone changed, as a share of cutting it in all.
    """

    path: str
    region: Floats
    cut_boxes: NDArray[np.float64]
    ceiling: Floats
    floor: Floats
    box: Box
    layer_shares: Mapping[str, float]

    @cached_property
    def whole(self) -> float:
        """What cutting all of the reference changes."""
        return root_mean_square(self.ceiling)

    @cached_property
    def noise(self) -> float:
        """What rounding alone changes."""
        return root_mean_square(self.floor)

    @cached_property
    def by_region(self) -> Floats:
        """How much cutting each region changed the generated image: array (cut,)."""
        return np.array([root_mean_square(one) for one in self.region], np.float32)

    @cached_property
    def reference_box(self) -> Box:
        """The part of the reference that the regions cover, in its pixels."""
        return self.cuts_box(range(len(self.cut_boxes)))

    def on_patches(self, area: Area) -> Floats:
        """Return how much cutting each region changed the patches of an area: array (cut,).

        Parameters
        ----------
        area : (top, left, bottom, right)
            In pixels of the generated image.
        """
        rows, columns = self._patches(area)
        own = self.region[:, rows, columns].astype(np.float64)
        found: Floats = np.sqrt(np.mean(own**2, axis=(1, 2))).astype(np.float32)
        return found

    def of_regions(self, area: Area) -> Floats | None:
        """Return how much cutting the region that holds an area changed each patch: array (y, x).

        The mean over the regions where it lies in several: each was cut alone. None where it lies
        in none.

        Parameters
        ----------
        area : (top, left, bottom, right)
            In pixels of the reference.
        """
        cuts = self.cuts_at(area)
        if not cuts:
            return None
        found: Floats = self.region[cuts].mean(axis=0, dtype=np.float64).astype(np.float32)
        return found

    def cuts_at(self, area: Area) -> list[int]:
        """Return which regions have a part of an area of the reference; of a pixel its centre's."""
        top, left, bottom, right = area
        y0, x0, y1, x1 = self.cut_boxes.T
        if (bottom - top, right - left) == (1, 1):
            y, x = top + 0.5, left + 0.5
            there = (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1)
        else:
            there = (y0 < bottom) & (top < y1) & (x0 < right) & (left < x1)
        found: list[int] = np.flatnonzero(there).tolist()
        return found

    def patch_box(self, area: Area) -> Box:
        """Return the patches that hold an area of the generated image, in its pixels."""
        rows, columns = self._patches(area)
        height, width = self._patch_size()
        return Box(
            self.box.y0 + rows.start * height,
            self.box.x0 + columns.start * width,
            self.box.y0 + rows.stop * height,
            self.box.x0 + columns.stop * width,
        )

    def cuts_box(self, cuts: Sequence[int]) -> Box:
        """Return the rectangle around some regions, in pixels of the reference."""
        corners = self.cut_boxes[list(cuts)]
        return Box(*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())

    def paint(self, values: Floats) -> Floats:
        """Return a number of each region (cut,) as a picture (y, x) over `reference_box`.

        NaN where there is no region.
        """
        index = self._cut_of_cell
        painted: Floats = np.where(index < 0, np.float32(np.nan), values[index])
        return painted

    @cached_property
    def _cut_of_cell(self) -> NDArray[np.intp]:
        """Which region each cell of the picture shows, -1 for none: regions may differ in size."""
        box = self.reference_box
        y0, x0, y1, x1 = self.cut_boxes.T
        rows = _cells(np.concatenate([y0, y1]) - box.y0, box.height)
        columns = _cells(np.concatenate([x0, x1]) - box.x0, box.width)
        ys, xs = box.cell_centres((rows, columns))
        index = np.full((rows, columns), -1, np.intp)
        for cut, (top, left, bottom, right) in enumerate(self.cut_boxes.tolist()):
            within = np.ix_(
                (top <= np.array(ys)) & (np.array(ys) < bottom),
                (left <= np.array(xs)) & (np.array(xs) < right),
            )
            index[within] = cut
        return index

    def _patch_size(self) -> tuple[float, float]:
        rows, columns = self.ceiling.shape
        return self.box.height / rows, self.box.width / columns

    def _patches(self, area: Area) -> tuple[slice, slice]:
        """Return the rows and columns of the patches that hold an area; the nearest ones outside."""
        top, left, bottom, right = area
        height, width = self._patch_size()
        rows, columns = self.ceiling.shape
        return (
            _within((top - self.box.y0) / height, (bottom - self.box.y0) / height, rows),
            _within((left - self.box.x0) / width, (right - self.box.x0) / width, columns),
        )


def root_mean_square(effect: NDArray[Any]) -> float:
    """Return an effect in one number: the root mean square over its patches."""
    return float(np.sqrt(np.mean(effect.astype(np.float64) ** 2)))


def share_label(share: float | None) -> str:
    """Return a layer's share of the effect as it stands beside the layer; nothing where none is known.

    Examples
    --------
    >>> share_label(0.794), share_label(0.005), share_label(None)
    ('79%', 'no effect', '')
    """
    if share is None:
        return ""
    return "no effect" if share < LEAST_SHARE else f"{share:.0%}"


def share_in_words(share: float | None) -> str:
    """Say what a layer's share of the effect means.

    Examples
    --------
    >>> share_in_words(0.794)
    'Cutting the reference in this layer alone changed the latent by 79% of what cutting it in all layers did.'
    """
    if share is None:
        return "Effect: not measured of this layer."
    percent = f"{share:.1%}" if share < LEAST_SHARE else f"{share:.0%}"
    words = (
        f"Cutting the reference in this layer alone changed the latent by {percent} of what cutting "
        "it in all layers did."
    )
    if share >= LEAST_SHARE:
        return words
    return f"No effect: less than {LEAST_SHARE:.0%}. Whatever its map shows moved nothing.\n{words}"


def default_effects_path(run: Store) -> Path:
    """Return where the effects of a run lie unless the user says otherwise: beside it, as its maps do.

    Examples
    --------
    >>> default_effects_path("out/run.zarr").as_posix()
    'out/effects.zarr'
    >>> default_effects_path("shirts.zarr").as_posix()
    'shirts.effects.zarr'
    """
    from i2am.analysis.stores.related import default_maps_path

    maps = default_maps_path(os.fspath(run))
    return maps.with_name(f"{maps.name.removesuffix('maps.zarr')}effects.zarr")


def check_effects(effects: Store) -> None:
    """Raise a StoreError unless there is a store of effects at an address."""
    _open_root(effects)


def read_effects(run: Store, sample: str, effects: Store | None = None) -> Effects | NoEffects:
    """Return the effects that were measured of a sample, or why there are none to show.

    Parameters
    ----------
    run : str or path
        The capture store.
    sample : str
    effects : str or path, optional
        A store of effects. Without it the one at `default_effects_path` is read, if there is one.

    Raises
    ------
    StoreError
        If a store cannot be read, or holds something else than effects.
    """
    from i2am.analysis import open_run

    path = default_effects_path(run) if effects is None else os.fspath(effects)
    if effects is None and not Path(path).is_dir():
        return NoEffects("No effects were measured of this run: 'i2am causal' does.")
    root = _open_root(path)
    name = Path(path).name
    source = str(own_attributes(root).get("source", ""))
    # By name alone, as of maps: the two are often moved together. One that was named is trusted so far.
    if effects is None and Path(source).name != Path(run).name:
        reason = f"{name} has the effects of another run, {Path(source).name or 'which it does not name'}."
        return NoEffects(reason, is_refused=True)
    metadata = member_metadata(root, sample)
    own = own_of(metadata) if isinstance(metadata, dict) else metadata
    if isinstance(own, Unreadable):
        return NoEffects(f"The effects of {sample!r} in {name} cannot be read: {own}.", True)
    if own is None:
        return NoEffects(f"{name} holds no effects of {sample!r}.")
    if own.get("status") != "complete":
        return NoEffects(f"The effects of {sample!r} in {name} are not complete yet.")
    captured = open_run(os.fspath(run)).attributes_of(sample)
    told = (own.get("source_created"), own.get("source_contents"))
    if told != (captured.get("created"), captured.get("contents")):
        reason = f"The effects of {sample!r} in {name} are of another sample: it was captured anew."
        return NoEffects(reason, is_refused=True)
    return _read_sample(root, sample, str(path))


def _open_root(path: Store) -> zarr.Group:
    root = open_group(os.fspath(path) if isinstance(path, str) else Path(path))
    own = own_attributes(root)
    if own.get("kind") != "effects":
        kind = f"one of kind {own['kind']!r}" if "kind" in own else "a Zarr group of another make"
        msg = f"Expected a store of measured effects, got {kind}, at {path}. Name another one."
        raise StoreError(msg)
    check_schema(own, path)
    return root


def _read_sample(root: zarr.Group, sample: str, path: str) -> Effects | NoEffects:
    group: Any = root[sample]
    state = SampleState(group.store_path)
    state.check_whole(path)
    if "region" not in group:
        return NoEffects(f"{Path(path).name} holds no effects of regions of {sample!r}.")
    has_layers = all(name in group for name in _LAYER_DIMS)
    wanted = {**_DIMS, **(_LAYER_DIMS if has_layers else {})}
    place = f"{sample} of {path}"
    arrays = {name: _array(group, name, dims, place) for name, dims in wanted.items()}
    check_read_whole(arrays.values(), path)
    values = {name: _values(array, state) for name, array in arrays.items()}
    _check_values(values, place)
    shares = _layer_shares(values) if has_layers else {}
    return Effects(
        path,
        values["region"].astype(np.float32),
        values["cut_box"].astype(np.float64),
        values["ceiling"].astype(np.float32),
        values["floor"].astype(np.float32),
        _box_of(values[Y], values[X]),
        shares,
    )


def _array(group: zarr.Group, name: str, dims: tuple[str, ...], place: str) -> zarr.Array[Any]:
    array = group.get(name)
    found = getattr(getattr(array, "metadata", None), "dimension_names", None)
    if not isinstance(array, zarr.Array) or tuple(found or ()) != dims:
        what = "none" if array is None else f"one with {found}"
        msg = f"Expected an array {name!r} with the dimensions {dims}, got {what}, at {place}. "
        raise StoreError(msg + "Measure it again with 'i2am causal'.")
    return array


def _values(array: zarr.Array[Any], state: SampleState) -> NDArray[Any]:
    from i2am.analysis.stores.stored_array import StoredArray

    return StoredArray(array, state)[...]


def _check_values(values: Mapping[str, NDArray[Any]], place: str) -> None:
    """Raise a StoreError unless shapes agree, boxes are some, and effects are finite and not negative."""
    sizes: dict[str, int] = {"corner": 4}
    for name, dims in {**_DIMS, **_LAYER_DIMS}.items():
        if name not in values:
            continue
        for dim, size in zip(dims, values[name].shape, strict=True):
            if sizes.setdefault(dim, size) != size or not size:
                msg = f"Expected {sizes[dim]} along {dim!r}, got {size}, at {name} of {place}. "
                raise StoreError(msg + "Measure it again with 'i2am causal'.")
        if name == "layer_name":
            continue
        own = np.asarray(values[name], np.float64)
        is_effect = name in ("region", "ceiling", "floor", "layer")
        if not np.isfinite(own).all() or (is_effect and (own < 0).any()):
            wanted = "finite numbers, none below 0" if is_effect else "finite numbers"
            msg = f"Expected {wanted}, got others, at {name} of {place}. "
            raise StoreError(msg + "Measure it again with 'i2am causal'.")
    boxes = values["cut_box"]
    if not (boxes[:, :2] < boxes[:, 2:]).all():
        msg = f"Expected boxes with an area, got one without, at cut_box of {place}. "
        raise StoreError(msg + "Measure it again with 'i2am causal'.")


def _layer_shares(values: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    whole = root_mean_square(values["ceiling"])
    if not whole:
        return {}
    names = [str(name) for name in values["layer_name"].tolist()]
    return {
        name: root_mean_square(own) / whole
        for name, own in zip(names, values["layer"], strict=True)
    }


def _box_of(ys: NDArray[Any], xs: NDArray[Any]) -> Box:
    """Return the box whose cells have these centres; of a single one, as if it began at 0."""
    (y0, y1), (x0, x1) = _ends(ys), _ends(xs)
    return Box(y0, x0, y1, x1)


def _ends(centres: NDArray[Any]) -> tuple[float, float]:
    first, last = float(centres[0]), float(centres[-1])
    half = (last - first) / (len(centres) - 1) / 2 if len(centres) > 1 else first
    return first - half, last + half


def _cells(edges: NDArray[np.float64], length: float) -> int:
    """Return into how many cells to divide a length so that all edges lie between two of them.

    As many as there are pixels where no such number is small enough.
    """
    distinct = np.unique(np.round(edges / length / _SAME_EDGE)) * _SAME_EDGE
    least = float(np.diff(distinct).min()) if len(distinct) > 1 else 1.0
    cells = round(1 / least)
    is_even = np.abs(distinct * cells - np.round(distinct * cells)).max() < _SAME_CELL
    return cells if is_even and cells <= _MAX_RASTER else min(max(round(length), 1), _MAX_RASTER)


def _within(start: float, stop: float, count: int) -> slice:
    first = min(max(int(np.floor(start + _SAME_EDGE)), 0), count - 1)
    last = min(max(int(np.ceil(stop - _SAME_EDGE)), first + 1), count)
    return slice(first, last)
