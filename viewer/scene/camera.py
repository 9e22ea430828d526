"""How the pictures lie in the window: as large as they can be, with the text beside and not over them."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["Fit"]

_MARGIN_PX: Final = 16
_CAPTION_PX: Final = 8  # The scene has room for the upper captions itself.
_LINE_PX: Final = 15  # of the text in the lower left, with what lies between lines


class Fit:
    """Fits the view to the scene, and fits it again when the window's size changes."""

    def __init__(self) -> None:
        self._fitted: tuple[float, ...] | None = None
        self._lines = 0

    def fit(self, viewer: Any, lines: int) -> None:
        """Show the whole scene, with room below it for lines of text."""
        viewer.reset_view()
        self._lines = lines
        if viewer.dims.ndisplay == 2 and len(viewer.layers):
            self._leave_room(viewer)
        self._fitted = _state(viewer)

    def follow(self, viewer: Any, lines: int | None = None) -> None:
        """Fit again what is as it was fitted; what a user has moved or enlarged stays.

        Parameters
        ----------
        viewer : napari.Viewer
        lines : int, optional
            Of the text now; as before if left out.
        """
        is_users = self._fitted is not None and _state(viewer) != self._fitted
        if not is_users and viewer.dims.ndisplay == 2:
            self.fit(viewer, self._lines if lines is None else lines)

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
        camera.center = (*camera.center[:-2], middle, camera.center[-1])


def _state(viewer: Any) -> tuple[float, ...]:
    camera = viewer.scene.camera
    return (*camera.center, camera.zoom, *camera.angles, viewer.dims.ndisplay)
