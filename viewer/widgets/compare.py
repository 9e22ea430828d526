"""The dock widget for comparing: another sample, of this run or of another, with linked sliders."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
)

from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.qt import plain_label

__all__ = ["CompareWidget"]


class CompareWidget(DockPanel):
    """Show a second sample below the first: the same sliders, switches and colours for both.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._session = session_of(napari_viewer)
        self.run = QLineEdit()
        self.run.setPlaceholderText("this run")
        self.run.setToolTip("Path or URL of another run; empty for the one in view")
        self.browse = QPushButton("…")
        self.browse.setToolTip("Choose a run's folder")
        self.browse.clicked.connect(self._choose_run)
        self.sample = QComboBox()
        self.sample.setEditable(True)
        self.sample.setToolTip(
            "Its sample; of another run, the one of the same name if left as it is"
        )
        self.guidance = QComboBox()
        self.guidance.setToolTip(
            "Its branch of the guidance: another one of the same sample shows what guidance does"
        )
        self.start = QPushButton("Compare")
        self.start.setToolTip("Show it below; layers, timesteps and heads are met by their labels")
        self.start.clicked.connect(self._compare)
        self.stop = QPushButton("Stop comparing")
        self.stop.setToolTip("Take the second row away")
        self.stop.clicked.connect(self._session.stop_comparing)
        self.state = plain_label()
        self.state.setWordWrap(True)
        self._lay_out()
        self._session.reopened.connect(self._show)
        self._show()

    def _lay_out(self) -> None:
        form = QFormLayout(self.content)
        where = QHBoxLayout()
        where.addWidget(self.run)
        where.addWidget(self.browse)
        form.addRow("Run", where)
        form.addRow("Sample", self.sample)
        form.addRow("Guidance", self.guidance)
        buttons = QHBoxLayout()
        buttons.addWidget(self.start)
        buttons.addWidget(self.stop)
        form.addRow(buttons)
        form.addRow(self.state)

    def _choose_run(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "A run's folder (RUN.zarr)")
        if folder:
            self.run.setText(folder)

    def _compare(self) -> None:
        if self._session.views:
            own = self._session.views[0].source
            run = self.run.text().strip() or own.run
            self.state.setText("opening …")
            sample = self.sample.currentText().strip() or own.sample
            self._session.compare(run, sample, guidance=self.guidance.currentText() or None)

    def _show(self) -> None:
        """Bring the widget in step with what is in view."""
        views = self._session.views
        self.start.setEnabled(bool(views))
        self.stop.setEnabled(len(views) > 1)
        names = list(self._session.samples)
        if [self.sample.itemText(i) for i in range(self.sample.count())] != names:
            with QSignalBlocker(self.sample):
                self.sample.clear()
                self.sample.addItems(names)
        branches = views[0].guidance_labels if views else []
        if [self.guidance.itemText(i) for i in range(self.guidance.count())] != branches:
            self.guidance.clear()
            self.guidance.addItems(branches)
            self.guidance.setCurrentText(self._session.guidance)
        self.guidance.setEnabled(len(branches) > 1)
        if not views:
            self.state.setText("Open a run first: drop it on the window.")
        elif len(views) == 1:
            self.state.setText("")
        else:
            first, second = (view.source for view in views)
            where = "" if first.run == second.run else f" of {second.run}"
            branch = ["", ""]
            if first.guidance != second.guidance:
                branch = [f" ({one.guidance})" for one in (first, second)]
            above, below = first.sample + branch[0], second.sample + branch[1]
            self.state.setText(f"{above} above, {below}{where} below")
