"""One direction's maps of a sample: loaded piece by piece, sliced by napari, never waited for.

`LoadedMaps` holds what has come so far; a thread fills it. `MapVolume` is the array that napari
slices: what is averaged over is its switch, so that a slider's positions stay what they are whatever
is switched on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, MapAxes, SliderPosition

__all__ = ["AXES", "LoadedMaps", "MapVolume"]

Floats = NDArray[np.float32]

# Names of the sliders, and of the plane that they move through.
AXES: Final = ("sample", "layer", "timestep", "head", "y", "x")
_MAX_MEMORY_BYTES: Final = 2**30


class LoadedMaps:
    """The maps (layer, step, head, y, x) that are loaded, and means over them.

    One thread adds maps while another reads.

    Parameters
    ----------
    axes : MapAxes
    present : bool array (layer, head)
        Which layers and heads have maps.
    grid : (height, width)
    levels : mapping, optional
        What was stored of the means, by what they are over: arrays of the dimensions that are left.
    added : callable (layer, steps, maps (step, head, y, x)), optional
        Called with new maps before they count as loaded.
    max_memory_bytes : int
        Larger values lie in a temporary file, and the system keeps in memory what is looked at.
    """

    def __init__(
        self,
        axes: MapAxes,
        present: NDArray[np.bool_],
        grid: tuple[int, int],
        *,
        levels: Mapping[frozenset[str], Floats] | None = None,
        added: Callable[[int, Sequence[int], Floats], object] = lambda *_: None,
        max_memory_bytes: int = _MAX_MEMORY_BYTES,
    ) -> None:
        self.axes, self.present, self.grid = axes, present, grid
        self._levels, self._added = dict(levels or {}), added
        layers, steps, heads = axes.shape
        self._values = _empty((layers, steps, heads, *grid), max_memory_bytes)
        self._loaded = np.zeros((layers, steps), bool)
        # Sums of what is loaded, of each position along one axis: most means come from them.
        sizes = {LAYER: layers, STEP: steps, HEAD: heads}
        self._sums_of = {dim: np.zeros((size, *grid)) for dim, size in sizes.items()}
        self._lock = Lock()

    @property
    def share_loaded(self) -> float:
        """How much is there, 0..1."""
        return float(self._loaded.mean())

    @property
    def is_in_file(self) -> bool:
        """Whether the values lie in a temporary file."""
        return isinstance(self._values, np.memmap)

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
            self._added(layer, at, maps[new])
            self._values[layer, at] = own
            with self._lock:
                self._sums_of[LAYER][layer] += own.sum(axis=(0, 1), dtype=np.float64)
                self._sums_of[STEP][at] += own.sum(axis=1, dtype=np.float64)
                self._sums_of[HEAD] += own.sum(axis=0, dtype=np.float64)
                self._loaded[layer, at] = True
        self._loaded[layer, at] = True

    def selection(
        self, position: SliderPosition, averaged_dims: frozenset[str]
    ) -> tuple[list[int], list[int]]:
        """Return the layers and steps whose maps make up the one at a position."""
        layers, steps, _ = self.axes.shape
        return (
            list(range(layers)) if LAYER in averaged_dims else [position.layer],
            list(range(steps)) if STEP in averaged_dims else [position.step],
        )

    def plane(self, position: SliderPosition, averaged_dims: frozenset[str]) -> Floats | None:
        """Return the map (y, x) at a position: the mean over what is averaged over.

        Of what is loaded; None where nothing of it is, NaN where there is no such map.
        """
        at = tuple(
            slice(None) if dim in averaged_dims else position[i]
            for i, dim in enumerate(AVERAGEABLE_DIMS)
        )
        if (stored := self._levels.get(averaged_dims)) is not None:
            whole: Floats = stored[tuple(i for i in at if not isinstance(i, slice))]
            return whole
        with self._lock:
            there = self.present[:, None, :] & self._loaded[:, :, None]
            count = np.count_nonzero(there[at])
            if not count:
                is_pending = not self._loaded[at[:2]].all() and self.present[at[0], at[2]].any()
                return None if is_pending else np.full(self.grid, np.nan, np.float32)
            left = [dim for dim in AVERAGEABLE_DIMS if dim not in averaged_dims]
            if len(left) == 1:
                total = self._sums_of[left[0]][position[AVERAGEABLE_DIMS.index(left[0])]]
            elif not left:
                total = self._sums_of[LAYER].sum(axis=0)
            else:
                every = self._values[at]
                total = every.sum(axis=tuple(range(every.ndim - 2)), dtype=np.float64)
            mean: Floats = (total / count).astype(np.float32)
        return mean

    def is_whole(self, position: SliderPosition, averaged_dims: frozenset[str]) -> bool:
        """Whether the map at a position will not change any more."""
        return averaged_dims in self._levels or not self.missing(
            *self.selection(position, averaged_dims)
        )


class MapVolume:
    """Maps (sample, layer, step, head, y, x) as napari slices them; NaN where there is none.

    The sample axis only counts: whoever moves along it puts another volume in place.

    Parameters
    ----------
    loaded : LoadedMaps

    Attributes
    ----------
    samples : int
        Length of the sample axis.
    averaged_dims : frozenset of str
        What is averaged over.
    request : callable (layers, steps)
        Called when maps are displayed that are not loaded.
    is_display_final : bool
        Whether what napari asked for last will not change any more.
    """

    dtype: Final = np.dtype(np.float32)
    ndim: Final = len(AXES)

    def __init__(self, loaded: LoadedMaps) -> None:
        self.loaded = loaded
        self.samples = 1
        self.averaged_dims: frozenset[str] = frozenset()
        self.request: Callable[[Sequence[int], Sequence[int]], object] = lambda *_: None
        self.is_display_final = False
        self._outer = loaded.axes
        self._own: list[list[int | None]] = [list(range(size)) for size in loaded.axes.shape]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along `AXES`."""
        return (self.samples, *self._outer.shape, *self.loaded.grid)

    def align(self, outer: MapAxes) -> None:
        """Run over the positions of another sample, by the labels that both have."""
        self._outer = outer
        pairs = zip(
            (self.loaded.axes.layers, self.loaded.axes.steps, self.loaded.axes.heads),
            (outer.layers, outer.steps, outer.heads),
            strict=True,
        )
        self._own = [[_index(list(own), label) for label in others] for own, others in pairs]

    def to_own_position(
        self, position: SliderPosition, averaged_dims: frozenset[str]
    ) -> SliderPosition | None:
        """Return this volume's own indices of a slider position; None where it has none."""
        at = [own[i] for own, i in zip(self._own, position, strict=True)]
        if any(
            i is None and dim not in averaged_dims
            for dim, i in zip(AVERAGEABLE_DIMS, at, strict=True)
        ):
            return None
        return SliderPosition(*(i or 0 for i in at))

    def displayed_slice(self, position: SliderPosition) -> Floats:
        """Return the map at a position as it is displayed: clear (NaN) where it is not loaded."""
        own = self.to_own_position(position, self.averaged_dims)
        if own is not None and not self.loaded.is_whole(own, self.averaged_dims):
            self.is_display_final = False
            self.request(*self.loaded.selection(own, self.averaged_dims))
        plane = None if own is None else self.loaded.plane(own, self.averaged_dims)
        return np.full(self.loaded.grid, np.nan, np.float32) if plane is None else plane

    def __getitem__(self, key: Any) -> Floats:
        """Return what napari draws of a selection: integers and slices along `AXES`."""
        given = key if isinstance(key, tuple) else (key,)
        full = (*given, *(slice(None),) * (self.ndim - len(given)))
        axes = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, full, strict=True)]
        self.is_display_final = True
        planes = [self.displayed_slice(SliderPosition(*map(int, at))) for at in product(*axes[1:4])]
        leading = [len(axis) for axis in axes[1:4]]
        values = np.broadcast_to(
            np.reshape(planes, (1, *leading, *self.loaded.grid)),
            (len(axes[0]), *leading, *self.loaded.grid),
        )
        lead = tuple(slice(None) if isinstance(k, slice) or np.ndim(k) else 0 for k in full[:4])
        chosen: Floats = values[lead][..., full[4], :][..., full[5]]
        return chosen

    def __deepcopy__(self, memo: dict[int, Any]) -> MapVolume:
        """Return the same: of a layer's copy, which napari makes with its data, a thread fills this."""
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.asarray(self[()], dtype)


def _index(labels: Sequence[Any], label: Any) -> int | None:
    return labels.index(label) if label in labels else None


def _empty(shape: tuple[int, ...], max_memory_bytes: int) -> Floats:
    if np.prod(shape, dtype=np.int64) * 4 <= max_memory_bytes:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(prefix="i2am-maps-") as file:
        # Lives as long as it is mapped; holes cost no disk.
        return np.memmap(file, np.float32, "w+", shape=shape)
