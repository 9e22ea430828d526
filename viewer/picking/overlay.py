"""What an answer to a click is drawn with: a map over an image, and outlines of patches and regions.

The layers are made once and their values then exchanged in place: to make or remove one costs napari
a quarter second, and to give it other data several times what it costs to draw them. Outlines are
points, since other lines have the graphics card's program linked anew: half of a redraw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas.attributes import ATTRIBUTE_KEY
from i2am.schemas.boxes import Box
from i2am.schemas.dims import X, Y
from i2am.viewer.scene.contrast import Limits, heat_colormap
from i2am.viewer.scene.layers import measure_again, remove_layers
from i2am.viewer.scene.placement import PlacedImage, Transform
from i2am.viewer.scene.threshold import Cut, ThresholdedColors, value_range

if TYPE_CHECKING:
    from i2am.viewer.scene.appearance import Appearance
    from i2am.viewer.session.session import Session

__all__ = ["Drawing", "Outlines", "Overlay", "Rectangle", "outline_of"]

Rectangle = tuple[float, float, float, float]  # top, left, height, width in world coordinates

# Squares dark and light by turns: visible on any image. Of the pick, then of the highest patch.
_COLORS: Final = (("black", "white"), ("black", "cyan"))
_SQUARES: Final = 40  # of a side, at most; a longer one is dotted
_WIDTH: Final = 1 / 120  # of the image's height


@dataclass(frozen=True)
class Drawing:
    """How a map is drawn.

    Parameters
    ----------
    transform : (scale, translate)
        Where it lies.
    limits : (low, high)
    colormap : str
        Of napari's.
    opacity : float
    is_inverted : bool
        Draw what is cold.
    threshold : float
        Of the map's own range: what is below is clear.
    of : str
        What the colours stand for.
    """

    transform: Transform
    limits: Limits
    colormap: str
    opacity: float
    is_inverted: bool = False
    threshold: float = 0.0
    of: str = "attention"

    @classmethod
    def of_appearance(
        cls, appearance: Appearance, transform: Transform, limits: Limits, of: str = "attention"
    ) -> Drawing:
        """Return how a map is drawn that has the appearance of the window's maps."""
        return cls(
            transform,
            limits,
            appearance.colormap,
            appearance.opacity,
            appearance.polarity == "inverted",
            appearance.threshold,
            of,
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of a napari layer; the colormap as what `heat_colormap` takes."""
        scale, translate = self.transform
        return {
            "scale": scale,
            "translate": translate,
            "contrast_limits": self.limits,
            "colormap": (self.colormap, self.is_inverted, self.of),
            "opacity": self.opacity,
        }


class _OwnLayer:
    """A layer of ours that comes when it is first needed, and may be removed by the user.

    Parameters
    ----------
    session : Session
    view_index : int
        Of the sample in view that it belongs to.
    name, role : str
        As a user and as our own code tell it from others.
    """

    def __init__(self, session: Session, view_index: int, name: str, role: str) -> None:
        self._session, self._view_index = session, view_index
        self._own_name, self._role = name, role
        self.layer: Any = None
        self._images: Mapping[str, PlacedImage] = {}  # as they lay when it was last drawn

    @property
    def is_there(self) -> bool:
        """Whether it is among the window's layers."""
        return self.layer is not None and self.layer in self._session.viewer.layers

    def hide(self) -> None:
        """Hide it, if it is there."""
        if self.is_there and self.layer.visible:
            self.layer.visible = False

    def leave(self) -> None:
        """Take it away if the images lie elsewhere now: views and figures count hidden layers, too."""
        if self._images != self._session.placed[self._view_index]:
            self.remove()

    def remove(self) -> None:
        """Take it away, if it is there."""
        if self.is_there:
            remove_layers(self._session.viewer, [self.layer])
        self.layer = None

    def _exchange(self, values: NDArray[Any]) -> None:
        """Show other values."""
        layer = self.layer
        self._images = self._session.placed[self._view_index]
        is_in_place = layer.data.shape == values.shape
        if is_in_place:
            layer.data[...] = values
        else:
            layer.data = values.copy()
            measure_again(layer)
        metadata = self._metadata()
        if layer.metadata != metadata:
            layer.metadata = metadata
        if not layer.visible:
            layer.visible = True
        elif is_in_place:
            layer.refresh(extent=False, thumbnail=False)

    def _insert(self, layer: Any, index: int) -> None:
        """Add it, and leave the layer active that is: its tools hold the mouse."""
        layers = self._session.viewer.layers
        active = layers.selection.active
        self.layer, self._images = layer, self._session.placed[self._view_index]
        layers.insert(index, layer)
        layers.selection.active = active

    def _name(self) -> str:
        return f"{self._own_name} ({self._view_index + 1})" if self._view_index else self._own_name

    def _metadata(self) -> dict[str, Any]:
        # No index: layers with one are exchanged with the sample in view.
        source = self._session.views[self._view_index].source
        return {ATTRIBUTE_KEY: {**asdict(source), "role": self._role, "view_index": None}}


class Overlay(_OwnLayer):
    """A map over an image: one layer."""

    # What was set last: each setting that is set again is drawn again.
    _shown: dict[str, Any]
    _colors: ThresholdedColors

    def show(
        self,
        values: NDArray[Any],
        drawing: Drawing,
        *,
        interpolation: str,
        index: Callable[[], int],
    ) -> None:
        """Show a map.

        Parameters
        ----------
        values : array (y, x)
        drawing : Drawing
        interpolation : str
            Of the layer when it is made; afterwards it is the user's.
        index : callable () -> int
            Where among the window's layers it is put when it is made.
        """
        shown = drawing.settings()
        if self.is_there:
            for name in (name for name in shown if shown[name] != self._shown[name]):
                setattr(self.layer, name, _setting(name, shown[name]))
            self._cut(values, drawing)
            self._exchange(values)
        else:
            from napari.layers import Image

            layer = Image(
                values.copy(),
                name=self._name(),
                rgb=False,
                blending="translucent",
                interpolation2d=interpolation,
                axis_labels=(Y, X),
                metadata=self._metadata(),
                **{name: _setting(name, value) for name, value in shown.items()},
            )
            self._colors = ThresholdedColors(layer.colormap)
            self._insert(layer, index())
            self._cut(values, drawing)
        self._shown = shown

    def _cut(self, values: NDArray[Any], drawing: Drawing) -> None:
        low, high = self.layer.contrast_limits
        cut = Cut.at(
            drawing.threshold,
            value_range(values),
            (float(low), float(high)),
            gamma=self.layer.gamma,
            is_inverted=drawing.is_inverted,
        )
        self._colors.draw(self.layer, cut)


class Outlines(_OwnLayer):
    """Outlines of what was picked, and of where the answer is highest: the layer "pick".

    Parameters
    ----------
    session : Session
    view_index : int
        Of the sample in view that they belong to.
    """

    def __init__(self, session: Session, view_index: int) -> None:
        super().__init__(session, view_index, "pick", "pick")
        self._width = 0.0

    def draw(
        self,
        placed: PlacedImage,
        own: Rectangle,
        highest: Rectangle | None = None,
        *,
        opacity: float = 1.0,
    ) -> None:
        """Draw two outlines, as wide as suits an image; one alone where there is one alone."""
        width = _WIDTH * placed.height
        squares = np.concatenate([_squares(one, width) for one in (own, highest or own)])
        if self.is_there:
            if width != self._width:
                self.layer.size = self._width = width
            self._exchange(squares)
            return
        from napari.layers import Points

        layer = Points(
            squares,
            name=self._name(),
            symbol="square",
            size=width,
            face_color=[color for pair in _COLORS for color in pair * (2 * _SQUARES)],
            border_width=0,
            opacity=opacity,
            axis_labels=(Y, X),
            metadata=self._metadata(),
        )
        self._width = width
        self._insert(layer, len(self._session.viewer.layers))


def outline_of(placed: PlacedImage, part: Box) -> Rectangle:
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
    if name != "colormap":
        return value
    colormap, is_inverted, of = value
    return heat_colormap(colormap, is_inverted=is_inverted, of=of)


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
