"""A figure: the pictures in view with their maps, the titles above them and the words below.

The scene is rendered once; titles and words are set beside it, as pixels or, in PDF and SVG, as text.
napari's own text has the size of a screen's, and what does not fit is cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from i2am.files import written_whole
from i2am.schemas.errors import AnalysisError, StoreError
from i2am.viewer.export.pictures import SUFFIXES, Pixels, check_export_file, write_picture
from i2am.viewer.scene.color_bars import bars_of
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.scene.theme import canvas_color, text_color

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "FIGURE_SUFFIXES",
    "VECTOR_SUFFIXES",
    "FigureRow",
    "SceneFigure",
    "Title",
    "figure_picture",
    "largest_scale",
    "take_figure",
    "write_figure",
]

VECTOR_SUFFIXES: Final = (".pdf", ".svg")
FIGURE_SUFFIXES: Final = (*SUFFIXES, *VECTOR_SUFFIXES)

_WIDTH_PX: Final = 1200
_FONT_SHARE: Final = 1 / 60  # of a figure's width
_FONT_PX: Final = (11, 40)
_LINE: Final = 1.4  # heights of the font
_PAGE_INCHES: Final = 7.0  # the width of a page's text: 8 point are read there
_POINTS: Final = 72
# More is no picture that other programs open. A graphics card may take less.
_MOST_PX: Final = 16_384
_SIDES: Final = ("generated", "reference")
_GL_LIMITS: Final = {"texture": 0x0D33, "renderbuffer": 0x84E8, "viewport": 0x0D3A}


@dataclass(frozen=True)
class Title:
    """A line above a picture, and the columns of the picture in pixels."""

    text: str
    left: float
    right: float


@dataclass(frozen=True)
class FigureRow:
    """Pictures side by side, array (y, x, rgb or rgba), with their titles."""

    picture: Pixels
    titles: tuple[Title, ...] = ()


@dataclass(frozen=True)
class _Line:
    """A line of text that has its place: in pixels of the figure, y of its middle."""

    text: str
    x: float
    y: float


class _Band(NamedTuple):
    """Where the pictures of a sample lie in the scene, in world coordinates."""

    top: float
    bottom: float
    titles: list[tuple[str, float, float]]  # what stands above a picture, its left and its right


@dataclass(frozen=True)
class SceneFigure:
    """What `take_figure` took.

    Parameters
    ----------
    rows : tuple of FigureRow
        Of one width.
    caption : str
        The lines below; may be empty.
    paper : str
        The colour around the pictures, ``#rrggbb``; text is black or white on it.

    Raises
    ------
    AnalysisError
        If a picture is not of three or four channels.
    """

    rows: tuple[FigureRow, ...]
    caption: str = ""
    paper: str = "#000000"

    def __post_init__(self) -> None:
        for row in self.rows:
            if row.picture.ndim != 3 or row.picture.shape[2] not in {3, 4}:
                msg = (
                    f"Expected a picture (y, x, rgb), got the shape {row.picture.shape}, at picture. "
                    "Give it three or four channels."
                )
                raise AnalysisError(msg)

    @property
    def ink(self) -> str:
        """The colour of text that is read on the paper."""
        return text_color(self.paper)

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.rows[0].picture.shape[1])

    def painted(self) -> Pixels:
        """Return the figure as pixels (y, x, rgb)."""
        from PIL import Image, ImageDraw

        tops, lines, height = self._arranged()
        whole = Image.new("RGB", (self.width, height), self.paper)
        for row, top in zip(self.rows, tops, strict=True):
            whole.paste(Image.fromarray(np.ascontiguousarray(row.picture[..., :3])), (0, top))
        draw, font = ImageDraw.Draw(whole), _font_of(self._font_px)
        for line in lines:
            draw.text((line.x, line.y), line.text, fill=self.ink, font=font, anchor="lm")
        return np.asarray(whole)

    def drawn(self) -> Any:
        """Return the figure as a matplotlib Figure, in which text is text."""
        from matplotlib.figure import Figure

        tops, lines, height = self._arranged()
        inch = self.width / _PAGE_INCHES
        figure = Figure((_PAGE_INCHES, height / inch), dpi=inch, facecolor=self.paper)
        for row, top in zip(self.rows, tops, strict=True):
            share = row.picture.shape[0] / height
            axes = figure.add_axes((0, 1 - top / height - share, 1, share))
            axes.imshow(row.picture[..., :3], interpolation="none", aspect="auto")
            axes.set_axis_off()
        for line in lines:
            figure.text(
                line.x / self.width,
                1 - line.y / height,
                line.text,
                color=self.ink,
                fontsize=self._font_px / inch * _POINTS,
                family="DejaVu Sans",
                va="center",
                parse_math=False,
            )
        return figure

    @property
    def _font_px(self) -> int:
        """The largest size, up to what reads well, in which every line has room."""
        size = round(min(max(self.width * _FONT_SHARE, _FONT_PX[0]), _FONT_PX[1]))
        rooms = [(line, float(self.width - size)) for line in self.caption.splitlines()]
        rooms += [
            (one.text, one.right - one.left - size) for row in self.rows for one in row.titles
        ]
        taken = max((_font_of(size).getlength(text) / room for text, room in rooms), default=0)
        return size if taken <= 1 else max(4, math.floor(size / taken))

    def _arranged(self) -> tuple[list[int], list[_Line], int]:
        """Return the first pixel row of each picture, the lines of text, and the height of all."""
        line = _LINE * self._font_px
        tops: list[int] = []
        lines: list[_Line] = []
        y = 0
        for row in self.rows:
            if row.titles:
                indent = self._font_px // 2
                lines += [_Line(one.text, one.left + indent, y + 0.65 * line) for one in row.titles]
                y += math.ceil(1.3 * line)
            tops.append(y)
            y += row.picture.shape[0]
        below = self.caption.splitlines()
        lines += [
            _Line(text, self._font_px // 2, y + (number + 0.75) * line)
            for number, text in enumerate(below)
        ]
        return tops, lines, y + (math.ceil((len(below) + 0.5) * line) if below else 0)


def take_figure(viewer: Any, scale: float | None = None, caption: str = "") -> SceneFigure:
    """Take all that the canvas shows, whatever the zoom, without the text on it.

    Parameters
    ----------
    viewer : napari.Viewer
    scale : float, optional
        Pixels of the figure a pixel of the generated image; by default the whole number that makes
        it at least 1,200 wide, if the graphics card takes that.
    caption : str
        The lines below.

    Raises
    ------
    AnalysisError
        If the graphics card cannot draw so large a figure, or drew none.
    """
    most = largest_scale(viewer)
    if scale is None:
        low, high = _edges(viewer.layers)
        scale = min(max(1, math.ceil(_WIDTH_PX / max((high - low)[1], 1))), most)
    elif scale > most:
        msg = (
            f"Expected a scale up to {most:g}, which is what the graphics card draws, got {scale:g}, "
            "at the figure. Choose a smaller one."
        )
        raise AnalysisError(msg)
    bands = _bands(viewer)  # While the captions are where they belong.
    with _without_text(viewer):
        scene = np.asarray(viewer.export_figure(scale_factor=scale, flash=False))
        rows = _rows(viewer, scene, bands)
    for row in rows:
        _check_drawn(row.picture)
    return SceneFigure(rows, caption, canvas_color(viewer))


def figure_picture(viewer: Any, scale: float | None = None) -> Pixels:
    """Return what `take_figure` takes as pixels (y, x, rgb)."""
    return take_figure(viewer, scale).painted()


def write_figure(figure: SceneFigure, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a figure as what the file's name ends in, and return its path.

    Raises
    ------
    AnalysisError
        If the name has none of the endings `FIGURE_SUFFIXES`.
    StoreError
        If the file exists and `overwrite` is false, or it cannot be written.
    """
    path = check_export_file(path, FIGURE_SUFFIXES, overwrite=overwrite)
    if path.suffix.lower() not in VECTOR_SUFFIXES:
        return write_picture(figure.painted(), path, overwrite=overwrite)
    from i2am.analysis.figures import render

    kind: Any = path.suffix.lower()[1:]
    try:
        with written_whole(path) as unfinished:
            unfinished.write_bytes(render(figure.drawn(), kind))
    except OSError as e:
        msg = f"Expected to write a figure, got '{e}', at {path}. Choose another place."
        raise StoreError(msg) from e
    return path


