"""A page in a browser: what it asked for, what it complained of, and what it says."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import numpy as np

__all__ = ["Visit", "visiting"]

# Dispatches a pointer at the centre of each cell of a grid over the whole canvas, and reads the words.
_READ = """([side, rows, columns]) => {
  const figure = document.querySelectorAll('.picture')[side];
  const canvas = figure.querySelector('canvas'), shown = canvas.getBoundingClientRect();
  const words = [];
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const clientX = shown.left + (column + 0.5) * shown.width / columns;
    const clientY = shown.top + (row + 0.5) * shown.height / rows;
    canvas.dispatchEvent(new PointerEvent('pointermove', {clientX, clientY, bubbles: true}));
    words.push(figure.querySelector('.readout').textContent);
  }
  return words;
}"""
_AXE = "axe.run().then(found => found.violations.map(one => [one.id, one.impact]))"


class Visit:
    """A page that is open."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.requests: list[str] = []
        origin = re.match(r"\w+://[^/]*", url)
        self._origin = origin[0] if origin else url
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", self._refuse)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _refuse(self, dialog: Any) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def outside(self, *allowed: str) -> list[str]:
        """Return the requests that went elsewhere than to the page's own origin."""
        own = ("data:", "blob:", self._origin, *allowed)
        return [url for url in self.requests if not url.startswith(own)]

    def open(self, sample: str) -> None:
        self.page.get_by_role("button", name=sample, exact=True).click()
        self.page.get_by_role("heading", name=sample, exact=True).wait_for()
        self.wait_for_maps()

    def wait_for_maps(self) -> None:
        """Wait until both pictures have a map, whose ends are told below it."""
        for side in range(2):
            ends = self.page.locator(".picture").nth(side).locator(".scale span")
            ends.filter(has_text=re.compile(r"\d")).first.wait_for()

    def click(self, side: int, y: float, x: float) -> None:
        """Click a picture, 0 the generated and 1 the reference, at shares of its sides."""
        canvas = self.page.locator(".picture canvas").nth(side)
        box = canvas.bounding_box()
        canvas.click(position={"x": x * box["width"], "y": y * box["height"]})
        told = self.page.locator(".asked", has_text="Attention of the patch")
        told.filter(has_not_text="So far").wait_for()

    def values(self, side: int, grid: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return what the page says of each cell of a map, to three digits."""
        words = self.page.evaluate(_READ, [side, *grid])
        found = [re.search(r": ([-\d.e+]+)", one) for one in words]
        numbers = [math.nan if one is None else float(one[1]) for one in found]
        return np.array(numbers).reshape(grid)

    def serious_faults(self) -> list[Any]:
        """Return what axe finds that keeps people out."""
        axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
        self.page.evaluate(axe)
        return [one for one in self.page.evaluate(_AXE) if one[1] in ("serious", "critical")]


@contextmanager
def visiting(browser: Any, url: str, width: int = 1400, scheme: str = "light") -> Iterator[Visit]:
    """Open a page in a window of its own; what went wrong in it is in `faults`."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    try:
        yield Visit(context.new_page(), url)
    finally:
        context.close()
