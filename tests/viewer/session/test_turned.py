"""napari's own buttons for the third axis, rolling and transposing: the words follow what is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from tests.support.maps_store import spot_volume
from tests.support.wait import wait


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: bool(session.samples) and session.share_loaded == 1)
    session.go_to(layer=1, step=2, head=1)
    session.refresh()
    return viewer


def _buttons(viewer: Any) -> Any:
    return viewer.window._qt_viewer.viewerButtons


def _text(viewer: Any) -> str:
    session_of(viewer).refresh()
    return str(viewer.canvas.overlays.text.text)


def test_the_third_axis_of_naparis_own_button_is_named(window: Any) -> None:
    session, before = session_of(window), _text(window)
    camera = window.scene.camera.zoom
    _buttons(window).ndisplayButton.click()
    assert window.dims.ndisplay == 3
    assert session.displayed_axes == ("head", "y", "x")
    assert not session.is_volume
    text = _text(window)
    assert "heads 0 (at the pictures) to 1" in text
    assert "step 2: timestep" in text
    assert "timesteps" not in text
    np.testing.assert_array_equal(window.layers["R2G"]._slice.image.raw, spot_volume()[1, 2])
    assert not window.layers["captions"].visible
    browser = window.window.dock_widgets["Run browser (i2am)"]
    assert not browser.volume.isChecked()
    # From there to our own, and back with napari's button.
    session.set_volume(True)
    assert "timesteps 981 (at the pictures) to 1" in _text(window)
    assert browser.volume.isChecked()
    _buttons(window).ndisplayButton.click()
    assert window.dims.ndisplay == 2
    assert tuple(window.dims.order) == tuple(range(6))
    assert window.layers["captions"].visible
    assert not browser.volume.isChecked()
    assert session.position == (1, 2, 1)
    assert _text(window) == before
    assert window.scene.camera.zoom == pytest.approx(camera, rel=0.02)


def test_what_is_rolled_or_transposed_is_said_to_be_so(window: Any) -> None:
    before = _text(window)
    for button, words in (
        (_buttons(window).transposeDimsButton, "transposed: x runs down"),
        (_buttons(window).rollDimsButton, "turned: what is seen is"),
    ):
        button.click()
        assert words in _text(window)
        assert not window.layers["captions"].visible
        window.dims.order = tuple(range(window.dims.ndim))
        assert _text(window) == before
        assert window.layers["captions"].visible


def test_a_click_on_what_is_turned_asks_nothing_and_says_why(window: Any) -> None:
    controller = sram_controller_of(session_of(window))
    native = window.window._qt_viewer.canvas.native
    height, width = window.canvas.size
    for turn in (lambda: setattr(window.dims, "ndisplay", 3), window.dims.transpose):
        window.status = "nothing"
        turn()
        QApplication.processEvents()
        QTest.mouseClick(native, Qt.MouseButton.LeftButton, pos=QPoint(width // 3, height // 2))
        assert controller.pick is None
        assert "in 2-D, y down and x to the right" in str(window.status)
        window.dims.ndisplay = 2
        window.dims.order = tuple(range(window.dims.ndim))
        QTest.qWait(500)  # or two clicks are a double click
