"""Reads a sample's maps: those that were stored, or those that are computed from its capture.

Called from one thread; a batch is some steps of one layer, both directions at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.dims import HEAD, LAYER, STEP

if TYPE_CHECKING:
    import xarray as xr

    from i2am.analysis.stores.layers import SelectedLayer
    from i2am.viewer.data.axes import MapAxes

__all__ = ["ComputedMapReader", "MapReader", "StoredMapReader"]

Floats = NDArray[np.float32]


class MapReader(Protocol):
    """Reads a sample's maps batch by batch."""

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""

    def step_batches(self, layer: int) -> list[list[int]]:
        """Return the steps of a layer in batches that are read at once."""

    def preview_steps(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for."""


class StoredMapReader:
    """Maps of a store.

    Parameters
    ----------
    volumes : mapping of direction to DataArray
        Dims (layer, step, head, y, x); each with its own layers and heads.
    axes : MapAxes
        Of all of them.
    factors : mapping of direction to array (layer,), optional
        What each layer's maps are multiplied by, for another normalisation.
    """

    def __init__(
        self,
        volumes: Mapping[str, xr.DataArray],
        axes: MapAxes,
        factors: Mapping[str, Floats] | None = None,
    ) -> None:
        self._volumes, self._axes, self._factors = volumes, axes, factors or {}
        self._layers = {d: [str(n) for n in v[LAYER].values] for d, v in volumes.items()}
        self._heads = {
            d: [axes.heads.index(int(head)) for head in v[HEAD].values] for d, v in volumes.items()
        }

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""
        found = {}
        name = self._axes.layers[layer]
        for direction, volume in self._volumes.items():
            if name in self._layers[direction]:
                picked = volume[self._layers[direction].index(name)].isel({STEP: list(steps)})
                own = np.asarray(picked.data.compute(scheduler="synchronous"), np.float32)
                if direction in self._factors:
                    own = own * self._factors[direction][layer]
                found[direction] = _on_heads(own, self._heads[direction], len(self._axes.heads))
        return found

    def step_batches(self, layer: int) -> list[list[int]]:
        """Return the steps of a layer in batches that are read at once."""
        volume = next(iter(self._volumes.values()))
        return _batches_of(dict(zip(volume.dims, volume.data.chunks, strict=True))[STEP])

    def preview_steps(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for: those of its chunk."""
        return next(batch for batch in self.step_batches(layer) if step in batch)


class ComputedMapReader:
    """Maps that are computed from a capture.

    Parameters
    ----------
    layers : sequence of SelectedLayer
        In the order of `axes`.
    axes : MapAxes
    grids : mapping of direction to (height, width)
        The common grids; without "g2r" there is no G2R.
    density : bool
        Whether the normalisation is "density".
    """

    def __init__(
        self,
        layers: Sequence[SelectedLayer],
        axes: MapAxes,
        grids: Mapping[str, tuple[int, int]],
        *,
        density: bool,
    ) -> None:
        self._layers, self._axes, self._grids, self._density = layers, axes, grids, density

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""
        import dask

        from i2am.analysis.maps.layer_maps import layer_maps

        whole = self._layers[layer]
        # Few steps are read by their chunks, many by their shards.
        arrays = whole.blocks if len(steps) > 1 else whole.arrays
        some = replace(
            whole, stored=arrays.isel({STEP: list(steps)}, missing_dims="ignore"), picked={}
        )
        maps = layer_maps(some, self._grids["r2g"], self._grids.get("g2r"), density=self._density)
        lazy = {"r2g": maps.r2g.data} | ({} if maps.g2r is None else {"g2r": maps.g2r.data})
        (found,) = dask.compute(lazy, scheduler="synchronous")
        heads = [self._axes.heads.index(head) for head in whole.heads]
        return {d: _on_heads(own, heads, len(self._axes.heads)) for d, own in found.items()}

    def step_batches(self, layer: int) -> list[list[int]]:
        """Return the steps of a layer in batches that are read at once."""
        chunks: Any = self._layers[layer].blocks.chunksizes.get(STEP)
        return _batches_of(chunks or (len(self._axes.steps),))

    def preview_steps(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for: no other, each takes its time."""
        return [step]


def _on_heads(maps: Floats, heads: Sequence[int], count: int) -> Floats:
    """Return maps (step, head, y, x) of every head, NaN for those that are missing."""
    if len(heads) == count:
        return maps
    padded = np.full((len(maps), count, *maps.shape[2:]), np.nan, np.float32)
    padded[:, heads] = maps
    return padded


def _batches_of(chunks: Sequence[int]) -> list[list[int]]:
    ends = np.cumsum(chunks)
    return [list(range(end - size, end)) for end, size in zip(ends.tolist(), chunks, strict=True)]
