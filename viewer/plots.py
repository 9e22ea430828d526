"""What the plots of the panels share: an empty plot, and an axis whose positions have names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyqtgraph as pg
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QApplication, QSizePolicy, QVBoxLayout, QWidget

__all__ = ["NamedAxis", "empty_plot", "paint_axes", "stack"]


class NamedAxis(pg.AxisItem):  # type: ignore[misc]  # Qt and pyqtgraph have no types here
    """An axis over positions 0, 1, … that have names; as many are written as fit."""

    def __init__(self, orientation: str) -> None:
        super().__init__(orientation)
        self._names: Sequence[str] = ()

    def set_names(self, names: Sequence[str]) -> None:
        """Name the positions anew."""
        if list(names) != list(self._names):
            self._names = names
            self.picture = None
            self.update()

    def tickValues(self, minVal: float, maxVal: float, size: float) -> list[Any]:
        """Return the positions that are named."""
        low, high = sorted((minVal, maxVal))
        first, last = max(0, math.ceil(low)), min(len(self._names) - 1, math.floor(high))
        stride = max(1, math.ceil((high - low) * self._room() / max(size, 1)))
        return [(stride, [n for n in range(first, last + 1) if n % stride == 0])]

    def tickStrings(self, values: Sequence[float], scale: float, spacing: float) -> list[str]:
        """Return their names."""
        return [self._names[round(value)] for value in values]

    def _room(self) -> int:
        """Return the pixels along the axis that a name takes."""
        metrics = QFontMetrics(QApplication.font())
        if self.orientation == "left":
            return int(metrics.height())
        return 8 + max((metrics.horizontalAdvance(name) for name in self._names), default=0)


def empty_plot(axes: dict[str, NamedAxis]) -> Any:
    """Return a plot widget that lets the window's own colour through."""
    # No menu of pyqtgraph's own: it would offer exports and transforms that mean nothing here.
    plot = pg.PlotWidget(axisItems=axes, background=None, enableMenu=False)
    # A wheel over it scrolls the panel, as everywhere in it.
    plot.setMouseEnabled(x=False, y=False)
    plot.hideButtons()
    # As high as there is room for, whatever pyqtgraph would like.
    plot.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
    for side in ("left", "bottom"):
        plot.getAxis(side).enableAutoSIPrefix(False)  # a share is no 120 (x0.001)
    return plot


def paint_axes(plot: Any, color: str) -> None:
    """Draw the axes of a plot and their text in a colour."""
    for side in ("left", "bottom"):
        axis = plot.getAxis(side)
        axis.setPen(color)
        axis.setTextPen(color)


def stack(widget: QWidget, *parts: QWidget) -> None:
    """Fill a widget with others, one below the other; the first takes what room there is."""
    layout = QVBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part)
    layout.setStretch(0, 1)
