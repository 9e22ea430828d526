"""Where images lie in the scene, and maps over them: the one place that knows.

A map's grid fills the part of its image that the model saw (`i2am.schemas.Box`), which is rarely all
of a picture. Positions in an image are pixels as it is stored; the scene has world coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from i2am.schemas.boxes import Box
from i2am.viewer.data.sample import SampleView

__all__ = ["Bounds", "PlacedImage", "Transform", "cell_box", "place_images"]

_GAP: Final = 1 / 16  # of the generated image's width
_VIEW_GAP: Final = 1 / 8  # of its height: room for a caption

Bounds = tuple[float, float, float, float]  # top, left, bottom, right in world coordinates
Transform = tuple[list[float], list[float]]  # scale and translate (y, x) of a napari layer


@dataclass(frozen=True)
class PlacedImage:
    """A stored image in the scene.

    Parameters
    ----------
    size : (height, width)
        In pixels.
    box : Box
        The part that the model saw, in the image's pixels.
    top, left : float
        World coordinates of its upper left corner: napari has the centre of a first pixel at 0.
    zoom : float
        How long a pixel is in the scene.

    Examples
    --------
    A picture 96 pixels wide, of which the model saw the middle as 4 × 4 patches:

    >>> placed = PlacedImage((32, 96), Box(0, 32, 32, 64))
    >>> placed.over_image((32, 96))
    ([1.0, 1.0], [0.0, 0.0])
    >>> placed.over_box((4, 4))
    ([8.0, 8.0], [3.5, 35.5])
    """

    size: tuple[int, int]
    box: Box
    top: float = -0.5
    left: float = -0.5
    zoom: float = 1.0

    @property
    def height(self) -> float:
        """Of the image, in world coordinates."""
        return self.size[0] * self.zoom

    @property
    def width(self) -> float:
        """Of the image, in world coordinates."""
        return self.size[1] * self.zoom

    @property
    def is_whole(self) -> bool:
        """Whether the model saw the image as it is stored."""
        return self.box.is_whole(*self.size)

    @property
    def bounds(self) -> Bounds:
        """Where image and box end: a box reaches beyond its image where the model saw padding."""
        y0, x0, y1, x1 = self.box
        start = self.to_world(min(y0, 0), min(x0, 0))
        return *start, *self.to_world(max(y1, self.size[0]), max(x1, self.size[1]))

    def to_world(self, y: float, x: float) -> tuple[float, float]:
        """Return the world coordinates of a position in pixels; 0 is the image's edge."""
        return self.top + self.zoom * y, self.left + self.zoom * x

    def to_pixels(self, y: float, x: float) -> tuple[float, float]:
        """Return the position in pixels of world coordinates."""
        return (y - self.top) / self.zoom, (x - self.left) / self.zoom

    def contains(self, y: float, x: float) -> bool:
        """Whether world coordinates lie in the image."""
        row, column = self.to_pixels(y, x)
        return 0 <= row < self.size[0] and 0 <= column < self.size[1]

    def over_image(self, shape: Sequence[int]) -> Transform:
        """Return what spreads an array (y, x) over the whole image: a picture, a mask."""
        return self.over(Box.whole(*self.size), shape)

    def over_box(self, grid: Sequence[int]) -> Transform:
        """Return what spreads a map over the part of the image that the model saw."""
        return self.over(self.box, grid)

    def over(self, part: Box, shape: Sequence[int]) -> Transform:
        """Return what spreads an array (y, x) over a part of the image, in its pixels."""
        scale = [self.zoom * part.height / shape[0], self.zoom * part.width / shape[1]]
        top, left = self.to_world(part.y0, part.x0)
        # napari puts the centre, not the corner, of the first element at `translate`.
        return scale, [top + scale[0] / 2, left + scale[1] / 2]


def place_images(
    view: SampleView, above: Mapping[str, PlacedImage] | None = None
) -> dict[str, PlacedImage]:
    """Return where the generated image and, beside it and as high, the reference lie.

    Parameters
    ----------
    view : SampleView
    above : mapping, optional
        The images of the sample above: this one lies below it, as wide.
    """
    size = _size(view, "generated", view.volumes["r2g"].loaded.grid)
    other = view.volumes["g2r"].loaded.grid if "g2r" in view.volumes else size
    reference_size = _size(view, "reference", other)
    box = view.boxes.get("generated", Box.whole(*size))
    reference_box = view.boxes.get("reference", Box.whole(*reference_size))
    top, zoom = -0.5, 1.0
    if above is not None:
        upper = above["generated"]
        zoom = upper.width / size[1]
        reference_zoom = zoom * size[0] / reference_size[0]
        # What reaches beyond an image needs room, too.
        over = max(0, -box.y0 * zoom, -reference_box.y0 * reference_zoom)
        lowest = max(placed.bounds[2] for placed in above.values())
        top = lowest + _VIEW_GAP * upper.height + over
    generated = PlacedImage(size, box, top, zoom=zoom)
    reference_zoom = generated.height / reference_size[0]
    start = generated.bounds[3] + _GAP * generated.width
    left = start - min(reference_box.x0, 0) * reference_zoom
    reference = PlacedImage(reference_size, reference_box, top, left, reference_zoom)
    return {"generated": generated, "reference": reference}


def cell_box(box: Box, grid: tuple[int, int], row: int, column: int) -> Box:
    """Return the part of a box that a cell of its grid covers.

    Examples
    --------
    >>> cell_box(Box(0, 32, 32, 64), (4, 4), 1, 3)
    Box(y0=8.0, x0=56.0, y1=16.0, x1=64.0)
    """
    height, width = box.height / grid[0], box.width / grid[1]
    return Box(
        box.y0 + row * height,
        box.x0 + column * width,
        box.y0 + (row + 1) * height,
        box.x0 + (column + 1) * width,
    )


def _size(view: SampleView, name: str, fallback: Sequence[int]) -> tuple[int, int]:
    height, width = view.images[name].shape[:2] if name in view.images else fallback
    return int(height), int(width)
