"""What a question looks like in the window: its answer as a map, and the places outlined.

The layers are made once and their values then exchanged in place: to make or remove one costs napari
a quarter second, and to give it other data several times what it costs to draw them. Outlines are
points, since other lines have the graphics card's program linked anew: half of a redraw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.dims import X, Y
from i2am.viewer.picking.pick import Pick, patch_grid, picture_size
from i2am.viewer.scene.contrast import heat_colormap, limits_of
from i2am.viewer.scene.layers import caption_texts, own_layers

if TYPE_CHECKING:
    from i2am.viewer.scene.layers import Box
    from i2am.viewer.session.session import Session

__all__ = ["AnswerLayers"]

Rectangle = tuple[float, float, float, float]  # top, left, height, width in world coordinates

# Squares dark and light by turns: seen on any picture. Of the pick, then of its answer's brightest.
_COLORS: Final = (("black", "white"), ("black", "cyan"))
_SQUARES: Final = 40  # of a side, at most; a longer one is dotted
_WIDTH: Final = 1 / 120  # of the picture's height


class AnswerLayers:
    """The layers "SRAM" and "pick" of one row.

    Parameters
    ----------
    session : Session
    number : int
        The row's.
    """

    def __init__(self, session: Session, number: int) -> None:
        self._session, self._number = session, number
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

    def band(self, pick: Pick) -> None:
        """Draw a rectangle around an area as long as it is being picked."""
        box = self._box(pick.side)
        own = _rectangle(box, picture_size(self._row, pick.side), pick.area)
        self._draw(pick, own, own)

    def show(self, pick: Pick, values: NDArray[Any]) -> None:
        """Show an answer in place of the maps on its picture, and outline where it is brightest."""
        box = self._box(pick.answer_side)
        scale, translate = box.place(values.shape)
        look = self._session.look
        shown = {
            "scale": scale,
            "translate": translate,
            "contrast_limits": limits_of(values),
            "colormap": look.colormap,
            "opacity": look.opacity,
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
        brightest = _rectangle(box, (height, width), (int(row), int(column)))
        self._draw(pick, self._pick_rectangle(pick), brightest)

    def hide_answer(self) -> None:
        """Take the answer off the picture, and show its maps again."""
        if self._is_there(self._answer):
            self._answer.visible = False
        self._uncover()
        if self._number < len(self._session.rows):
            self._caption(None)

    def hide(self) -> None:
        """Take answer and outlines away."""
        self.hide_answer()
        if self._is_there(self._outlines):
            self._outlines.visible = False

    @property
    def _row(self) -> Any:
        return self._session.rows[self._number]

    def _box(self, side: str) -> Box:
        return self._session.boxes[self._number][side]

    def _pick_rectangle(self, pick: Pick) -> Rectangle:
        """Return the patch that holds a picked pixel, or the area that was picked."""
        size, box = picture_size(self._row, pick.side), self._box(pick.side)
        if not pick.is_point:
            return _rectangle(box, size, pick.area)
        grid = patch_grid(pick, self._row)
        top, left = pick.area[:2]
        patch = (top * grid[0] // size[0], left * grid[1] // size[1])
        return _rectangle(box, grid, patch)

    def _draw(self, pick: Pick, own: Rectangle, brightest: Rectangle) -> None:
        width = _WIDTH * self._box(pick.side).height
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

        maps = self._maps(pick)
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
        below = maps or own_layers(self._session.viewer, self._number).get(pick.answer_side)
        self._insert(layer, len(layers) if below is None else layers.index(below) + 1)
        return layer

    def _insert(self, layer: Any, index: int) -> None:
        """Add a layer, and leave the one active that is: its tools hold the mouse."""
        layers = self._session.viewer.layers
        active = layers.selection.active
        layers.insert(index, layer)
        layers.selection.active = active

    def _cover(self, pick: Pick) -> None:
        maps = self._maps(pick)
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
        """Say above the pictures what lies over them."""
        captions = own_layers(self._session.viewer, self._number).get("captions")
        if captions is None:
            return
        texts = caption_texts(self._row)
        if pick is not None:
            texts[pick.answer_side == "reference"] = f"{pick.answer_side} · SRAM"
        if list(captions.features["caption"][:2]) != texts:
            captions.features = {"caption": [*texts, "", ""]}

    def _maps(self, pick: Pick) -> Any:
        direction = "g2r" if pick.side == "generated" else "r2g"
        return own_layers(self._session.viewer, self._number).get(direction)

    def _is_there(self, layer: Any) -> bool:
        return layer is not None and layer in self._session.viewer.layers

    def _name(self, name: str) -> str:
        return f"{name} ({self._number + 1})" if self._number else name

    def _metadata(self, role: str) -> dict[str, Any]:
        # No row: the layers of a row show a sample, and are exchanged with it.
        own = {**asdict(self._row.origin), "role": role, "row": None}
        return {ATTRIBUTE_KEY: own}


def _rectangle(box: Box, grid: tuple[int, int], area: Sequence[int]) -> Rectangle:
    """Return the outline of a part of a grid that spans a box: (top, left[, bottom, right]).

    At the box's edge it lies within: outside it would have a picture of the view be larger.
    """
    top, left, bottom, right = area if len(area) == 4 else (*area, area[0] + 1, area[1] + 1)
    inset = _WIDTH * box.height / 2
    start, size = np.array([box.top, box.left]), np.array([box.height, box.width])
    corners = start + np.array([[top, left], [bottom, right]]) * size / grid
    (top, left), (bottom, right) = np.clip(corners, start + inset, start + size - inset).tolist()
    return top, left, bottom - top, right - left


def _setting(name: str, value: Any) -> Any:
    return heat_colormap(value) if name == "colormap" else value


def _squares(rectangle: Rectangle, size: float) -> NDArray[np.float64]:
    """Return where squares of a size stand on a rectangle's sides: array (square, (y, x)).

    Always as many: on a short side, all that are too many stand where its last two do.
    """
    top, left, height, width = rectangle
    bottom, right = top + height, left + width
    corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
    sides = np.roll(corners, -1, axis=0) - corners
    # An even number, so that dark and light come by turns also around the corners.
    counts = 2 * np.clip(np.abs(sides).sum(axis=1) // (2 * size), 1, _SQUARES // 2)[:, None]
    number = np.arange(_SQUARES)
    shares = np.where(number < counts, number, counts - 2 + number % 2) / counts
    places: NDArray[np.float64] = corners[:, None] + sides[:, None] * shares[..., None]
    return places.reshape(-1, 2)
