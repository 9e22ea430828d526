"""Sheets of panels: images, heat over images, color bars."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from i2am.analysis.figures.heat import Pixels, dim_unseen, enlarge, frame_of
from i2am.analysis.figures.overlay import (
    Limits,
    MapStyle,
    colorbar_colors,
    overlay,
    value_range,
)
from i2am.analysis.stores.boxes import image_box, is_whole_image
from i2am.schemas import Box
from i2am.schemas.directions import R2G
from i2am.schemas.text import safe_text

__all__ = [
    "FIGURE_DPI",
    "ColorBar",
    "Marker",
    "Panel",
    "PanelGroup",
    "compute_together",
    "draw",
    "heat_panel",
    "heat_panels",
    "image_panel",
    "image_size",
    "inpainting_mask",
    "outline_seen",
    "render",
    "seen_panel",
    "seen_part",
    "stored_image",
]

FIGURE_DPI: Final = 150

_WIDTH: Final = 2.0  # of a panel; all sizes in inches
_WIDTH_BESIDE_MAIN: Final = 1.5
_MAX_MAIN_WIDTH: Final = 5.5
_GAP: Final = 0.14
_MARGIN: Final = 0.16
_LINE: Final = 0.145
_HEADING: Final = 0.3
_COLORBAR_BELOW: Final = 0.44
_COLORBAR_BESIDE: Final = 0.75
_MAX_COLUMNS: Final = 6
_FONT_PT: Final = 8.5
_LETTERS_PER_INCH: Final = 15.0
_BOLD_LETTER: Final = 0.1


@dataclass(frozen=True)
class ColorBar:
    """A color bar: the values at its two ends, and what the values are."""

    limits: Limits
    style: MapStyle
    label: str


@dataclass(frozen=True)
class Marker:
    """A numbered box on an image, in the image's pixels."""

    label: str
    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Panel:
    """One image with its title, or a sentence if there is no image.

    Parameters
    ----------
    title : str
    size : tuple of int
        Height and width that the axes count in: the stored image's pixels, with what is drawn beyond
        its edge.
    pixels : ndarray, dims (y, x, rgb), uint8, optional
        A whole multiple of `size`. None shows `sentence` instead.
    outline : ndarray, dims (y, x), uint8, optional
        A mask whose border is drawn, of the stored image's size.
    corner : tuple of int
        Row and column of the upper left pixel: negative where more is drawn than the image.
    seen : Box, optional
        The part of the image that the model saw; a thin line is drawn around it.
    """

    title: str
    size: tuple[int, int]
    pixels: Pixels | None = None
    sentence: str = ""
    outline: Pixels | None = None
    markers: tuple[Marker, ...] = ()
    colorbar: ColorBar | None = None
    corner: tuple[int, int] = (0, 0)
    seen: Box | None = None


