"""What a threshold leaves clear: a part of the colours, never of the values.

Values that are taken out before they are drawn are missing where napari interpolates between patches,
and take the patches beside them along, the highest one included. Colours come after interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.viewer.scene.contrast import Limits

__all__ = ["Cut", "ThresholdedColors", "value_range"]

_COLORS: Final = 256  # of a colormap
# Between patches values fall off: above more than this, of a lone peak hardly a pixel is left.
_HIGHEST: Final = 0.9
_TINY: Final = float(np.finfo(np.float64).tiny)
_numbers = count(1)


@dataclass(frozen=True)
class Cut:
    """The part of a colormap that is drawn clear.

    Parameters
    ----------
    position : float
        In the colormap, 0..1.
    is_above : bool
        Whether what lies above is clear, and not what lies below.
    """

    position: float
    is_above: bool = False

    @classmethod
    def at(
        cls,
        threshold: float,
        values: Limits | None,
        limits: Limits,
        *,
        gamma: float = 1,
        is_inverted: bool = False,
    ) -> Cut | None:
        """Return what a threshold leaves clear of a map's colours; None where that is nothing.

        Parameters
        ----------
        threshold : float
            Of the map's own range, 0..1. More than 0.9 is drawn as 0.9: the maximum is always seen.
        values : (low, high) or None
            The map's own range; None without a map.
        limits : (low, high)
            The values of the first and the last colour.
        gamma : float
            Of napari's layer.
        is_inverted : bool
            The heat is where the map is low: what lies above is clear.

        Examples
        --------
        >>> Cut.at(0.5, (0.0, 4.0), (1.0, 3.0))
        Cut(position=0.5, is_above=False)
        """
        if threshold <= 0 or values is None:
            return None
        share = min(threshold, _HIGHEST)
        share = 1 - share if is_inverted else share
        value = values[0] + share * (values[1] - values[0])
        position = (value - limits[0]) / max(limits[1] - limits[0], _TINY)
        return cls(float(np.clip(position, 0, 1)) ** gamma, is_inverted)

    def of(self, colormap: Any) -> NDArray[np.float32]:
        """Return the colours (color, rgba) of a colormap; its first or last one always stays."""
        position = np.linspace(0, 1, _COLORS)
        colors: NDArray[np.float32] = colormap.map(position)
        colors[position > self.position if self.is_above else position < self.position, 3] = 0
        return colors


class ThresholdedColors:
    """Draws a layer in its colormap, or in one of its own in which a part is clear.

    One for each layer, whose colours are exchanged: napari keeps every colormap that it is given.

    Parameters
    ----------
    colormap : napari Colormap
        That of the layer without a threshold.
    """

    def __init__(self, colormap: Any) -> None:
        self._base = colormap
        self._own: Any = None
        self._drawn: tuple[str, Cut] | None = None

    def draw(self, layer: Any, cut: Cut | None) -> None:
        """Draw the layer with a part of its colours clear, or with all of them."""
        is_own = self._own is not None and layer.colormap is self._own
        if not is_own:
            self._base = layer.colormap  # a user's, or another one of ours
        if cut is None:
            if is_own:
                layer.colormap = self._base
            return
        if is_own and self._drawn == (self._base.name, cut):
            return
        colors = cut.of(self._base)
        if self._own is None:
            from napari.utils.colormaps import Colormap

            # Short: the longest name that napari knows bounds the width of its controls.
            name = f"{self._base.name} ({next(_numbers)})"
            self._own = Colormap(colors, name=name, display_name=name)
        self._own.colors = colors
        layer.colormap, self._drawn = self._own, (self._base.name, cut)


def value_range(*planes: NDArray[Any] | None) -> Limits | None:
    """Return the lowest and the highest value of maps; None where there is none."""
    finite = [plane[np.isfinite(plane)] for plane in planes if plane is not None]
    finite = [one for one in finite if one.size]
    if not finite:
        return None
    return float(min(one.min() for one in finite)), float(max(one.max() for one in finite))
