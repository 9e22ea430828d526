"""Ask a patch: a click in one picture shows what it read from the other, at once.

Questions are answered in a thread; a newer one ends those before it, and estimates are shown as
they come. What is in view is asked: the slice where the sliders stand, all of what is averaged over.
A press of the mouse may become a click, and is asked already: the answer is there at the release.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from qtpy.QtCore import QObject, QTimer, Signal

from i2am.analysis import SramEstimate
from i2am.schemas.errors import AnalysisError, I2AMError
from i2am.viewer.data.axes import MEANS
from i2am.viewer.picking.mouse import Picker
from i2am.viewer.picking.pick import Pick, check_inside, picture_size, selection_of
from i2am.viewer.picking.sram_layers import AnswerLayers
from i2am.viewer.picking.sram_request import Found, Inquiry

if TYPE_CHECKING:
    from i2am.viewer.data.sample import Row
    from i2am.viewer.session.session import Session

__all__ = ["Asker", "asker_of"]

_PATIENCE_MS: Final = 100  # An outline before the answer is another redraw.
_AT_ONCE_S: Final = 0.025  # The window waits so long, once a click.
_askers: WeakKeyDictionary[Any, Asker] = WeakKeyDictionary()


def asker_of(session: Session) -> Asker:
    """Return what asks in a session's window, made when it is first asked for."""
    if session not in _askers:
        _askers[session] = Asker(session)
    return _askers[session]


