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
from i2am.viewer.export.animation import SUFFIXES as ANIMATION_SUFFIXES
from i2am.viewer.export.animation import TimestepAnimation, caption_of
from i2am.viewer.export.figure import (
    FIGURE_SUFFIXES,
    SceneFigure,
    largest_scale,
    take_figure,
    write_figure,
)
from i2am.viewer.export.pictures import SUFFIXES as PICTURE_SUFFIXES
from i2am.viewer.export.pictures import Pixels, canvas_picture, window_picture, write_picture
from i2am.viewer.export.script import map_script, sram_script
from i2am.viewer.notices import notify_error, notify_info
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.qt import Background, make_button, notify_errors

__all__ = ["ExportWidget"]

_MOST_SCALE: Final = 32


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

    def save_picture(self, take: Callable[[Any], Pixels], name: str) -> None:
        """Take a picture of the window or canvas, ask where to, and write it."""

        def save() -> None:
            picture = take(self._viewer)  # before the dialog covers the window
            self._save(
                name,
                PICTURE_SUFFIXES,
                lambda path, **overwrite: write_picture(picture, path, **overwrite),
            )

        notify_errors(save)

    def save_figure(self) -> None:
        """Take the figure, ask where to, and write it."""

        def save() -> None:
            figure = self.take_figure()
            self._save(
                "figure",
                FIGURE_SUFFIXES,
                lambda path, **overwrite: write_figure(figure, path, **overwrite),
            )

        notify_errors(save)

    def take_figure(self) -> SceneFigure:
        """Return the figure of the current view, with its caption if one is wanted."""
        has_caption = self.caption.isChecked() and self._session.views
        caption = caption_of(self._session) if has_caption else ""
        return take_figure(self._viewer, self.scale.value() or None, caption)

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
        self._bound_scale()
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
        self.window_button.clicked.connect(lambda: self.save_picture(window_picture, "window"))
        self.canvas_button.clicked.connect(lambda: self.save_picture(canvas_picture, "canvas"))
        self.figure_button.clicked.connect(self.save_figure)
        self._session.reopened.connect(self._bound_scale)
        self.animation_button.clicked.connect(self.animate)
        self.cancel_button.clicked.connect(self.cancel)
        self.copy_button.clicked.connect(self.copy_python)

    def _bound_scale(self) -> None:
        """Offer no scale that the graphics card cannot draw."""
        self.scale.setRange(0, min(_MOST_SCALE, largest_scale(self._viewer)))

    def _save(self, name: str, suffixes: tuple[str, ...], write: Callable[..., Path]) -> None:
        """Ask where to, and write there while the window goes on."""
        chosen = self._ask_path(f"Save {name}", f"{name}{suffixes[0]}", suffixes)
        if chosen is not None:
            path, overwrite = chosen
            self._background.run(
                lambda: write(path, overwrite=overwrite),
                lambda written: notify_info(f"Saved {written}"),
            )

    def _start_animation(self) -> None:
        TimestepAnimation.check(self._session)
        chosen = self._ask_path("Save animation", "timesteps.gif", ANIMATION_SUFFIXES)
        if chosen is None:
            return
        path, overwrite = chosen
        animation = TimestepAnimation(
            self._session,
            path,
            every=self.every.value(),
            frames_per_second=self.frames_per_second.value(),
            scale=self.scale.value() or None,
            overwrite=overwrite,
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

    def _ask_path(
        self, title: str, name: str, suffixes: tuple[str, ...]
    ) -> tuple[Path, bool] | None:
        """Ask where to save, and whether what is there may be replaced; None for nowhere."""
        kinds = ";;".join(f"{suffix[1:].upper()} (*{suffix})" for suffix in suffixes)
        every = f"All of these ({' '.join(f'*{suffix}' for suffix in suffixes)})"
        chosen, kind = QFileDialog.getSaveFileName(self, title, name, f"{every};;{kinds}")
        if not chosen:
            return None
        if Path(chosen).suffix:
            return Path(chosen), True  # The dialog has asked.
        own = next((suffix for suffix in suffixes if f"(*{suffix})" in kind), suffixes[0])
        return Path(f"{chosen}{own}"), False


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
