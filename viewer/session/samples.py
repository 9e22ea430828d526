"""Opens stores and samples in a thread, so that the window goes on answering meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QObject, Signal

from i2am.viewer.data.open_sample import Store, open_view
from i2am.viewer.data.sample import SampleSource

__all__ = ["SampleOpener"]


class SampleOpener(QObject):  # type: ignore[misc]  # Qt has no types here
    """Opens samples one after the other; its signals are received in the window's thread.

    Attributes
    ----------
    opened : Signal(SampleView, int)
        A sample is open, and its view index. Only of the latest request for each index.
    listed : Signal(str, tuple of str)
        The path of a run, and the names of its complete samples.
    failed : Signal(Exception)
        A store cannot be read.
    """

    opened = Signal(object, int)
    listed = Signal(str, object)
    failed = Signal(object)
    _found = Signal(object, object)

    def __init__(self) -> None:
        super().__init__()
        self._pool = ThreadPoolExecutor(1, "i2am-open")
        # The latest request for each sample in view: (sample, its own identity).
        self._latest: dict[int, tuple[str | None, object]] = {}
        self._found.connect(self._deliver)

    def open(self, source: SampleSource, view_index: int = 0) -> None:
        """Open a sample as `i2am.viewer.data.open_sample.open_view` does.

        Parameters
        ----------
        source : SampleSource
            What to open; whether its maps are computed is found out. Without a name the run's first.
        view_index : int
            The sample in view that it is to replace. An earlier request for the same is dropped.
        """
        request = self._latest[view_index] = (source.sample, object())

        def find() -> Any:
            if self._latest.get(view_index) is not request:
                return None
            return open_view(
                source.run,
                source.sample or None,
                source.maps,
                guidance=source.guidance,
                normalisation=source.normalisation,
                within=source.within,
                reference=source.reference,
                effects=source.effects,
            )

        def receive(view: Any) -> None:
            if self._latest.get(view_index) is request:
                del self._latest[view_index]
                self.opened.emit(view, view_index)

        self._submit(find, receive)

    def pending(self, view_index: int) -> str | None:
        """Return the name of the sample that is being opened; None if there is none."""
        return self._latest.get(view_index, (None, None))[0]

    def cancel(self, view_index: int) -> None:
        """Drop what was requested for one of the samples in view."""
        self._latest.pop(view_index, None)

    def list_samples(self, run: Store) -> None:
        """List the complete samples of a run."""
        self._submit(lambda: _sample_names(run), lambda names: self.listed.emit(str(run), names))

    def close(self) -> None:
        """End the thread as soon as it has finished what it reads."""
        self._latest.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, find: Callable[[], Any], receive: Callable[[Any], None]) -> None:
        """Find something in the thread; receive it, or the error, in the window's."""

        def work() -> None:
            try:
                found, receiver = find(), receive
            except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
                found, receiver = e, self.failed.emit
            self._found.emit(receiver, found)

        self._pool.submit(work)

    def _deliver(self, receive: Callable[[Any], None], found: Any) -> None:
        receive(found)


def _sample_names(run: Store) -> tuple[str, ...]:
    from i2am.analysis import open_run

    return tuple(open_run(os.fspath(run)))
