"""What dock widgets share: work off the window's thread, buttons, notifications."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QLabel, QPushButton

from i2am.schemas.errors import I2AMError
from i2am.schemas.text import safe_text
from i2am.viewer.notices import notify_error

__all__ = [
    "Background",
    "make_button",
    "notify_errors",
    "plain_label",
    "plain_tip",
]


class Background(QObject):  # type: ignore[misc]  # Qt has no types here
    """A thread that works for a widget; made in the window's thread.

    Parameters
    ----------
    parent : QObject
        The thread ends with it.
    """

    _done = Signal(object, object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._pool, self._closed = ThreadPoolExecutor(1, "i2am-widget"), Event()
        self._done.connect(self._receive)
        pool, closed = self._pool, self._closed

        def close() -> None:
            closed.set()
            pool.shutdown(wait=False, cancel_futures=True)

        # No method of the widget, nor of this object: Qt disconnects these first.
        parent.destroyed.connect(close)

    @property
    def is_closed(self) -> bool:
        """Whether the widget is gone; from any thread."""
        return self._closed.is_set()

    def run(
        self,
        work: Callable[[], Any],
        receive: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Work in the thread and receive the result in the window's.

        An error goes to `failed`; without it, it is shown as a notification.
        """
        self.run_each(lambda: (work(),), receive, failed)

    def run_each(
        self,
        work: Callable[[], Iterable[Any]],
        receive: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Work as `run` does, and receive each result as soon as it is there."""

        def do() -> None:
            try:
                for result in work():
                    self._send(receive, result)
            except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
                self._send(failed or _notify_any, e)

        self._pool.submit(do)

    def _send(self, receive: Callable[[Any], object], result: Any) -> None:
        with contextlib.suppress(RuntimeError):  # of a widget that is gone
            self._done.emit(receive, result)

    def _receive(self, receive: Callable[[Any], object], result: Any) -> None:
        receive(result)


def make_button(
    text: str, tool_tip: str, clicked: Callable[[], object] | None = None
) -> QPushButton:
    """Return a button with a tool tip, and what it does."""
    button = QPushButton(text)
    button.setToolTip(tool_tip)
    if clicked is not None:
        button.clicked.connect(lambda: clicked())
    return button


def plain_label(text: str = "") -> QLabel:
    """Return a label that shows text as it is: Qt takes what looks like HTML for HTML.

    A name in a store would otherwise have the window open pictures and links that a stranger chose.
    """
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    return label


def plain_tip(text: str) -> str:
    """Return a tool tip that shows text as it is; tool tips have no such switch as labels do.

    Examples
    --------
    >>> plain_tip("down.0, head 3"), plain_tip("<img src=x>")
    ('down.0, head 3', '<p style="white-space: pre">&lt;img src=x&gt;</p>')
    """
    shown = safe_text(text, keep="\n")
    return f'<p style="white-space: pre">{html.escape(shown)}</p>' if "<" in shown else shown


def notify_errors(work: Callable[[], object]) -> None:
    """Do something; an error of ours becomes a notification."""
    try:
        work()
    except I2AMError as e:
        notify_error(str(e))


def _notify_any(error: Exception) -> None:
    notify_error(str(error) or type(error).__name__)
