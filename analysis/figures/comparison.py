"""The figure of a comparison: a map of A, the same of B, and where the two differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from i2am.analysis.figures.captions import UNSEEN, similarity_note
from i2am.analysis.figures.heat import Pixels, dim_unseen, frame_of, in_grey
from i2am.analysis.figures.overlay import colorbar_colors, overlay, value_range
from i2am.analysis.figures.panels import seen_part, stored_image
from i2am.analysis.figures.sheet import outline_seen
from i2am.analysis.figures.style import DEFAULT_STYLE
from i2am.analysis.scores.masks import masks_of
from i2am.analysis.statistics.differences import shares
from i2am.analysis.statistics.run_pair import SampleWithMaps, lie_alike
from i2am.analysis.stores.layers import image_under
from i2am.schemas import Box
from i2am.schemas.directions import DIRECTIONS, DirectionName
from i2am.schemas.text import safe_text

__all__ = ["draw_comparison"]

_WIDTH: Final = 9.6  # inches
_PANEL_WIDTH: Final = 2.5
_DIVERGING: Final = "RdBu_r"
_FONT_PT: Final = 8.5
# The greys that an image is shown in below a difference, so that its colors are the only ones.
_GREY: Final = (0.35, 0.85)

_CAPTION: Final = (
    "Each map sums to 100 % of the attention. B − A is red where B has more and blue where A has; "
    "the line is the mask's outline."
)


def draw_comparison(a: SampleWithMaps, b: SampleWithMaps, note: str = "") -> Figure:
    """Draw the ULAM of A and of B over the images, and B - A: red where B has more, blue less.

    Parameters
    ----------
    a, b : (sample, maps), DataTree
        One sample of each run, and its maps.
    note : str
        A line below, such as which runs A and B are.

    Returns
    -------
    Figure
        One row for each direction that both maps hold. Maps are shares of attention, as
        `difference_maps` takes them; the differences' scale is symmetric about 0.
    """
    rows: list[DirectionName] = [
        d for d in DIRECTIONS if d in a.maps.children and d in b.maps.children
    ]
    images = [[_SeenImage.under(captured, direction) for captured in (a, b)] for direction in rows]
    heights = [max(p.frame.height / p.frame.width for p in pair) * _PANEL_WIDTH for pair in images]
    size = (_WIDTH, sum(heights) + 0.55 * len(rows) + 0.4)
    figure = Figure(figsize=size, dpi=DEFAULT_STYLE.dpi, layout="constrained")
    parts = figure.subfigures(len(rows), height_ratios=heights, squeeze=False).ravel()
    for part, direction, pair in zip(parts, rows, images, strict=True):
        part.suptitle(
            safe_text(_heading(direction, a, b)),
            fontsize=_FONT_PT + 1.5,
            weight="bold",
            x=0.01,
            ha="left",
            parse_math=False,
        )
        _draw_row(part, direction, a, b, pair)
    words = _CAPTION
    if any(one.seen is not None for pair in images for one in pair):
        words += f"\n{UNSEEN}"
    words += f"\n{note}" if note else ""
    words = safe_text(words, keep="\n")
    figure.supxlabel(words, fontsize=_FONT_PT, x=0.01, ha="left", parse_math=False)
    return figure


def _heading(direction: DirectionName, a: SampleWithMaps, b: SampleWithMaps) -> str:
    """Return what the maps show, and the warning where they are no more than a similarity."""
    note = (similarity_note(*a) or similarity_note(*b)) if direction == "r2g" else ""
    return DIRECTIONS[direction].meaning + (f" ({note})" if note else "")


@dataclass(frozen=True)
class _SeenImage:
    """A stored image, and the part of it that the model saw; None where that is all of it."""

    pixels: Pixels
    seen: Box | None

    @classmethod
    def under(cls, captured: SampleWithMaps, direction: DirectionName) -> _SeenImage:
        name = image_under(*captured, direction)
        return cls(stored_image(captured.sample, name), seen_part(captured.sample, name))

    @property
    def box(self) -> Box:
        return self.seen or Box.whole(*self.pixels.shape[:2])

    @property
    def frame(self) -> Box:
        """What is drawn: the image, and beyond it where the model saw more."""
        return frame_of((self.pixels.shape[0], self.pixels.shape[1]), self.box)


def _draw_row(
    part: Any,
    direction: DirectionName,
    a: SampleWithMaps,
    b: SampleWithMaps,
    pair: list[_SeenImage],
) -> None:
    """Draw A, B and their difference side by side, with the two scales."""
    of_a, of_b = (maps[direction].dataset["ulam"] for _, maps in (a, b))
    values = [own.to_numpy() * 100 for own in shares(of_a, of_b)]
    masks = [masks_of(sample, maps).get(direction) for sample, maps in (a, b)]
    shown = part.subplots(1, 3)
    limits = value_range(values)
    for axes, title, image, own, mask in zip(shown, "AB", pair, values, masks, strict=False):
        heat = overlay(image.pixels, own, limits, box=image.seen)
        _show(axes, heat, image, title, mask)
    scale = ScalarMappable(Normalize(*limits), ListedColormap(colorbar_colors(DEFAULT_STYLE)))
    _add_bar(part, scale, shown[:2], "% of attention")
    if not lie_alike(a, b, direction):
        _say_why_not(shown[2])
        return
    grey = in_grey(pair[1].pixels, *_GREY)
    grey = grey if pair[1].seen is None else dim_unseen(grey, pair[1].seen)
    _show(shown[2], grey, pair[1], "B − A", masks[1])
    scale = _show_difference(shown[2], values[1] - values[0], pair[1].box)
    _add_bar(part, scale, shown[2], "B − A, % points")


def _say_why_not(axes: Axes) -> None:
    axes.set_title("B − A", fontsize=_FONT_PT)
    axes.set(xticks=[], yticks=[], facecolor="0.95")
    axes.text(
        0.5, 0.5, "None: A and B saw\nother parts\nof the image.", ha="center", va="center",
        fontsize=_FONT_PT, color="0.25", transform=axes.transAxes,
    )  # fmt: skip


def _show(
    axes: Axes, pixels: Pixels, image: _SeenImage, title: str, mask: NDArray[np.float64] | None
) -> None:
    """Show pixels at the image's size, with the outlines of the mask and of what the model saw."""
    frame, box = image.frame, image.box
    axes.set_title(safe_text(title, keep="\n"), fontsize=_FONT_PT, parse_math=False)
    axes.set(xticks=[], yticks=[])
    extent = (frame.x0, frame.x1, frame.y1, frame.y0)
    axes.imshow(pixels, extent=extent, interpolation="antialiased")
    if mask is not None:
        padded = np.pad(mask, 1)
        y, x = (
            begin + (np.arange(size + 2) - 0.5) * length / size
            for size, begin, length in zip(
                mask.shape, (box.y0, box.x0), (box.height, box.width), strict=True
            )
        )
        for color, line_width in (("black", 2.2), ("white", 1.0)):
            axes.contour(x, y, padded, levels=[0.5], colors=color, linewidths=line_width)
        axes.set(xlim=(frame.x0, frame.x1), ylim=(frame.y1, frame.y0))
    if image.seen is not None:
        outline_seen(axes, image.seen)


def _show_difference(axes: Axes, difference: NDArray[np.float32], box: Box) -> ScalarMappable:
    """Lay a difference over what the model saw, the more opaque the larger it is."""
    largest = float(np.nanmax(np.abs(difference))) or 1.0
    limits = axes.get_xlim(), axes.get_ylim()
    shown = axes.imshow(
        difference,
        cmap=_DIVERGING,
        norm=Normalize(-largest, largest),
        alpha=np.sqrt(np.abs(difference) / largest) * 0.95,
        extent=(box.x0, box.x1, box.y1, box.y0),
        interpolation="bilinear",
    )
    axes.set(xlim=limits[0], ylim=limits[1])
    return shown


def _add_bar(part: Any, scale: ScalarMappable, axes: Any, label: str) -> None:
    bar = part.colorbar(scale, ax=axes, fraction=0.05, pad=0.02, aspect=26)
    bar.set_label(label, fontsize=_FONT_PT - 1)
    bar.ax.tick_params(labelsize=_FONT_PT - 2)
    bar.formatter.set_useOffset(False)
    bar.formatter.set_scientific(False)
