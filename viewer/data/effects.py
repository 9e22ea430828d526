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
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.analysis.stores.effects import NO_EFFECT_SHARE, are_of_capture, effect_share
from i2am.schemas.boxes import Box
from i2am.schemas.dims import X, Y
from i2am.schemas.errors import StoreError

if TYPE_CHECKING:
    import xarray as xr

    from i2am.viewer.data.sample import SampleView

__all__ = [
    "Effects",
    "NoEffects",
    "check_effects",
    "effects_of_view",
    "read_effects",
    "share_in_words",
    "share_label",
]

Floats = NDArray[np.float32]
Store = str | PathLike[str]
Area = tuple[int, int, int, int]

_REGION: Final = "region"
_LAYERS: Final = "layer_effect"
_WANTED: Final = (_REGION, "ceiling", "floor", _LAYERS)
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
    return "no effect" if share < NO_EFFECT_SHARE else f"{share:.0%}"


def share_in_words(share: float | None) -> str:
    """Say what a layer's share of the effect means.

    Examples
    --------
    >>> share_in_words(0.794)
    'Cutting the reference in this layer alone changed the latent by 79% of what cutting it in all layers did.'
    """
    if share is None:
        return "Effect: not measured of this layer."
    percent = f"{share:.1%}" if share < NO_EFFECT_SHARE else f"{share:.0%}"
    words = (
        f"Cutting the reference in this layer alone changed the latent by {percent} of what cutting "
        "it in all layers did."
    )
    if share >= NO_EFFECT_SHARE:
        return words
    return f"No effect: less than {NO_EFFECT_SHARE:.0%}. Whatever its map shows moved next to nothing.\n{words}"


def check_effects(effects: Store) -> None:
    """Raise a StoreError unless there is a store of effects at an address."""
    from i2am.analysis import open_effects

    open_effects(os.fspath(effects))


def effects_of_view(view: SampleView) -> Effects | NoEffects:
    """Return what `read_effects` does, of a sample in view; none where maps of another reference are.

    Raises
    ------
    StoreError
        As `read_effects` does.
    """
    source = view.source
    found = read_effects(source.run, source.sample, source.effects)
    if isinstance(found, NoEffects):
        return found
    if source.reference not in ("", "reference"):
        reason = "Effects are of the first reference: maps of another one are in view."
        return NoEffects(reason, is_refused=True)
    return found


def read_effects(run: Store, sample: str, effects: Store | None = None) -> Effects | NoEffects:
    """Return the effects that were measured of a sample, or why there are none to show.

    Parameters
    ----------
    run : str or path
        The capture store.
    sample : str
    effects : str or path, optional
        A store of effects. Without it the one beside the run is read, if there is one: see
        `i2am.analysis.default_effects_path`.

    Raises
    ------
    StoreError
        If a store cannot be read, or holds something else than effects.
    """
    from i2am.analysis import default_effects_path, open_effects, open_run

    path = default_effects_path(os.fspath(run)) if effects is None else os.fspath(effects)
    if effects is None and not Path(path).is_dir():
        return NoEffects("No effects were measured of this run: 'i2am causal' does.")
    store = open_effects(path)
    name, source = Path(path).name, Path(str(store.attributes.get("source", ""))).name
    # By name alone, as of maps: the two are often moved together. What a user named is theirs to know.
    if effects is None and source != Path(run).name:
        return NoEffects(f"{name} has the effects of another run, {source!r}.", is_refused=True)
    if not store.holds(sample):
        return NoEffects(f"{name} holds no finished effects of {sample!r}.")
    if not are_of_capture(store, open_run(os.fspath(run)), sample):
        reason = f"The effects of {sample!r} in {name} are of another sample: it was captured anew."
        return NoEffects(reason, is_refused=True)
    return _loaded(store[sample], f"{sample} of {path}", str(path))


def _loaded(measured: xr.Dataset, place: str, path: str) -> Effects | NoEffects:
    import dask

    if _REGION not in measured:
        return NoEffects(f"No total effects of regions were measured: {place} holds others alone.")
    names = [name for name in _WANTED if name in measured]
    (values,) = dask.compute(measured[names], scheduler="synchronous")
    for name in names:
        own = values[name].to_numpy()
        if not (np.isfinite(own).all() and (own >= 0).all()):
            msg = f"Expected finite numbers, none below 0, got others, at {name} of {place}. "
            raise StoreError(msg + "Measure it again with 'i2am causal'.")
    shares: dict[str, float] = {}
    if _LAYERS in values and values["ceiling"].any():
        found = effect_share(values[_LAYERS], values["ceiling"]).to_series()
        shares = {str(layer): float(share) for layer, share in found.items()}
    return Effects(
        path,
        values[_REGION].to_numpy(),
        measured["cut_box"].to_numpy(),
        values["ceiling"].to_numpy(),
        values["floor"].to_numpy(),
        _box_of(values[Y].to_numpy(), values[X].to_numpy()),
        shares,
    )


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
