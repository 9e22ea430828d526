"""What tests read off a drawn figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def values_of(tree: xr.DataTree, path: str) -> np.ndarray[Any, Any]:
    """Return the values of an array in a tree."""
    found = tree[path]
    assert isinstance(found, xr.DataArray)
    return found.to_numpy()


def panels_of(figure: Figure) -> list[Axes]:
    """Return the axes that show a picture or a sentence; colour bars have neither."""
    return [axes for axes in figure.axes if axes.images or axes.get_title()]


def titles_of(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in panels_of(figure)]


def texts_of(figure: Figure) -> str:
    drawn = (*figure.texts, *(text for axes in figure.axes for text in axes.texts))
    return " ".join(" ".join([*titles_of(figure), *(t.get_text() for t in drawn)]).split())


def brightest(axes: Axes) -> tuple[float, float]:
    """Return the share of height and of width at which a panel's brightest pixel lies."""
    light = np.asarray(axes.images[0].get_array(), float).sum(axis=-1)
    y, x = np.unravel_index(light.argmax(), light.shape)
    return (y + 0.5) / light.shape[0], (x + 0.5) / light.shape[1]
