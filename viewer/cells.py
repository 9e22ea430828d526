"""One number for each layer and head as a coloured matrix: arrays in, clicks out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtWidgets import QGraphicsRectItem, QWidget

from i2am.viewer.plots import NamedAxis, empty_plot, paint_axes, stack

__all__ = ["Cells", "CellsPlot"]

_FRAME: Final = "#ff3030"  # on no place of viridis


@dataclass(frozen=True)
class Cells:
    """One number for each layer and head."""

    values: NDArray[np.floating[Any]]  # (layer, head); NaN where there is none, or not yet
    layers: Sequence[str]
    short_layers: Sequence[str]  # for the axis
    heads: Sequence[int]  # labels
    layer: int | None  # the index in view; None where the mean over all is
    head: int | None


class CellsPlot(QWidget):  # type: ignore[misc]
    """A coloured matrix, layers downwards and heads across, with a colour bar.

    Attributes
    ----------
    picked : Signal(int, int)
        Indices of the layer and head of a cell that was clicked.
    """

    picked = Signal(int, int)

    def __init__(self, label: str) -> None:
        super().__init__()
        self._cells: Cells | None = None
        self.layers, self.heads = NamedAxis("left"), NamedAxis("bottom")
        self.heads.setLabel("head")
        self.plot = empty_plot({"left": self.layers, "bottom": self.heads})
        self.plot.invertY(True)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.frame = QGraphicsRectItem()
        self.frame.setPen(pg.mkPen(_FRAME, width=2))
        self.bar = pg.ColorBarItem(
            colorMap="viridis", label=label, width=12, interactive=False, colorMapMenu=False
        )
        for item in (self.image, self.frame):
            self.plot.addItem(item)
        self.bar.setImageItem(self.image, insert_in=self.plot.getPlotItem())
        self.plot.scene().sigMouseClicked.connect(self._click)
        self.plot.scene().sigMouseMoved.connect(self._name_cell)
        stack(self, self.plot)

    def set_foreground(self, color: str) -> None:
        """Draw the axes in a colour that fits the window."""
        paint_axes(self.plot, color)
        self.bar.axis.setPen(color)
        self.bar.axis.setTextPen(color)

    def show_cells(self, cells: Cells) -> None:
        """Draw the cells, missing ones clear, and frame the one in view."""
        self._cells = cells
        rows, columns = cells.values.shape
        self.layers.set_names(cells.short_layers)
        self.heads.set_names([str(head) for head in cells.heads])
        finite = cells.values[np.isfinite(cells.values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        self.bar.setLevels((float(low), float(max(high, low + 1e-3))))
        self.image.setImage(cells.values, autoLevels=False)
        self.image.setRect(QRectF(-0.5, -0.5, columns, rows))
        top, height = (-0.5, rows) if cells.layer is None else (cells.layer - 0.5, 1)
        left, width = (-0.5, columns) if cells.head is None else (cells.head - 0.5, 1)
        self.frame.setRect(left, top, width, height)
        self.plot.setRange(QRectF(-0.5, -0.5, columns, rows), padding=0.02)

    def _cell_at(self, position: Any) -> tuple[int, int] | None:
        if self._cells is None:
            return None
        where = self.plot.getViewBox().mapSceneToView(position)
        layer, head = math.floor(where.y() + 0.5), math.floor(where.x() + 0.5)
        rows, columns = self._cells.values.shape
        return (layer, head) if 0 <= layer < rows and 0 <= head < columns else None

    def _click(self, event: Any) -> None:
        cell = self._cell_at(event.scenePos())
        if cell is not None and event.button() == Qt.MouseButton.LeftButton:
            self.picked.emit(*cell)

    def _name_cell(self, position: Any) -> None:
        """Let the tool tip tell of the cell below the mouse."""
        cell = self._cell_at(position)
        if cell is None or self._cells is None:
            return
        value = self._cells.values[cell]
        number = f"{value:.3f}" if math.isfinite(value) else "no map, or not loaded yet"
        layer, head = self._cells.layers[cell[0]], self._cells.heads[cell[1]]
        self.image.setToolTip(f"{layer}\nhead {head}: {number}")
