"""What happens where no window can open, and what importing costs: each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

_OPEN = """
import json, os, sys
{before}
from i2am.schemas import I2AMError
from i2am.viewer import open_viewer
for variables in json.loads(sys.argv[2]):
    os.environ.update(variables)
    try:
        open_viewer(sys.argv[1])
    except I2AMError as e:
        print(type(e).__name__, e, sep=": ")
    for name in variables:
        del os.environ[name]
"""


def _open(run: Path, before: str = "", environments: Sequence[dict[str, str]] = ({},)) -> list[str]:
    """Return what a fresh process prints that opens a run without this one's display."""
    kept = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    done = subprocess.run(
        [sys.executable, "-c", _OPEN.format(before=before), str(run), json.dumps(environments)],
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_a_missing_display_is_one_clear_error(run: Path) -> None:
    cases = [
        ({}, "DISPLAY is not set"),
        ({"DISPLAY": ":4242"}, "DISPLAY=:4242, which does not answer"),
        ({"DISPLAY": "nonsense"}, "DISPLAY=nonsense, which does not answer"),
        ({"DISPLAY": "127.0.0.1:4242.0"}, "DISPLAY=127.0.0.1:4242.0, which does not answer"),
        ({"QT_QPA_PLATFORM": "offscreen"}, "DISPLAY is not set"),
    ]
    assert _open(run, environments=[variables for variables, _ in cases]) == [
        f"I2AMError: Expected a graphical display for the napari window, got none: {came}. "
        "Run in a desktop session or over 'ssh -X', or put 'xvfb-run -a' before the command."
        for _, came in cases
    ]


def test_a_missing_qt_binding_is_one_clear_error(run: Path) -> None:
    hide = "for name in ('PyQt5', 'PyQt6', 'PySide2', 'PySide6'): sys.modules[name] = None"
    assert _open(run, hide) == [
        "MissingExtra: A Qt binding is needed to open the viewer, got none; "
        "install one with pip install 'napari[pyqt6]'."
    ]


def test_a_missing_napari_is_one_clear_error(run: Path) -> None:
    hide = (
        "import importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'napari': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Hide())"
    )
    assert _open(run, hide) == [
        "MissingExtra: The napari package is needed to open the viewer; "
        "install with pip install 'i2am[viewer]'."
    ]


def test_a_wrong_path_is_told_before_the_display_is_asked_for(tmp_path: Path) -> None:
    (line,) = _open(tmp_path / "nothing.zarr")
    assert line.startswith("StoreError: Expected a store, got nothing")


@pytest.mark.parametrize("module", ["i2am.viewer", "i2am.viewer.reader"])
def test_importing_loads_neither_napari_nor_qt_nor_arrays(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"napari", "qtpy", "PyQt6", "xarray", "dask", "numpy", "zarr", "torch", "diffusers"}
    assert not heavy & set(done.stdout.split())
