"""Say in one line why no window can open.

Without a display Qt aborts the process, or napari fails deep inside OpenGL, so both are looked for
before napari is asked for anything.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import sys

from i2am.schemas.errors import I2AMError, MissingExtra
from i2am.schemas.optional import require

__all__ = ["check_display", "check_qt"]


def check_display() -> None:
    """Raise unless a graphical display can be reached.

    Raises
    ------
    I2AMError
        On Linux, if neither ``DISPLAY`` nor ``WAYLAND_DISPLAY`` is set, or ``DISPLAY`` does not
        answer.
    """
    if sys.platform != "linux" or os.environ.get("WAYLAND_DISPLAY"):
        return
    display = os.environ.get("DISPLAY", "")
    if display and _answers(display):
        return
    came = f"DISPLAY={display}, which does not answer" if display else "DISPLAY is not set"
    msg = (
        f"Expected a graphical display for the napari window, got none: {came}. "
        "Run in a desktop session or over 'ssh -X', or put 'xvfb-run -a' before the command."
    )
    raise I2AMError(msg)


def check_qt() -> None:
    """Raise unless napari and one of the Qt bindings are there.

    Raises
    ------
    MissingExtra
        If napari, qtpy or every Qt binding is missing.
    I2AMError
        If the binding is installed but lacks a system library.
    """
    require("napari", "to open the viewer", "viewer")
    try:
        require("qtpy", "to open the viewer", "viewer")
        importlib.import_module("qtpy.QtWidgets")
    except MissingExtra:
        raise
    except (ImportError, RuntimeError) as e:  # qtpy's own "no bindings" error is a RuntimeError
        if ".so" in str(e):
            msg = (
                f"Expected a Qt binding that loads, got: {e}. "
                "Install the system library that it names."
            )
            raise I2AMError(msg) from e
        msg = (
            "A Qt binding is needed to open the viewer, got none; "
            "install one with pip install 'napari[pyqt6]'."
        )
        raise MissingExtra(msg, name="PyQt6") from e


def _answers(display: str) -> bool:
    match = re.fullmatch(r"(?P<host>.*):(?P<number>\d+)(\.\d+)?", display)
    if match is None:
        return False
    host, number = match["host"], int(match["number"])
    if host in ("", "unix"):
        path = f"/tmp/.X11-unix/X{number}"  # where every X server listens
        return _connects(socket.AF_UNIX, path) or _connects(socket.AF_UNIX, f"\0{path}")
    return _connects(socket.AF_INET, (host.rpartition("/")[2], 6000 + number))


def _connects(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True
