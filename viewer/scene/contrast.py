"""How bright a map is drawn: limits that come from a few planes, never from the whole volume.

Layers differ in scale (a softmax over 64 patches is sixteen times higher than one over 1,024), so
each layer has limits of its own, which all its steps and heads share and so stay comparable. Cold
means at or below what the layer's attention is on average, and is drawn clear.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.dims import HEAD, STEP
from i2am.viewer.data.axes import Place
from i2am.viewer.data.volume import Volume

__all__ = ["COLORMAPS", "Limits", "heat_colormap", "limits_of", "shared_limits"]

Limits = tuple[float, float]

# Perceptually even ones, and two that people are used to.
COLORMAPS: Final = ("inferno", "viridis", "magma", "turbo", "gray")
_NOTHING: Final = (0.0, 1.0)
_HOTTEST: Final = 0.995  # quantile: a single patch must not darken all others
_FLATTEST: Final = 1e-3  # of the mean: narrower limits would show rounding as heat
_OPAQUE: Final = 0.85


def limits_of(values: NDArray[Any]) -> Limits:
    """Return the limits of maps: from their mean to their hottest; (0, 1) without attention."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.any():
        return _NOTHING
    low, high = float(finite.mean()), float(np.quantile(finite, _HOTTEST))
    return low, max(high, low + _FLATTEST * abs(low))


def shared_limits(volume: Volume, place: Place, means: frozenset[str]) -> Limits | None:
    """Return the limits that all steps and heads of the layer in view share.

    Of the first, middle and last step; None until these are loaded.

    Parameters
    ----------
    volume : Volume
    place : Place
        Where the sliders stand.
    means : frozenset of str
        What is averaged over.
    """
    _, steps, heads = volume.names.shape
    probed = [place.step] if STEP in means else sorted({0, (steps - 1) // 2, steps - 1})
    every = range(1 if HEAD in means else heads)
    places = [place._replace(step=step, head=head) for step in probed for head in every]
    if not all(volume.is_whole(at, means) for at in places):
        return None
    planes = [volume.plane(at, means) for at in places]
    return limits_of(np.array([plane for plane in planes if plane is not None]))


def heat_colormap(name: str = COLORMAPS[0], *, is_inverted: bool = False) -> Any:
    """Return a colormap whose opacity rises from zero, so that cold areas leave the picture clear.

    Parameters
    ----------
    name : str
        Of napari's colormaps.
    is_inverted : bool
        Draw what is cold, and leave clear what is hot.
    """
    from napari.utils.colormaps import Colormap, ensure_colormap

    position = np.linspace(0, 1, 256)
    colors = ensure_colormap(name).map(position)
    colors[:, 3] = _OPAQUE * np.minimum(1, 2 * position)
    if is_inverted:
        colors = colors[::-1]
    own = f"attention {name}{' inverted' if is_inverted else ''}"
    return Colormap(colors, name=own, display_name=own)