@dataclass(frozen=True)
class PanelGroup:
    """Panels under one heading, in rows, all of one width; a large `main_panel` to their left."""

    heading: str
    panels: tuple[Panel, ...]
    colorbar: ColorBar | None = None
    note: str = ""
    main_panel: Panel | None = None
    columns: int | None = None

    def grid(self) -> tuple[int, int]:
        """Return rows and columns: given, or the fewest rows and then the fewest columns."""
        count = len(self.panels)
        rows = -(-count // (self.columns or _MAX_COLUMNS))
        return rows, self.columns or -(-count // rows)


def draw(groups: tuple[PanelGroup, ...]) -> Figure:
    """Return a figure of the groups, one below the other."""
    layouts = [_Layout.of(group) for group in groups]
    width = max(layout.width for layout in layouts)
    height = sum(layout.height for layout in layouts)
    figure = Figure(figsize=(width, height), dpi=FIGURE_DPI, facecolor="white")
    top = 0.0
    for group, layout in zip(groups, layouts, strict=True):
        _draw_group(figure, group, layout, top)
        top += layout.height
    return figure


def render(figure: Figure) -> bytes:
    """Return the figure's PNG, the same bytes for the same figure."""
    buffer = BytesIO()
    # No software version in the file.
    figure.savefig(buffer, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
    return buffer.getvalue()


@dataclass(frozen=True)
class _Layout:
    """Sizes of a group, in inches."""

    heading_height: float
    title_height: float
    panel_width: float
    pitch: float  # from one row's top to the next
    main_width: float
    main_height: float
    width: float
    height: float

    @classmethod
    def of(cls, group: PanelGroup) -> _Layout:
        rows, columns = group.grid()
        heading_height = (_HEADING if group.heading else _GAP) + (_LINE if group.note else 0.0)
        panel_width = _WIDTH_BESIDE_MAIN if group.main_panel else _WIDTH
        lines = max(_fit(p.title, panel_width).count("\n") + 1 for p in group.panels)
        title_height = _LINE * lines + 0.08
        panel_height = max(panel_width * p.size[0] / p.size[1] for p in group.panels)
        colorbar_height = _COLORBAR_BELOW if any(p.colorbar for p in group.panels) else 0.0
        pitch = title_height + panel_height + colorbar_height + _GAP / 2
        main_width = main_height = 0.0
        if group.main_panel:
            shape = group.main_panel.size[0] / group.main_panel.size[1]
            # As tall as the rows beside it, up to a maximum width.
            main_width = min((rows * pitch - _GAP / 2 - title_height) / shape, _MAX_MAIN_WIDTH)
            main_height = main_width * shape
        width = (main_width + 2 * _GAP if group.main_panel else 0.0) + columns * (
            panel_width + _GAP
        )
        width += _COLORBAR_BESIDE if group.colorbar else 0.0
        # A heading may be longer than a lone panel is wide.
        width = max(width, len(group.heading) * _BOLD_LETTER, len(group.note) / _LETTERS_PER_INCH)
        height = heading_height + max(rows * pitch, title_height + main_height) + _GAP
        return cls(
            heading_height, title_height, panel_width, pitch, main_width, main_height,
            width + 2 * _MARGIN, height,
        )  # fmt: skip


def _draw_group(figure: Figure, group: PanelGroup, layout: _Layout, top: float) -> None:
    rows, columns = group.grid()
    _write(figure, group.heading, top + 0.2, size=_FONT_PT + 1.5, weight="bold")
    _write(figure, group.note, top + 0.2 + _LINE * 1.15, size=_FONT_PT, color="0.25")
    top += layout.heading_height + layout.title_height
    start = _MARGIN
    if group.main_panel:
        _draw_panel(figure, group.main_panel, (start, top, layout.main_width, layout.main_height))
        start += layout.main_width + 2 * _GAP
    for index, panel in enumerate(group.panels):
        row, column = divmod(index, columns)
        left = start + column * (layout.panel_width + _GAP)
        height = layout.panel_width * panel.size[0] / panel.size[1]
        box = (left, top + row * layout.pitch, layout.panel_width, height)
        _draw_panel(figure, panel, box)
    if group.colorbar:
        left = start + columns * (layout.panel_width + _GAP)
        height = min(rows, 2) * layout.pitch - layout.title_height - _GAP / 2
        _draw_colorbar(figure, group.colorbar, (left, top, 0.13, height), "vertical")


def _draw_panel(figure: Figure, panel: Panel, box: tuple[float, float, float, float]) -> None:
    left, top, width, height = box
    axes = _axes(figure, box)
    axes.set_title(_fit(panel.title, width), fontsize=_FONT_PT, pad=4, parse_math=False)
    axes.set(xticks=[], yticks=[])
    rows, columns = panel.size
    if panel.pixels is None:
        axes.text(
            0.5, 0.5, _fit(panel.sentence, width - 0.3), ha="center", va="center",
            fontsize=_FONT_PT, color="0.25", transform=axes.transAxes, parse_math=False,
        )  # fmt: skip
        axes.set_facecolor("0.95")
        return
    top_row, left_column = panel.corner
    extent = (
        left_column - 0.5, left_column + columns - 0.5, top_row + rows - 0.5, top_row - 0.5,
    )  # fmt: skip
    axes.imshow(enlarge(panel.pixels), extent=extent, interpolation="antialiased", aspect="auto")
    if panel.outline is not None and panel.outline.any():
        _draw_outline(axes, panel.outline)
    if panel.seen is not None:
        # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
        y0, x0, y1, x1 = (end - 0.5 for end in panel.seen)
        outline_seen(axes, Box(y0, x0, y1, x1))
    for marker in panel.markers:
        _draw_marker(axes, marker)
    if panel.colorbar:
        below = (left + 0.1, top + height + 0.06, width - 0.2, 0.09)
        _draw_colorbar(figure, panel.colorbar, below, "horizontal")


def _draw_outline(axes: Axes, mask: Pixels) -> None:
    # Padded, so that a mask which touches the image's rim has a closed outline.
    larger = np.pad(enlarge(mask), 1)
    times = (larger.shape[0] - 2) // mask.shape[0]
    y, x = ((np.arange(size) - 0.5) / times - 0.5 for size in larger.shape)
    for color, width in (("black", 2.4), ("white", 1.0)):
        axes.contour(x, y, larger, levels=[127.5], colors=color, linewidths=width)


def outline_seen(axes: Axes, box: Box) -> None:
    """Draw a thin line around the part of an image that the model saw, in the axes' own units."""
    for color, width in (("black", 1.6), ("white", 0.7)):
        axes.add_patch(
            Rectangle((box.x0, box.y0), box.width, box.height, fill=False, ec=color, lw=width)
        )


def _draw_marker(axes: Axes, marker: Marker) -> None:
    corner = (marker.left, marker.top)
    for color, width in (("black", 2.8), ("white", 1.3)):
        box = Rectangle(corner, marker.width, marker.height, fill=False, ec=color, lw=width)
        axes.add_patch(box)
    axes.text(
        marker.left + marker.width / 2, marker.top + marker.height / 2, marker.label,
        ha="center", va="center", color="white", fontsize=_FONT_PT + 0.5, weight="bold",
        path_effects=[withStroke(linewidth=2.2, foreground="black")],
    )  # fmt: skip


def _draw_colorbar(
    figure: Figure, colorbar: ColorBar, box: tuple[float, float, float, float], orientation: str
) -> None:
    low, high = colorbar.limits
    # Without a range there is one value to name; the bar still needs two ends.
    norm = Normalize(low, high if high > low else low + 1)
    mappable = ScalarMappable(norm, ListedColormap(colorbar_colors(colorbar.style)))
    power = math.floor(math.log10(high)) if high > 0 else 0
    power = power if abs(power) > 1 else 0
    ticks = MaxNLocator(5 if orientation == "vertical" else 4) if high > low else [low]
    bar = figure.colorbar(
        mappable, cax=_axes(figure, box), orientation=orientation, ticks=ticks,
        format=lambda value, _: f"{value / 10.0**power:g}",
    )  # fmt: skip
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(labelsize=_FONT_PT - 2, width=0.5, length=2)
    label = rf"{colorbar.label} ($\times 10^{{{power}}}$)" if power else colorbar.label
    bar.set_label(label, fontsize=_FONT_PT - 1.5, labelpad=2)


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Return new axes at a box of left, top, width and height, in inches from the top left."""
    left, top, width, height = box
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    relative = (
        left / whole_width, bottom / whole_height, width / whole_width, height / whole_height,
    )  # fmt: skip
    return figure.add_axes(relative)


def _write(figure: Figure, text: str, baseline: float, **font: Any) -> None:
    whole_width, whole_height = figure.get_size_inches()
    text = safe_text(text, keep="\n")
    figure.text(_MARGIN / whole_width, 1 - baseline / whole_height, text, parse_math=False, **font)


def _fit(text: str, width: float) -> str:
    """Break lines at spaces and after dots, so that each fits a width in inches."""
    letters = int(width * _LETTERS_PER_INCH)
    lines: list[str] = []
    for line in safe_text(text, keep="\n").split("\n"):
        lines.append("")
        for piece in re.split(r"(?<=[\s.])", line):
            if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > letters:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def stored_image(sample: xr.DataTree, name: str) -> Pixels:
    """Return a stored image, dims (y, x, rgb), or a mask, dims (y, x); uint8, in memory.

    Raises
    ------
    AnalysisError
        If it is not stored.
    """
    image_box(sample, name)  # Raises then: no other picture may take its place.
    return np.asarray(sample.children["images"].dataset[name].values, np.uint8)


def inpainting_mask(sample: xr.DataTree) -> Pixels | None:
    """Return the inpainting mask, dims (y, x), uint8; None if none is stored."""
    if R2G.mask not in sample.children["images"].dataset:
        return None
    return stored_image(sample, R2G.mask)


def image_size(image: Pixels) -> tuple[int, int]:
    """Return an image's height and width."""
    return image.shape[0], image.shape[1]


def compute_together(maps: Sequence[xr.DataArray]) -> list[npt.NDArray[Any]]:
    """Return the values of lazy maps, computed together so that they share what they read."""
    return [np.asarray(values) for values in dask.compute(*(values.data for values in maps))]


def image_panel(
    sample: xr.DataTree, name: str, title: str = "", outline: Pixels | None = None
) -> Panel:
    """Return a panel of a stored image."""
    image = stored_image(sample, name)
    return Panel(title or name, image_size(image), image, outline=outline)


def seen_part(sample: xr.DataTree, name: str) -> Box | None:
    """Return the part of a stored image that the model saw; None where that is all of it."""
    return None if is_whole_image(sample, name) else image_box(sample, name)


def seen_panel(
    sample: xr.DataTree, name: str, title: str, markers: tuple[Marker, ...] = ()
) -> Panel:
    """Return a panel of a stored image with what the model did not see dimmed."""
    image, seen = stored_image(sample, name), seen_part(sample, name)
    pixels = image if seen is None else dim_unseen(image, seen)
    return Panel(title, pixels=pixels, markers=markers, **_placing(image, seen))


def heat_panels(
    image: Pixels,
    maps: Sequence[Any],
    titles: Sequence[str],
    style: MapStyle,
    label: str,
    seen: Box | None = None,
) -> tuple[tuple[Panel, ...], ColorBar | None]:
    """Return a panel per map, and the color bar that they share, if they share one."""
    if style.contrast == "shared":
        shared = ColorBar(value_range(maps), style, label)
        return tuple(
            heat_panel(image, values, title, shared, own_colorbar=False, seen=seen)
            for values, title in zip(maps, titles, strict=True)
        ), shared
    return tuple(
        heat_panel(image, values, title, ColorBar(value_range([values]), style, label), seen=seen)
        for values, title in zip(maps, titles, strict=True)
    ), None


def heat_panel(
    image: Pixels,
    values: Any,
    title: str,
    colorbar: ColorBar,
    outline: Pixels | None = None,
    *,
    own_colorbar: bool = True,
    seen: Box | None = None,
) -> Panel:
    """Return a panel of one map over an image, on the scale of `colorbar`, with a scale of its own.

    The map covers the part `seen`, or the whole image.
    """
    pixels = overlay(image, values, colorbar.limits, colorbar.style, seen)
    shown = colorbar if own_colorbar else None
    return Panel(title, pixels=pixels, outline=outline, colorbar=shown, **_placing(image, seen))


def _placing(image: Pixels, seen: Box | None) -> dict[str, Any]:
    """Return where a panel's pixels lie on the stored image."""
    size = image_size(image)
    if seen is None:
        return {"size": size}
    frame = frame_of(size, seen)
    return {
        "size": (int(frame.height), int(frame.width)),
        "corner": (int(frame.y0), int(frame.x0)),
        "seen": seen,
    }
