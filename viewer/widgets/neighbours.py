"""Nine SRAMs, of a pick and of its eight neighbours: does attention move as the patch does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QGridLayout, QLabel, QVBoxLayout, QWidget

from i2am.analysis import SramEstimate
from i2am.schemas.errors import I2AMError
from i2am.viewer.picking.pick import Pick, patch_grid, picture_size
from i2am.viewer.picking.sram_request import questions_of
from i2am.viewer.scene.contrast import Limits, heat_colormap, limits_of

if TYPE_CHECKING:
    from i2am.viewer.data.sample import Row
    from i2am.viewer.session.session import Session

__all__ = ["NinePanel", "neighbours"]

_TILE_PX: Final = 108
_AROUND: Final = (-1, 0, 1)


def neighbours(pick: Pick, row: Row) -> list[Pick | None]:
    """Return a pick's surroundings row by row, itself fifth; None where the picture ends.

    A patch on from a picked pixel in the finest grid that is asked, a whole area on from an area.
    """
    size = picture_size(row, pick.side)
    top, left, bottom, right = pick.area
    if pick.is_point:
        grid = patch_grid(pick, row)
        far = (size[0] / grid[0], size[1] / grid[1])
    else:
        far = (bottom - top, right - left)
    found: list[Pick | None] = []
    for down in _AROUND:
        for along in _AROUND:
            y, x = round(down * far[0]), round(along * far[1])
            first, last = max(0, top + y), min(bottom + y, size[0])
            begin, end = max(0, left + x), min(right + x, size[1])
            is_inside = first < last and begin < end
            found.append(replace(pick, area=(first, begin, last, end)) if is_inside else None)
    return found


class NinePanel(QWidget):  # type: ignore[misc]  # Qt has no types here
    """Nine small pictures with their SRAMs, on one scale.

    Parameters
    ----------
    session : Session

    Attributes
    ----------
    chosen : Signal(Pick)
        One of the pictures was clicked.
    tiles : list of QLabel
    maps : list of array or None
        The SRAM of each tile.
    """

    chosen = Signal(object)
    filled = Signal()
    _arrived = Signal(int, object)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._picks: list[Pick | None] = []
        self._ticket = 0
        self._thread = ThreadPoolExecutor(1, "i2am-nine")
        self.maps: list[NDArray[Any] | None] = []
        self.caption = QLabel("Pick a patch, then press 3×3.")
        self.caption.setWordWrap(True)
        self.tiles = [_Tile(lambda number=number: self._choose(number)) for number in range(9)]
        grid = QGridLayout()
        grid.setSpacing(2)
        for number, tile in enumerate(self.tiles):
            grid.addWidget(tile, number // 3, number % 3)
        layout = QVBoxLayout(self)
        layout.addWidget(self.caption)
        layout.addLayout(grid)
        self._arrived.connect(self._show)

    def fill(self, pick: Pick, row: Row) -> None:
        """Ask a pick and its neighbours; the answers come one after the other."""
        self._ticket += 1
        self._picks = neighbours(pick, row)
        self.maps = []
        for tile in self.tiles:
            tile.clear()
        self.caption.setText(f"{pick.title()}\nand its neighbours, on one scale: asking …")
        self._thread.submit(self._answer, self._ticket, row, pick)

    def close_thread(self) -> None:
        """Stop what is under way."""
        self._ticket += 1
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, ticket: int, row: Row, pick: Pick) -> None:
        size = picture_size(row, pick.side)
        there = [one for one in neighbours(pick, row) if one is not None]
        places = [one.place(size) for one in there]
        asked: dict[str, Any] = {pick.side: places, **pick.asked(row)}
        try:
            for found in questions_of(row).ask(**asked, stop=lambda: ticket != self._ticket):
                self._tell(ticket, (row, pick, found))
        except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
            self._tell(ticket, (row, pick, e))

    def _tell(self, ticket: int, found: Any) -> None:
        if ticket == self._ticket:
            self._arrived.emit(ticket, found)

    def _show(self, ticket: int, found: tuple[Row, Pick, SramEstimate | Exception]) -> None:
        if ticket != self._ticket:
            return
        row, pick, answer = found
        if isinstance(answer, Exception):
            is_ours = isinstance(answer, I2AMError)
            self.caption.setText(str(answer) if is_ours else f"{type(answer).__name__}: {answer}")
            return
        values = answer.values.to_numpy()
        every = iter(values)
        self.maps = [None if one is None else next(every) for one in self._picks]
        limits = limits_of(values)
        for number, (tile, own) in enumerate(zip(self.tiles, self.maps, strict=True)):
            if own is not None:
                picture = row.images[pick.answer_side]
                tile.setPixmap(_pixmap(picture, own, limits, is_framed=number == 4))
        share = "" if answer.share == 1 else f": {answer.share:.0%} of the steps so far"
        self.caption.setText(f"{pick.title()}\nand its neighbours, on one scale{share}")
        if answer.share == 1:
            self.filled.emit()

    def _choose(self, number: int) -> None:
        pick = self._picks[number] if self._picks else None
        if pick is not None:
            self.chosen.emit(replace(pick, note=""))


class _Tile(QLabel):  # type: ignore[misc]  # Qt has no types here
    """A small picture that can be clicked."""

    def __init__(self, clicked: Any) -> None:
        super().__init__()
        self._clicked = clicked
        self.setFixedSize(QSize(_TILE_PX, _TILE_PX))
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setToolTip("Where this neighbour looks; click to ask it in the window")

    def mousePressEvent(self, event: Any) -> None:  # Qt's name
        """Choose it."""
        self._clicked()


def _pixmap(
    picture: NDArray[np.uint8], values: NDArray[Any], limits: Limits, *, is_framed: bool
) -> QPixmap:
    """Return a picture under its map, as large as a tile takes it."""
    low, high = limits
    heat = heat_colormap().map(np.clip((values - low) / (high - low), 0, 1).ravel())
    colors = np.round(255 * np.reshape(heat, (*values.shape, 4))).astype(np.uint8)
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    drawn = QPixmap.fromImage(_image(picture, QImage.Format.Format_RGB888)).scaled(
        QSize(_TILE_PX, _TILE_PX), keep, smooth
    )
    stretch = Qt.AspectRatioMode.IgnoreAspectRatio
    over = _image(colors, QImage.Format.Format_RGBA8888).scaled(drawn.size(), stretch, smooth)
    painter = QPainter(drawn)
    painter.drawImage(0, 0, over)
    if is_framed:
        for color, width in (("black", 5), ("white", 2)):  # seen on any picture
            painter.setPen(QPen(QColor(color), width))
            painter.drawRect(QRect(2, 2, drawn.width() - 5, drawn.height() - 5))
    painter.end()
    return drawn


def _image(values: NDArray[np.uint8], kind: Any) -> QImage:
    whole = np.ascontiguousarray(values)
    height, width, channels = whole.shape
    return QImage(whole.tobytes(), width, height, channels * width, kind).copy()
