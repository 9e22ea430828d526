"""The SRAM of a pick, computed in a thread: its estimates come one after the other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from threading import Event
from typing import TYPE_CHECKING, Any

from i2am.analysis import SramEstimate
from i2am.viewer.picking.pick import Pick, image_size

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView

__all__ = ["Result", "SramRequest"]

Result = SramEstimate | Exception


class SramRequest:
    """The SRAM of a pick in one of the samples in view.

    Parameters
    ----------
    view : SampleView
    view_index : int
        Which sample in view that is.
    pick : Pick
        With its layers, steps and heads.
    on_result : callable (SramRequest, SramEstimate or Exception)
        Called in the thread with every estimate; an error is a result, too.

    Attributes
    ----------
    latest : SramEstimate, Exception or None
        None as long as there is no result.
    has_result : Event
    """

    def __init__(
        self,
        view: SampleView,
        view_index: int,
        pick: Pick,
        on_result: Callable[[SramRequest, Result], object],
    ) -> None:
        self.view, self.view_index, self.pick = view, view_index, pick
        self.latest: Result | None = None
        self.has_result = Event()
        self._on_result = on_result
        self._is_started = self._is_stopped = False

    def start(self, pool: Executor) -> None:
        """Have a pool's thread compute it, once."""
        if not self._is_started:
            self._is_started = True
            pool.submit(self._run)

    def stop(self) -> None:
        """Publish no further results; from any thread."""
        self._is_stopped = True

    def _run(self) -> None:
        """Compute estimates until the exact one, or until it is stopped."""
        if self._is_stopped:
            return
        try:
            region = self.pick.region(image_size(self.view, self.pick.side))
            options: dict[str, Any] = {self.pick.side: region, **self.pick.selection(self.view)}
            for estimate in self.view.live_sram.ask(**options, stop=lambda: self._is_stopped):
                self._publish(estimate)
        except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
            self._publish(e)

    def _publish(self, result: Result) -> None:
        if not self._is_stopped:
            self.latest = result
            self.has_result.set()
            self._on_result(self, result)
