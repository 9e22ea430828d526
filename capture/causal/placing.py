"""Regions of a picture, and which cells of a layer's grid belong to them.

A cell belongs to the region that its centre lies in: regions that tile a picture share out all of its
tokens, each to one of them, in layers of every resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2am.capture.recording.placement import Placement
from i2am.schemas import Box, CaptureError, LayerAttributes, SchemaError

__all__ = ["PicturePlaces", "Region", "cells_of_region", "checked_region", "reference_name"]

# In pixels of a stored picture: (y0, x0, y1, x1), or the pixels that belong to it.
Region = Box | NDArray[np.bool_]
Size = tuple[int, int]


def reference_name(index: int) -> str:
    """Return the name under which a reference is stored."""
    return f"reference_{index}" if index else "reference"


def checked_region(region: Any, name: str) -> Region | None:
    """Return a region as it is used here: a box, or a mask of bool.

    Parameters
    ----------
    region : (y0, x0, y1, x1), array (y, x) of bool, 0 and 1 or 0 and 255, or None
    name : str
        What a message calls it.

    Raises
    ------
    SchemaError
        If it is none of these, or has no pixel.
    """
    if region is None:
        return None
    values = np.asarray(region)
    if values.ndim == 2 and np.isin(values, (0, values.max())).all() and values.any():
        return values.astype(bool)
    if values.shape == (4,) and np.isfinite(values).all():
        box = Box(*map(float, values))
        if box.height > 0 and box.width > 0:
            return box
    msg = (
        f"Expected a region as (y0, x0, y1, x1) with y0 < y1 and x0 < x1, or as a mask (y, x) with pixels, "
        f"both of the stored picture, got {_told(region)}, at {name}. Give one of these."
    )
    raise SchemaError(msg)


def cells_of_region(region: Region, box: Box, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which cells of a grid have their centre in a region.

    Parameters
    ----------
    region : Box or array (y, x) of bool
    box : Box
        That the grid fills, in pixels of the same picture.
    grid : (height, width)

    Returns
    -------
    array (height, width) of bool

    Examples
    --------
    >>> cells_of_region(Box(0, 0, 8, 4), Box(0, 0, 8, 8), (2, 2)).tolist()
    [[True, False], [True, False]]
    """
    rows, columns = (np.asarray(axis) for axis in box.cell_centres(grid))
    if isinstance(region, Box):
        in_rows = (region.y0 <= rows) & (rows < region.y1)
        in_columns = (region.x0 <= columns) & (columns < region.x1)
        return np.asarray(in_rows[:, None] & in_columns, bool)
    height, width = region.shape
    y, x = np.floor(rows).astype(int), np.floor(columns).astype(int)
    seen = ((y >= 0) & (y < height))[:, None] & (x >= 0) & (x < width)
    found = region[np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)] & seen
    return np.asarray(found, bool)


@dataclass
class PicturePlaces:
    """Over which part of each picture the layers' grids lie.

    Parameters
    ----------
    sizes : mapping of str to (height, width)
        Of the pictures, by their names in a run, in pixels.
    boxes : mapping of str to Box
        The part that the model saw, where that is known.
    ask : callable (grid of the generated patches) -> Placement, optional
        Asks the running pipeline how its pictures were prepared, where it is not known.
    """

    sizes: Mapping[str, Size]
    boxes: Mapping[str, Box] = field(default_factory=dict)
    ask: Callable[[tuple[int, int]], Placement] | None = None
    _found: dict[str, Box] = field(default_factory=dict, init=False)

    def box(self, name: str, region: Region, layer: LayerAttributes) -> Box:
        """Return the part of a picture that the grids lie over.

        Parameters
        ----------
        name : str
            Of the picture.
        region : Region
            Of it; a mask says its size.
        layer : LayerAttributes
            That is read, by which a picture of unknown preparation is checked.

        Raises
        ------
        CaptureError
            If it is not known.
        """
        if name not in self._found:
            self._found[name] = self._box(name, region, layer)
        return self._found[name]

    def _box(self, name: str, region: Region, layer: LayerAttributes) -> Box:
        size = self.sizes.get(name)
        if not isinstance(region, Box):
            if size is not None and tuple(size) != region.shape:
                msg = (
                    f"Expected a mask of the picture's size {size[0]}×{size[1]}, got "
                    f"{region.shape[0]}×{region.shape[1]}, at the region of {name!r}. Give one of that size."
                )
                raise CaptureError(msg)
            size = region.shape
        if name in self.boxes:
            return self.boxes[name]
        if size is None:
            msg = (
                f"Expected the size of {name!r} with a region in its pixels, got none. Give the picture: "
                f"pictures={{{name!r}: picture}}."
            )
            raise CaptureError(msg)
        placement = Placement(None, None) if self.ask is None else self.ask(layer.generated_grid)
        found = placement.box(name, *size, [layer], "that is cut")
        return Box.whole(*size) if found is None else found


def _told(region: Any) -> str:
    shape = getattr(region, "shape", None)
    return repr(region) if shape is None or shape == (4,) else f"an array of {shape}"
