"""Picking with the mouse: a click takes one patch, a drag with Shift an area."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from i2am.viewer.picking.pick import Pick, Side, pick_in

if TYPE_CHECKING:
    from i2am.viewer.scene.layers import Box
    from i2am.viewer.session.session import Session

__all__ = ["Listener", "Picker"]

_STILL_PX: Final = 4  # A hand shakes: less is no drag.
_BOX_KEY: Final = ("Shift",)

Point = tuple[float, float]


class Listener(Protocol):
    """What is told of the mouse. Picks name no layers, steps and heads yet."""

    def expect(self, pick: Pick, row: int) -> None:
        """Get ready: a press may become this pick."""

    def forget(self) -> None:
        """Know that it does not."""

    def take(self, pick: Pick, row: int) -> None:
        """Ask what was picked."""

    def band(self, pick: Pick, row: int) -> None:
        """Show how far an area reaches that is being picked."""


class _Spot(NamedTuple):
    """A point in one of the pictures."""

    row: int
    side: Side
    box: Box
    point: Point


class Picker:
    """Listens to a window's mouse.

    Parameters
    ----------
    session : Session
    listener : Listener
    """

    def __init__(self, session: Session, listener: Listener) -> None:
        self._session, self._listener = session, listener
        session.viewer.mouse_drag_callbacks.append(self._on_press)

    def _on_press(self, viewer: Any, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release, as napari has it: one step an event."""
        spot = self._spot(event)
        is_area = tuple(event.modifiers) == _BOX_KEY
        if spot is None or not self._is_ours(event, is_area=is_area):
            return
        camera = viewer.scene.camera
        could_pan = camera.mouse_pan
        if is_area:
            camera.mouse_pan = False  # The picture stays while an area is drawn on it.
        self._listener.expect(self._pick(spot, spot.point), spot.row)
        try:
            yield
            is_drag = False
            while event.type == "mouse_move":
                if not is_drag and math.dist(_point(event), spot.point) * camera.zoom > _STILL_PX:
                    is_drag = True
                    self._listener.forget()
                if is_area and is_drag:
                    self._listener.band(self._pick(spot, _point(event)), spot.row)
                yield
        finally:
            camera.mouse_pan = could_pan
        if is_area or not is_drag:
            end = _point(event) if is_drag else spot.point
            self._listener.take(self._pick(spot, end), spot.row)

    def _is_ours(self, event: Any, *, is_area: bool) -> bool:
        """Whether this press asks; not where a layer's tool, or a turned view, needs the mouse."""
        viewer = self._session.viewer
        mode = str(getattr(viewer.layers.selection.active, "mode", "pan_zoom"))
        axes = tuple(viewer.dims.displayed)
        return bool(
            event.button == 1
            and (is_area or not event.modifiers)
            and mode == "pan_zoom"
            and axes == (viewer.dims.ndim - 2, viewer.dims.ndim - 1)
        )

    def _spot(self, event: Any) -> _Spot | None:
        point = _point(event)
        for number, (row, boxes) in enumerate(
            zip(self._session.rows, self._session.boxes, strict=True)
        ):
            sides: tuple[Side, Side] = ("generated", "reference")
            for side in sides:
                if side in row.images and boxes[side].holds(*point):
                    return _Spot(number, side, boxes[side], point)
        return None

    def _pick(self, spot: _Spot, end: Point) -> Pick:
        row = self._session.rows[spot.row]
        return pick_in(row, spot.side, spot.box, (spot.point, end))


def _point(event: Any) -> Point:
    y, x = event.position[-2:]
    return float(y), float(x)
