"""Panels on a sheet: as wide as they need on a screen, or in rows that fit the width of a page.

All sizes are in inches. Words are measured by their letters, so that a figure is laid out before
anything is drawn, and they are text in every format, for search and for a journal's own font.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from i2am.analysis.figures.heat import Pixels, enlarge
from i2am.analysis.figures.overlay import colorbar_colors
from i2am.analysis.figures.panels import ColorBar, Marker, Panel, PanelGroup, TileGroup
from i2am.analysis.figures.style import DEFAULT_STYLE, FigureStyle
from i2am.schemas import Box
from i2am.schemas.choices import FigureFormat
from i2am.schemas.text import safe_text

__all__ = ["draw", "fit_text", "outline_seen", "render"]

_LETTER_EM: Final = 0.565
_BOLD_EM: Final = 0.68
_LINE_EM: Final = 1.25
_POWERS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# The least width of a page; what is narrower is a column.
_PAGE: Final = 5.0
# Between tiles, as a share of one.
_TILE_GAP: Final = 0.06


@dataclass(frozen=True)
class _Sizes:
    """What is the same for all groups of a sheet."""

    font_pt: float
    width: float | None  # of the sheet, where it is given
    panel: float  # its width; the least, where the sheet's is given
    widest_panel: float
    beside_main: float
    main: float
    gap: float
    margin: float
    bar: float  # thickness
    beside: float  # of a vertical bar with its numbers
    most_columns: int
    tile: float
    label: float  # the widest label of a row of tiles

    @classmethod
    def of(cls, style: FigureStyle) -> _Sizes:
        if style.width is None:
            return cls(
                style.font_pt, None, panel=2.0, widest_panel=2.0, beside_main=1.5, main=5.5, gap=0.14,
                margin=0.16, bar=0.11, beside=0.75, most_columns=6, tile=0.8, label=1.8,
            )  # fmt: skip
        least = 0.75 if style.width < _PAGE else 1.02
        return cls(
            style.font_pt, style.width, panel=least, widest_panel=1.6 if style.width < _PAGE else 2.4, beside_main=least,
            main=1.9 if style.width < _PAGE else 0.4 * style.width,
            gap=0.06, margin=0.04, bar=0.07, beside=0.0, most_columns=6, tile=0.5 if style.width < _PAGE else 0.7, label=0.8,
        )  # fmt: skip

    @property
    def main_is_above(self) -> bool:
        """Whether a main panel stands above the others, as there is no room beside them."""
        return self.width is not None and self.width < _PAGE

    @property
    def inset(self) -> float:
        """How far the ends of a panel's own bar lie inside it: its numbers stand out."""
        return 0.1 if self.width is None else 0.05

    @property
    def line(self) -> float:
        return self.font_pt * _LINE_EM / 72

    @property
    def letter(self) -> float:
        return self.font_pt * _LETTER_EM / 72

    @property
    def heading_pt(self) -> float:
        return self.font_pt + (1.5 if self.width is None else 0)

    @property
    def room(self) -> float:
        """What lies between the margins; without end where the sheet is as wide as it needs."""
        return math.inf if self.width is None else self.width - 2 * self.margin

    def fit(self, text: str, width: float) -> str:
        return fit_text(text, int(width / self.letter) if math.isfinite(width) else None)

    def fit_heading(self, text: str) -> str:
        letter = self.heading_pt * _BOLD_EM / 72
        return fit_text(text, int(self.room / letter) if math.isfinite(self.room) else None)

    def needed(self, heading: str, note: str) -> float:
        """Return the width that a heading and a note need."""
        bold = self.heading_pt * _BOLD_EM / 72
        wide = [len(line) * bold for line in heading.split("\n")]
        return max(wide + [len(line) * self.letter for line in note.split("\n")])


def draw(
    groups: Sequence[PanelGroup | TileGroup], style: FigureStyle = DEFAULT_STYLE, title: str = ""
) -> Figure:
    """Return a figure of the groups, one below the other.

    Parameters
    ----------
    groups : sequence of PanelGroup or TileGroup
    style : FigureStyle
    title : str
        Which sample and which map this is; it stands first.
    """
    sizes = _Sizes.of(style)
    layouts = [_layout(group, sizes) for group in groups]
    width = sizes.width or max(layout.width for layout in layouts) + 2 * sizes.margin
    width = max(width, 0 if sizes.width else sizes.needed(title, "") + 2 * sizes.margin)
    title = sizes.fit_heading(title)
    top = _text_height(title, sizes.heading_pt) + sizes.gap / 2 if title else 0.0
    between = sizes.line / 2
    height = top + sum(layout.height for layout in layouts) + between * (len(layouts) - 1)
    figure = Figure(figsize=(width, height), dpi=style.dpi, facecolor="white")
    _write(figure, title, sizes.margin, sizes.gap / 2, size=sizes.heading_pt, weight="bold")
    for group, layout in zip(groups, layouts, strict=True):
        _draw_group(figure, group, layout, sizes, top)
        top += layout.height + between
    return figure


