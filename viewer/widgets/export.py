"""The dock widget that takes what is in view out of the window: pictures, animations, Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from i2am.schemas.errors import AnalysisError, I2AMError
from i2am.viewer.export.animation import SUFFIXES, Walk, caption_of
from i2am.viewer.export.pictures import (
    Pixels,
    canvas_picture,
    figure_picture,
    picture_suffixes,
    window_picture,
    with_caption,
    write_picture,
)
from i2am.viewer.export.script import recipe, sram_recipe
from i2am.viewer.picking.sram_controller import asker_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.qt import Background

__all__ = ["ExportWidget"]

_COMMON: Final = (".png", ".jpg", ".tiff", ".webp")  # offered by name; others by their ending


class ExportWidget(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Save what is in view as a picture or an animation, or copy the Python that makes it.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._viewer, self._session = napari_viewer, session_of(napari_viewer)
        self._background = Background(self)
        self._walk: Walk | None = None
        self._progress: Any = None
        self.window_button = _button("Window…", "Save the whole window as it is on the screen")
        self.canvas_button = _button("Canvas…", "Save the canvas as it is on the screen")
        self.figure_button = _button(
            "Figure…", "Save both pictures with their maps, whole and alone, whatever the zoom"
        )
        self.scale, self.caption = QSpinBox(), QCheckBox("caption")
        self.every, self.frames_per_second = QSpinBox(), QDoubleSpinBox()
        self.animation_button = _button(
            "Animation…", "Walk the timestep slider through and save what is seen, as GIF or MP4"
        )
        self.cancel_button = _button("Cancel", "Stop the animation; no file is left")
        self.which = QComboBox()
        self.copy_button = _button(
            "Copy Python", "Copy a script to the clipboard that makes the map in view"
        )
        self._lay_out()
        self._connect()

    def save_picture(self, take: Callable[[], tuple[Pixels, str]], name: str) -> None:
        """Take a picture and its caption, ask where to, and write it while the window goes on."""

        def save() -> None:
            picture, caption = take()  # before the dialog covers the window
            path = self._ask_path(f"Save {name}", f"{name}.png", _COMMON, picture_suffixes())
            if path is not None:
                self._background.run(
                    lambda: _write(picture, caption, path),
                    lambda written: _inform(f"Saved {written}"),
                )

        _tell_errors(save)

    def take_figure(self) -> tuple[Pixels, str]:
        """Return the figure of the current view, and its caption if one is wanted."""
        figure = figure_picture(self._viewer, self.scale.value() or None)
        has_caption = self.caption.isChecked() and self._session.rows
        return figure, caption_of(self._session) if has_caption else ""

    def animate(self) -> None:
        """Ask where to, and walk."""
        _tell_errors(self._start_walk)

    def cancel(self) -> None:
        """Stop the animation."""
        if self._walk is not None:
            self._walk.cancel()

    def copy_python(self) -> None:
        """Put the script on the clipboard."""
        _tell_errors(self._copy)

    def closeEvent(self, event: Any) -> None:
        """End with the window."""
        self.cancel()
        super().closeEvent(event)

    def _lay_out(self) -> None:
        self.scale.setRange(0, 32)
        self.scale.setSpecialValueText("fitting")
        self.scale.setToolTip("Pixels of the figure a pixel of the generated image")
        self.caption.setChecked(True)
        self.caption.setToolTip("Write below the figure which map it shows")
        self.every.setRange(1, 1000)
        self.every.setToolTip("1 shows every step, 2 every other one, and so on")
        self.frames_per_second.setRange(0.5, 60)
        self.frames_per_second.setValue(4)
        self.frames_per_second.setToolTip("How many steps are shown a second")
        self.which.setToolTip("Which map the script makes; SRAM is that of the place you picked")
        for which in ("r2g", "g2r", "sram"):
            self.which.addItem(which.upper(), which)
        self.cancel_button.setEnabled(False)
        layout = QVBoxLayout(self)
        figure = [("scale", self.scale), ("", self.caption)]
        buttons = [self.figure_button, self.canvas_button, self.window_button]
        layout.addWidget(_group("Picture", figure, buttons))
        steps = [("every n-th step", self.every), ("frames a second", self.frames_per_second)]
        layout.addWidget(_group("Timesteps", steps, [self.animation_button, self.cancel_button]))
        layout.addWidget(_group("Script", [("map", self.which)], [self.copy_button]))
        layout.addStretch()

    def _connect(self) -> None:
        self.window_button.clicked.connect(
            lambda: self.save_picture(lambda: (window_picture(self._viewer), ""), "window")
        )
        self.canvas_button.clicked.connect(
            lambda: self.save_picture(lambda: (canvas_picture(self._viewer), ""), "canvas")
        )
        self.figure_button.clicked.connect(lambda: self.save_picture(self.take_figure, "figure"))
        self.animation_button.clicked.connect(self.animate)
        self.cancel_button.clicked.connect(self.cancel)
        self.copy_button.clicked.connect(self.copy_python)

    def _start_walk(self) -> None:
        Walk.check(self._session)
        path = self._ask_path("Save animation", "timesteps.gif", SUFFIXES, SUFFIXES)
        if path is None:
            return
        walk = Walk(
            self._session,
            path,
            every=self.every.value(),
            frames_per_second=self.frames_per_second.value(),
            scale=self.scale.value() or None,
            overwrite=True,  # the dialog has asked
        )
        from napari.utils import progress

        self._progress = progress(total=len(walk.stops), desc="animation")
        walk.progressed.connect(lambda *_: self._progress.update(1))
        walk.finished.connect(lambda written: self._end_walk(f"Saved {written}"))
        walk.failed.connect(
            lambda why: self._end_walk(why or "Animation cancelled", failed=bool(why))
        )
        self._set_walking(walk)
        walk.start()

    def _end_walk(self, message: str, *, failed: bool = False) -> None:
        self._progress.close()
        self._set_walking(None)
        (_warn if failed else _inform)(message)

    def _set_walking(self, walk: Walk | None) -> None:
        self._walk = walk
        self.animation_button.setEnabled(walk is None)
        self.cancel_button.setEnabled(walk is not None)

    def _copy(self) -> None:
        if not self._session.rows:
            msg = "Expected a map in view, got none, at the window. Open a run: drop it there."
            raise AnalysisError(msg)
        work = self._recipe(self.which.currentData())

        def receive(script: str) -> None:
            QGuiApplication.clipboard().setText(script)
            _inform("Copied the Python that makes this map")

        self._background.run(work, receive)  # It may look into the store.

    def _recipe(self, which: Any) -> Callable[[], str]:
        """Return what writes the script of a map in view."""
        rows, place, means = self._session.rows, self._session.place, self._session.means
        if which != "sram":
            return lambda: recipe(rows[0], which, place, means)
        asker = asker_of(self._session)
        pick, row = asker.pick, rows[asker.row]
        if pick is None:
            msg = "Expected a picked place, got none, at the pictures. Click into one of them."
            raise AnalysisError(msg)
        return lambda: sram_recipe(row, pick)

    def _ask_path(self, title: str, name: str, offered: tuple[str, ...], known: Any) -> Path | None:
        """Ask where to save; None if the user does not want to after all."""
        first = f"Common ({' '.join(f'*{suffix}' for suffix in offered)})"
        every = f"All ({' '.join(f'*{suffix}' for suffix in known)})"
        options = first if tuple(known) == offered else f"{first};;{every}"
        chosen, _ = QFileDialog.getSaveFileName(self, title, name, options)
        return Path(chosen) if chosen else None


def _write(picture: Pixels, caption: str, path: Path) -> Path:
    whole = with_caption(picture, caption) if caption else picture
    return write_picture(whole, path, overwrite=True)  # The dialog has asked.


def _group(title: str, fields: list[tuple[str, QWidget]], buttons: list[QPushButton]) -> QGroupBox:
    box = QGroupBox(title)
    form = QFormLayout(box)
    for label, widget in fields:
        form.addRow(label, widget)
    line = QHBoxLayout()
    for button in buttons:
        line.addWidget(button)
    form.addRow(line)
    return box


def _button(text: str, tool_tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tool_tip)
    return button


def _tell_errors(work: Callable[[], None]) -> None:
    """Do something; what is wrong becomes a notification."""
    try:
        work()
    except I2AMError as e:
        _warn(str(e))


def _warn(message: str) -> None:
    from napari.utils.notifications import show_error

    show_error(message)


def _inform(message: str) -> None:
    from napari.utils.notifications import show_info

    show_info(message)
