"""The docks of a real window: on a laptop's screen, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import npe2
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication, QComboBox, QDockWidget, QSlider, QSpinBox

from i2am.viewer.scene.contrast import COLORMAPS
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DOCKS, DockPanel, dock_name, open_dock, reopen_docks
from tests.support.wait import wait

LAPTOPS = ((1366, 768), (1066, 666))


def _main(viewer: Any) -> Any:
    return viewer.window.main_menu.window()


def _docks(viewer: Any) -> dict[str, Any]:
    """Return the docks of ours that are open, by their names."""
    known = {dock_name(name): name for name in DOCKS}
    found = _main(viewer).findChildren(QDockWidget)
    return {known[one.objectName()]: one for one in found if isinstance(one.widget(), DockPanel)}


def _in_front(viewer: Any) -> list[str]:
    return [n for n, dock in _docks(viewer).items() if not dock.widget().visibleRegion().isEmpty()]


def _is_in_front(viewer: Any, name: str) -> bool:
    return _in_front(viewer) == [name]


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Iterator[Any]:
    viewer = open_window(run)
    size = viewer.window.geometry()[2:]
    yield viewer
    viewer.window.resize(*size)


def test_the_docks_are_those_of_the_manifest() -> None:
    manifest = npe2.PluginManifest.from_file(Path("viewer/napari.yaml"))
    commands = {command.id: command.python_name for command in manifest.contributions.commands}
    listed = {one.display_name: commands[one.command] for one in manifest.contributions.widgets}
    assert {n: f"i2am.viewer.widgets.{place}" for n, place in DOCKS.items()} == listed


def test_all_docks_leave_a_laptops_window_its_size_and_its_sliders(
    window: Any, subtests: pytest.Subtests
) -> None:
    main = _main(window)
    # The longest names of colormaps, which bound the width of napari's controls of a layer.
    longest = max(COLORMAPS, key=len)
    session_of(window).set_appearance(colormap=longest, polarity="inverted", threshold=0.5)
    window.layers.selection.active = window.layers["R2G"]
    for name in DOCKS:
        window.window.add_plugin_dock_widget("i2am", name)  # as napari's menu does
    wait(lambda: len(main.tabifiedDockWidgets(_docks(window)["Run browser"])) == len(DOCKS) - 1)
    sliders = next(w for w in main.findChildren(object) if type(w).__name__ == "QtDims")
    for size in LAPTOPS:
        window.window.resize(*size)
        for name in DOCKS:
            with subtests.test(size=size, dock=name):
                panel = open_dock(window, name)
                wait(partial(_is_in_front, window, name))
                assert window.window.geometry()[2:] == size
                assert main.rect().contains(sliders.mapTo(main, sliders.rect().bottomRight()))
                assert main.rect().contains(panel.mapTo(main, panel.rect().bottomRight()))
                # Downwards it scrolls; across all of it is seen.
                assert panel.content.width() <= panel.width()


def test_a_dock_that_is_open_is_not_opened_again(window: Any) -> None:
    browser = window.window.dock_widgets[dock_name("Run browser")]
    _, again = window.window.add_plugin_dock_widget("i2am", "Run browser")
    assert again is browser
    assert open_dock(window, "Run browser") is browser
    picks = open_dock(window, "Ask a patch")
    assert window.window.add_plugin_dock_widget("i2am", "Ask a patch")[1] is picks
    assert len(_main(window).findChildren(DockPanel)) == 2


def test_the_wheel_scrolls_a_dock_and_changes_nothing_in_it(window: Any) -> None:
    panels = [window.window.dock_widgets[dock_name("Run browser")], open_dock(window, "Export")]
    QApplication.processEvents()
    tried = 0
    for panel in panels:
        for kind, read in ((QComboBox, "currentIndex"), (QSlider, "value"), (QSpinBox, "value")):
            for child in panel.content.findChildren(kind):
                before = getattr(child, read)()
                for turn in (120, -120):
                    _turn_wheel(child, turn)
                assert getattr(child, read)() == before
                _turn_wheel(child, -120 if kind is QComboBox else 120)
                assert getattr(child, read)() == before
                tried += 1
    assert tried > 6


def _turn_wheel(widget: Any, turn: int) -> None:
    middle = QPointF(widget.rect().center())
    event = QWheelEvent(
        middle,
        QPointF(widget.mapToGlobal(widget.rect().center())),
        QPoint(),
        QPoint(0, turn),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


def test_docks_are_open_again_as_they_were_left_and_the_window_fits_its_screen(
    run: Path, open_new_window: Callable[..., Any]
) -> None:
    from napari.settings import get_settings

    first = open_new_window(run)
    assert list(_docks(first)) == ["Run browser"]
    for name in ("Panels", "Export", "Compare"):
        open_dock(first, name)
    wait(lambda: _in_front(first) == ["Compare"])
    open_dock(first, "Export")
    first.window.remove_dock_widget(first.window.dock_widgets[dock_name("Compare")])
    docks = list(_docks(first).values())
    _main(first).resizeDocks(docks, [444] * len(docks), Qt.Orientation.Horizontal)
    wait(lambda: _in_front(first) == ["Export"] and _docks(first)["Export"].width() == 444)
    first.close()
    get_settings().application.window_size = (3000, 2000)
    get_settings().application.window_position = (1200, 700)
    second = open_new_window(run)
    wait(lambda: _in_front(second) == ["Export"])
    assert set(_docks(second)) == {"Run browser", "Panels", "Export"}
    wait(lambda: _docks(second)["Export"].width() == 444)
    screen = _main(second).screen().availableGeometry()
    assert screen.contains(_main(second).frameGeometry())


def test_a_damaged_memory_of_docks_is_none(window: Any, subtests: pytest.Subtests) -> None:
    from napari.settings import get_settings

    memory = Path(get_settings().config_path).with_name("i2am-docks.json")
    unknown = json.dumps({"open": ["x", 1], "front": [], "width": "a"})
    for written in ("", "[]", '{"open": 3}', "\xff", unknown):
        with subtests.test(written):
            memory.write_text(written, encoding="latin-1")
            reopen_docks(window)
            assert list(_docks(window)) == ["Run browser"]
    memory.unlink()
