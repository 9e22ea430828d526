"""Let a window live until something is so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from qtpy.QtTest import QTest

__all__ = ["wait"]

_POLL_MS: Final = 5


def wait(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Handle the window's events until `is_so`; fail when that takes too long."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        QTest.qWait(_POLL_MS)  # Also deletes what waits for it, as a running application does.
