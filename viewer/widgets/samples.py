"""The dock widget that lists a run's samples with their scores: searched, sorted, clicked to open."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from i2am.analysis.scores.registry import score_meanings
from i2am.schemas.errors import I2AMError
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import DockPanel
from i2am.viewer.widgets.qt import Background, make_button, plain_label, plain_tip

if TYPE_CHECKING:
    import pandas as pd

    from i2am.viewer.data.sample import SampleSource

__all__ = ["SamplesWidget"]

_FILES: Final = ("scores.csv", "scores.parquet")
_SCORE_TIP: Final = "Score every sample's stored maps, as 'i2am score' does; nothing is written"
_NO_MAPS: Final = "Scores are of stored maps: run 'i2am analyze' first."


class SamplesWidget(DockPanel):
    """List the complete samples of the run in view.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Named so that napari hands in its viewer.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self._session = session_of(napari_viewer)
        self._background = Background(self)
        self._listed: tuple[str | None, tuple[str, ...]] = (None, ())  # run and samples
        self._ticket = 0
        self.search = QLineEdit()
        self.search.setPlaceholderText("search by name")
        self.search.setToolTip("Show the samples whose name holds these letters")
        self.search.setClearButtonEnabled(True)
        self.table = QTableWidget(0, 1)
        self.table.setToolTip("Click a sample to see it, a column's name to sort by it")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.verticalHeader().hide()
        self.score_button = make_button("Score", _SCORE_TIP, self.score)
        self.state = plain_label()
        self.state.setWordWrap(True)
        line = QHBoxLayout()
        line.addWidget(self.search)
        line.addWidget(self.score_button)
        layout = QVBoxLayout(self.content)
        layout.addLayout(line)
        layout.addWidget(self.table)
        layout.addWidget(self.state)
        self.search.textChanged.connect(self._filter)
        self.table.itemClicked.connect(self._open)
        self._session.reopened.connect(self._show)
        self._show()

    @property
    def names(self) -> list[str]:
        """The samples that are shown, from the top."""
        rows = range(self.table.rowCount())
        return [self.table.item(at, 0).text() for at in rows if not self.table.isRowHidden(at)]

    def score(self) -> None:
        """Score the samples one after the other; each row is filled as soon as it is known."""
        own, names = self._session.views[0].source, self._listed[1]
        if own.maps is None:
            self.state.setText(_NO_MAPS)
            return
        maps, ticket = own.maps, self._next_ticket()
        self.score_button.setEnabled(False)
        self.state.setText("scoring …")

        def score_each() -> Iterator[pd.DataFrame | None]:
            from i2am.analysis import open_maps, score_maps

            stored = open_maps(maps)
            for name in names:
                if ticket != self._ticket or self._background.is_closed:
                    return
                if stored.holds(name):
                    yield score_maps(maps, run=own.run, samples=[name])
            yield None

        def receive(table: pd.DataFrame | None) -> None:
            if table is None:
                self.score_button.setEnabled(True)
                self.state.setText(f"Scores of {Path(maps).name}, not saved")
            else:
                self._fill(table)

        self._background.run_each(score_each, self._if_current(ticket, receive), self._fail)

    def _show(self) -> None:
        """Bring the table in step with the run and the sample in view."""
        session = self._session
        view = session.views[0] if session.views else None
        listed = (None if view is None else view.source.run, session.samples)
        if listed != self._listed:
            self._listed = listed
            self._list(session.samples)
            self.score_button.setEnabled(bool(session.samples))
            self.state.setText("" if view else "Open a run: drop it on the window.")
            if view is not None and session.samples:
                self._read(view.source)
        for at in range(self.table.rowCount()):
            if view is not None and self.table.item(at, 0).text() == view.source.sample:
                self.table.selectRow(at)

    def _list(self, names: Iterable[str]) -> None:
        self.table.setSortingEnabled(False)
        self.table.setRowCount(0)
        self.table.setColumnCount(1)
        self.table.setHorizontalHeaderLabels(["sample"])
        for at, name in enumerate(names):
            self.table.insertRow(at)
            item = _Cell(name)
            item.setToolTip(plain_tip(name))
            self.table.setItem(at, 0, item)
        self.table.resizeColumnToContents(0)
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self._filter()

    def _read(self, source: SampleSource) -> None:
        """Fill in the scores that lie beside the run, if there are some of its samples."""
        paths = [] if "://" in source.run else [Path(source.run).with_name(n) for n in _FILES]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            return
        ticket, known = self._next_ticket(), set(self._listed[1])

        def read() -> pd.DataFrame:
            from i2am.analysis import read_scores

            table = read_scores(found)
            return table[table["sample"].isin(known)]

        def receive(table: pd.DataFrame) -> None:
            self._fill(table)
            count = table["sample"].nunique()
            self.state.setText(f"Scores of {found.name}: of {count} of {len(known)} samples")

        self._background.run(read, self._if_current(ticket, receive), self._fail)

    def _fill(self, table: pd.DataFrame) -> None:
        """Write scores into the rows of their samples."""
        self.table.setSortingEnabled(False)
        rows = {self.table.item(at, 0).text(): at for at in range(self.table.rowCount())}
        columns = {
            self.table.horizontalHeaderItem(at).text(): at for at in range(self.table.columnCount())
        }
        meanings = score_meanings()
        for name, score, value in table.itertuples(index=False):
            if score not in columns:
                columns[score] = self.table.columnCount()
                self.table.insertColumn(columns[score])
                header = QTableWidgetItem(score)
                header.setToolTip(plain_tip(meanings.get(score, score)))
                self.table.setHorizontalHeaderItem(columns[score], header)
                self.table.resizeColumnToContents(columns[score])
            if name in rows:
                self.table.setItem(rows[name], columns[score], _Cell(f"{value:.3f}", value))
        self.table.setSortingEnabled(True)
        self._filter()

    def _filter(self, _text: str = "") -> None:
        wanted = self.search.text().strip().casefold()
        for at in range(self.table.rowCount()):
            self.table.setRowHidden(at, wanted not in self.table.item(at, 0).text().casefold())

    def _open(self, item: QTableWidgetItem) -> None:
        self._session.show_sample(self.table.item(item.row(), 0).text())

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    def _if_current(self, ticket: int, receive: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return what receives a result unless another run, or other work, came meanwhile."""
        return lambda result: receive(result) if ticket == self._ticket else None

    def _fail(self, error: Exception) -> None:
        self.score_button.setEnabled(True)
        is_ours = isinstance(error, I2AMError)
        self.state.setText(str(error) if is_ours else f"{type(error).__name__}: {error}")


class _Cell(QTableWidgetItem):  # type: ignore[misc]  # Qt has no types here
    """A cell that is sorted by its number, if it has one, not by how that is written."""

    def __init__(self, text: str, value: float | None = None) -> None:
        super().__init__(text)
        self._value = value
        if value is not None:
            self.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        """Compare with a cell of the same column; a missing number, NaN, is below all."""
        if self._value is None or getattr(other, "_value", None) is None:
            return bool(self.text() < other.text())
        own, others = (float("-inf") if v != v else v for v in (self._value, other._value))
        return own < others
