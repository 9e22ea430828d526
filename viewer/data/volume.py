"""One direction's maps of a sample, as napari slices them: filled piece by piece, never waited for.

Pieces come from a thread. What is averaged over, and what is drawn clear, are switches of the
volume, so that a slider's positions stay what they are whatever is switched on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from threading import Lock
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis import spread
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.viewer.data.axes import MEANS, Names, Place

__all__ = ["AXES", "Volume"]

Floats = NDArray[np.float32]

# Names of the sliders, and of the plane that they move through.
AXES: Final = ("sample", "layer", "timestep", "head", "y", "x")
# Beyond it a volume lies in a temporary file, and the system keeps in memory what is looked at.
_MEMORY_BYTES: Final = 2**30


class Volume:
    """Maps (sample, layer, step, head, y, x) of the sample in view; NaN where there is none.

    The sample axis only counts: whoever moves along it puts another volume in place.

    Parameters
    ----------
    names : Names
    present : bool array (layer, head)
        Which layers and heads have maps.
    grid : (height, width)
    mask : array (image y, image x), 0..1, optional
        Where attention may belong.
    levels : mapping, optional
        What was stored of the means, by what they are over: arrays of the dimensions that are left.
    """

    dtype: Final = np.dtype(np.float32)
    ndim: Final = len(AXES)

    def __init__(
        self,
        names: Names,
        present: NDArray[np.bool_],
        grid: tuple[int, int],
        *,
        mask: NDArray[Any] | None = None,
        levels: Mapping[frozenset[str], Floats] | None = None,
    ) -> None:
        self.names, self.present, self.grid = names, present, grid
        self.samples = 1
        self.row: Any = None  # whose volume it is: layers that napari read are recognised by it
        self.is_drawn_whole = False  # what napari asked for last will not change any more
        self.means: frozenset[str] = frozenset()
        self.threshold = 0.0  # of a map's own range: what is below is drawn clear
        self.fetch: Callable[[Sequence[int], Sequence[int]], bool] = lambda *_: False
        self.mask, self._levels = mask, dict(levels or {})
        self._outer = names
        self._own: list[list[int | None]] = [list(range(size)) for size in names.shape]
        layers, steps, heads = names.shape
        self._maps = _empty((layers, steps, heads, *grid))
        self._loaded = np.zeros((layers, steps), bool)
        # Sums of what is loaded, of each position along one axis: most means come from them.
        self._sums = {LAYER: layers, STEP: steps, HEAD: heads}
        self._sums_of = {dim: np.zeros((size, *grid)) for dim, size in self._sums.items()}
        self._lock = Lock()
        self.inside = np.full((layers, steps, heads), np.nan, np.float32)
        self.concentration = np.full((layers, steps, heads), np.nan, np.float32)
        self.chance = float("nan")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along `AXES`."""
        return (self.samples, *self._outer.shape, *self.grid)

    @property
    def share_loaded(self) -> float:
        """How much is there, 0..1."""
        return float(self._loaded.mean())

    def align(self, outer: Names) -> None:
        """Run over the positions of another sample, by the labels that both have."""
        self._outer = outer
        pairs = zip(
            (self.names.layers, self.names.steps, self.names.heads),
            (outer.layers, outer.steps, outer.heads),
            strict=True,
        )
        self._own = [[_index(list(own), label) for label in others] for own, others in pairs]

    def own_place(self, place: Place, means: frozenset[str]) -> Place | None:
        """Return this volume's own indices of a place; None where it has no such position."""
        at = [own[i] for own, i in zip(self._own, place, strict=True)]
        if any(i is None and dim not in means for dim, i in zip(MEANS, at, strict=True)):
            return None
        return Place(*(i or 0 for i in at))

    def missing(self, layers: Sequence[int], steps: Sequence[int]) -> list[tuple[int, int]]:
        """Return which (layer, step) of a selection are not loaded yet."""
        return [(at, step) for at in layers for step in steps if not self._loaded[at, step]]

    def add(self, layer: int, steps: Sequence[int], maps: Floats | None) -> None:
        """Put maps (step, head, y, x) of a layer in; None where the layer has none."""
        new = [i for i, step in enumerate(steps) if not self._loaded[layer, step]]
        at = [steps[i] for i in new]
        if maps is not None and at:
            self.present[layer] &= np.isfinite(maps[new[0], :, 0, 0])
            own = np.where(self.present[layer][:, None, None], maps[new], 0)
            self._measure(layer, at, maps[new])
            self._maps[layer, at] = own
            with self._lock:
                self._sums_of[LAYER][layer] += own.sum(axis=(0, 1), dtype=np.float64)
                self._sums_of[STEP][at] += own.sum(axis=1, dtype=np.float64)
                self._sums_of[HEAD] += own.sum(axis=0, dtype=np.float64)
                self._loaded[layer, at] = True
        self._loaded[layer, at] = True

    def selection(self, place: Place, means: frozenset[str]) -> tuple[list[int], list[int]]:
        """Return the layers and steps whose maps make up the one at a place."""
        layers, steps, _ = self.names.shape
        return (
            list(range(layers)) if LAYER in means else [place.layer],
            list(range(steps)) if STEP in means else [place.step],
        )

    def plane(self, place: Place, means: frozenset[str]) -> Floats | None:
        """Return the map (y, x) at a place: the mean over what is averaged over.

        Of what is loaded; None where nothing of it is, NaN where there is no such map.
        """
        at = tuple(slice(None) if dim in means else place[i] for i, dim in enumerate(MEANS))
        if (stored := self._levels.get(means)) is not None:
            whole: Floats = stored[tuple(i for i in at if not isinstance(i, slice))]
            return whole
        with self._lock:
            there = self.present[:, None, :] & self._loaded[:, :, None]
            count = np.count_nonzero(there[at])
            if not count:
                is_pending = not self._loaded[at[:2]].all() and self.present[at[0], at[2]].any()
                return None if is_pending else np.full(self.grid, np.nan, np.float32)
            left = [dim for dim in MEANS if dim not in means]
            if len(left) == 1:
                total = self._sums_of[left[0]][place[MEANS.index(left[0])]]
            elif not left:
                total = self._sums_of[LAYER].sum(axis=0)
            else:
                every = self._maps[at]
                total = every.sum(axis=tuple(range(every.ndim - 2)), dtype=np.float64)
            mean: Floats = (total / count).astype(np.float32)
        return mean

    def is_whole(self, place: Place, means: frozenset[str]) -> bool:
        """Whether the map at a place will not change any more."""
        return means in self._levels or not self.missing(*self.selection(place, means))

    def drawn(self, place: Place) -> Floats:
        """Return the map at a place as it is drawn: clear (NaN) where it is not there yet."""
        own = self.own_place(place, self.means)
        if own is not None and not self.is_whole(own, self.means):
            self.is_drawn_whole = False
            self.fetch(*self.selection(own, self.means))
        plane = None if own is None else self.plane(own, self.means)
        if plane is None:
            return np.full(self.grid, np.nan, np.float32)
        if self.threshold <= 0:
            return plane
        low, high = plane.min(), plane.max()
        return np.where(plane - low < self.threshold * (high - low), np.float32(np.nan), plane)

    def __getitem__(self, key: Any) -> Floats:
        """Return what napari draws of a selection: integers and slices along `AXES`."""
        given = key if isinstance(key, tuple) else (key,)
        full = (*given, *(slice(None),) * (self.ndim - len(given)))
        axes = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, full, strict=True)]
        self.is_drawn_whole = True
        planes = [self.drawn(Place(*map(int, at))) for at in product(*axes[1:4])]
        leading = [len(axis) for axis in axes[1:4]]
        values = np.broadcast_to(
            np.reshape(planes, (1, *leading, *self.grid)), (len(axes[0]), *leading, *self.grid)
        )
        lead = tuple(slice(None) if isinstance(k, slice) or np.ndim(k) else 0 for k in full[:4])
        chosen: Floats = values[lead][..., full[4], :][..., full[5]]
        return chosen

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray(self[()], dtype)

    def _measure(self, layer: int, steps: Sequence[int], maps: Floats) -> None:
        """Note how the attention of new maps is spread."""
        found = spread(xr.DataArray(maps, dims=("step", "head", "y", "x")), self.mask)
        self.concentration[layer, steps] = found["concentration"]
        if "inside" in found:
            self.inside[layer, steps] = found["inside"]
            self.chance = float(found["chance"])


def _index(labels: Sequence[Any], label: Any) -> int | None:
    return labels.index(label) if label in labels else None


def _empty(shape: tuple[int, ...]) -> Floats:
    if np.prod(shape, dtype=np.int64) * 4 <= _MEMORY_BYTES:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(prefix="i2am-maps-") as file:
        # Lives as long as it is mapped; holes cost no disk.
        return np.memmap(file, np.float32, "w+", shape=shape)
