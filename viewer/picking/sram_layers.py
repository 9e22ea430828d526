"""An SRAM in the window: a map over the image, with outlines of the pick and of the highest patch.

The layers are made once and their values then exchanged in place: to make or remove one costs napari
a quarter second, and to give it other data several times what it costs to draw them. Outlines are
points, since other lines have the graphics card's program linked anew: half of a redraw.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.boxes import Box
from i2am.schemas.dims import X, Y
from i2am.viewer.picking.pick import Pick, patch_of
from i2am.viewer.scene.contrast import contrast_limits, heat_colormap
from i2am.viewer.scene.layers import caption_texts, own_layers
from i2am.viewer.scene.placement import PlacedImage, cell_box

if TYPE_CHECKING:
    from i2am.viewer.session.session import Session

__all__ = ["SramLayers"]

Rectangle = tuple[float, float, float, float]  # top, left, height, width in world coordinates

# Squares dark and light by turns: visible on any image. Of the pick, then of the SRAM's highest patch.
_COLORS: Final = (("black", "white"), ("black", "cyan"))
_SQUARES: Final = 40  # of a side, at most; a longer one is dotted
_WIDTH: Final = 1 / 120  # of the image's height


class SramLayers:
    """The layers "SRAM" and "pick" of one sample in view.

    Parameters
    ----------
    session : Session
    view_index : int
        Of the sample in view that they belong to.
    """

    def __init__(self, session: Session, view_index: int) -> None:
        self._session, self._view_index = session, view_index
        self._answer: Any = None
        self._outlines: Any = None
        self._covered: Any = None  # the layer of maps that is hidden meanwhile
        # What was set last: each setting that is set again is drawn again.
        self._shown: dict[str, Any] = {}
        self._width = 0.0  # of the outlines

    def outline(self, pick: Pick) -> None:
        """Draw an outline around what was picked."""
        own = self._pick_rectangle(pick)
        self._draw(pick, own, own)

    def preview_area(self, pick: Pick) -> None:
        """Draw a rectangle around an area as long as it is being picked."""
        own = _rectangle(self._placed(pick.side), Box(*pick.area))
        self._draw(pick, own, own)

    def show(self, pick: Pick, values: NDArray[Any]) -> None:
        """Show an SRAM in place of the maps on its image, and outline where it is highest."""
        placed = self._placed(pick.target_side)
        scale, translate = placed.over_box(values.shape)
        appearance = self._session.appearance
        shown = {
            "scale": scale,
            "translate": translate,
            "contrast_limits": contrast_limits(values),
            "colormap": appearance.colormap,
            "opacity": appearance.opacity,
        }
        if self._is_there(self._answer):
            for name in (name for name in shown if shown[name] != self._shown[name]):
                setattr(self._answer, name, _setting(name, shown[name]))
            self._exchange(self._answer, values, "sram")
        else:
            options = {name: _setting(name, value) for name, value in shown.items()}
            self._answer = self._add_image(pick, values, options)
        self._shown = shown
        self._cover(pick)
        self._caption(pick)
        row, column = np.unravel_index(int(np.nanargmax(values)), values.shape)
        height, width = values.shape
        brightest = cell_box(placed.box, (height, width), int(row), int(column))
        self._draw(pick, self._pick_rectangle(pick), _rectangle(placed, brightest))

    def hide_sram(self) -> None:
        """Hide the SRAM, and show the maps on its image again."""
        if self._is_there(self._answer):
            self._answer.visible = False
        self._uncover()
        if self._view_index < len(self._session.views):
            self._caption(None)

    def hide(self) -> None:
        """Hide SRAM and outlines."""
        self.hide_sram()
        if self._is_there(self._outlines):
            self._outlines.visible = False

    @property
    def _view(self) -> Any:
        return self._session.views[self._view_index]

    def _placed(self, side: str) -> PlacedImage:
        return self._session.placed[self._view_index][side]

    def _pick_rectangle(self, pick: Pick) -> Rectangle:
        """Return the patch that holds a picked pixel, or the area that was picked."""
        area = patch_of(pick, self._view) if pick.is_point else Box(*pick.area)
        return _rectangle(self._placed(pick.side), area)

    def _draw(self, pick: Pick, own: Rectangle, brightest: Rectangle) -> None:
        width = _WIDTH * self._placed(pick.side).height
        squares = np.concatenate([_squares(own, width), _squares(brightest, width)])
        if self._is_there(self._outlines):
            if width != self._width:
                self._outlines.size = self._width = width
            self._exchange(self._outlines, squares, "pick")
            return
        from napari.layers import Points

        self._outlines = Points(
            squares,
            name=self._name("pick"),
            symbol="square",
            size=width,
            face_color=[color for pair in _COLORS for color in pair * (2 * _SQUARES)],
            border_width=0,
            opacity=1,
            axis_labels=(Y, X),
            metadata=self._metadata("pick"),
        )
        self._width = width
        self._insert(self._outlines, len(self._session.viewer.layers))

    def _exchange(self, layer: Any, values: NDArray[Any], role: str) -> None:
        """Show other values in a layer of ours."""
        is_in_place = layer.data.shape == values.shape
        if is_in_place:
            layer.data[...] = values
        else:
            layer.data = values.copy()
        metadata = self._metadata(role)
        if layer.metadata != metadata:
            layer.metadata = metadata
        if not layer.visible:
            layer.visible = True
        elif is_in_place:
            layer.refresh(extent=False, thumbnail=False)

    def _add_image(self, pick: Pick, values: NDArray[Any], shown: dict[str, Any]) -> Any:
        from napari.layers import Image

        maps = self._map_layer(pick)
        layer = Image(
            values.copy(),
            name=self._name("SRAM"),
            rgb=False,
            blending="translucent",
            interpolation2d="linear" if maps is None else maps.interpolation2d,
            axis_labels=(Y, X),
            metadata=self._metadata("sram"),
            **shown,
        )
        layers = self._session.viewer.layers
        below = maps or own_layers(self._session.viewer, self._view_index).get(pick.target_side)
        self._insert(layer, len(layers) if below is None else layers.index(below) + 1)
        return layer

    def _insert(self, layer: Any, index: int) -> None:
        """Add a layer, and leave the one active that is: its tools hold the mouse."""
        layers = self._session.viewer.layers
        active = layers.selection.active
        layers.insert(index, layer)
        layers.selection.active = active

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
        captions = own_layers(self._session.viewer, self._view_index).get("captions")
        if captions is None:
            return
        texts = caption_texts(self._view)
        if pick is not None:
            texts[pick.target_side == "reference"] = f"{pick.target_side} · SRAM"
        if list(captions.features["caption"][:2]) != texts:
            captions.features = {"caption": [*texts, "", ""]}

    def _map_layer(self, pick: Pick) -> Any:
        direction = "g2r" if pick.side == "generated" else "r2g"
        return own_layers(self._session.viewer, self._view_index).get(direction)

    def _is_there(self, layer: Any) -> bool:
        return layer is not None and layer in self._session.viewer.layers

    def _name(self, name: str) -> str:
        return f"{name} ({self._view_index + 1})" if self._view_index else name

    def _metadata(self, role: str) -> dict[str, Any]:
        # No index: layers with one are exchanged with the sample in view.
        own = {**asdict(self._view.source), "role": role, "view_index": None}
        return {ATTRIBUTE_KEY: own}


def _rectangle(placed: PlacedImage, part: Box) -> Rectangle:
    """Return the outline of a part of an image, or of its box.

    At their edge it lies within: outside, a picture of the view would be larger.
    """
    inset = _WIDTH * placed.height / 2
    bounds = np.array(placed.bounds)
    corners = np.array([placed.to_world(part.y0, part.x0), placed.to_world(part.y1, part.x1)])
    within = np.clip(corners, bounds[:2] + inset, bounds[2:] - inset)
    (top, left), (bottom, right) = within.tolist()
    return top, left, bottom - top, right - left


def _setting(name: str, value: Any) -> Any:
    return heat_colormap(value) if name == "colormap" else value


def _squares(rectangle: Rectangle, size: float) -> NDArray[np.float64]:
    """Return centres of squares of a size along a rectangle's sides: array (square, (y, x)).

    Always as many: on a short side, those that are too many lie on its last two.
    """
    top, left, height, width = rectangle
    bottom, right = top + height, left + width
    corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
    sides = np.roll(corners, -1, axis=0) - corners
    # An even number, so that dark and light come by turns also around the corners.
    counts = 2 * np.clip(np.abs(sides).sum(axis=1) // (2 * size), 1, _SQUARES // 2)[:, None]
    number = np.arange(_SQUARES)
    shares = np.where(number < counts, number, counts - 2 + number % 2) / counts
    centers: NDArray[np.float64] = corners[:, None] + sides[:, None] * shares[..., None]
    return centers.reshape(-1, 2)
