"""What the patches of a coarse grid over one image read of the other: a report's answers to a click.

A report cannot compute: it holds the SRAM of the patch in the middle of each cell, averaged over layers, steps
and heads. The mean over all patches of a cell would cost as much as to analyze the sample anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from i2am.analysis.kernel.resize import Grid
from i2am.analysis.maps.sram import sram
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import sram_layers
from i2am.page.stacks import fit_stack, grid_within
from i2am.schemas import Box, LayerAttributes
from i2am.schemas.dims import HEAD, STEP
from i2am.schemas.directions import G2R, R2G

__all__ = ["cell_places", "sram_stacks"]

Place = tuple[float, float]
# So many places `sram` reads in one go.
_TOGETHER: Final = 32
# Exponentials: about half a minute of two cores.
_MOST_WORK: Final = 800_000_000
# Of the cells of the longer side.
_MOST_CELLS: Final = 12
# What one side's maps may take in a page, in bytes of base64.
_STACK_BYTES: Final = 26_000


def sram_stacks(sample: xr.DataTree) -> tuple[dict[str, Any], list[str]]:
    """Return the SRAM of the cells of both images, and how coarse it is, as sentences.

    Parameters
    ----------
    sample : DataTree
        As `open_run` gives it.

    Returns
    -------
    dict
        For generated and reference: cells [rows, columns] over the part of the image that the model saw,
        and the stack of their maps on the other image; those of cells beyond the picture are without a
        value. Nothing where a sample has no SRAM.
    list of str
    """
    layers = sram_layers(sample)
    images = sample["images"].dataset
    if not layers or R2G.image not in images or G2R.image not in images:
        return {}, []
    steps = _steps(sample, layers.values())
    found: dict[str, Any] = {}
    for side in (R2G.image, G2R.image):
        attribute = "generated_grid" if side == R2G.image else "reference_grid"
        finest = max((getattr(own, attribute) for own in layers.values()), key=_count)
        cells = grid_within(finest, _MOST_CELLS)
        height, width = images[side].shape[:2]
        places = cell_places((height, width), image_box(sample, side), cells)
        maps = _maps_of(sample, side, list(places.values()), steps)
        every = np.full((cells[0] * cells[1], *maps.shape[1:]), np.nan, np.float32)
        every[list(places)] = maps
        found[side] = {
            "cells": [int(count) for count in cells],
            "stack": fit_stack(every, ["cell"], _STACK_BYTES),
        }
    return found, [_note(found[R2G.image], len(steps), sample.sizes[STEP])]


def _note(own: dict[str, Any], count: int, every: int) -> str:
    (rows, columns), (height, width) = own["cells"], own["stack"]["shape"][-2:]
    steps = "steps" if count == every else f"{count} of {every} steps"
    return (
        f"A click shows the SRAM of the nearest of {rows} × {columns} patches, on a grid of {height} × {width}, as "
        f"the mean over layers, {steps} and heads; 'i2am serve' answers for each patch, layer, step and head."
    )


def cell_places(size: Grid, box: Box, cells: Grid) -> dict[int, Place]:
    """Return the middle of each cell that lies on the image, by the cell's number, row-major.

    Parameters
    ----------
    size : (height, width)
        Of the image.
    box : Box
        The part of it over which the cells lie; it may reach beyond the image.
    cells : (rows, columns)

    Examples
    --------
    >>> cell_places((2, 2), Box(0, 0, 2, 4), (1, 2))
    {0: (1.0, 1.0)}
    """
    lines = []
    for middles, side, length, count in zip(
        box.cell_centres(cells), (box.height, box.width), size, cells, strict=True
    ):
        # Of a cell that is cut by the edge of the image: the place in it that is nearest to its middle.
        places = np.clip(middles, 0, length - 0.5)
        is_on_image = np.abs(places - middles) < side / count / 2
        lines.append([(int(at), float(places[at])) for at in np.flatnonzero(is_on_image)])
    return {row * cells[1] + column: (y, x) for row, y in lines[0] for column, x in lines[1]}


def _steps(sample: xr.DataTree, layers: Iterable[LayerAttributes]) -> list[int]:
    """Return the steps that SRAM is the mean of: all, or of a large sample as many as are soon read."""
    labels: list[int] = sample[STEP].to_numpy().tolist()
    most_heads = max(node.sizes[HEAD] for node in sample["layers"].children.values())
    places = sum(
        most_heads * (_count(own.generated_grid) + _count(own.reference_grid or (0, 0)))
        for own in layers
    )
    most = max(1, _MOST_WORK // (_MOST_CELLS**2 * places))
    if len(labels) <= most:
        return labels
    return [labels[at] for at in np.linspace(0, len(labels) - 1, most).round().astype(int)]


def _maps_of(
    sample: xr.DataTree, side: str, places: list[Place], steps: list[int]
) -> NDArray[np.float32]:
    """Return the SRAM of places of an image, (place, y, x); a few at once, so that sums are all that is kept."""
    found = []
    for first in range(0, len(places), _TOGETHER):
        some = places[first : first + _TOGETHER]
        asked: dict[str, Any] = {side: some}
        found.append(sram(sample, **asked, steps=steps).to_numpy())
    maps: NDArray[np.float32] = np.concatenate(found)
    return maps


def _count(grid: Grid) -> int:
    return grid[0] * grid[1]
