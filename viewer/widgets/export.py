"""The dock widget that exports what is in view: pictures, animations, Python."""

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

from i2am.schemas.errors import AnalysisError
from i2am.viewer.export.animation import SUFFIXES, TimestepAnimation, caption_of
from i2am.viewer.export.pictures import (
    Pixels,
    canvas_picture,
    figure_picture,
    picture_suffixes,
    window_picture,
    with_caption,
    write_picture,
)
from i2am.viewer.export.script import map_script, sram_script
from i2am.viewer.notices import notify_error, notify_info
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.qt import Background, make_button, notify_errors

__all__ = ["ExportWidget"]

_COMMON: Final = (".png", ".jpg", ".tiff", ".webp")  # offered by name; others by their ending


class ExportWidget(DockPanel):
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
        self._animation: TimestepAnimation | None = None
        self._progress: Any = None
        self.window_button = make_button("Window…", "Save the whole window as it is on the screen")
        self.canvas_button = make_button("Canvas…", "Save the canvas as it is on the screen")
        self.figure_button = make_button(
            "Figure…", "Save both pictures with their maps, whole and alone, whatever the zoom"
        )
        self.scale, self.caption = QSpinBox(), QCheckBox("caption")
        self.every, self.frames_per_second = QSpinBox(), QDoubleSpinBox()
        self.animation_button = make_button(
            "Animation…", "Walk the timestep slider through and save what is seen, as GIF or MP4"
        )
        self.cancel_button = make_button("Cancel", "Stop the animation; no file is left")
        self.which = QComboBox()
        self.copy_button = make_button(
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
                    lambda written: notify_info(f"Saved {written}"),
                )

        notify_errors(save)

    def take_figure(self) -> tuple[Pixels, str]:
        """Return the figure of the current view, and its caption if one is wanted."""
        figure = figure_picture(self._viewer, self.scale.value() or None)
        has_caption = self.caption.isChecked() and self._session.views
        return figure, caption_of(self._session) if has_caption else ""

    def animate(self) -> None:
        """Ask for a path, and write the animation."""
        notify_errors(self._start_animation)

    def cancel(self) -> None:
        """Stop the animation."""
        if self._animation is not None:
            self._animation.cancel()

    def copy_python(self) -> None:
        """Put the script on the clipboard."""
        notify_errors(self._copy)

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
        layout = QVBoxLayout(self.content)
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

    def _start_animation(self) -> None:
        TimestepAnimation.check(self._session)
        path = self._ask_path("Save animation", "timesteps.gif", SUFFIXES, SUFFIXES)
        if path is None:
            return
        animation = TimestepAnimation(
            self._session,
            path,
            every=self.every.value(),
            frames_per_second=self.frames_per_second.value(),
            scale=self.scale.value() or None,
            overwrite=True,  # the dialog has asked
        )
        from napari.utils import progress

        self._progress = progress(total=len(animation.stops), desc="animation")
        animation.progressed.connect(lambda *_: self._progress.update(1))
        animation.finished.connect(lambda written: self._end_animation(f"Saved {written}"))
        animation.failed.connect(
            lambda why: self._end_animation(why or "Animation cancelled", failed=bool(why))
        )
        self._set_animation(animation)
        animation.start()

    def _end_animation(self, message: str, *, failed: bool = False) -> None:
        self._progress.close()
        self._set_animation(None)
        (notify_error if failed else notify_info)(message)

    def _set_animation(self, animation: TimestepAnimation | None) -> None:
        self._animation = animation
        self.animation_button.setEnabled(animation is None)
        self.cancel_button.setEnabled(animation is not None)

    def _copy(self) -> None:
        if not self._session.views:
            msg = "Expected a map in view, got none, at the window. Open a run: drop it there."
            raise AnalysisError(msg)
        work = self._script(self.which.currentData())

        def receive(script: str) -> None:
            QGuiApplication.clipboard().setText(script)
            notify_info("Copied the Python that makes this map")

        self._background.run(work, receive)  # It may look into the store.

    def _script(self, which: Any) -> Callable[[], str]:
        """Return what writes the script of a map in view."""
        views, position, averaged_dims = (
            self._session.views,
            self._session.position,
            self._session.averaged_dims,
        )
        if which != "sram":
            return lambda: map_script(views[0], which, position, averaged_dims)
        controller = sram_controller_of(self._session)
        pick, view = controller.pick, views[controller.view_index]
        if pick is None:
            msg = "Expected a picked region, got none, at the images. Click into one of them."
            raise AnalysisError(msg)
        return lambda: sram_script(view, pick)

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