def largest_scale(viewer: Any) -> int:
    """Return the largest whole scale in which the graphics card draws the scene, at least 1."""
    low, high = _edges(viewer.layers)
    longest = max(high - low) / min(viewer.layers.extent.step[-2:])
    return max(1, int(min(_MOST_PX, _card_limit_px(viewer)) // (math.ceil(longest) + 1)))


def _card_limit_px(viewer: Any) -> int:
    """Return the longest side that the graphics card draws to."""
    from qtpy.QtOpenGLWidgets import QOpenGLWidget
    from vispy.gloo import gl

    canvas = viewer.window.main_menu.window().findChild(QOpenGLWidget)
    if canvas is None:
        return _MOST_PX
    canvas.makeCurrent()
    try:
        found = [np.min(gl.glGetParameter(limit)) for limit in _GL_LIMITS.values()]
    finally:
        canvas.doneCurrent()
    return int(min((limit for limit in found if limit > 0), default=_MOST_PX))


def _check_drawn(scene: Pixels) -> None:
    """Refuse a scene of one colour: so a graphics card answers that has no memory left."""
    if not scene.size or (scene[..., :3] == scene[0, 0, :3]).all():
        msg = (
            "Expected a picture, got a single colour, at the canvas. Show an image, or choose a "
            "smaller scale."
        )
        raise AnalysisError(msg)


@contextmanager
def _without_text(viewer: Any) -> Iterator[None]:
    """Have no text in the scene, and no room for it, for a while."""
    captions = [own["captions"] for i in (0, 1) if "captions" in (own := own_layers(viewer, i))]
    bars = [bar for _, bar in bars_of(viewer)]  # They would lie over the pictures.
    texts = [viewer.canvas.overlays.text, *(layer.text for layer in captions), *bars]
    visible = [text.visible for text in texts]
    points = [(layer.data.copy(), layer.size.copy()) for layer in captions]
    try:
        for text in texts:
            text.visible = False
        for layer, (data, _) in zip(captions, points, strict=True):
            layer.data = np.repeat(data[-1:], len(data), axis=0)  # a corner of the pictures
            layer.size = 0  # Else napari adds a part of a pixel, and blurs all others.
        yield
    finally:
        for layer, (data, size) in zip(captions, points, strict=True):
            layer.data, layer.size = data, size
        for text, was_visible in zip(texts, visible, strict=True):
            text.visible = was_visible


def _rows(viewer: Any, scene: Pixels, bands: list[_Band]) -> tuple[FigureRow, ...]:
    """Cut a scene into the pictures of each sample in view, with captions as titles."""
    if viewer.dims.ndisplay == 3 or not bands:
        return (FigureRow(scene),)
    low, high = _edges(viewer.layers)
    zoom = min(np.array(scene.shape[:2]) / (high - low))
    # napari has the middle of the scene in the middle of the canvas.
    y0, x0 = np.array(scene.shape[:2]) / 2 - (low + high) / 2 * zoom
    rows = []
    for index, band in enumerate(bands):
        start = round(y0 + band.top * zoom) if index else 0
        is_last = index == len(bands) - 1
        end = scene.shape[0] if is_last else round(y0 + band.bottom * zoom)
        titles = tuple(
            Title(text, x0 + left * zoom, x0 + right * zoom) for text, left, right in band.titles
        )
        rows.append(FigureRow(scene[start:end], titles))
    return tuple(rows)


def _bands(viewer: Any) -> list[_Band]:
    """Return where the pictures of each sample in view lie, and their captions."""
    found = []
    for view_index in (0, 1):
        layers = own_layers(viewer, view_index)
        captions = layers.pop("captions", None)
        if captions is None or not captions.visible or not layers:
            continue
        low, high = _edges(layers.values())  # a box's, too
        titles = [
            (str(text), *np.transpose(_edges([layers[side]]))[1])
            for side, text in zip(_SIDES, captions.features["caption"], strict=False)
            if side in layers
        ]
        found.append(_Band(low[0], high[0], titles))
    return found


def _edges(layers: Collection[Any]) -> tuple[Any, Any]:
    """Return the first and the last (y, x) that layers reach, in world coordinates.

    napari's own extent ends in the middle of an image's outer pixels.
    """
    halves = [layer.extent.step[-2:] / 2 * hasattr(layer, "interpolation2d") for layer in layers]
    extents = [layer.extent.world[:, -2:] for layer in layers]
    if not extents:
        return np.zeros(2), np.ones(2)
    lows = [extent[0] - half for extent, half in zip(extents, halves, strict=True)]
    highs = [extent[1] + half for extent, half in zip(extents, halves, strict=True)]
    return np.min(lows, axis=0), np.max(highs, axis=0)


@lru_cache(maxsize=16)
def _font_of(size: int) -> FreeTypeFont:
    """Return matplotlib's font: Pillow's own has no ×."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
