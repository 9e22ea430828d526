"""The docks of the plugin: they scroll, share one place as tabs, and open again as they were left.

A dock that is as high as what is in it makes the window higher than a laptop's screen, and napari
keeps that size.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QDockWidget,
    QFrame,
    QMainWindow,
    QScrollArea,
    QScrollBar,
    QVBoxLayout,
    QWidget,
)

from i2am.files import written_whole
from i2am.schemas.errors import I2AMError

__all__ = ["DOCKS", "DockPanel", "dock_name", "open_dock", "reopen_docks"]

# Display names of napari.yaml, and their classes in this folder.
DOCKS: Final = {
    "Run browser": "run_browser:RunBrowser",
    "Samples": "samples:SamplesWidget",
    "Ask a patch": "picks:PicksWidget",
    "Panels": "attention_plots:AttentionPlots",
    "Compare": "compare:CompareWidget",
    "Export": "export:ExportWidget",
}
_FIRST: Final = "Run browser"  # It is always open at the start.
_FILE: Final = "i2am-docks.json"
_LEAST_PX: Final = (220, 150)
_WANTED_PX: Final = (360, 400)
_WHEEL_TURNS: Final = (QComboBox, QAbstractSpinBox, QAbstractSlider)


class DockPanel(QWidget):  # type: ignore[misc]  # Qt has no types here
    """A dock's widget: its content scrolls, and it joins the plugin's docks in its area as a tab.

    Attributes
    ----------
    content : QWidget
        What scrolls; a subclass gives it a layout.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_placed = self._has_joined = False
        self.content = QWidget()
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setWidget(self.content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._scroll)

    def sizeHint(self) -> QSize:  # Qt's name
        """Return a size in which the content's width is seen whole."""
        return QSize(max(_WANTED_PX[0], self._whole_width()), _WANTED_PX[1])

    def minimumSizeHint(self) -> QSize:  # Qt's name
        """Return a size that a laptop's window has room for; in most docks all of the width is seen."""
        width = min(_WANTED_PX[0], max(_LEAST_PX[0], self._whole_width()))
        return QSize(width, _LEAST_PX[1])

    def _whole_width(self) -> int:
        bar = self._scroll.verticalScrollBar().sizeHint().width()
        return int(self.content.minimumSizeHint().width() + bar)

    def showEvent(self, event: Any) -> None:  # Qt's name
        """Take a place among the docks when shown for the first time."""
        super().showEvent(event)
        if not self._is_placed:
            self._is_placed = True
            for child in self.content.findChildren(QWidget):
                if isinstance(child, _WHEEL_TURNS) and not isinstance(child, QScrollBar):
                    child.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # by click, not by wheel
                    child.installEventFilter(self)
            QTimer.singleShot(0, self._join_tabs)  # napari has yet to say where the dock is

    def eventFilter(self, watched: Any, event: Any) -> bool:  # Qt's name
        """Have the wheel scroll the dock, not change what the mouse happens to be over."""
        if event.type() == QEvent.Type.Wheel and not watched.hasFocus():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def _join_tabs(self) -> None:
        with contextlib.suppress(RuntimeError):  # of a dock that was closed at once
            dock, main = self.parent(), self.window()
            if not isinstance(dock, QDockWidget) or not isinstance(main, QMainWindow):
                return  # It floats.
            area = main.dockWidgetArea(dock)
            others = [
                other
                for other in _docks(main).values()
                if other.widget()._has_joined
                and not other.isFloating()
                and main.dockWidgetArea(other) == area
            ]
            self._has_joined = True
            if others and others[0] not in main.tabifiedDockWidgets(dock):
                main.tabifyDockWidget(others[0], dock)
                dock.raise_()


def dock_name(name: str) -> str:
    """Return the name that napari gives to a dock of the plugin, and finds it by.

    Examples
    --------
    >>> dock_name("Panels")
    'Panels (i2am)'
    """
    return f"{name} (i2am)"


def open_dock(viewer: Any, name: str) -> Any:
    """Open a dock of the plugin, or bring the one that is open to the front; return its widget.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        One of `DOCKS`.
    """
    if dock_name(name) not in viewer.window.dock_widgets:
        module, _, factory = DOCKS[name].partition(":")
        widget = getattr(importlib.import_module(f"i2am.viewer.widgets.{module}"), factory)(viewer)
        viewer.window.add_dock_widget(widget, name=dock_name(name), tabify=True)
    widget = viewer.window.dock_widgets[dock_name(name)]
    dock = widget.parent()
    dock.show()
    dock.raise_()
    return widget


def reopen_docks(viewer: Any) -> None:
    """Open the docks that were open when a window was closed last, and remember them again.

    Which docks, which of them is in front, and their width; napari itself remembers their areas.
    """
    state = _read_state()
    main = viewer.window.main_menu.window()
    for name in dict.fromkeys([_FIRST, *(n for n in DOCKS if n in state.get("open", ()))]):
        open_dock(viewer, name)
    front = next(
        (n for n in DOCKS if n == state.get("front") and n in state.get("open", ())), _FIRST
    )
    open_dock(viewer, front)
    width = state.get("width")
    if isinstance(width, int) and width >= _LEAST_PX[0]:
        docks = list(_docks(main).values())
        main.resizeDocks(docks, [width] * len(docks), Qt.Orientation.Horizontal)
    main.installEventFilter(_Memory(main))


class _Memory(QObject):  # type: ignore[misc]  # Qt has no types here
    """Writes down which docks are open when their window closes."""

    def eventFilter(self, watched: Any, event: Any) -> bool:  # Qt's name
        if event.type() == QEvent.Type.Close and watched is self.parent():
            _write_state(watched)
        return False


def _docks(main: Any) -> dict[str, Any]:
    """Return the plugin's docks in a window that are open, by the names in `DOCKS`."""
    known = {dock_name(name): name for name in DOCKS}
    found = {dock.objectName(): dock for dock in main.findChildren(QDockWidget)}
    return {
        known[name]: dock
        for name, dock in found.items()
        if name in known and not dock.isHidden() and isinstance(dock.widget(), DockPanel)
    }


def _write_state(main: Any) -> None:
    docks = _docks(main)
    # Of tabs the one in front alone has a visible region.
    front = [name for name, dock in docks.items() if not dock.widget().visibleRegion().isEmpty()]
    state = {
        "open": list(docks),
        "front": front[0] if front else _FIRST,
        "width": max((dock.width() for dock in docks.values() if not dock.isFloating()), default=0),
    }
    path = _state_path()
    if path is not None:
        with contextlib.suppress(OSError, I2AMError), written_whole(path) as unfinished:
            unfinished.write_text(json.dumps(state))


def _read_state() -> dict[str, Any]:
    """Return what was written down; nothing, if there is nothing to be understood."""
    path = _state_path()
    try:
        state = {} if path is None else json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(state, dict) and isinstance(state.get("open", []), list)
    return state if is_ours else {}


def _state_path() -> Path | None:
    """Return a file beside napari's settings; None where these are not kept."""
    from napari.settings import get_settings

    settings = get_settings().config_path
    return None if settings is None else Path(settings).parent / _FILE
