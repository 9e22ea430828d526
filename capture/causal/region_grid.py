"""The regions of a reference picture that are cut: cells of a grid, or larger where little depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, floor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from i2am.schemas import Box, SchemaError

__all__ = ["RegionGrid"]

# The grid that an adaptive measurement begins with.
_COARSEST: Final = 4


@dataclass(frozen=True)
class RegionGrid:
    """Regions that tile a picture, with their corners at whole pixels.

    So a region as a box and as a mask of pixels has the same tokens.

    Parameters
    ----------
    box : Box
        The part of the stored picture that the model saw.
    grid : (height, width)
        Of the finest regions.

    Raises
    ------
    SchemaError
        If they would be smaller than a pixel.

    Examples
    --------
    >>> regions = RegionGrid(Box(0, 0, 32, 64), (2, 2))
    >>> [tuple(map(int, box)) for box in regions.boxes()]
    [(0, 0, 16, 32), (0, 32, 16, 64), (16, 0, 32, 32), (16, 32, 32, 64)]
    """

    box: Box
    grid: tuple[int, int]
    _edges: tuple[Sequence[float], Sequence[float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Place the corners."""
        edges = (
            _edges(self.box.y0, self.box.y1, self.grid[0]),
            _edges(self.box.x0, self.box.x1, self.grid[1]),
        )
        for axis in edges:
            if any(later <= earlier for earlier, later in pairwise(axis)):
                msg = (
                    f"Expected regions of a pixel or more, got {self.grid[0]}×{self.grid[1]} of a picture "
                    f"of {self.box.height:g}×{self.box.width:g} px, at regions. Give a coarser grid."
                )
                raise SchemaError(msg)
        object.__setattr__(self, "_edges", edges)

    def boxes(self, size: int = 1) -> list[Box]:
        """Return the regions of `size` × `size` finest ones each, row by row."""
        rows, columns = (axis[::size] for axis in self._edges)
        return [Box(y0, x0, y1, x1) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]

    def largest(self) -> int:
        """Return the size of the regions that an adaptive measurement begins with.

        Raises
        ------
        SchemaError
            If the grid is not that of 4×4 regions that are halved again and again.
        """
        sizes = {side / _COARSEST for side in self.grid}
        size = int(sizes.pop())
        if sizes or size < 1 or size * _COARSEST != self.grid[0] or size & (size - 1):
            msg = (
                f"Expected a grid of 4×4, 8×8, 16×16 … for adaptive regions, got {self.grid[0]}×"
                f"{self.grid[1]}, at regions. Give one of these."
            )
            raise SchemaError(msg)
        return size

    def parts(self, box: Box) -> list[Box]:
        """Return the four regions that one of the larger ones is split into."""
        rows, columns = (
            (low, axis[(axis.index(low) + axis.index(high)) // 2], high)
            for axis, low, high in zip(
                map(list, self._edges), (box.y0, box.x0), (box.y1, box.x1), strict=True
            )
        )
        return [Box(y0, x0, y1, x1) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]

    @staticmethod
    def mask(boxes: Iterable[Box], height: int, width: int) -> NDArray[np.bool_]:
        """Return the pixels of a picture that belong to some of the regions."""
        found = np.zeros((height, width), bool)
        for box in boxes:
            inside = box.within(height, width)
            found[floor(inside.y0) : ceil(inside.y1), floor(inside.x0) : ceil(inside.x1)] = True
        return found


def _edges(start: float, end: float, count: int) -> tuple[float, ...]:
    inner = (float(round(start + (end - start) * part / count)) for part in range(1, count))
    return (float(start), *inner, float(end))
