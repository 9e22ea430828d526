"""Picking with the mouse: a click takes one patch, a drag with Shift an area."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from i2am.viewer.notices import show_status
from i2am.viewer.picking.pick import Pick, Side, pick_in

if TYPE_CHECKING:
    from i2am.viewer.scene.placement import PlacedImage
    from i2am.viewer.session.session import Session

__all__ = ["MousePicker", "PickHandler"]

_STILL_PX: Final = 4  # A hand shakes: less is no drag.
_BOX_KEY: Final = ("Shift",)
_TURNED: Final = "Patches are asked where pictures lie flat: in 2-D, y down and x to the right."

Point = tuple[float, float]


class PickHandler(Protocol):
    """Handles picks of the mouse. They name no layers, steps and heads yet."""

    def prefetch(self, pick: Pick, view_index: int) -> None:
        """Prepare the result: a press may become this pick."""

    def cancel_prefetch(self) -> None:
        """Drop what was prepared: the press has become a drag."""

    def ask(self, pick: Pick, view_index: int) -> None:
        """Show the SRAM of a pick."""

    def preview_area(self, pick: Pick, view_index: int) -> None:
        """Show an area that is being picked."""


class _ImagePoint(NamedTuple):
    """A point in one of the images."""

    view_index: int
    side: Side
    placed: PlacedImage
    point: Point


class MousePicker:
    """Turns presses of a window's mouse into picks.

    Parameters
    ----------
    session : Session
    handler : PickHandler
    """

    def __init__(self, session: Session, handler: PickHandler) -> None:
        self._session, self._handler = session, handler
        session.viewer.mouse_drag_callbacks.append(self._on_press)

    def close(self) -> None:
        """Handle no further presses."""
        viewer = self._session.viewer
        if viewer is not None and self._on_press in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._on_press)

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release, as napari has it: one step an event."""
        if self._is_turned(event):
            show_status(viewer, _TURNED)
            return
        start = self._point_in_image(event)
        is_area = tuple(event.modifiers) == _BOX_KEY
        if start is None or not self._is_ours(event, is_area=is_area):
            return
        camera = viewer.scene.camera
        could_pan = camera.mouse_pan
        if is_area:
            camera.mouse_pan = False  # The image stays while an area is drawn on it.
        self._handler.prefetch(self._pick(start, start.point), start.view_index)
        try:
            yield
            is_drag = False
            while event.type == "mouse_move":
                if not is_drag and math.dist(_point(event), start.point) * camera.zoom > _STILL_PX:
                    is_drag = True
                    self._handler.cancel_prefetch()
                if is_area and is_drag:
                    self._handler.preview_area(self._pick(start, _point(event)), start.view_index)
                yield
        finally:
            camera.mouse_pan = could_pan
        if is_area or not is_drag:
            end = _point(event) if is_drag else start.point
            self._handler.ask(self._pick(start, end), start.view_index)

    def _is_turned(self, event: Any) -> bool:
        """Whether this press would pick, were the pictures seen as they lie."""
        viewer = self._session.viewer
        plane = (viewer.dims.ndim - 2, viewer.dims.ndim - 1)
        return bool(
            self._session.views
            and event.button == 1
            and tuple(event.modifiers) in ((), _BOX_KEY)
            and tuple(viewer.dims.displayed) != plane
        )

    def _is_ours(self, event: Any, *, is_area: bool) -> bool:
        """Whether this press picks; not where a layer's tool needs the mouse."""
        viewer = self._session.viewer
        mode = str(getattr(viewer.layers.selection.active, "mode", "pan_zoom"))
        return bool(event.button == 1 and (is_area or not event.modifiers) and mode == "pan_zoom")

    def _point_in_image(self, event: Any) -> _ImagePoint | None:
        point = _point(event)
        for view_index, (view, placed) in enumerate(
            zip(self._session.views, self._session.placed, strict=True)
        ):
            sides: tuple[Side, Side] = ("generated", "reference")
            for side in sides:
                if side in view.images and placed[side].contains(*point):
                    return _ImagePoint(view_index, side, placed[side], point)
        return None

    def _pick(self, start: _ImagePoint, end: Point) -> Pick:
        view = self._session.views[start.view_index]
        return pick_in(view, start.side, start.placed, (start.point, end))


def _point(event: Any) -> Point:
    y, x = event.position[-2:]
    return float(y), float(x)
