"""The plots of the panels: a matrix of layers and heads, curves over the timesteps, named axes."""

from __future__ import annotations

import colorsys
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import QRectF, Qt, Signal
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import (
    QApplication,
    QGraphicsRectItem,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from i2am.viewer.data.effects import share_in_words, share_label
from i2am.viewer.widgets.qt import plain_tip

__all__ = [
    "LayerHeadMatrix",
    "LayerHeadMatrixPlot",
    "MaskShareCurves",
    "MaskShareCurvesPlot",
    "NamedAxis",
    "empty_plot",
    "head_colors",
    "mean_of_last",
    "paint_axes",
    "stack",
]

_FRAME: Final = "#ff3030"  # nowhere in viridis
_HUES: Final = 8  # more cannot be told apart: further heads differ in lightness
_LIGHTNESS: Final = (0.6, 0.8, 0.47)
_AT_THE_END: Final = {"position": 0.99, "anchors": [(1, 1), (1, 1)]}  # left of it, above the line
_FAINT: Final = 110  # of 255: the heads that are not in view


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
        if self.orientation in ("left", "right"):
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


@dataclass(frozen=True)
class LayerHeadMatrix:
    """One number for each layer and head."""

    values: NDArray[np.floating[Any]]  # (layer, head); NaN where there is none, or not yet
    layers: Sequence[str]
    short_layers: Sequence[str]  # for the axis
    heads: Sequence[int]  # labels
    layer: int | None  # the index in view; None where the mean over all is
    head: int | None
    # Of each layer, its share of the measured effect; None where it has none, empty where no layer has.
    shares: Sequence[float | None] = ()


class LayerHeadMatrixPlot(QWidget):  # type: ignore[misc]
    """A coloured matrix, layers downwards and heads across, with a colour bar.

    Where effects were measured, each layer's share of them stands at its right.

    Attributes
    ----------
    picked : Signal(int, int)
        Indices of the layer and head of a cell that was clicked.
    """

    picked = Signal(int, int)

    def __init__(self, label: str) -> None:
        super().__init__()
        self._matrix: LayerHeadMatrix | None = None
        self.layers, self.heads = NamedAxis("left"), NamedAxis("bottom")
        self.shares = NamedAxis("right")
        self.heads.setLabel("head")
        self.shares.setLabel("measured effect of the layer")
        self.plot = empty_plot({"left": self.layers, "bottom": self.heads, "right": self.shares})
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
        self.shares.setPen(color)
        self.shares.setTextPen(color)
        self.bar.axis.setPen(color)
        self.bar.axis.setTextPen(color)

    def show_matrix(self, matrix: LayerHeadMatrix) -> None:
        """Draw the cells, missing ones clear, and frame the one in view."""
        self._matrix = matrix
        rows, columns = matrix.values.shape
        self.layers.set_names(matrix.short_layers)
        self.heads.set_names([str(head) for head in matrix.heads])
        self.shares.set_names([share_label(share) for share in matrix.shares])
        self.plot.showAxis("right", show=bool(matrix.shares))
        finite = matrix.values[np.isfinite(matrix.values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        self.bar.setLevels((float(low), float(max(high, low + 1e-3))))
        self.image.setImage(matrix.values, autoLevels=False)
        self.image.setRect(QRectF(-0.5, -0.5, columns, rows))
        top, height = (-0.5, rows) if matrix.layer is None else (matrix.layer - 0.5, 1)
        left, width = (-0.5, columns) if matrix.head is None else (matrix.head - 0.5, 1)
        self.frame.setRect(left, top, width, height)
        self.plot.setRange(QRectF(-0.5, -0.5, columns, rows), padding=0.02)

    def _cell_at(self, position: Any) -> tuple[int, int] | None:
        if self._matrix is None:
            return None
        where = self.plot.getViewBox().mapSceneToView(position)
        layer, head = math.floor(where.y() + 0.5), math.floor(where.x() + 0.5)
        rows, columns = self._matrix.values.shape
        return (layer, head) if 0 <= layer < rows and 0 <= head < columns else None

    def _click(self, event: Any) -> None:
        cell = self._cell_at(event.scenePos())
        if cell is not None and event.button() == Qt.MouseButton.LeftButton:
            self.picked.emit(*cell)

    def _name_cell(self, position: Any) -> None:
        """Describe the cell below the mouse, or the share of the layer at its right, in the tool tip."""
        cell = self._cell_at(position)
        if self._matrix is None:
            return
        if cell is None:
            self._name_share(position)
            return
        value = self._matrix.values[cell]
        number = f"{value:.3f}" if math.isfinite(value) else "no map, or not loaded yet"
        layer, head = self._matrix.layers[cell[0]], self._matrix.heads[cell[1]]
        self.image.setToolTip(plain_tip(f"{layer}\nhead {head}: {number}"))

    def _name_share(self, position: Any) -> None:
        if self._matrix is None or not self.shares.sceneBoundingRect().contains(position):
            return
        layer = math.floor(self.plot.getViewBox().mapSceneToView(position).y() + 0.5)
        if 0 <= layer < len(self._matrix.shares):
            words = share_in_words(self._matrix.shares[layer])
            self.shares.setToolTip(plain_tip(f"{self._matrix.layers[layer]}\n{words}"))


@dataclass(frozen=True)
class MaskShareCurves:
    """Shares of the attention inside a mask, one curve a head."""

    inside: NDArray[np.floating[Any]]  # (step, head), 0..1; NaN where there is none, or not yet
    timesteps: Sequence[float]
    heads: Sequence[int]  # labels
    chance: float  # the mask's share of the area
    step: int | None  # the index in view; None where the mean over all is
    head: int | None


class MaskShareCurvesPlot(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Curves over the timesteps, noisiest left, with a legend below that can be clicked.

    Attributes
    ----------
    picked : Signal(int, int)
        Indices of the step and head whose point is nearest to a click.
    head_picked : Signal(int)
        Index of the head that was clicked in the legend.
    """

    picked = Signal(int, int)
    head_picked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._curves: MaskShareCurves | None = None
        self._foreground = "#d0d0d0"
        self.steps = NamedAxis("bottom")
        self.steps.setLabel("timestep")
        self.plot = empty_plot({"bottom": self.steps})
        self.plot.setLabel("left", "share of attention")
        self.plot.setLimits(yMin=-0.05, yMax=1.05)
        self.inside: list[Any] = []
        self.outside: list[Any] = []
        self.mean = pg.PlotCurveItem(connect="finite")
        self.dots = pg.ScatterPlotItem(size=6, pen=None)
        self.chance = pg.InfiniteLine(angle=0, label="chance", labelOpts=_AT_THE_END)
        self.here = pg.InfiniteLine(angle=90)
        for item in (self.mean, self.dots, self.chance, self.here):
            self.plot.addItem(item)
        self.legend = QLabel()
        self.legend.setWordWrap(True)
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        self.legend.setToolTip("The heads; click one to go to it")
        self.legend.linkActivated.connect(lambda link: self.head_picked.emit(int(link)))
        self.plot.scene().sigMouseClicked.connect(self._click)
        stack(self, self.plot, self.legend)

    def set_foreground(self, color: str) -> None:
        """Draw axes, marker and the mean in a colour that fits the window."""
        self._foreground = color
        paint_axes(self.plot, color)
        self.chance.setPen(pg.mkPen(color, width=1))
        self.chance.label.setColor(color)
        self.here.setPen(pg.mkPen(color, style=Qt.PenStyle.DotLine))
        if self._curves is not None:
            self.show_curves(self._curves, outside=bool(self.outside))

    def show_curves(self, curves: MaskShareCurves, *, outside: bool = False) -> None:
        """Draw the curves; with `outside` also what is not inside, dashed."""
        self._curves = curves
        self.steps.set_names([f"{timestep:g}" for timestep in curves.timesteps])
        colors = head_colors(len(curves.heads))
        self._match(self.inside, len(curves.heads))
        self._match(self.outside, len(curves.heads) if outside else 0)
        steps = np.arange(len(curves.timesteps))
        for head, color in enumerate(colors):
            share, pen = curves.inside[:, head], _pen(color, in_view=head == curves.head)
            self.inside[head].setData(steps, share, pen=pen)
            self.inside[head].setZValue(head == curves.head)
            if outside:
                dashed = pg.mkPen(pen)
                dashed.setStyle(Qt.PenStyle.DashLine)
                self.outside[head].setData(steps, 1 - share, pen=dashed)
        self._show_mean(curves, steps)
        self._show_dots(curves, colors)
        self.chance.setVisible(math.isfinite(curves.chance))
        self.chance.setValue(curves.chance if math.isfinite(curves.chance) else 0)
        self.here.setVisible(curves.step is not None)
        self.here.setValue(curves.step or 0)
        self.legend.setText(_legend(curves, colors, self._foreground))

    def _match(self, curves: list[Any], count: int) -> None:
        """Have as many curves as there are to show."""
        while len(curves) > count:
            self.plot.removeItem(curves.pop())
        while len(curves) < count:
            curves.append(pg.PlotCurveItem(connect="finite"))
            self.plot.addItem(curves[-1])

    def _show_mean(self, curves: MaskShareCurves, steps: NDArray[np.intp]) -> None:
        """Draw the mean over the heads where that is in view."""
        self.mean.setVisible(curves.head is None)
        if curves.head is None:
            self.mean.setData(
                steps, mean_of_last(curves.inside), pen=_pen(self._foreground, in_view=True)
            )

    def _show_dots(self, curves: MaskShareCurves, colors: Sequence[str]) -> None:
        """Dot the points of the head in view; of all heads where there is one step, so no line."""
        if len(curves.timesteps) == 1:
            shares = curves.inside[0]
            heads = np.flatnonzero(np.isfinite(shares)).tolist()
            brushes = [colors[head] for head in heads]
            self.dots.setData(np.zeros(len(heads)), shares[heads], brush=brushes)
        elif curves.head is None:
            self.dots.setData([], [])
        else:
            shares = curves.inside[:, curves.head]
            steps = np.flatnonzero(np.isfinite(shares))
            self.dots.setData(steps, shares[steps], brush=colors[curves.head])

    def _click(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton or self._curves is None:
            return
        where = self.plot.getViewBox().mapSceneToView(event.scenePos())
        inside = self._curves.inside
        step = min(max(round(where.x()), 0), len(inside) - 1)
        away = np.abs(inside[step] - where.y())
        if self.outside:
            away = np.minimum(away, np.abs(1 - inside[step] - where.y()))
        if np.isfinite(away).any():
            self.picked.emit(step, int(np.nanargmin(away)))


def head_colors(count: int) -> list[str]:
    """Return colours that can be told apart, legible on light and on dark.

    Examples
    --------
    >>> head_colors(2)
    ['#e05252', '#52e0e0']
    """
    hues = max(min(count, _HUES), math.ceil(count / len(_LIGHTNESS)), 1)
    found = []
    for head in range(count):
        hue, tier = head % hues / hues, head // hues
        red, green, blue = colorsys.hls_to_rgb(hue, _LIGHTNESS[tier], 0.7)
        found.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return found


def _legend(curves: MaskShareCurves, colors: Sequence[str], foreground: str) -> str:
    """Return one link a head, the one in view underlined; with the mean where that is in view."""
    links = [
        f'<a href="{index}" style="color: {color}; text-decoration: '
        f'{"underline" if index == curves.head else "none"}">■&nbsp;{html.escape(str(head))}</a>'
        for index, (head, color) in enumerate(zip(curves.heads, colors, strict=True))
    ]
    mean = [f'<span style="color: {foreground}">■&nbsp;mean</span>'] * (curves.head is None)
    return " ".join(["head", *links, *mean])


def mean_of_last(shares: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the mean over the last axis of what there is, NaN where there is nothing."""
    there = np.isfinite(shares)
    count = there.sum(axis=-1)
    total = np.where(there, shares, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _pen(color: str, *, in_view: bool) -> Any:
    drawn = pg.mkColor(color)
    drawn.setAlpha(255 if in_view else _FAINT)
    return pg.mkPen(drawn, width=3 if in_view else 1)