def render(figure: Figure, file_format: FigureFormat = "png") -> bytes:
    """Return the figure as a file, the same bytes for the same figure.

    Text stays text: a PDF holds its font, an SVG names it.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> render(Figure(figsize=(1, 1)), "svg")[:5]
    b'<?xml'
    """
    # No version of the software and no date in the file.
    nothing = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    metadata = nothing.get(file_format, {"Date": None, "Creator": None})
    buffer = BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "i2am"}):
        figure.savefig(buffer, format=file_format, dpi=figure.dpi, metadata=metadata)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Row:
    """A row of panels: the height of its titles, of its tallest panel, and of the bars below."""

    titles: float
    panels: float
    bars: float = 0.0

    @property
    def height(self) -> float:
        return self.titles + self.panels + self.bars


@dataclass(frozen=True)
class _Layout:
    """Where the parts of a group lie."""

    heading: str
    note: str
    head: float  # height of both
    rows: tuple[_Row, ...]
    columns: int
    panel_width: float
    main: _Row | None
    main_width: float
    label_width: float  # of the rows
    bar_below: float
    width: float
    height: float


def _layout(group: PanelGroup | TileGroup, sizes: _Sizes) -> _Layout:
    heading, note = sizes.fit_heading(group.heading), sizes.fit(group.note, sizes.room)
    head = _text_height(heading, sizes.heading_pt) + _text_height(note, sizes.font_pt)
    head += sizes.gap / 2 if head else 0.0
    whole = 0.0 if sizes.width else sizes.needed(heading, note)
    if isinstance(group, TileGroup):
        return _tile_layout(group, sizes, (heading, note, head), whole)
    return _panel_layout(group, sizes, (heading, note, head), whole)


def _panel_layout(
    group: PanelGroup, sizes: _Sizes, words: tuple[str, str, float], least_width: float
) -> _Layout:
    columns, width = _columns(group, sizes)
    rows = tuple(
        _row(group.panels[first : first + columns], width, sizes)
        for first in range(0, len(group.panels), columns)
    )
    body = sum(row.height + sizes.gap for row in rows)
    whole = columns * (width + sizes.gap) + (sizes.beside if group.colorbar else 0.0)
    main, main_width = None, 0.0
    if group.main_panel and sizes.main_is_above:
        main_width = sizes.main
        main = _row([group.main_panel], main_width, sizes)
        body += main.height + sizes.gap
    elif group.main_panel:
        shape = group.main_panel.size[0] / group.main_panel.size[1]
        # As tall as the rows beside it, up to a maximum width.
        main_width = min((body - sizes.gap - rows[0].titles) / shape, sizes.main)
        main = _row([group.main_panel], main_width, sizes)
        body = max(body, main.height + sizes.gap)
        whole += main_width + 2 * sizes.gap
    below = 0.0
    if group.colorbar and sizes.width is not None:
        below = _bar_height(group.colorbar, _shared_width(sizes, width * columns), sizes)
        below += sizes.gap
    return _Layout(
        *words, rows, columns, width, main, main_width, 0.0, below, max(whole, least_width),
        words[2] + body + below,
    )  # fmt: skip


def _row(panels: Sequence[Panel], width: float, sizes: _Sizes) -> _Row:
    lines = max(sizes.fit(panel.title, width).count("\n") + 1 for panel in panels)
    length = width - 2 * sizes.inset
    bars = [_bar_height(panel.colorbar, length, sizes) for panel in panels if panel.colorbar]
    tallest = max(width * panel.size[0] / panel.size[1] for panel in panels)
    return _Row(sizes.line * lines + sizes.gap / 2, tallest, max(bars, default=0.0))


