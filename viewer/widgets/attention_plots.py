"""The panels beside the maps: curves over the timesteps, layer × head, scores of the map in view."""

from __future__ import annotations

import math
import weakref
from typing import Any, Final

import numpy as np
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
)
from superqt.utils import qthrottled

from i2am.analysis.scores.registry import score_meanings
from i2am.schemas.dims import HEAD, LAYER, STEP
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.viewer.data.axes import SliderPosition
from i2am.viewer.data.effects import Effects
from i2am.viewer.data.sample import SampleView
from i2am.viewer.data.scores import (
    mask_name,
    score_maps_in_view,
    short_names,
    shown_values,
    why_no_curves,
)
from i2am.viewer.picking.effect_controller import effect_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.plots import (
    LayerHeadMatrix,
    LayerHeadMatrixPlot,
    MaskShareCurves,
    MaskShareCurvesPlot,
    mean_of_last,
)
from i2am.viewer.widgets.qt import Background, plain_label, plain_tip

__all__ = ["AttentionPlots"]

_SOON_MS: Final = 40  # after the sliders: the canvas is drawn first
_LOADING_MS: Final = 300
_PLOT_PX: Final = 210  # less cannot be read
_NONE: Final = "—"


class AttentionPlots(DockPanel):
    """Curves, matrix and scores of the sample in view; clicks on them move the sliders.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.

    Attributes
    ----------
    scored : Signal
        The scores of the maps in view are shown.
    """

    scored = Signal()

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._session = napari_viewer, session_of(napari_viewer)
        self._effects = effect_controller_of(self._session)
        self._background, self._ticket = Background(self), 0
        self.samples, self.direction, self.outside = QComboBox(), QComboBox(), QCheckBox("outside")
        self.title, self.message, self.note = plain_label(), plain_label(), plain_label()
        self.curves, self.matrix = MaskShareCurvesPlot(), LayerHeadMatrixPlot("concentration")
        self.scores = {d: {v.label: QLabel(_NONE) for v in shown_values(d)} for d in DIRECTIONS}
        self._redraw_soon = qthrottled(self.redraw, timeout=_SOON_MS, leading=False, parent=self)
        self._redraw_while_loading = qthrottled(
            self.redraw, timeout=_LOADING_MS, leading=False, parent=self
        )
        self._lay_out()
        self._connect()
        self._paint()
        self._list_samples()

    def redraw(self) -> None:
        """Bring everything in step with the session, unless nobody sees it."""
        self._redraw_soon.cancel()
        self._redraw_while_loading.cancel()
        if not self.isVisible():
            return
        view = self._view()
        direction: DirectionName = self.direction.currentData()
        volume = None if view is None else view.volumes.get(direction)
        position = None
        if volume is not None:
            position = volume.to_own_position(self._session.position, self._session.averaged_dims)
        why = "Open a run: drop it on the window."
        if view is not None:
            why = why_no_curves(view.capture, view.spreads, direction, position)
        self.message.setText(why)
        has_curves = not self.message.text()
        self.message.setVisible(not has_curves)
        for widget in (self.title, self.curves, self.outside):
            widget.setVisible(has_curves)
        self.matrix.setVisible(position is not None)
        if view is not None and position is not None:
            self._show_matrix(view, direction, position)
            if has_curves:
                self._show_curves(view, direction, position)
        self._request_scores(view)

    def showEvent(self, event: Any) -> None:
        """Catch up with what was not drawn while nobody saw it."""
        super().showEvent(event)
        QTimer.singleShot(0, self.redraw)

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
        self.matrix.setToolTip(f"{score_meanings()['r2g_concentration']} Click a cell to go there.")
        choices = QHBoxLayout()
        for widget in (self.samples, self.direction, self.outside):
            choices.addWidget(widget)
        layout = QVBoxLayout(self.content)
        layout.addLayout(choices)
        layout.addWidget(self.message)
        layout.addWidget(self.title)
        for plot, stretch in ((self.curves, 3), (self.matrix, 4)):
            plot.setMinimumHeight(_PLOT_PX)
            layout.addWidget(plot, stretch)
        layout.addLayout(self._score_table())
        layout.addWidget(self.note)

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
        session.moved.connect(self._redraw_soon.throttle)
        session.reopened.connect(self._list_samples)
        self._effects.changed.connect(self._redraw_soon.throttle)
        session.loaded.connect(self._redraw_while_loading.throttle)
        self.direction.currentIndexChanged.connect(self.redraw)
        self.samples.currentIndexChanged.connect(self.redraw)
        self.outside.toggled.connect(self.redraw)
        self.curves.picked.connect(lambda step, head: self._go_to(step=step, head=head))
        self.curves.head_picked.connect(lambda head: self._go_to(head=head))
        self.matrix.picked.connect(lambda layer, head: self._go_to(layer=layer, head=head))
        _follow_theme(self, self._viewer.events.theme)

    def _paint(self) -> None:
        """Draw in the colours of napari's theme."""
        from napari.utils.theme import get_theme

        color = get_theme(self._viewer.theme).text.as_hex()
        self.curves.set_foreground(color)
        self.matrix.set_foreground(color)

    def _list_samples(self) -> None:
        names = [view.source.sample for view in self._session.views]
        self.samples.blockSignals(True)
        chosen = self.samples.currentIndex()
        self.samples.clear()
        self.samples.addItems(names)
        self.samples.setCurrentIndex(min(max(chosen, 0), len(names) - 1))
        self.samples.blockSignals(False)
        self.samples.setVisible(len(names) > 1)
        self._redraw_soon.throttle()

    def _view(self) -> SampleView | None:
        views = self._session.views
        return views[min(max(self.samples.currentIndex(), 0), len(views) - 1)] if views else None

    def _go_to(self, **indices: int) -> None:
        """Move the sliders; they count the positions of the first sample."""
        view, first = self._view(), self._session.views[0]
        if view is None:
            return
        own = {"layer": view.axes.layers, "step": view.axes.steps, "head": view.axes.heads}
        outer = {"layer": first.axes.layers, "step": first.axes.steps, "head": first.axes.heads}
        labels: dict[str, Any] = {dim: own[dim][index] for dim, index in indices.items()}
        if all(label in outer[dim] for dim, label in labels.items()):
            self._session.go_to(**{dim: outer[dim].index(at) for dim, at in labels.items()})

    def _show_curves(
        self, view: SampleView, direction: DirectionName, position: SliderPosition
    ) -> None:
        spread, averaged_dims, axes = (
            view.spreads[direction],
            self._session.averaged_dims,
            view.axes,
        )
        is_mean = LAYER in averaged_dims
        inside = spread.inside[position.layer]
        if is_mean:
            inside = mean_of_last(np.moveaxis(spread.inside, 0, -1))
        where = "mean over the layers" if is_mean else short_names(axes.layers)[position.layer]
        self.title.setText(f"inside the {mask_name(direction)} · {where}")
        self.title.setToolTip("" if is_mean else plain_tip(axes.layers[position.layer]))
        self.curves.show_curves(
            MaskShareCurves(
                inside,
                axes.timesteps,
                axes.heads,
                spread.chance,
                None if STEP in averaged_dims else position.step,
                None if HEAD in averaged_dims else position.head,
            ),
            outside=self.outside.isChecked(),
        )

    def _show_matrix(
        self, view: SampleView, direction: DirectionName, position: SliderPosition
    ) -> None:
        spread, averaged_dims, axes = (
            view.spreads[direction],
            self._session.averaged_dims,
            view.axes,
        )
        values = spread.concentration[:, position.step]
        if STEP in averaged_dims:
            values = mean_of_last(np.moveaxis(spread.concentration, 1, -1))
        effects = self._effects.effects_of(view)
        known = effects.layer_shares if isinstance(effects, Effects) else {}
        self.matrix.show_matrix(
            LayerHeadMatrix(
                values,
                axes.layers,
                short_names(axes.layers),
                axes.heads,
                None if LAYER in averaged_dims else position.layer,
                None if HEAD in averaged_dims else position.head,
                tuple(known.get(name) for name in axes.layers) if known else (),
            )
        )

    def _request_scores(self, view: SampleView | None) -> None:
        """Score the maps in view in the thread; a result that is overtaken is not shown."""
        self._ticket += 1
        ticket, position, averaged_dims = (
            self._ticket,
            self._session.position,
            self._session.averaged_dims,
        )

        def score() -> tuple[int, dict[str, dict[str, float]], list[str]] | None:
            if view is None or ticket != self._ticket:
                return None
            return ticket, *score_maps_in_view(
                view.capture, view.volumes, view.spreads, position, averaged_dims
            )

        self._background.run(score, self._show_scores)

    def _show_scores(
        self, found: tuple[int, dict[str, dict[str, float]], list[str]] | None
    ) -> None:
        if found is None or found[0] != self._ticket:
            return
        _, scores, notes = found
        for direction, labels in self.scores.items():
            for measure, label in labels.items():
                value = scores.get(direction, {}).get(measure, math.nan)
                label.setText(f"{value:.3f}" if math.isfinite(value) else _NONE)
        self.note.setText("\n".join(notes))
        self.scored.emit()


def _follow_theme(plots: AttentionPlots, theme: Any) -> None:
    """Draw in a new theme's colours, until the plots are closed; napari's events outlive widgets."""
    known = weakref.ref(plots)

    def paint(_event: Any) -> None:
        if (own := known()) is not None:
            own._paint()

    theme.connect(paint)
    plots.destroyed.connect(lambda: theme.disconnect(paint))
