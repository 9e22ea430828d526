"""Boxes: the part of a stored image that a model saw, over which its layers' grids lie.

A model rarely sees a picture as it is stored: an encoder crops a wide reference to a square, an
inpainting pipeline paints a crop and pastes it back. Positions are in pixels of the stored image: the
pixel (y, x) covers y to y + 1 and x to x + 1, so a whole image has the box 0, 0, height, width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from i2am.schemas.errors import SchemaError

__all__ = ["Box", "check_painted_box"]

# No picture is as large; NaN and infinity are not below it.
_FARTHEST_PX: Final = 10**9


class Box(NamedTuple):
    """A rectangle in pixels of a stored image; it reaches beyond the image where a model saw padding.

    Attributes
    ----------
    y0, x0, y1, x1 : float
        Its upper left and lower right corner.

    Examples
    --------
    The middle of a picture 96 pixels wide, as an encoder crops it:

    >>> box = Box(0, 32, 32, 64)
    >>> box.height, box.width, box.is_whole(32, 96)
    (32, 32, False)
    >>> box.cell_centres((2, 4))
    ([8.0, 24.0], [36.0, 44.0, 52.0, 60.0])
    """

    y0: float
    x0: float
    y1: float
    x1: float

    @classmethod
    def whole(cls, height: float, width: float) -> Box:
        """Return the box of a whole image."""
        return cls(0, 0, height, width)

    @classmethod
    def from_corner_and_size(cls, told: object) -> Self | None:
        """Return the box of (x, y, width, height), as a manifest has it; None where it is none.

        Examples
        --------
        >>> Box.from_corner_and_size([8, 4, 16, 20]), Box.from_corner_and_size([8, 4, 16, 0])
        (Box(y0=4.0, x0=8.0, y1=24.0, x1=24.0), None)
        """
        if not isinstance(told, Sequence) or isinstance(told, str) or len(told) != 4:
            return None
        if not all(isinstance(part, int | float) and abs(part) < _FARTHEST_PX for part in told):
            return None
        x, y, width, height = map(float, told)
        return cls(y, x, y + height, x + width) if height > 0 and width > 0 else None

    @property
    def height(self) -> float:
        """In pixels."""
        return self.y1 - self.y0

    @property
    def width(self) -> float:
        """In pixels."""
        return self.x1 - self.x0

    def is_whole(self, height: float, width: float) -> bool:
        """Return whether this is all of an image of that size."""
        return self == Box.whole(height, width)

    def overlaps(self, height: float, width: float) -> bool:
        """Return whether a part of it lies in an image of that size.

        Examples
        --------
        >>> Box(-4, 8, 20, 40).overlaps(32, 32), Box(40, 0, 50, 10).overlaps(32, 32)
        (True, False)
        """
        return self.y0 < height and self.x0 < width and self.y1 > 0 and self.x1 > 0

    def within(self, height: float, width: float) -> Box:
        """Return the part that lies in an image of that size.

        Examples
        --------
        >>> Box(-4, 8, 20, 40).within(32, 32)
        Box(y0=0, x0=8, y1=20, x1=32)
        """
        return Box(max(self.y0, 0), max(self.x0, 0), min(self.y1, height), min(self.x1, width))

    def cell_centres(self, grid: tuple[int, int]) -> tuple[list[float], list[float]]:
        """Return y of each row and x of each column of a grid (height, width) that fills the box."""
        return (
            [self.y0 + (row + 0.5) * self.height / grid[0] for row in range(grid[0])],
            [self.x0 + (column + 0.5) * self.width / grid[1] for column in range(grid[1])],
        )


def check_painted_box(told: object, height: int, width: int, image: str, sample: str) -> None:
    """Refuse a box (x, y, width, height) that has no part of the image in which it is painted.

    A map would be held against nothing there: a score of 0, which would enter the mean.

    Parameters
    ----------
    told : sequence of four numbers, or None
        In pixels of the image; None is no box.
    height, width : int
        Of the image.
    image, sample : str
        What a message calls them.

    Raises
    ------
    SchemaError
        If it is no box, or lies outside the image.

    Examples
    --------
    >>> check_painted_box([8, 8, 16, 16], 32, 32, "source.png", "a")
    >>> check_painted_box([40, 8, 16, 16], 32, 32, "source.png", "a")
    Traceback (most recent call last):
    ...
    i2am.schemas.errors.SchemaError: Expected a box with a part of source.png, which has 32 × 32 px, got [40, 8, 16, 16], at sample 'a'. Give x, y, width and height in its pixels.
    """
    if told is None:
        return
    box = Box.from_corner_and_size(told)
    if box is None or not box.overlaps(height, width):
        msg = (
            f"Expected a box with a part of {image}, which has {width} × {height} px, got {told}, "
            f"at sample {sample!r}. Give x, y, width and height in its pixels."
        )
        raise SchemaError(msg)
