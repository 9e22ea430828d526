"""How bright a map is drawn: limits that come from a few planes, never from the whole volume.

Layers differ in scale (a softmax over 64 patches is sixteen times higher than one over 1,024), so
each layer has limits of its own, which all its steps and heads share and so stay comparable. Cold
means at or below what the layer's attention is on average, and is drawn clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.dims import HEAD, STEP
from i2am.viewer.data.axes import SliderPosition
from i2am.viewer.data.volume import LoadedMaps

__all__ = [
    "COLORMAPS",
    "Limits",
    "contrast_limits",
    "effect_limits",
    "heat_colormap",
    "shared_contrast_limits",
]

Limits = tuple[float, float]

# Perceptually even ones, and two that people are used to.
COLORMAPS: Final = ("inferno", "viridis", "magma", "turbo", "gray")
_NOTHING: Final = (0.0, 1.0)
_HOTTEST: Final = 0.995  # quantile: a single patch must not darken all others
_FLATTEST: Final = 1e-3  # of the mean: narrower limits would show rounding as heat
_OPAQUE: Final = 0.85


def contrast_limits(values: NDArray[Any]) -> Limits:
    """Return the limits of maps: from their mean to their hottest; (0, 1) without attention."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.any():
        return _NOTHING
    low, high = float(finite.mean()), float(np.quantile(finite, _HOTTEST))
    return low, max(high, low + _FLATTEST * abs(low))


def shared_contrast_limits(
    maps: Sequence[tuple[LoadedMaps, SliderPosition]], averaged_dims: frozenset[str]
) -> Limits | None:
    """Return the limits that all steps and heads of the layer in view share, in all samples in view.

    Of the first, middle and last step; None until these are loaded.

    Parameters
    ----------
    maps : sequence of (LoadedMaps, SliderPosition)
        Of each sample, with its own indices of the slider position.
    averaged_dims : frozenset of str
        What is averaged over.
    """
    planes = []
    for loaded, position in maps:
        _, steps, heads = loaded.axes.shape
        is_mean = STEP in averaged_dims
        probed = [position.step] if is_mean else sorted({0, (steps - 1) // 2, steps - 1})
        every = range(1 if HEAD in averaged_dims else heads)
        positions = [position._replace(step=step, head=head) for step in probed for head in every]
        if not all(loaded.is_whole(at, averaged_dims) for at in positions):
            return None
        planes += [loaded.plane(at, averaged_dims) for at in positions]
    return contrast_limits(np.concatenate([one.ravel() for one in planes if one is not None]))


def effect_limits(effects: NDArray[Any], noise: float) -> Limits:
    """Return the limits of measured effects: from what rounding alone changes to their largest.

    Not from their mean: an effect below it is one.

    Examples
    --------
    >>> effect_limits(np.array([0.0, 2.0]), 0.5), effect_limits(np.array([0.0]), 0.0)
    ((0.5, 1.99), (0.0, 1.0))
    """
    high = float(np.quantile(effects[np.isfinite(effects)].astype(np.float64), _HOTTEST))
    if not high and not noise:
        return _NOTHING
    # Of no more than rounding there is no heat.
    return noise, high if high > noise else 2 * noise


def heat_colormap(
    name: str = COLORMAPS[0], *, is_inverted: bool = False, of: str = "attention"
) -> Any:
    """Return a colormap whose opacity rises from zero, so that cold areas leave the image clear.

    Parameters
    ----------
    name : str
        Of napari's colormaps.
    is_inverted : bool
        Draw what is cold, and leave clear what is hot.
    of : str
        What the colours stand for: napari shows it beside them.
    """
    from napari.utils.colormaps import Colormap, ensure_colormap

    position = np.linspace(0, 1, 256)
    colors = ensure_colormap(name).map(position)
    colors[:, 3] = _OPAQUE * np.minimum(1, 2 * position)
    if is_inverted:
        colors = colors[::-1]
    own = f"{of} {name}{' inverted' if is_inverted else ''}"
    return Colormap(colors, name=own, display_name=own)
