"""Where each generated patch comes from: places of the reference as colors.

Hundreds of arrows are unreadable at the width of a column. So each place of the reference has a color
of its own, and each generated patch takes the color of the place that it reads most.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.color import lab2rgb

from i2am.analysis.effects.region_masses import mean_over_layers, region_masses
from i2am.analysis.figures.captions import figure_title
from i2am.analysis.figures.heat import blend, place
from i2am.analysis.figures.panels import (
    Panel,
    PanelGroup,
    ground,
    patches_panel,
    placing,
    seen_part,
    stored_image,
)
from i2am.analysis.figures.sheet import draw
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.analysis.kernel.resize import largest_grid
from i2am.analysis.maps.regions import layers_with_sram
from i2am.analysis.stores.boxes import image_box
from i2am.analysis.stores.layers import select_layers, step_labels

__all__ = ["flow", "soft_peaks"]

# Finer grids are joined: at the width of a column no eye tells smaller patches apart.
_MOST_PATCHES: Final = 32
_MOST_CELLS: Final = 24
# Of the reference's sides: how far around its highest cell a peak reaches.
_REACH: Final = 1 / 8
# One lightness for all places, and how far their colors go from grey (CIELAB).
_LIGHTNESS: Final = 68
_CHROMA: Final = 62
_COLOR_CELLS: Final = 64
_REFERENCE_OPACITY: Final = 0.6

Floats = NDArray[np.float64]


def flow(
    sample: xr.DataTree,
    maps: xr.DataTree | None = None,
    style: FigureStyle = DEFAULT_STYLE,
    **selection: Any,
) -> Figure:
    """Draw each generated patch in the color of the place on the reference that it reads most.

    Parameters
    ----------
    sample : DataTree
        One sample of a run.
    maps : DataTree, optional
        Not used: SRAM comes from the sample itself.
    style : FigureStyle
        Its opacity is that of the surest patch; the colors are those of the places.
    **selection
        ``layers``, ``steps``, ``heads`` and ``guidance``, as in `analyze`.

    Raises
    ------
    AnalysisError
        If no selected layer has SRAM.

    Notes
    -----
    A place is the soft peak of a patch's SRAM (mean over layers, steps and heads), see `soft_peaks`.
    Colors of one lightness lie in a plane (CIELAB's a and b) as the places do on the reference, so that
    equal distances look alike.
    """
    masses, under = _masses(sample, **selection)
    places, confidence = soft_peaks(masses)
    highest = float(confidence.max()) or 1.0
    shown = confidence / highest
    title = "generated: the place that each patch reads"
    panels = (
        _reference_panel(sample, under, style),
        patches_panel(sample, title, _colors(places), shown, style),
    )
    note = (
        "Strength: the share of a patch's attention that lies around that place, beyond what an even map "
        f"has there; up to {highest:.0%}."
    )
    group = PanelGroup("", panels, note=note, columns=2)
    return draw((group,), style, figure_title(sample, "where each patch comes from", selection))


def soft_peaks(masses: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return where each patch's attention peaks, and how much of it lies there.

    Parameters
    ----------
    masses : array (row, column, y, x)
        What each patch (y, x) reads from each cell (row, column) of the reference.

    Returns
    -------
    places : array (2, y, x), float64, 0..1
        The centre of the mass above the median within a window around the highest cell, as shares of
        the reference's height and width: the even rest does not pull it to the middle.
    confidence : array (y, x), float64, 0..1
        The share of the mass in the window beyond what an even map has there.

    Examples
    --------
    >>> masses = np.zeros((4, 4, 1, 1))
    >>> masses[3, 1] = 1
    >>> places, confidence = soft_peaks(masses)
    >>> places[:, 0, 0].tolist(), confidence.tolist()
    ([0.875, 0.375], [[1.0]])
    """
    rows, columns = masses.shape[:2]
    values = masses.astype(np.float64)
    total = values.sum(axis=(0, 1))
    shares = values / np.where(total > 0, total, 1)
    highest = shares.reshape(rows * columns, *shares.shape[2:]).argmax(axis=0)
    row, column = np.unravel_index(highest, (rows, columns))
    y, x = np.arange(rows)[:, None, None, None], np.arange(columns)[None, :, None, None]
    reach = [max(1, round(side * _REACH)) for side in (rows, columns)]
    window = (abs(y - row) <= reach[0]) & (abs(x - column) <= reach[1])
    above = np.clip(shares - np.median(shares, axis=(0, 1)), 0, None) * window
    weight = above.sum(axis=(0, 1))
    # An even map has no peak; its highest cell stands for it, without confidence.
    known = np.where(weight > 0, weight, 1)
    centres = [
        np.where(weight > 0, (above * at).sum(axis=(0, 1)) / known, at_most)
        for at, at_most in ((y, row), (x, column))
    ]
    places = np.stack(
        [(centre + 0.5) / side for centre, side in zip(centres, (rows, columns), strict=True)]
    )
    chance = window.mean(axis=(0, 1))
    inside = (shares * window).sum(axis=(0, 1))
    confidence = np.where(total > 0, (inside - chance) / np.where(chance < 1, 1 - chance, 1), 0)
    return places, np.clip(confidence, 0, 1)


def _masses(sample: xr.DataTree, **selection: Any) -> tuple[NDArray[np.float32], str]:
    """Return what each patch reads from cells of the reference, and the reference's name."""
    named = selection.get("layers")
    steps = step_labels(sample, selection.get("steps"))
    branch = {"guidance": selection["guidance"]} if "guidance" in selection else {}
    selected = select_layers(sample, named, steps, selection.get("heads"), **branch)
    layers = [layer.attributes for layer in layers_with_sram(sample, selected, named)]
    under = layers[0].reference_image()
    patches = _bounded(largest_grid(own.generated_grid for own in layers), _MOST_PATCHES)
    cells = _bounded(largest_grid(own.reference_grid or (1, 1) for own in layers), _MOST_CELLS)
    seen = image_box(sample, under)
    boxes = [
        (
            seen.y0 + row * seen.height / cells[0],
            seen.x0 + column * seen.width / cells[1],
            seen.y0 + (row + 1) * seen.height / cells[0],
            seen.x0 + (column + 1) * seen.width / cells[1],
        )
        for row in range(cells[0])
        for column in range(cells[1])
    ]
    found = mean_over_layers(region_masses(sample, boxes, grid=patches, **selection)).to_numpy()
    return found.reshape(*cells, *found.shape[1:]), under


def _bounded(grid: tuple[int, int], most: int) -> tuple[int, int]:
    """Return a grid with its proportions kept, of no more than some cells along a side."""
    times = max(1.0, max(grid) / most)
    return max(1, round(grid[0] / times)), max(1, round(grid[1] / times))


def _colors(places: Floats) -> Floats:
    """Return a color for each place (2, …), dims (…, rgb), 0..255."""
    lab = np.stack(
        [np.full(places.shape[1:], float(_LIGHTNESS)), *((places * 2 - 1) * _CHROMA)], axis=-1
    )
    colors: Floats = np.clip(lab2rgb(lab), 0, 1) * 255
    return colors


def _reference_panel(sample: xr.DataTree, name: str, style: FigureStyle) -> Panel:
    """Return the reference under the colors of its own places."""
    image, seen = stored_image(sample, name), seen_part(sample, name)
    canvas, box, frame = ground(image, seen, style)
    centres = (np.arange(_COLOR_CELLS) + 0.5) / _COLOR_CELLS
    placed = np.stack(
        [
            place(own, (canvas.shape[0], canvas.shape[1]), frame, box)
            for own in np.meshgrid(centres, centres, indexing="ij")
        ]
    )
    opacity = np.where(np.isfinite(placed[0]), _REFERENCE_OPACITY, 0.0)
    pixels = blend(canvas, _colors(np.nan_to_num(placed)), opacity)
    title = f"{name.replace('_', ' ')}: a color for each place"
    return Panel(title, pixels=pixels, **placing(image, seen))