def _columns(group: PanelGroup, sizes: _Sizes) -> tuple[int, float]:
    """Return columns and the width of a panel: the fewest rows that fit, then the fewest columns."""
    count = len(group.panels)
    if sizes.width is None:
        rows = -(-count // (group.columns or sizes.most_columns))
        width = sizes.beside_main if group.main_panel else sizes.panel
        return group.columns or -(-count // rows), width
    room = sizes.room + sizes.gap
    if group.main_panel and not sizes.main_is_above:
        room -= sizes.main + 2 * sizes.gap
    fitting = int(room / (sizes.panel + sizes.gap))
    fitting = max(1, min(fitting, group.columns or sizes.most_columns))
    columns = -(-count // -(-count // fitting))
    return columns, min(sizes.widest_panel, room / columns - sizes.gap)


def _tile_layout(
    group: TileGroup, sizes: _Sizes, words: tuple[str, str, float], least_width: float
) -> _Layout:
    columns = len(group.columns)
    labels = [line for row in group.rows for line in sizes.fit(row, sizes.label).split("\n")]
    label_width = max(map(len, labels)) * sizes.letter + sizes.gap
    width = min(sizes.tile, (sizes.room - label_width) / columns)
    height = width * group.tiles[0][0].shape[0] / group.tiles[0][0].shape[1]
    titles = 2 * sizes.line + sizes.gap / 2
    rows = (_Row(titles, height), *[_Row(0.0, height)] * (len(group.rows) - 1))
    below = 0.0
    if group.colorbar:
        below = _bar_height(group.colorbar, _shared_width(sizes, width * columns), sizes)
        below += sizes.gap
    body = sum(row.height for row in rows) + sizes.gap
    return _Layout(
        *words, rows, columns, width, None, 0.0, label_width, below,
        max(label_width + max(columns * width, 1.6), least_width), words[2] + body + below,
    )  # fmt: skip


def _shared_width(sizes: _Sizes, panels: float) -> float:
    """Return the width of a bar below all panels, which its label must fit."""
    return min(sizes.room, max(1.6, min(2.4, panels)))


def _bar_height(bar: ColorBar, width: float, sizes: _Sizes) -> float:
    lines = sizes.fit(_bar_label(bar)[0], width).count("\n") + 1
    return sizes.gap / 2 + sizes.bar + 0.06 + sizes.line * (1 + lines)


def _draw_group(
    figure: Figure, group: PanelGroup | TileGroup, layout: _Layout, sizes: _Sizes, top: float
) -> None:
    weight = "bold" if sizes.width is None else "normal"
    at = top + _write(
        figure, layout.heading, sizes.margin, top, size=sizes.heading_pt, weight=weight
    )
    _write(figure, layout.note, sizes.margin, at, size=sizes.font_pt, color="0.25")
    top += layout.head
    if isinstance(group, TileGroup):
        top = _draw_tiles(figure, group, layout, sizes, top)
    else:
        top = _draw_panels(figure, group, layout, sizes, top)
    if group.colorbar and layout.bar_below:
        width = _shared_width(sizes, layout.panel_width * layout.columns)
        width = min(width, sizes.room - layout.label_width)
        left = sizes.margin + layout.label_width
        if layout.main and not sizes.main_is_above:
            left += layout.main_width + 2 * sizes.gap
        box = (left, top, width, sizes.bar)
        _draw_colorbar(figure, group.colorbar, box, sizes, is_vertical=False)


def _draw_panels(
    figure: Figure, group: PanelGroup, layout: _Layout, sizes: _Sizes, top: float
) -> float:
    """Draw a group's panels, and return where they end."""
    start, width = sizes.margin, layout.panel_width
    if group.main_panel and layout.main:
        box = (start, top + layout.main.titles, layout.main_width, layout.main.panels)
        _draw_panel(figure, group.main_panel, box, sizes)
        if sizes.main_is_above:
            top += layout.main.height + sizes.gap
        else:
            start += layout.main_width + 2 * sizes.gap
    first = top
    for number, row in enumerate(layout.rows):
        begin = number * layout.columns
        for column, panel in enumerate(group.panels[begin : begin + layout.columns]):
            left, height = (
                start + column * (width + sizes.gap),
                width * panel.size[0] / panel.size[1],
            )
            _draw_panel(figure, panel, (left, top + row.titles, width, height), sizes)
        top += row.height + sizes.gap
    if group.colorbar and not layout.bar_below:
        left = start + layout.columns * (width + sizes.gap)
        shown = layout.rows[:2]
        height = sum(row.height for row in shown) + sizes.gap * (len(shown) - 1) - shown[0].titles
        box = (left, first + shown[0].titles, sizes.bar, height)
        _draw_colorbar(figure, group.colorbar, box, sizes, is_vertical=True)
    return top


def _draw_panel(
    figure: Figure, panel: Panel, box: tuple[float, float, float, float], sizes: _Sizes
) -> None:
    left, top, width, height = box
    axes = _axes(figure, box)
    axes.set_title(
        sizes.fit(panel.title, width), fontsize=sizes.font_pt, pad=sizes.gap * 18, parse_math=False,
        linespacing=1.1,
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
    rows, columns = panel.size
    if panel.pixels is None:
        axes.text(
            0.5, 0.5, sizes.fit(panel.sentence, width * 0.9), ha="center", va="center",
            fontsize=sizes.font_pt, color="0.25", transform=axes.transAxes, parse_math=False,
        )  # fmt: skip
        axes.set_facecolor("0.95")
        return
    top_row, left_column = panel.corner
    extent = (
        left_column - 0.5, left_column + columns - 0.5, top_row + rows - 0.5, top_row - 0.5,
    )  # fmt: skip
    axes.imshow(enlarge(panel.pixels), extent=extent, interpolation="antialiased", aspect="auto")
    thin = 1.0 if sizes.width is None else 0.6
    if panel.outline is not None and panel.outline.any():
        _draw_outline(axes, panel.outline, thin)
    if panel.seen is not None:
        # A pixel's centre has whole coordinates, so its edges lie half a pixel off.
        y0, x0, y1, x1 = (end - 0.5 for end in panel.seen)
        outline_seen(axes, Box(y0, x0, y1, x1))
    for marker in panel.markers:
        _draw_marker(axes, marker, sizes.font_pt, thin)
    if panel.colorbar:
        below = (
            left + sizes.inset, top + height + sizes.gap / 2, width - 2 * sizes.inset, sizes.bar,
        )  # fmt: skip
        _draw_colorbar(figure, panel.colorbar, below, sizes, is_vertical=False)


def _draw_tiles(
    figure: Figure, group: TileGroup, layout: _Layout, sizes: _Sizes, top: float
) -> float:
    """Draw all tiles as one image, whose unit is a tile, with words beside it; return where they end."""
    rows, columns, width = len(group.rows), layout.columns, layout.panel_width
    height = layout.rows[0].panels
    top += layout.rows[0].titles
    axes = _axes(figure, (sizes.margin + layout.label_width, top, columns * width, rows * height))
    axes.axis("off")
    extent = (0, columns, rows, 0)
    axes.imshow(_table(group.tiles), extent=extent, interpolation="antialiased", aspect="auto")
    words: dict[str, Any] = {"fontsize": sizes.font_pt, "parse_math": False}
    pad_y, pad_x = 0.02 / height, sizes.gap / 2 / width
    # Where tiles are narrower than their labels, some labels are left out.
    longest = max(map(len, group.columns)) * sizes.letter * 1.1
    for column in range(0, columns, max(1, math.ceil(longest / width))):
        label = safe_text(group.columns[column])
        axes.text(column + 0.5, -pad_y, label, ha="center", va="bottom", **words)
    above = -pad_y - sizes.line / height
    axes.text(columns / 2, above, group.column_title, ha="center", va="bottom", **words)
    labels = [sizes.fit(row, sizes.label) for row in group.rows]
    tallest = max(label.count("\n") + 1 for label in labels) * sizes.line
    for row in range(0, rows, max(1, math.ceil(tallest / height * 0.9))):
        axes.text(-pad_x, row + 0.5, labels[row], ha="right", va="center", linespacing=1.0, **words)
    return top + rows * height + sizes.gap


def _table(tiles: Sequence[Sequence[Pixels]]) -> Pixels:
    """Return tiles as one image, with white between them: in the middle of its cell lies a tile."""
    rim = [max(1, round(side * _TILE_GAP / 2)) for side in tiles[0][0].shape[:2]]
    around = ((rim[0], rim[0]), (rim[1], rim[1]), (0, 0))
    framed = [[np.pad(tile, around, constant_values=255) for tile in row] for row in tiles]
    return np.concatenate([np.concatenate(row, axis=1) for row in framed])


def _draw_outline(axes: Axes, mask: Pixels, thin: float) -> None:
    # Padded, so that a mask which touches the image's rim has a closed outline.
    larger = np.pad(enlarge(mask), 1)
    times = (larger.shape[0] - 2) // mask.shape[0]
    y, x = ((np.arange(size) - 0.5) / times - 0.5 for size in larger.shape)
    limits = axes.get_xlim(), axes.get_ylim()
    for color, width in (("black", 2.4 * thin), ("white", thin)):
        axes.contour(x, y, larger, levels=[127.5], colors=color, linewidths=width)
    axes.set(xlim=limits[0], ylim=limits[1])


def outline_seen(axes: Axes, box: Box) -> None:
    """Draw a thin line around the part of an image that the model saw, in the axes' own units."""
    for color, width in (("black", 1.6), ("white", 0.7)):
        axes.add_patch(
            Rectangle((box.x0, box.y0), box.width, box.height, fill=False, ec=color, lw=width)
        )


def _draw_marker(axes: Axes, marker: Marker, font_pt: float, thin: float) -> None:
    corner = (marker.left, marker.top)
    for color, width in (("black", 2.8 * thin), ("white", 1.3 * thin)):
        box = Rectangle(corner, marker.width, marker.height, fill=False, ec=color, lw=width)
        axes.add_patch(box)
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": font_pt, "weight": "bold"}
    middle = marker.left + marker.width / 2, marker.top + marker.height / 2
    # A stroke is a shape in PDF and SVG; the number over it is text.
    rim = [withStroke(linewidth=2.2 * thin, foreground="black")]
    axes.text(*middle, marker.label, color="black", path_effects=rim, **words)
    axes.text(*middle, marker.label, color="white", **words)


def _draw_colorbar(
    figure: Figure,
    colorbar: ColorBar,
    box: tuple[float, float, float, float],
    sizes: _Sizes,
    *,
    is_vertical: bool,
) -> None:
    low, high = colorbar.limits
    # Without a range there is one value to name; the bar still needs two ends.
    norm = Normalize(low, high if high > low else low + 1)
    mappable = ScalarMappable(norm, ListedColormap(colorbar_colors(colorbar.style)))
    label, power = _bar_label(colorbar)
    length = box[3] if is_vertical else box[2]
    bins = int(np.clip(length / (0.3 if is_vertical else 0.4), 2, 5))
    ticks = MaxNLocator(bins) if high > low else [low]
    bar = figure.colorbar(
        mappable, cax=_axes(figure, box), orientation="vertical" if is_vertical else "horizontal",
        ticks=ticks, format=lambda value, _: f"{value / 10.0**power:g}",
    )  # fmt: skip
    bar.outline.set_linewidth(0.5)
    small = sizes.font_pt - (1.5 if sizes.width is None else 0)
    bar.ax.tick_params(labelsize=small, width=0.5, length=2, pad=1.5)
    bar.set_label(
        sizes.fit(label, length), fontsize=small + (0.5 if small < sizes.font_pt else 0), labelpad=2
    )


def _bar_label(bar: ColorBar) -> tuple[str, int]:
    """Return a bar's label, and the power of ten that its numbers are to be multiplied by."""
    high = bar.limits[1]
    power = math.floor(math.log10(high)) if high > 0 else 0
    if abs(power) < 2:
        return bar.label, 0
    return f"{bar.label} (×10{str(power).translate(_POWERS)})", power


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Return new axes at a box of left, top, width and height, in inches from the top left."""
    left, top, width, height = box
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    relative = (
        left / whole_width, bottom / whole_height, width / whole_width, height / whole_height,
    )  # fmt: skip
    return figure.add_axes(relative)


def _text_height(text: str, size: float) -> float:
    return (text.count("\n") + 1) * size * _LINE_EM / 72 if text else 0.0


def _write(figure: Figure, text: str, left: float, top: float, **font: Any) -> float:
    """Write text below a line, and return its height."""
    whole_width, whole_height = figure.get_size_inches()
    figure.text(
        left / whole_width, 1 - top / whole_height, text, va="top", linespacing=1.1, parse_math=False,
        **font,
    )  # fmt: skip
    return _text_height(text, font["size"])


def fit_text(text: str, letters: int | None) -> str:
    """Break lines at spaces and after dots, so that each has no more than some letters.

    Examples
    --------
    >>> fit_text("up_blocks.1.attn2 of 16", 12).splitlines()
    ['up_blocks.1.', 'attn2 of 16']
    """
    lines: list[str] = []
    for line in safe_text(text, keep="\n").split("\n"):
        lines.append("")
        for piece in re.split(r"(?<=[\s.])", line):
            if letters and lines[-1] and len(lines[-1]) + len(piece.rstrip()) > letters:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
