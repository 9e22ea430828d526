"""One browser for the tests of a file: its driver has an event loop, which others must not meet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real browser without a window; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = (shutil.which(name) for name in _NAMES)
    chromium = os.environ.get("CHROMIUM") or next((path for path in found if path), None)
    if chromium is None:
        pytest.skip("there is no Chromium: name one in CHROMIUM")
    with playwright.sync_playwright() as running:
        # As root, which containers are, Chromium has no sandbox.
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
