"""Work off the window's thread, whose answers come back to it one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QObject, Signal

__all__ = ["Background"]


class Background(QObject):  # type: ignore[misc]  # Qt has no types here
    """A thread that works for a widget; made in the window's thread.

    Parameters
    ----------
    parent : QObject
        With it the answers end; the thread ends with the last piece of work.
    """

    _done = Signal(object, object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._pool = ThreadPoolExecutor(1, "i2am-widget")
        self._done.connect(self._receive)

    def run(
        self,
        work: Callable[[], Any],
        receive: Callable[[Any], object],
        failed: Callable[[Exception], object] | None = None,
    ) -> None:
        """Work in the thread and receive its answer in the window's.

        An error goes to `failed`; without it, it is shown as a notification.
        """

        def do() -> None:
            try:
                answer, receiver = work(), receive
            except Exception as e:  # noqa: BLE001  # whatever it is, the user is told
                answer, receiver = e, failed or _tell
            with contextlib.suppress(RuntimeError):  # of a widget that is gone
                self._done.emit(receiver, answer)

        self._pool.submit(do)

    def _receive(self, receiver: Callable[[Any], object], answer: Any) -> None:
        receiver(answer)


def _tell(error: Exception) -> None:
    from napari.utils.notifications import show_error

    show_error(str(error) or type(error).__name__)
