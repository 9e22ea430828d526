"""A real napari window without a screen: what must stand before Qt is imported, and fixtures."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
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


@pytest.fixture
def open_window(make_napari_viewer: Any) -> Callable[..., Any]:
    """Return `open_viewer` whose windows napari's own fixture closes and checks for leaks."""
    from i2am.viewer import open_viewer

    def open_window(path: Path, **options: Any) -> Any:
        return make_napari_viewer(
            ViewerClass=lambda **_: open_viewer(path, **options, show=True), show=True
        )

    return open_window
