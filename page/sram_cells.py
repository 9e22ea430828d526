"""What each cell of a coarse grid over one image reads of the other: a report's answers to a click.

A report cannot compute: it holds the SRAM of every cell, averaged over layers, steps and heads.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.maps.sram import sram
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import sram_layers
from i2am.page.stacks import fit_stack, grid_within
from i2am.schemas import Box
from i2am.schemas.directions import G2R, R2G

__all__ = ["cell_masks", "sram_notes", "sram_stacks"]

# Of the cells of the longer side.
_MOST_CELLS: Final = 12
# What one side's maps may take in a page, in bytes of base64.
_STACK_BYTES: Final = 26_000


def sram_stacks(sample: xr.DataTree) -> dict[str, Any] | None:
    """Return the SRAM of the cells of both images; None where a sample has none.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.

    Returns
    -------
    dict or None
        For generated and reference: cells [rows, columns] over the part of the image that the model saw,
        and the stack of their maps on the other image; those of cells without a pixel are without a
        value.
    """
    layers = sram_layers(sample)
    images = sample["images"].dataset
    if not layers or R2G.image not in images or G2R.image not in images:
        return None
    found = {}
    for side in (R2G.image, G2R.image):
        attribute = "generated_grid" if side == R2G.image else "reference_grid"
        finest = max((getattr(own, attribute) for own in layers.values()), key=_count)
        cells = grid_within(finest, _MOST_CELLS)
        height, width = images[side].shape[:2]
        masks, kept = cell_masks((height, width), image_box(sample, side), cells)
        asked = (
            sram(sample, generated=masks) if side == R2G.image else sram(sample, reference=masks)
        )
        maps = asked.to_numpy()
        every = np.full((cells[0] * cells[1], *maps.shape[1:]), np.nan)
        every[kept] = maps
        found[side] = {
            "cells": [int(count) for count in cells],
            "stack": fit_stack(every, ["cell"], _STACK_BYTES),
        }
    return found


def sram_notes(stacks: dict[str, Any]) -> list[str]:
    """Return how coarse the answers to a click are, in a sentence."""
    (rows, columns), (height, width) = (
        stacks[R2G.image]["cells"],
        stacks[R2G.image]["stack"]["shape"][-2:],
    )
    return [
        f"A click shows the SRAM of a cell of {rows} × {columns}, on a grid of {height} × {width}, as the mean "
        "over layers, steps and heads; 'i2am serve' answers for each patch, layer, step and head."
    ]


def cell_masks(size: Grid, box: Box, cells: Grid) -> tuple[NDArray[np.bool_], list[int]]:
    """Return a mask of the pixels of each cell that has some, and the numbers of those cells.

    Parameters
    ----------
    size : (height, width)
        Of the image.
    box : Box
        The part of it over which the cells lie; it may reach beyond the image.
    cells : (rows, columns)

    Returns
    -------
    array (cell, y, x), bool
    list of int
        Row-major.

    Examples
    --------
    >>> masks, kept = cell_masks((2, 2), Box(0, 0, 2, 4), (1, 2))
    >>> masks.astype(int).tolist(), kept
    ([[[1, 1], [1, 1]]], [0])
    """
    rows = _cell_of_pixel(size[0], box.y0, box.y1, cells[0])
    columns = _cell_of_pixel(size[1], box.x0, box.x1, cells[1])
    kept = [
        row * cells[1] + column
        for row in range(cells[0])
        for column in range(cells[1])
        if (rows == row).any() and (columns == column).any()
    ]
    masks = [
        (rows == cell // cells[1])[:, None] & (columns == cell % cells[1])[None] for cell in kept
    ]
    return np.array(masks, bool).reshape(-1, *size), kept


def _cell_of_pixel(length: int, low: float, high: float, count: int) -> NDArray[np.intp]:
    """Return the cell that holds the centre of each pixel of a line; -1 outside of all."""
    places = (np.arange(length) + 0.5 - low) * count / (high - low)
    found: NDArray[np.intp] = np.floor(places).astype(np.intp)
    return np.where((found >= 0) & (found < count), found, -1)


def _count(grid: Grid) -> int:
    return grid[0] * grid[1]
