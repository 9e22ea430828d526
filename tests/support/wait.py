"""Let a window live until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable

from qtpy.QtWidgets import QApplication

__all__ = ["wait"]


def wait(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Handle the window's events until `is_so`; fail when that takes too long."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        QApplication.processEvents()
        time.sleep(0.005)
