"""An SRAM in the window: a map over the image, with outlines of the pick and of the highest patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.boxes import Box
from i2am.viewer.picking.overlay import Drawing, Outlines, Overlay, Rectangle, outline_of
from i2am.viewer.picking.pick import Pick, patch_of
from i2am.viewer.scene.contrast import Limits
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.scene.placement import PlacedImage, cell_box

if TYPE_CHECKING:
    from i2am.viewer.session.session import Session

__all__ = ["SramLayers"]


class SramLayers:
    """The layers "SRAM" and "pick" of one sample in view.

    Parameters
    ----------
    session : Session
    view_index : int
        Of the sample in view that they belong to.

    Attributes
    ----------
    outlines : Outlines
        Also of what else is shown of a pick.
    """

    def __init__(self, session: Session, view_index: int) -> None:
        self._session, self._view_index = session, view_index
        self._answer = Overlay(session, view_index, "SRAM", "sram")
        self.outlines = Outlines(session, view_index)
        self._is_prepared = False
        self._covered: Any = None  # the layer of maps that is hidden meanwhile

    def prepare(self, pick: Pick, shape: tuple[int, ...]) -> None:
        """Make the layers, and have them drawn clear: both would have a first click wait.

        Until `end_preparation`.

        Parameters
        ----------
        pick : Pick
            Of the side that is likely to be picked.
        shape : (height, width)
            Of its SRAM.
        """
        if self._answer.is_there or self.outlines.is_there:
            return
        placed = self._placed(pick.target_side)
        drawing = Drawing.of_appearance(
            self._session.appearance, placed.over_box(shape), (0.0, 1.0)
        )
        maps = self._map_layer(pick)
        self._answer.show(
            np.full(shape, np.nan, np.float32),
            drawing,
            interpolation="linear" if maps is None else maps.interpolation2d,
            index=lambda: self._above(pick),
        )
        own = self._placed(pick.side)
        self.outlines.draw(own, self._pick_rectangle(pick), opacity=0)
        self._is_prepared = True

    def end_preparation(self) -> None:
        """Hide what was prepared, as long as nothing is shown in it."""
        if self._is_prepared:
            self._is_prepared = False
            self._answer.hide()
            self.outlines.hide()
            if self.outlines.is_there:
                self.outlines.layer.opacity = 1

    def outline(self, pick: Pick) -> None:
        """Draw an outline around what was picked."""
        self.outlines.draw(self._placed(pick.side), self._pick_rectangle(pick))

    def preview_area(self, pick: Pick) -> None:
        """Draw a rectangle around an area as long as it is being picked."""
        placed = self._placed(pick.side)
        self.outlines.draw(placed, outline_of(placed, Box(*pick.area)))

    def show(self, pick: Pick, values: NDArray[Any], limits: Limits) -> None:
        """Show an SRAM in place of the maps on its image, and outline where it is highest."""
        placed = self._placed(pick.target_side)
        drawing = Drawing.of_appearance(
            self._session.appearance, placed.over_box(values.shape), limits
        )
        maps = self._map_layer(pick)
        self._answer.show(
            values,
            drawing,
            interpolation="linear" if maps is None else maps.interpolation2d,
            index=lambda: self._above(pick),
        )
        self._cover(pick)
        self._caption(pick)
        row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
        height, width = values.shape
        brightest = cell_box(placed.box, (height, width), int(row), int(column))
        own = self._placed(pick.side)
        self.outlines.draw(own, self._pick_rectangle(pick), outline_of(placed, brightest))

    def hide_sram(self) -> None:
        """Hide the SRAM, and show the maps on its image again."""
        self._answer.hide()
        self._uncover()
        self._caption(None)

    def hide(self) -> None:
        """Hide SRAM and outlines."""
        self.hide_sram()
        self.outlines.hide()

    def leave(self) -> None:
        """Take the layers away if their images lie elsewhere now."""
        self._answer.leave()
        self.outlines.leave()

    def remove(self) -> None:
        """Take the layers away: their sample is gone."""
        self._covered = None
        self._answer.remove()
        self.outlines.remove()

    @property
    def _view(self) -> Any:
        return self._session.views[self._view_index]

    def _placed(self, side: str) -> PlacedImage:
        return self._session.placed[self._view_index][side]

    def _pick_rectangle(self, pick: Pick) -> Rectangle:
        """Return the patch that holds a picked pixel, or the area that was picked."""
        area = patch_of(pick, self._view) if pick.is_point else Box(*pick.area)
        return outline_of(self._placed(pick.side), area)

    def _above(self, pick: Pick) -> int:
        """Return the index above the maps on the SRAM's image, or above that image."""
        layers = self._session.viewer.layers
        own = own_layers(self._session.viewer, self._view_index)
        below = self._map_layer(pick) or own.get(pick.target_side)
        return len(layers) if below is None else int(layers.index(below)) + 1

    def _cover(self, pick: Pick) -> None:
        maps = self._map_layer(pick)
        if maps is self._covered:
            return
        self._uncover()
        if maps is not None and maps.visible:
            maps.visible = False
            self._covered = maps

    def _uncover(self) -> None:
        if self._covered is not None:
            self._covered.visible = True
        self._covered = None

    def _caption(self, pick: Pick | None) -> None:
        """Write above the images which map lies over them."""
        shown: dict[str, str] = {} if pick is None else {pick.target_side: "SRAM"}
        self._session.write_captions(self._view_index, shown)

    def _map_layer(self, pick: Pick) -> Any:
        direction = "g2r" if pick.side == "generated" else "r2g"
        return own_layers(self._session.viewer, self._view_index).get(direction)
