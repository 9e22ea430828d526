"""The dock widget of picks: kept as they are made, shown again, named, saved as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
)

from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.pick_table import read_picks, write_picks
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.neighbours import NeighbourGrid
from i2am.viewer.widgets.qt import make_button, notify_errors, plain_tip

__all__ = ["PicksWidget"]

_HELP: Final = (
    "Click a patch, or drag an area with Shift: on the generated picture to see what it read "
    "from the reference, on the reference to see where it went. Q or Escape clears."
)
_FILES: Final = "Table of picks (*.csv)"
_OWN: Final = Qt.ItemDataRole.UserRole


class PicksWidget(DockPanel):
    """List what was picked in the window.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._session = session_of(napari_viewer)
        self.controller = sram_controller_of(self._session)
        self.list = QListWidget()
        self.list.setToolTip("Click a pick to see it again; F2 or a double click renames it")
        self.neighbours = NeighbourGrid(self._session)
        help_text = QLabel(_HELP)
        help_text.setWordWrap(True)
        self.buttons = {
            "3×3": make_button(
                "3×3", "Ask the pick and its eight neighbours", self.fill_neighbours
            ),
            "Clear": make_button(
                "Clear", "Ask nothing: the maps come back (Q or Escape)", self._clear
            ),
            "Rename": make_button("Rename", "Give the chosen pick a name (F2)", self._rename),
            "Remove": make_button("Remove", "Take the chosen pick off the list", self.remove),
            "Save": make_button("Save…", "Save the list as a table (CSV)", self._ask_where_to_save),
            "Open": make_button("Open…", "Add the picks of a saved table", self._ask_what_to_open),
        }
        row = QGridLayout()
        for number, button in enumerate(self.buttons.values()):
            row.addWidget(button, number // 3, number % 3)
        layout = QVBoxLayout(self.content)
        for part in (help_text, self.list):
            layout.addWidget(part)
        layout.addLayout(row)
        layout.addWidget(self.neighbours)
        self.controller.picked.connect(self._keep)
        self.controller.cleared.connect(self.list.clearSelection)
        self.neighbours.chosen.connect(self._ask_neighbour)
        self.list.itemClicked.connect(self._show)
        self.list.itemActivated.connect(self._show)
        self.list.itemChanged.connect(self._take_name)

    @property
    def picks(self) -> list[Pick]:
        """What is in the list."""
        return [self.list.item(at).data(_OWN) for at in range(self.list.count())]

    def add(self, picks: Iterable[Pick]) -> None:
        """Put picks at the end of the list, and choose the last one."""
        with QSignalBlocker(self.list):
            for pick in picks:
                item = QListWidgetItem(pick.title())
                item.setData(_OWN, pick)
                captured = pick.capture.partition(" ")[0]
                tip = f"{pick.sample}: {replace(pick, note='').title()}\n{pick.run}"
                tip += f"\ncaptured {captured}" if captured else ""
                item.setToolTip(plain_tip(tip))
                item.setFlags(item.flags() | Qt.ItemFlag.ItemIsEditable)
                self.list.addItem(item)
            self.list.setCurrentRow(self.list.count() - 1)

    def remove(self) -> None:
        """Take the chosen pick off the list; if its SRAM is shown, the maps come back."""
        item = self.list.takeItem(self.list.currentRow())
        if item is not None and item.data(_OWN) == self.controller.pick:
            self.controller.clear()

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Save the list as a table; see `i2am.viewer.picking.pick_table.write_picks`."""
        notify_errors(lambda: write_picks(self.picks, path, overwrite=overwrite))

    def open(self, path: str | Path) -> None:
        """Add the picks of a table."""
        notify_errors(lambda: self.add(read_picks(path)))

    def fill_neighbours(self) -> None:
        """Show the SRAMs of the current pick and of its neighbours."""
        pick = self.controller.pick
        if pick is None:
            self.neighbours.caption.setText("Pick a patch, then press 3×3.")
        else:
            self.neighbours.fill(pick, self._session.views[self.controller.view_index])

    def _keep(self, pick: Pick) -> None:
        self.add([pick])

    def _show(self, item: QListWidgetItem) -> None:
        notify_errors(lambda: self.controller.restore(item.data(_OWN)))

    def _ask_neighbour(self, pick: Pick) -> None:
        self.controller.request(pick, self.controller.view_index)
        self._keep(pick)

    def _clear(self) -> None:
        self.controller.clear()

    def _rename(self) -> None:
        if self.list.currentItem() is not None:
            self.list.editItem(self.list.currentItem())

    def _take_name(self, item: QListWidgetItem) -> None:
        """Make the text that was typed the pick's note; nothing typed, and it is as it was."""
        pick = item.data(_OWN)
        if item.text() == pick.title():
            return
        pick = replace(pick, note=item.text().strip())
        with QSignalBlocker(self.list):
            item.setData(_OWN, pick)
            item.setText(pick.title())

    def _ask_where_to_save(self) -> None:
        chosen, _ = QFileDialog.getSaveFileName(self, "Save picks", "picks.csv", _FILES)
        if chosen:
            # The dialog has asked about the file that was named, not about one with our suffix.
            path = Path(chosen) if Path(chosen).suffix else Path(f"{chosen}.csv")
            self.save(path, overwrite=path == Path(chosen))

    def _ask_what_to_open(self) -> None:
        chosen, _ = QFileDialog.getOpenFileName(self, "Open picks", "", _FILES)
        if chosen:
            self.open(chosen)