class Asker(QObject):  # type: ignore[misc]  # Qt has no types here
    """Asks what is clicked, and shows the answers.

    Parameters
    ----------
    session : Session

    Attributes
    ----------
    pick : Pick or None
        What is asked at the moment.
    row : int
        The row whose picture it is in.
    answer : SramEstimate or None
        The latest about it.
    picked : Signal(Pick)
        Something was picked with the mouse.
    answered : Signal()
        There is a better answer, or the last one.
    cleared : Signal()
        Nothing is asked any more.
    """

    picked = Signal(object)
    answered = Signal()
    cleared = Signal()
    _arrived = Signal(object, object)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.pick: Pick | None = None
        self.row = 0
        self.answer: SramEstimate | None = None
        self._layers = [AnswerLayers(session, number) for number in (0, 1)]
        self._inquiries: dict[int, Inquiry] = {}  # of each row
        self._expected: Inquiry | None = None
        self._shown: dict[int, Found] = {}
        self._is_told = False  # that the pick has no answer
        self._awaited: Pick | None = None
        self._asked_of: list[ref[Row]] = []
        self._size = (1, 1)  # of the picture that the pick is in
        self._is_moving = False
        self._thread = ThreadPoolExecutor(1, "i2am-ask")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PATIENCE_MS)
        self._timer.timeout.connect(self._outline)
        # Not before the window has handled the press: two threads at once are slower than in turn.
        self._idle = QTimer(self)
        self._idle.setSingleShot(True)
        self._idle.timeout.connect(self._begin_expected)
        self._arrived.connect(self._show)
        session.moved.connect(self._follow)
        session.reopened.connect(self._reopen)
        self._picker = Picker(session, self)
        session.viewer.bind_key("Escape", self._on_escape, overwrite=True)

    def ask(self, pick: Pick, row: int = 0) -> None:
        """Ask about a place of a row's sample, with the layers, steps and heads that it names.

        The same place of the other row is asked, too, with those of its own that have these names.
        """
        self._stop()
        self.pick, self.row, self.answer = pick, row, None
        self._is_told = False
        rows = self._session.rows
        self._asked_of = [ref(one) for one in rows]
        self._size = picture_size(rows[row], pick.side)
        for number, other in enumerate(rows):
            if pick.side not in other.images or pick.answer_side not in other.images:
                continue
            own = pick if number == row else pick.on(other, self._size)
            self._inquiries[number] = self._inquire(other, number, own)
        self._timer.start()

    def expect(self, pick: Pick, row: int) -> None:
        """Ask what a press of the mouse may ask, so that the answer is there when it does."""
        self.forget()
        own = selection_of(pick, self._session.rows[row], self._session.place, self._session.means)
        self._expected = Inquiry(self._session.rows[row], row, own, self._arrived.emit)
        self._idle.start()

    def forget(self) -> None:
        """Do not expect that any more."""
        self._idle.stop()
        if self._expected is not None:
            self._expected.stop()
        self._expected = None

    def take(self, pick: Pick, row: int) -> None:
        """Ask a place that was picked with the mouse."""
        session = self._session
        self.ask(selection_of(pick, session.rows[row], session.place, session.means), row)
        self.forget()
        # A click is followed by a redraw: an answer that comes before it needs no second one.
        asked = self._inquiries.get(row)
        if asked is not None and asked.has_answer.wait(_AT_ONCE_S) and asked.latest is not None:
            self._show(asked, asked.latest)
        self.picked.emit(self.pick)

    def band(self, pick: Pick, row: int) -> None:
        """Show an area as long as it is being picked."""
        self._layers[row].band(pick)

    def show(self, pick: Pick) -> None:
        """Ask an earlier pick again: go to its sample and its slice.

        Raises
        ------
        AnalysisError
            If the pick is of a run that is not in view, or not in its picture.
        """
        row = self._session.rows[0] if self._session.rows else None
        if row is None or row.origin.run != pick.run:
            msg = (
                f"Expected a pick of the run in view, got one of {pick.run}, at {pick.title()}. "
                "Open that run first."
            )
            raise AnalysisError(msg)
        if row.origin.sample != pick.sample:
            self._awaited = pick
            self._session.show_sample(pick.sample)
            return
        check_inside(pick, row)
        self._is_moving = True
        try:
            self._go_to(pick, row)
        finally:
            self._is_moving = False
        self.ask(pick)

    def clear(self) -> None:
        """Ask nothing any more: the maps come back."""
        self._stop()
        self.pick = self.answer = self._awaited = None
        for layers in self._layers:
            layers.hide()
        self.cleared.emit()

    def close(self) -> None:
        """Stop the thread."""
        self._stop()
        self.forget()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _inquire(self, row: Row, number: int, pick: Pick) -> Inquiry:
        """Return what answers a pick: the one that is expected, or a new one."""
        expected = self._expected
        if expected is not None and expected.row is row and expected.pick == pick:
            inquiry, self._expected = expected, None
        else:
            inquiry = Inquiry(row, number, pick, self._arrived.emit)
        inquiry.start(self._thread)
        return inquiry

    def _begin_expected(self) -> None:
        if self._expected is not None:
            self._expected.start(self._thread)

    def _stop(self) -> None:
        """Have no further answers to what is asked."""
        self._timer.stop()
        for inquiry in self._inquiries.values():
            inquiry.stop()
        self._inquiries.clear()

    def _outline(self) -> None:
        """Show at least what is asked, where there is no answer yet."""
        for number, inquiry in self._inquiries.items():
            if inquiry.latest is None and number < len(self._session.rows):
                self._layers[number].outline(inquiry.pick)

    def _on_escape(self, viewer: Any) -> None:
        if self.pick is not None:
            self.clear()

    def _show(self, inquiry: Inquiry, found: Found) -> None:
        number = inquiry.number
        is_asked = self._inquiries.get(number) is inquiry
        if not is_asked or inquiry.latest is not found or self._shown.get(number) is found:
            return
        self._shown[number] = found
        if isinstance(found, SramEstimate):
            self._layers[number].show(inquiry.pick, found.values.to_numpy())
        else:
            self._layers[number].hide_answer()
            self._layers[number].outline(inquiry.pick)
            if number == self.row:
                self._complain(found)
        if number == self.row:
            self.answer = found if isinstance(found, SramEstimate) else None
            self.answered.emit()

    def _complain(self, error: Exception) -> None:
        """Tell once why there is no answer; while sliders move, in the status bar alone."""
        told = str(error) if isinstance(error, I2AMError) else f"{type(error).__name__}: {error}"
        self._session.viewer.status = told
        if not self._is_told:
            from napari.utils.notifications import show_error

            show_error(told)
        self._is_told = True

    def _follow(self) -> None:
        """Ask again what is in view now."""
        if self.pick is None or self._is_moving or self.row >= len(self._session.rows):
            return
        row = self._session.rows[self.row]
        was_told = self._is_told
        pick = selection_of(self.pick, row, self._session.place, self._session.means)
        if pick != self.pick or self._asked_of != [ref(one) for one in self._session.rows]:
            self.ask(pick, self.row)
            self._is_told = was_told
            return
        for number, inquiry in self._inquiries.items():
            if isinstance(inquiry.latest, SramEstimate):  # The look may be another.
                self._layers[number].show(inquiry.pick, inquiry.latest.values.to_numpy())

    def _reopen(self) -> None:
        """Ask the same place of another sample."""
        rows = self._session.rows
        awaited, self._awaited = self._awaited, None
        if awaited is not None and rows and rows[0].origin.sample == awaited.sample:
            self._try_to_show(awaited)
            return
        if self.pick is None:
            return
        if self.row >= len(rows) or self.pick.side not in rows[self.row].images:
            self.clear()
            return
        for layers in self._layers[len(rows) :]:
            layers.hide()
        origin = rows[self.row].origin
        if (origin.run, origin.sample) != (self.pick.run, self.pick.sample):
            self.pick = self.pick.on(rows[self.row], self._size)
        self._follow()

    def _try_to_show(self, pick: Pick) -> None:
        try:
            self.show(pick)
        except I2AMError as e:
            self._complain(e)

    def _go_to(self, pick: Pick, row: Row) -> None:
        """Bring sliders and switches to what a pick asks, where they can say it."""
        moves = {}
        for dim, labels, known in zip(
            MEANS,
            (pick.layers, pick.steps, pick.heads),
            (row.names.layers, row.names.steps, row.names.heads),
            strict=True,
        ):
            if not labels:
                self._session.set_mean(dim, True)
            elif len(labels) == 1 and labels[0] in known:
                moves[dim] = known.index(labels[0])
        self._session.go_to(**moves)
