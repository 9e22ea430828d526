"""A question about a patch, answered in a thread: its estimates come one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from threading import Event
from typing import TYPE_CHECKING, Any

from i2am.analysis import Answer
from i2am.viewer.picking.pick import Pick, picture_size

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView

__all__ = ["Found", "Inquiry"]

Found = Answer | Exception


class Inquiry:
    """What is asked of one sample in view.

    Parameters
    ----------
    view : SampleView
    number : int
        The row's.
    pick : Pick
        With the layers, steps and heads that are asked.
    tell : callable (Inquiry, Answer or Exception)
        Called in the thread with every answer; also what goes wrong is an answer.

    Attributes
    ----------
    latest : Answer, Exception or None
        None as long as there is no answer.
    has_answer : Event
    """

    def __init__(
        self, view: SampleView, number: int, pick: Pick, tell: Callable[[Inquiry, Found], object]
    ) -> None:
        self.row, self.number, self.pick = view, number, pick
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
            region = self.pick.region(picture_size(self.row, self.pick.side))
            asked: dict[str, Any] = {self.pick.side: region, **self.pick.asked(self.row)}
            for answer in self.row.questions.ask(**asked, stop=lambda: self._is_stopped):
                self._have(answer)
        except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
            self._have(e)

    def _have(self, found: Found) -> None:
        if not self._is_stopped:
            self.latest = found
            self.has_answer.set()
            self._tell(self, found)
