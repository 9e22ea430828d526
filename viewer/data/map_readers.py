"""Where a sample's maps come from: the maps that were stored, or its capture, step by step.

Called from one thread; a piece is one layer and some steps, both directions at once.
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
    from i2am.viewer.data.axes import Names

__all__ = ["ComputedMaps", "Maps", "StoredMaps"]

Floats = NDArray[np.float32]


class Maps(Protocol):
    """Gives a sample's maps piece by piece."""

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""

    def pieces(self, layer: int) -> list[list[int]]:
        """Return which steps of a layer come cheapest together."""

    def soonest(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for."""


class StoredMaps:
    """Maps of a store.

    Parameters
    ----------
    volumes : mapping of direction to DataArray
        Dims (layer, step, head, y, x); each with its own layers and heads.
    names : Names
        Of all of them.
    factors : mapping of direction to array (layer,), optional
        What each layer's maps are multiplied by, for another normalisation.
    """

    def __init__(
        self,
        volumes: Mapping[str, xr.DataArray],
        names: Names,
        factors: Mapping[str, Floats] | None = None,
    ) -> None:
        self._volumes, self._names, self._factors = volumes, names, factors or {}
        self._layers = {d: [str(n) for n in v[LAYER].values] for d, v in volumes.items()}
        self._heads = {
            d: [names.heads.index(int(head)) for head in v[HEAD].values] for d, v in volumes.items()
        }

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""
        found = {}
        name = self._names.layers[layer]
        for direction, volume in self._volumes.items():
            if name in self._layers[direction]:
                picked = volume[self._layers[direction].index(name)].isel({STEP: list(steps)})
                own = np.asarray(picked.data.compute(scheduler="synchronous"), np.float32)
                if direction in self._factors:
                    own = own * self._factors[direction][layer]
                found[direction] = _on_heads(own, self._heads[direction], len(self._names.heads))
        return found

    def pieces(self, layer: int) -> list[list[int]]:
        """Return which steps of a layer come cheapest together."""
        volume = next(iter(self._volumes.values()))
        return _groups(dict(zip(volume.dims, volume.data.chunks, strict=True))[STEP])

    def soonest(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for: those of its chunk."""
        return next(piece for piece in self.pieces(layer) if step in piece)


class ComputedMaps:
    """Maps that are computed from a capture.

    Parameters
    ----------
    layers : sequence of SelectedLayer
        In the order of `names`.
    names : Names
    grids : mapping of direction to (height, width)
        The common grids; without "g2r" there is no G2R.
    density : bool
        Whether the normalisation is "density".
    """

    def __init__(
        self,
        layers: Sequence[SelectedLayer],
        names: Names,
        grids: Mapping[str, tuple[int, int]],
        *,
        density: bool,
    ) -> None:
        self._layers, self._names, self._grids, self._density = layers, names, grids, density

    def read(self, layer: int, steps: Sequence[int]) -> dict[str, Floats]:
        """Return a layer's maps (step, head, y, x) at some steps, by direction."""
        import dask

        from i2am.analysis.maps.layer_maps import layer_maps

        whole = self._layers[layer]
        # Few steps are read by their chunks, many by their shards.
        arrays = whole.blocks if len(steps) > 1 else whole.arrays
        some = replace(whole, blocks=arrays.isel({STEP: list(steps)}, missing_dims="ignore"))
        maps = layer_maps(some, self._grids["r2g"], self._grids.get("g2r"), density=self._density)
        lazy = {"r2g": maps.r2g.data} | ({} if maps.g2r is None else {"g2r": maps.g2r.data})
        (found,) = dask.compute(lazy, scheduler="synchronous")
        heads = [self._names.heads.index(head) for head in whole.heads]
        return {d: _on_heads(own, heads, len(self._names.heads)) for d, own in found.items()}

    def pieces(self, layer: int) -> list[list[int]]:
        """Return which steps of a layer come cheapest together."""
        chunks: Any = self._layers[layer].blocks.chunksizes.get(STEP)
        return _groups(chunks or (len(self._names.steps),))

    def soonest(self, layer: int, step: int) -> list[int]:
        """Return the steps to read for one that is waited for: no other, each takes its time."""
        return [step]


def _on_heads(maps: Floats, heads: Sequence[int], count: int) -> Floats:
    """Return maps (step, head, y, x) with a place for every head, NaN for those that are not."""
    if len(heads) == count:
        return maps
    padded = np.full((len(maps), count, *maps.shape[2:]), np.nan, np.float32)
    padded[:, heads] = maps
    return padded


def _groups(chunks: Sequence[int]) -> list[list[int]]:
    ends = np.cumsum(chunks)
    return [list(range(end - size, end)) for end, size in zip(ends.tolist(), chunks, strict=True)]
