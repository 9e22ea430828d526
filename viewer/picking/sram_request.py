"""A question about a patch, answered in a thread: its estimates come one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from threading import Event
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from i2am.analysis import LiveSram, SramEstimate
from i2am.viewer.picking.pick import Pick, picture_size

if TYPE_CHECKING:
    from i2am.viewer.data.sample import Row

__all__ = ["Found", "Inquiry", "questions_of"]

Found = SramEstimate | Exception
_questions: WeakKeyDictionary[Row, LiveSram] = WeakKeyDictionary()


def questions_of(row: Row) -> LiveSram:
    """Return what answers questions about a sample in view; from any thread."""
    if row not in _questions:
        own: Any = row.origin
        _questions[row] = LiveSram(
            row.capture, guidance=own.guidance, normalisation=own.normalisation
        )
    return _questions[row]


class Inquiry:
    """What is asked of one sample in view.

    Parameters
    ----------
    row : Row
    number : int
        The row's.
    pick : Pick
        With the layers, steps and heads that are asked.
    tell : callable (Inquiry, SramEstimate or Exception)
        Called in the thread with every answer; also what goes wrong is an answer.

    Attributes
    ----------
    latest : SramEstimate, Exception or None
        None as long as there is no answer.
    has_answer : Event
    """

    def __init__(
        self, row: Row, number: int, pick: Pick, tell: Callable[[Inquiry, Found], object]
    ) -> None:
        self.row, self.number, self.pick = row, number, pick
        self.latest: Found | None = None
        self.has_answer = Event()
        self._tell = tell
        self._is_started = self._is_stopped = False

    def start(self, pool: Executor) -> None:
        """Have it answered in a pool's thread, once."""
        if not self._is_started:
            self._is_started = True
            pool.submit(self._run)

    def stop(self) -> None:
        """Have no further answers; from any thread."""
        self._is_stopped = True

    def _run(self) -> None:
        """Answer, until the last answer or until it is stopped."""
        if self._is_stopped:
            return
        try:
            place = self.pick.place(picture_size(self.row, self.pick.side))
            asked: dict[str, Any] = {self.pick.side: place, **self.pick.asked(self.row)}
            for answer in questions_of(self.row).ask(**asked, stop=lambda: self._is_stopped):
                self._have(answer)
        except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
            self._have(e)

    def _have(self, found: Found) -> None:
        if not self._is_stopped:
            self.latest = found
            self.has_answer.set()
            self._tell(self, found)
