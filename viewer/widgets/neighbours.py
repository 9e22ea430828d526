"""Nine SRAMs, of a pick and of its eight neighbours: does attention move as the patch does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRect, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap, QRegion
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from i2am.analysis import SramEstimate
from i2am.schemas.boxes import Box
from i2am.schemas.errors import I2AMError
from i2am.viewer.picking.pick import Pick, image_size, patch_of, seen_part, why_unseen
from i2am.viewer.scene.box_layers import VEIL
from i2am.viewer.scene.contrast import Limits, contrast_limits, heat_colormap
from i2am.viewer.widgets.qt import Background, plain_label

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView
    from i2am.viewer.session.session import Session

__all__ = ["NeighbourGrid", "draw_tile", "neighbour_picks"]

_TILE_PX: Final = 104
_AROUND: Final = (-1, 0, 1)


def neighbour_picks(pick: Pick, view: SampleView) -> list[Pick | None]:
    """Return a pick and its eight neighbours in reading order, itself fifth.

    None beyond the image, and where the model never saw it.

    A patch on from a picked pixel in the finest grid of its layers, a whole area on from an area.
    """
    size = image_size(view, pick.side)
    top, left, bottom, right = pick.area
    if pick.is_point:
        patch = patch_of(pick, view)
        far = (patch.height, patch.width)
    else:
        far = (bottom - top, right - left)
    found: list[Pick | None] = []
    for down in _AROUND:
        for along in _AROUND:
            y, x = round(down * far[0]), round(along * far[1])
            first, last = max(0, top + y), min(bottom + y, size[0])
            begin, end = max(0, left + x), min(right + x, size[1])
            is_inside = first < last and begin < end
            part = replace(pick, area=(first, begin, last, end)) if is_inside else None
            found.append(part and seen_part(part, view))
    return found


class NeighbourGrid(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Nine small images with their SRAMs, on one scale.

    Parameters
    ----------
    session : Session

    Attributes
    ----------
    chosen : Signal(Pick)
        One of the images was clicked.
    tiles : list of QLabel
    maps : list of array or None
        The SRAM of each tile.
    """

    chosen = Signal(object)
    filled = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._picks: list[Pick | None] = []
        self._ticket = 0
        self._background = Background(self)
        self.maps: list[NDArray[Any] | None] = []
        self.caption = plain_label("Pick a patch, then press 3×3.")
        self.caption.setWordWrap(True)
        self.tiles = [_Tile(lambda number=number: self._choose(number)) for number in range(9)]
        grid = QGridLayout()
        grid.setSpacing(2)
        for number, tile in enumerate(self.tiles):
            grid.addWidget(tile, number // 3, number % 3)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.caption)
        layout.addLayout(grid)

    def fill(self, pick: Pick, view: SampleView) -> None:
        """Show the SRAMs of a pick and its neighbours, better with every estimate."""
        self._ticket += 1
        self._picks = neighbour_picks(pick, view)
        self.maps = []
        for tile in self.tiles:
            tile.clear()
        self.caption.setText(f"{pick.title()}\nand its neighbours, on one scale: asking …")
        ticket = self._ticket
        regions = [
            one.region(image_size(view, pick.side)) for one in self._picks if one is not None
        ]
        if not regions:
            self.caption.setText(why_unseen(pick.side))
            return
        options: dict[str, Any] = {pick.side: regions, **pick.selection(view)}

        def is_overtaken() -> bool:
            return ticket != self._ticket or self._background.is_closed

        def show(answer: SramEstimate) -> None:
            if not is_overtaken():
                self._show(view, pick, answer)

        def fail(error: Exception) -> None:
            if not is_overtaken():
                is_ours = isinstance(error, I2AMError)
                self.caption.setText(str(error) if is_ours else f"{type(error).__name__}: {error}")

        self._background.run_each(
            lambda: view.live_sram.ask(**options, stop=is_overtaken), show, fail
        )

    def _show(self, view: SampleView, pick: Pick, answer: SramEstimate) -> None:
        values = answer.values.to_numpy()
        every = iter(values)
        self.maps = [None if one is None else next(every) for one in self._picks]
        limits = contrast_limits(values)
        for number, (tile, own) in enumerate(zip(self.tiles, self.maps, strict=True)):
            if own is not None:
                picture, box = view.images[pick.target_side], view.boxes[pick.target_side]
                tile.setPixmap(draw_tile(picture, own, box, limits, is_framed=number == 4))
        share = "" if answer.share == 1 else f": {answer.share:.0%} of the steps so far"
        self.caption.setText(f"{pick.title()}\nand its neighbours, on one scale{share}")
        if answer.share == 1:
            self.filled.emit()

    def _choose(self, number: int) -> None:
        pick = self._picks[number] if self._picks else None
        if pick is not None:
            self.chosen.emit(replace(pick, note=""))


class _Tile(QLabel):  # type: ignore[misc]  # Qt has no types here
    """A small image that can be clicked."""

    def __init__(self, clicked: Any) -> None:
        super().__init__()
        self._clicked = clicked
        self.setFixedSize(QSize(_TILE_PX, _TILE_PX))
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setToolTip("Where this neighbour looks; click to ask it in the window")

    def mousePressEvent(self, event: Any) -> None:  # Qt's name
        """Choose it."""
        self._clicked()


def draw_tile(
    picture: NDArray[np.uint8], values: NDArray[Any], box: Box, limits: Limits, *, is_framed: bool
) -> QPixmap:
    """Return an image under its map, as large as a tile; outside the map's box it is dimmed."""
    low, high = limits
    heat = heat_colormap().map(np.clip((values - low) / (high - low), 0, 1).ravel())
    colors = np.round(255 * np.reshape(heat, (*values.shape, 4))).astype(np.uint8)
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    drawn = QPixmap.fromImage(_image(picture, QImage.Format.Format_RGB888)).scaled(
        QSize(_TILE_PX, _TILE_PX), keep, smooth
    )
    scale = drawn.width() / picture.shape[1], drawn.height() / picture.shape[0]
    part = QRectF(box.x0 * scale[0], box.y0 * scale[1], box.width * scale[0], box.height * scale[1])
    size = QSize(max(1, round(part.width())), max(1, round(part.height())))
    stretch = Qt.AspectRatioMode.IgnoreAspectRatio
    over = _image(colors, QImage.Format.Format_RGBA8888).scaled(size, stretch, smooth)
    painter = QPainter(drawn)
    if not box.is_whole(*picture.shape[:2]):
        outside = QRegion(drawn.rect()).subtracted(QRegion(part.toAlignedRect()))
        painter.setClipRegion(outside)
        painter.fillRect(drawn.rect(), QColor.fromRgbF(*VEIL))
        painter.setClipping(False)
    painter.drawImage(part.topLeft(), over)
    if is_framed:
        for color, width in (("black", 5), ("white", 2)):  # visible on any image
            painter.setPen(QPen(QColor(color), width))
            painter.drawRect(QRect(2, 2, drawn.width() - 5, drawn.height() - 5))
    painter.end()
    return drawn


def _image(values: NDArray[np.uint8], kind: Any) -> QImage:
    whole = np.ascontiguousarray(values)
    height, width, channels = whole.shape
    return QImage(whole.tobytes(), width, height, channels * width, kind).copy()
