"""How the canvas is laid out: the view fitted to the pictures, captions above them, text below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from i2am.viewer.data.sample import SampleView
from i2am.viewer.scene.camera import Fit, wrapped
from i2am.viewer.scene.layers import caption_texts, size_captions, write_captions
from i2am.viewer.scene.placement import PlacedImage

__all__ = ["Screen"]

Placed = Sequence[Mapping[str, PlacedImage]]


class Screen:
    """The view, the captions and the text of a window."""

    def __init__(self) -> None:
        self._fit = Fit()

    def fit(self, viewer: Any, placed: Placed) -> None:
        """Show all pictures as large as they can be, with the text below them."""
        self._fit.fit(viewer)
        self._size_captions(viewer, placed)

    def follow(self, viewer: Any, placed: Placed) -> None:
        """Fit the view to a window of another size, unless the user has moved or enlarged it."""
        self._fit.follow(viewer)
        self._size_captions(viewer, placed)

    def write_captions(
        self,
        viewer: Any,
        views: Sequence[SampleView],
        placed: Placed,
        view_index: int,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        """Write above the images of a sample in view what they are, and what lies over them."""
        beside = views[1 - view_index] if len(views) > 1 else None
        write_captions(viewer, view_index, caption_texts(views[view_index], shown, beside))
        self._size_captions(viewer, placed)

    def write(self, viewer: Any, text: str) -> None:
        """Write text into the lower left, no wider than the canvas."""
        overlay, text = viewer.canvas.overlays.text, wrapped(text, viewer.canvas.size[1])
        if overlay.text != text:
            overlay.text = text
            self._fit.make_room(viewer, len(text.splitlines()))

    def _size_captions(self, viewer: Any, placed: Placed) -> None:
        for view_index, own in enumerate(placed):
            size_captions(viewer, view_index, own["generated"].width * viewer.scene.camera.zoom)
