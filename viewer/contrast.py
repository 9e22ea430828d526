"""How bright a map is drawn: limits that come from a few planes, never from the whole volume.

Layers differ in scale (a softmax over 64 patches is sixteen times higher than one over 1,024), so
each layer has limits of its own, which all its steps and heads share and so stay comparable. Cold
means at or below what the layer's attention is on average, and is drawn clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from i2am.schemas.dims import LAYER, STEP

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Limits", "heat_colormap", "layer_limits", "probe_planes", "unified_limits"]

Limits = tuple[float, float]

_NOTHING: Final = (0.0, 1.0)
_HOTTEST: Final = 0.995  # quantile: a single patch must not darken all others
_FLATTEST: Final = 1e-3  # of the mean: narrower limits would show rounding as heat
_OPAQUE: Final = 0.85


def probe_planes(*volumes: xr.DataArray) -> list[xr.DataArray]:
    """Compute the first, middle and last step of each volume, together.

    Parameters
    ----------
    *volumes : DataArray, dims (layer, step, head, y, x) or on the reference plane, lazy or not

    Returns
    -------
    list of DataArray
        The same dims with at most three steps, in memory.
    """
    import dask

    count = [volume.sizes[STEP] for volume in volumes]
    chosen = [sorted({0, n // 2, n - 1}) for n in count]
    probes = [v.isel({STEP: s}) for v, s in zip(volumes, chosen, strict=True)]
    return list(dask.compute(*probes))


def layer_limits(probe: xr.DataArray) -> list[Limits]:
    """Return the limits of each layer of a probe, in its order; (0, 1) for one without attention."""
    return [_limits(probe.isel({LAYER: i}).to_numpy()) for i in range(probe.sizes[LAYER])]


def unified_limits(probe: xr.DataArray) -> Limits:
    """Estimate the limits of the ULAM from a probe of its volume."""
    plane = probe.dims[-2:]
    return _limits(probe.mean([d for d in probe.dims if d not in plane]).to_numpy())


def heat_colormap() -> Any:
    """Return inferno whose opacity rises from zero, so that cold areas leave the picture clear."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    position = np.linspace(0, 1, 256)
    colors = ensure_colormap("inferno").map(position)
    colors[:, 3] = _OPAQUE * np.minimum(1, 2 * position)
    return Colormap(colors, name="attention heat", display_name="attention heat")


def _limits(values: np.ndarray[Any, np.dtype[np.float32]]) -> Limits:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.any():
        return _NOTHING
    low, high = float(finite.mean()), float(np.quantile(finite, _HOTTEST))
    return low, max(high, low + _FLATTEST * abs(low))
