"""A sample that is opened in a window which shows one already: it replaces that, or is compared with it.

Opened by napari (File > Open, a drop, `viewer.open`), its layers come one by one, and would lie over
those that are there. They are set aside until the user has chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QMessageBox

from i2am.viewer.notices import plain_notice
from i2am.viewer.scene.layers import own_layers, remove_layers, set_aside, view_of

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView

__all__ = ["Arrivals"]

_QUESTION: Final = "This window shows {shown}. What is to become of {arrived}?"
_HINT: Final = "Picks, and layers of your own, stay as they are."


class _Window(Protocol):
    """What is asked of the session of a window."""

    views: list[SampleView]
    closed: Any

    @property
    def viewer(self) -> Any:
        """The napari viewer; None once it is gone."""

    def show(self, view: SampleView, view_index: int = 0) -> None:
        """Put a sample into view."""

    def stop_comparing(self) -> None:
        """Take the second sample away."""


class Arrivals(QObject):  # type: ignore[misc]  # Qt has no types here
    """Asks what to do with samples that arrive.

    Parameters
    ----------
    session : Session
        Its parent.

    Attributes
    ----------
    question : QMessageBox or None
        The one that is asked now; it does not hold up the window.
    """

    def __init__(self, session: _Window) -> None:
        super().__init__(session)
        self._session = session
        self.question: QMessageBox | None = None
        self._layers: list[Any] = []
        self._active: Any = None  # before napari made each new layer the active one
        self._arrived: SampleView | None = None  # the latest
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._ask)
        session.closed.connect(self._drop)

    def take(self, layers: Iterable[Any]) -> None:
        """Set the layers of a sample aside; ask as soon as the last one of them is there."""
        for layer in layers:
            self._arrived = view_of(layer)
            self.discard([layer])

    def discard(self, layers: Iterable[Any]) -> None:
        """Take layers away whose sample is shown no more, when napari has done what it does now."""
        for layer in layers:
            if not self._layers:
                self._active = self._session.viewer.layers.selection.active
            set_aside(layer)
            self._layers.append(layer)
            self._soon.start(0)

    def _ask(self) -> None:
        """Take the layers away again, and ask; at once where nothing is shown any more."""
        session = self._session
        layers, self._layers = self._layers, []
        if session.viewer is not None:
            selection = session.viewer.layers.selection
            remove_layers(session.viewer, layers)
            if selection.active is None and self._active in session.viewer.layers:
                selection.active = self._active
            for layer in own_layers(session.viewer).values() if layers else ():
                # While those were there, napari numbered what has the same name.
                layer.name = re.sub(r" \[\d+\]$", "", layer.name)
        view = self._arrived
        if view is None or session.viewer is None:
            return
        self._drop()
        if not session.views:
            session.show(view)
            return
        box = QMessageBox(session.viewer.window.main_menu.window())
        box.setWindowTitle("I²AM: another sample")
        shown, arrived = (
            f"{one.source.sample} of {one.source.run}" for one in (session.views[0], view)
        )
        box.setText(plain_notice(_QUESTION.format(shown=shown, arrived=arrived)))
        box.setInformativeText(_HINT)
        for name, role, choose in (
            ("Replace", QMessageBox.ButtonRole.AcceptRole, self._replace),
            ("Compare", QMessageBox.ButtonRole.YesRole, self._compare),
        ):
            button = box.addButton(name, role)
            button.clicked.connect(lambda _=False, choose=choose: choose(view))
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        box.finished.connect(self._drop)
        self.question = box
        box.open()

    def _replace(self, view: SampleView) -> None:
        self._session.stop_comparing()
        self._session.show(view)

    def _compare(self, view: SampleView) -> None:
        self._session.show(view, 1)

    def _drop(self, _result: int = 0) -> None:
        """Close the question that is open."""
        self._soon.stop()
        self._arrived = None
        question, self.question = self.question, None
        if question is not None:
            question.close()
            question.deleteLater()
