"""How the pictures lie in the window: as large as they can be, with the text beside and not over them."""

from __future__ import annotations

from textwrap import wrap
from typing import Any, Final

import numpy as np

__all__ = ["Fit", "wrapped"]

_MARGIN_PX: Final = 16
_CAPTION_PX: Final = 8  # The scene has room for the upper captions itself.
_LINE_PX: Final = 19  # of the text in the lower left, with what lies between lines
_LETTER_PX: Final = 7.5
_LEAST_LETTERS: Final = 24
# So many there are mostly: sliders that move should not move the pictures.
_LEAST_LINES: Final = 5


def wrapped(text: str, width_px: float) -> str:
    """Return text whose lines are no wider than the canvas."""
    letters = max(_LEAST_LETTERS, int((width_px - 2 * _MARGIN_PX) / _LETTER_PX))
    return "\n".join(part for line in text.splitlines() for part in wrap(line, letters) or [""])


class Fit:
    """Fits the view to the scene, and fits it again when the window's size changes."""

    def __init__(self) -> None:
        self._fitted: tuple[float, ...] | None = None
        self._lines = _LEAST_LINES

    def fit(self, viewer: Any, lines: int = 0) -> None:
        """Show the whole scene, with room below it for lines of text."""
        viewer.reset_view()
        self._lines = max(lines, _LEAST_LINES)
        if viewer.dims.ndisplay == 2 and len(viewer.layers):
            self._leave_room(viewer)
        self._fitted = _state(viewer)

    def follow(self, viewer: Any) -> None:
        """Fit the view again to a window of another size; what a user has moved or enlarged stays."""
        if self._is_fitted(viewer):
            self.fit(viewer, self._lines)

    def make_room(self, viewer: Any, lines: int) -> None:
        """Fit the view again where there are more lines of text than it has room for."""
        if lines > self._lines and self._is_fitted(viewer):
            self.fit(viewer, lines)

    def _is_fitted(self, viewer: Any) -> bool:
        """Whether the view is as it was fitted; drawing rounds it a little."""
        state = _state(viewer)
        known = self._fitted
        return (
            known is not None and len(known) == len(state) and np.allclose(known, state, rtol=1e-4)
        )

    def _leave_room(self, viewer: Any) -> None:
        canvas_height, canvas_width = viewer.canvas.size
        (top, left), (bottom, right) = viewer.layers.extent.world[:, list(viewer.dims.displayed)]
        height, width = bottom - top, right - left
        below = _MARGIN_PX + _LINE_PX * self._lines
        room = canvas_height - _CAPTION_PX - below
        if room <= 0 or height <= 0 or width <= 0:
            return
        camera = viewer.scene.camera
        camera.zoom = min(room / height, (canvas_width - 2 * _MARGIN_PX) / width)
        # Between the captions and the text; in the middle where there is room enough.
        spare = canvas_height - height * camera.zoom
        above = min(spare / 2, spare - below)
        middle = top + (canvas_height / 2 - above) / camera.zoom
        camera.center = (*camera.center[:-2], middle, (left + right) / 2)


def _state(viewer: Any) -> tuple[float, ...]:
    camera = viewer.scene.camera
    return (*camera.center, camera.zoom, *camera.angles, viewer.dims.ndisplay)
