"""Attention inside a mask over the timesteps, a curve a head: arrays in, clicks out."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QLabel, QWidget

from i2am.viewer.plots import NamedAxis, empty_plot, paint_axes, stack

__all__ = ["Curves", "CurvesPlot", "head_colors", "mean_of_last"]

_HUES: Final = 8  # more cannot be told apart: further heads differ in lightness
_LIGHTNESS: Final = (0.6, 0.8, 0.47)
_AT_THE_END: Final = {"position": 0.99, "anchors": [(1, 1), (1, 1)]}  # left of it, above the line
_FAINT: Final = 110  # of 255: the heads that are not in view


@dataclass(frozen=True)
class Curves:
    """Shares of the attention inside a mask, one curve a head."""

    inside: NDArray[np.floating[Any]]  # (step, head), 0..1; NaN where there is none, or not yet
    timesteps: Sequence[float]
    heads: Sequence[int]  # labels
    chance: float  # the mask's share of the area
    step: int | None  # the index in view; None where the mean over all is
    head: int | None


class CurvesPlot(QWidget):  # type: ignore[misc]  # Qt has no types here
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
        self._curves: Curves | None = None
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

    def show_curves(self, curves: Curves, *, outside: bool = False) -> None:
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

    def _show_mean(self, curves: Curves, steps: NDArray[np.intp]) -> None:
        """Draw the mean over the heads where that is in view."""
        self.mean.setVisible(curves.head is None)
        if curves.head is None:
            self.mean.setData(
                steps, mean_of_last(curves.inside), pen=_pen(self._foreground, in_view=True)
            )

    def _show_dots(self, curves: Curves, colors: Sequence[str]) -> None:
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


def _legend(curves: Curves, colors: Sequence[str], foreground: str) -> str:
    """Return one link a head, the one in view underlined; with the mean where that is in view."""
    links = [
        f'<a href="{index}" style="color: {color}; text-decoration: '
        f'{"underline" if index == curves.head else "none"}">■&nbsp;{head}</a>'
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
