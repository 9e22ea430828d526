"""What tests read off a drawn figure."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


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


def words_of(figure: Figure) -> list[Text]:
    """Return every word that is drawn: titles, labels, numbers of scales."""
    words = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    for axes in figure.axes:
        words += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            words += [label for place, label in ticks if low <= place <= high]
    return [text for text in words if text.get_text().strip()]


def font_sizes(figure: Figure) -> set[float]:
    """Return the sizes of all words, in points."""
    return {float(text.get_fontsize()) for text in words_of(figure)}


def check_words(figure: Figure) -> None:
    """Check that every word is on the figure, and none on another or on a foreign panel."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in words_of(figure)]
    # Words on a picture, such as a patch's number, lie on it.
    pictures = [axes.get_window_extent(renderer) for axes in panels_of(figure)]
    boxes = [
        (text, box)
        for text, box in boxes
        if not any(
            one.x0 < (box.x0 + box.x1) / 2 < one.x1 and one.y0 < (box.y0 + box.y1) / 2 < one.y1
            for one in pictures
        )
    ]
    assert boxes
    width, height = canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
        for axes in panels_of(figure):
            assert not box.padded(-0.5).overlaps(axes.get_window_extent(renderer)), text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-0.5).overlaps(b), (one, other)
