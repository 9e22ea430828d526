"""Picking with the mouse: a click takes one patch, a drag with Shift an area."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from i2am.viewer.pick import Pick, Side, pick_in

if TYPE_CHECKING:
    from i2am.viewer.layers import Box
    from i2am.viewer.session import Session

__all__ = ["Picker"]

_STILL_PX: Final = 4  # A hand shakes: less is no drag.
_BOX_KEY: Final = ("Shift",)

Point = tuple[float, float]


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
    picked : callable (Pick, row)
        Something was picked; the pick names no layers, steps and heads.
    drawn : callable (Pick, row)
        An area is being picked and reaches so far.
    """

    def __init__(
        self,
        session: Session,
        picked: Callable[[Pick, int], object],
        drawn: Callable[[Pick, int], object],
    ) -> None:
        self._session, self._picked, self._drawn = session, picked, drawn
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
        try:
            yield
            is_drag = False
            while event.type == "mouse_move":
                is_drag |= math.dist(_point(event), spot.point) * camera.zoom > _STILL_PX
                if is_area and is_drag:
                    self._drawn(self._pick(spot, _point(event)), spot.row)
                yield
        finally:
            camera.mouse_pan = could_pan
        if is_area or not is_drag:
            end = _point(event) if is_drag else spot.point
            self._picked(self._pick(spot, end), spot.row)

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
