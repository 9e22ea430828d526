"""A real napari window without a screen: what must stand before Qt is imported, and fixtures."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import write_run


def _start_virtual_display() -> None:
    """Set DISPLAY to a virtual X server, which ends with this process."""
    read, write = os.pipe()
    screen = ["-screen", "0", "1600x1000x24"]
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), *screen, "-nolisten", "tcp", "-noreset"],
        pass_fds=(write,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as answer:
        os.environ["DISPLAY"] = ":" + answer.readline().strip()
    atexit.register(server.wait, 5)
    atexit.register(server.terminate)


if sys.platform == "linux":
    if not os.environ.get("DISPLAY") and shutil.which("Xvfb"):
        _start_virtual_display()
    # Qt's offscreen platform gives blank pictures without an error.
    os.environ["QT_QPA_PLATFORM"] = "xcb"
# A user's settings and window geometry stay out of the tests.
_settings = tempfile.mkdtemp()
atexit.register(shutil.rmtree, _settings, ignore_errors=True)
os.environ["NAPARI_CONFIG"] = str(Path(_settings) / "settings.yaml")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples; the first has hand-made maps in the store beside it."""
    path = write_run(tmp_path / "run.zarr", ("first", "second"))
    first = {"r2g": spot_volume(), "g2r": spot_volume()[..., ::-1]}
    write_maps(tmp_path / "maps.zarr", {"first": first})
    return path


# Roles of layers that are made before a first click; to make them is half of filling a window.
_PREPARED = {"sram", "pick"}
# What a test may change of a layer, besides what is shown in it.
_CHANGEABLE = ("visible", "opacity", "interpolation2d", "mode", "gamma", "colormap")


class SharedWindow:
    """One window for all tests: to fill a new one takes longer than most of them.

    A test's run takes the place of the one before, as when a user opens a second run. What a test
    did to the window is undone; layers that it removed or moved are made anew.
    """

    def __init__(self) -> None:
        self._viewer: Any = None
        self._state: dict[Any, dict[str, Any]] = {}
        self._application = ExitStack()

    def show(self, path: Path) -> Any:
        """Show a run as `open_viewer` does, and return the napari viewer."""
        from i2am.viewer import open_viewer
        from i2am.viewer.data.open_sample import open_view
        from i2am.viewer.window import show_view

        if self._viewer is None:
            _forget_docks()
            self._application.enter_context(_own_napari_application())
            self._viewer = open_viewer(path)
            # As in tests/conftest.py: what the first window imports and makes is not walked over
            # each time that napari removes a layer.
            gc.freeze()
        else:
            self._restore()
            show_view(self._viewer, open_view(path))
        self._state = self._layers_state()
        return self._viewer

    def close(self) -> None:
        """Close the window, if it is open; napari's own fixture counts those that are."""
        if self._viewer is not None:
            from napari._qt.qt_viewer import QtViewer

            self._viewer.close()
            self._viewer = None
            gc.unfreeze()
            gc.collect()
            self._application.close()
            assert not len(QtViewer._instances), "something holds a window that is closed"

    def _restore(self) -> None:
        from napari.settings import get_settings
        from qtpy.QtWidgets import QApplication

        from i2am.viewer.picking.sram_controller import sram_controller_of
        from i2am.viewer.scene.appearance import Appearance
        from i2am.viewer.scene.layers import remove_layers
        from i2am.viewer.session.attach import session_of

        viewer, session = self._viewer, session_of(self._viewer)
        for name, widget in list(viewer.window.dock_widgets.items()):
            if name != "Run browser (i2am)":
                viewer.window.remove_dock_widget(widget)
                widget.deleteLater()
        viewer.dims.ndisplay = 2
        session.set_shows_effects(False)
        session.set_averaged_dims(frozenset())
        session.set_appearance(**asdict(Appearance()))
        sram_controller_of(session).clear()
        if len(session.views) > 1:
            session.stop_comparing()
        state = {layer: kept for layer, kept in self._state.items() if layer in viewer.layers}
        roles = {_role(layer) for layer in self._state} | _PREPARED
        remove_layers(viewer, [layer for layer in viewer.layers if _role(layer) not in roles])
        for layer, kept in state.items():
            for name, value in kept.items():
                own = getattr(layer, name)
                is_same = own.name == value.name if name == "colormap" else own == value
                if not is_same:
                    setattr(layer, name, value)
        if list(state) != [layer for layer in viewer.layers if _role(layer) not in _PREPARED]:
            viewer.layers.clear()
        viewer.canvas.overlays.text.visible = True
        if viewer.theme != (theme := get_settings().appearance.theme):
            viewer.theme = theme
        QApplication.processEvents()

    def _layers_state(self) -> dict[Any, dict[str, Any]]:
        """Return what a test may change of each layer, besides what is shown in it."""
        return {
            layer: {name: getattr(layer, name) for name in _CHANGEABLE if hasattr(layer, name)}
            for layer in self._viewer.layers
            if _role(layer) not in _PREPARED
        }


@contextmanager
def _own_napari_application() -> Iterator[None]:
    """Register napari's and the plugins' commands anew, as napari's fixture does for its windows."""
    from napari._app_model._app import NapariApplication, _napari_names
    from napari._qt._qapp_model.qactions import init_qactions
    from napari.plugins import _initialize_plugins

    application = NapariApplication("i2am-tests")
    application.injection_store.namespace = _napari_names
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NapariApplication, "get_app_model", lambda: application)
        # napari's fixture does without this thread, too.
        patch.setattr("napari._qt.threads.status_checker.StatusChecker.start", lambda _: None)
        yield
    NapariApplication.destroy("i2am-tests")
    for registered in (_initialize_plugins, init_qactions):
        registered.cache_clear()


def _role(layer: Any) -> str | None:
    """Return which of a sample's layers this is; None if it is none of ours."""
    from i2am.viewer.scene.layers import own_metadata

    role: str | None = (own_metadata(layer) or {}).get("role")
    return role


@pytest.fixture(scope="package")
def shared_window(qapp: Any) -> Iterator[SharedWindow]:
    window = SharedWindow()
    yield window
    window.close()


@pytest.fixture
def open_window(shared_window: SharedWindow) -> Callable[[Path], Any]:
    """Return `open_viewer`, in a window that the tests share."""
    return shared_window.show


@pytest.fixture
def _without_shared_window(shared_window: SharedWindow) -> None:
    shared_window.close()
    _forget_docks()


def _forget_docks() -> None:
    """Have the next window open with the docks of a first start."""
    (Path(_settings) / "i2am-docks.json").unlink(missing_ok=True)


@pytest.fixture
def make_napari_viewer(_without_shared_window: None, make_napari_viewer: Any) -> Any:
    """Return napari's own fixture, which wants no other window to be open."""
    return make_napari_viewer


@pytest.fixture
def open_new_window(make_napari_viewer: Any) -> Callable[..., Any]:
    """Return `open_viewer` whose windows napari's own fixture closes and checks for leaks."""
    from i2am.viewer import open_viewer

    def open_new_window(path: Path, **options: Any) -> Any:
        return make_napari_viewer(
            ViewerClass=lambda **_: open_viewer(path, **options, show=True), show=True
        )

    return open_new_window
