"""The panels beside the maps: curves over the timesteps, layer × head, scores of the map in view."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from i2am.analysis.scores.registry import score_meanings
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.viewer.data.axes import Place
from i2am.viewer.data.sample import Row
from i2am.viewer.data.scores import mask_name, score_row, short_names, shown_values, why_no_curves
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.plots import Cells, CellsPlot, Curves, CurvesPlot, mean_of_last, stack
from i2am.viewer.widgets.qt import Background

__all__ = ["PanelsWidget"]

_SOON_MS: Final = 40  # after the sliders: the canvas is drawn first
_LOADING_MS: Final = 300
_LEAST_PX: Final = (320, 320)  # of the dock; beyond it is scrolled
_PLOT_PX: Final = 210  # less cannot be read
_NONE: Final = "—"


class PanelsWidget(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Curves, matrix and scores of the sample in view; clicks on them move the sliders.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._session = napari_viewer, session_of(napari_viewer)
        self._background, self._asked = Background(self), 0
        self.samples, self.direction, self.outside = QComboBox(), QComboBox(), QCheckBox("outside")
        self.title, self.message, self.note = QLabel(), QLabel(), QLabel()
        self.curves, self.cells = CurvesPlot(), CellsPlot("concentration")
        self.scores = {d: {v.label: QLabel(_NONE) for v in shown_values(d)} for d in DIRECTIONS}
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.redraw)
        self._lay_out()
        self._connect()
        self._paint()
        self._list_samples()

    def redraw(self) -> None:
        """Bring everything in step with the session, unless nobody sees it."""
        if not self.isVisible():
            return
        row = self._row()
        direction: DirectionName = self.direction.currentData()
        volume = None if row is None else row.volumes.get(direction)
        place = None
        if volume is not None:
            place = volume.own_place(self._session.place, self._session.means)
        self.message.setText(why_no_curves(row, direction, place))
        has_curves = not self.message.text()
        self.message.setVisible(not has_curves)
        for widget in (self.title, self.curves, self.outside):
            widget.setVisible(has_curves)
        self.cells.setVisible(place is not None)
        if row is not None and place is not None:
            self._show_cells(row, direction, place)
            if has_curves:
                self._show_curves(row, direction, place)
        self._ask_for_scores(row)

    def showEvent(self, event: Any) -> None:
        """Catch up with what was not drawn while nobody saw it."""
        super().showEvent(event)
        self._timer.start(0)

    def _lay_out(self) -> None:
        self.samples.setToolTip("The sample that curves and matrix are of")
        self.direction.setToolTip("The maps that curves and matrix are of")
        for name, direction in DIRECTIONS.items():
            self.direction.addItem(direction.meaning.partition(":")[0], name)
        self.outside.setToolTip("Draw also the share outside the mask, dashed")
        self.curves.plot.setToolTip("The share of the attention inside the mask: click to go there")
        # A layer's name must not make the dock wider.
        self.title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.message.setWordWrap(True)
        self.note.setWordWrap(True)
        self.cells.setToolTip(f"{score_meanings()['r2g_concentration']} Click a cell to go there.")
        choices = QHBoxLayout()
        for widget in (self.samples, self.direction, self.outside):
            choices.addWidget(widget)
        content = QWidget()
        layout = QVBoxLayout(content)
        layout.addLayout(choices)
        layout.addWidget(self.message)
        layout.addWidget(self.title)
        for plot, stretch in ((self.curves, 3), (self.cells, 4)):
            plot.setMinimumHeight(_PLOT_PX)
            layout.addWidget(plot, stretch)
        layout.addLayout(self._score_table())
        layout.addWidget(self.note)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setWidget(content)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setMinimumSize(*_LEAST_PX)
        stack(self, scroll)

    def _score_table(self) -> QGridLayout:
        table = QGridLayout()
        table.setVerticalSpacing(1)
        table.addWidget(QLabel("map in view"), 0, 0)
        lines = list(dict.fromkeys(label for own in self.scores.values() for label in own))
        for line, name in enumerate(lines, 1):
            table.addWidget(QLabel(name), line, 0)
        for column, (direction, labels) in enumerate(self.scores.items(), 1):
            table.addWidget(QLabel(direction.upper()), 0, column)
            for value in shown_values(direction):
                labels[value.label].setToolTip(value.meaning)
                table.addWidget(labels[value.label], lines.index(value.label) + 1, column)
        return table

    def _connect(self) -> None:
        session = self._session
        session.moved.connect(self._redraw_soon)
        session.reopened.connect(self._list_samples)
        session.loaded.connect(self._redraw_while_loading)
        self.direction.currentIndexChanged.connect(self.redraw)
        self.samples.currentIndexChanged.connect(self.redraw)
        self.outside.toggled.connect(self.redraw)
        self.curves.picked.connect(lambda step, head: self._go_to(step=step, head=head))
        self.curves.head_picked.connect(lambda head: self._go_to(head=head))
        self.cells.picked.connect(lambda layer, head: self._go_to(layer=layer, head=head))
        self._viewer.events.theme.connect(self._paint)

    def _paint(self, event: Any = None) -> None:
        """Draw in the colours of napari's theme."""
        from napari.utils.theme import get_theme

        color = get_theme(self._viewer.theme).text.as_hex()
        self.curves.set_foreground(color)
        self.cells.set_foreground(color)

    def _list_samples(self) -> None:
        names = [row.origin.sample for row in self._session.rows]
        self.samples.blockSignals(True)
        chosen = self.samples.currentIndex()
        self.samples.clear()
        self.samples.addItems(names)
        self.samples.setCurrentIndex(min(max(chosen, 0), len(names) - 1))
        self.samples.blockSignals(False)
        self.samples.setVisible(len(names) > 1)
        self._redraw_soon()

    def _redraw_soon(self) -> None:
        if not self._timer.isActive() or self._timer.remainingTime() > _SOON_MS:
            self._timer.start(_SOON_MS)

    def _redraw_while_loading(self) -> None:
        if not self._timer.isActive():
            self._timer.start(_LOADING_MS)

    def _row(self) -> Row | None:
        rows = self._session.rows
        return rows[min(max(self.samples.currentIndex(), 0), len(rows) - 1)] if rows else None

    def _go_to(self, **indices: int) -> None:
        """Move the sliders; they count the positions of the first sample."""
        row, first = self._row(), self._session.rows[0]
        if row is None:
            return
        own = {"layer": row.names.layers, "step": row.names.steps, "head": row.names.heads}
        outer = {"layer": first.names.layers, "step": first.names.steps, "head": first.names.heads}
        labels: dict[str, Any] = {dim: own[dim][index] for dim, index in indices.items()}
        if all(label in outer[dim] for dim, label in labels.items()):
            self._session.go_to(**{dim: outer[dim].index(at) for dim, at in labels.items()})

    def _show_curves(self, row: Row, direction: DirectionName, place: Place) -> None:
        volume, means, names = row.volumes[direction], self._session.means, row.names
        is_mean = LAYER in means
        inside = volume.inside[place.layer]
        if is_mean:
            inside = mean_of_last(np.moveaxis(volume.inside, 0, -1))
        where = "mean over the layers" if is_mean else short_names(names.layers)[place.layer]
        self.title.setText(f"inside the {mask_name(direction)} · {where}")
        self.title.setToolTip("" if is_mean else names.layers[place.layer])
        self.curves.show_curves(
            Curves(
                inside,
                names.timesteps,
                names.heads,
                volume.chance,
                None if STEP in means else place.step,
                None if HEAD in means else place.head,
            ),
            outside=self.outside.isChecked(),
        )

    def _show_cells(self, row: Row, direction: DirectionName, place: Place) -> None:
        volume, means, names = row.volumes[direction], self._session.means, row.names
        values = volume.concentration[:, place.step]
        if STEP in means:
            values = mean_of_last(np.moveaxis(volume.concentration, 1, -1))
        self.cells.show_cells(
            Cells(
                values,
                names.layers,
                short_names(names.layers),
                names.heads,
                None if LAYER in means else place.layer,
                None if HEAD in means else place.head,
            )
        )

    def _ask_for_scores(self, row: Row | None) -> None:
        """Score the maps in view in the thread; an answer that is overtaken is not shown."""
        self._asked += 1
        number, place, means = self._asked, self._session.place, self._session.means

        def score() -> tuple[int, dict[str, dict[str, float]], list[str]] | None:
            if row is None or number != self._asked:
                return None
            return number, *score_row(row, place, means)

        self._background.run(score, self._show_scores)

    def _show_scores(
        self, found: tuple[int, dict[str, dict[str, float]], list[str]] | None
    ) -> None:
        if found is None or found[0] != self._asked:
            return
        _, scores, notes = found
        for direction, labels in self.scores.items():
            for measure, label in labels.items():
                value = scores.get(direction, {}).get(measure, math.nan)
                label.setText(f"{value:.3f}" if math.isfinite(value) else _NONE)
        self.note.setText("\n".join(notes))
