"""A click on a patch shows its SRAM over the other image, at once.

SRAMs are computed in a thread; a newer request stops those before it, and estimates are shown as they
come. A request is about what is in view: the slice of the sliders, all of what is averaged over. A
press of the mouse may become a click, and its SRAM is computed already: it is there at the release.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import qdebounced

from i2am.analysis import SramEstimate
from i2am.schemas.errors import AnalysisError, I2AMError
from i2am.viewer.data.axes import AVERAGEABLE_DIMS
from i2am.viewer.notices import notify_error, show_status, what_failed
from i2am.viewer.picking.mouse import MousePicker
from i2am.viewer.picking.overlay import Outlines
from i2am.viewer.picking.pick import (
    Pick,
    check_inside,
    image_size,
    pick_in_view,
    seen_part,
    why_unseen,
)
from i2am.viewer.picking.sram_layers import SramLayers
from i2am.viewer.picking.sram_request import Result, SramRequest
from i2am.viewer.scene.contrast import contrast_limits
from i2am.viewer.session.shortcuts import CLEAR_KEYS
from i2am.viewer.session.words import peak_pixel

if TYPE_CHECKING:
    from i2am.viewer.data.sample import SampleView
    from i2am.viewer.session.session import Session

__all__ = ["SramController", "sram_controller_of"]

_OUTLINE_AFTER_MS: Final = 100  # An outline before the SRAM is another redraw.
_PREPARE_AFTER_MS: Final = 500
_DRAWN_AFTER_MS: Final = 300  # Not before they are drawn once, also on a slow machine.
_WAIT_FOR_RESULT_S: Final = 0.025  # The window waits so long, once a click.


def sram_controller_of(session: Session) -> SramController:
    """Return the controller of a session's window, made at the first call."""
    known: SramController | None = session.findChild(SramController)
    return known or SramController(session)


class SramController(QObject):  # type: ignore[misc]  # Qt has no types here
    """Computes the SRAM of what is clicked, and shows it.

    Parameters
    ----------
    session : Session

    Attributes
    ----------
    pick : Pick or None
        The region whose SRAM is shown or being computed.
    view_index : int
        Of the sample in view whose image it is in.
    estimate : SramEstimate or None
        The latest of its SRAM.
    picked : Signal(Pick)
        Something was picked with the mouse.
    requested : Signal()
        The pick is another one, or of another sample.
    estimated : Signal()
        There is a better estimate, or the exact SRAM, or an error.
    cleared : Signal()
        The pick and its SRAM are gone.
    """

    picked = Signal(object)
    requested = Signal()
    estimated = Signal()
    cleared = Signal()
    _arrived = Signal(object, object)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._session = session
        self.pick: Pick | None = None
        self.view_index = 0
        self.estimate: SramEstimate | None = None
        self._layers = [SramLayers(session, view_index) for view_index in (0, 1)]
        self._requests: dict[int, SramRequest] = {}  # by view index
        self._prefetched: SramRequest | None = None
        self._shown: dict[int, Result] = {}
        self._is_paused = False
        self._is_reported = False  # that the pick has no SRAM
        self._awaited: Pick | None = None
        self._views: list[ref[SampleView]] = []
        self._size = (1, 1)  # of the image that the pick is in
        self._is_moving_sliders = False
        self._thread = ThreadPoolExecutor(1, "i2am-ask")
        self._outline_soon = qdebounced(self._outline, timeout=_OUTLINE_AFTER_MS, parent=self)
        # Not before the window has handled the press: two threads at once are slower than in turn.
        self._idle = QTimer(self)
        self._idle.setSingleShot(True)
        self._idle.timeout.connect(self._start_prefetched)
        self._prepare_soon = QTimer(self)
        self._prepare_soon.setSingleShot(True)
        self._prepare_soon.timeout.connect(self._prepare)
        self._drawn_soon = QTimer(self)
        self._drawn_soon.setSingleShot(True)
        self._drawn_soon.timeout.connect(self._end_preparation)
        self._arrived.connect(self._show)
        session.moved.connect(self._follow)
        session.reopened.connect(self._reopen)
        session.closed.connect(self.close)
        self._picker = MousePicker(session, self)
        self._prepare_soon.start(_PREPARE_AFTER_MS)
        for key in CLEAR_KEYS:
            session.viewer.bind_key(key, self._on_escape, overwrite=True)

    def request(self, pick: Pick, view_index: int = 0) -> None:
        """Compute the SRAM of a pick, with the layers, steps and heads that it names.

        Also of the same region of the other sample in view, with those of its own that have these
        names. Pixels that the model never saw are left out; where it saw none of them, the status bar
        says so, and there is no SRAM.
        """
        self._stop()
        self._end_preparation()
        self.pick, self.view_index, self.estimate = pick, view_index, None
        self._is_reported = False
        views = self._session.views
        self._views = [ref(one) for one in views]
        self._size = image_size(views[view_index], pick.side)
        self.requested.emit()
        if self._is_paused:
            return
        for index, other in enumerate(views):
            if pick.side not in other.images or pick.target_side not in other.images:
                continue
            own = pick if index == view_index else pick.on(other, self._size)
            seen = seen_part(own, other)
            if seen is not None:
                self._requests[index] = self._start_request(other, index, seen)
                continue
            self._layers[index].hide_sram()
            self._layers[index].outline(own)
            if index == view_index:
                self._session.describe_pick("")
                show_status(self._session.viewer, why_unseen(own.side))
                self.estimated.emit()
        self._outline_soon.throttle()

    def prefetch(self, pick: Pick, view_index: int) -> None:
        """Compute the SRAM of a press that may become a click, so that it is there at the release."""
        self.cancel_prefetch()
        view = self._session.views[view_index]
        seen = seen_part(pick, view)
        if seen is None or self._is_paused:
            return
        own = pick_in_view(seen, view, self._session.position, self._session.averaged_dims)
        self._prefetched = SramRequest(view, view_index, own, self._arrived.emit)
        self._idle.start()

    def cancel_prefetch(self) -> None:
        """Stop what `prefetch` began."""
        self._idle.stop()
        if self._prefetched is not None:
            self._prefetched.stop()
        self._prefetched = None

    def ask(self, pick: Pick, view_index: int) -> None:
        """Show the SRAM of what was picked with the mouse, of the maps in view.

        Where the model never saw it, the status bar says so, and what was picked before stays.
        """
        session = self._session
        view = session.views[view_index]
        seen = seen_part(pick, view)
        if seen is None:
            show_status(session.viewer, why_unseen(pick.side))
            self._end_preview(view_index)
            return
        self.request(pick_in_view(seen, view, session.position, session.averaged_dims), view_index)
        self.cancel_prefetch()
        # A click is followed by a redraw: a result that comes before it needs no second one.
        request = self._requests.get(view_index)
        if (
            request is not None
            and request.has_result.wait(_WAIT_FOR_RESULT_S)
            and request.latest is not None
        ):
            self._show(request, request.latest)
        self.picked.emit(self.pick)

    def preview_area(self, pick: Pick, view_index: int) -> None:
        """Show an area as long as it is being picked: what the model saw of it."""
        self._end_preparation()
        seen = seen_part(pick, self._session.views[view_index])
        self._layers[view_index].preview_area(seen or pick)

    def _end_preview(self, view_index: int) -> None:
        """Outline again what was picked before an area was previewed, if anything was."""
        request, layers = self._requests.get(view_index), self._layers[view_index]
        if self._is_paused:
            layers.outlines.hide()
            self.requested.emit()
        elif request is None:
            layers.hide()
        elif isinstance(request.latest, SramEstimate):
            self._draw()
        else:
            layers.outline(request.pick)

    def set_paused(self, on: bool) -> None:
        """Show no SRAM, and compute none, while something else is shown of the pick; or go on."""
        if on == self._is_paused:
            return
        self._is_paused = on
        if on:
            self._stop()
            self.cancel_prefetch()
            self.estimate = None
            for layers in self._layers:
                layers.hide_sram()
        elif self.pick is not None and self.view_index < len(self._session.views):
            self.request(self.pick, self.view_index)

    def pick_in(self, view_index: int) -> Pick | None:
        """Return the pick as it lies in one of the samples in view; None where there is none of it."""
        views = self._session.views
        if self.pick is None or max(view_index, self.view_index) >= len(views):
            return None
        own, view = self.pick, views[view_index]
        if not {own.side, own.target_side} <= view.images.keys():
            return None
        return seen_part(own if view_index == self.view_index else own.on(view, self._size), view)

    def outlines(self, view_index: int) -> Outlines:
        """Return the outlines of the pick in one of the samples in view."""
        return self._layers[view_index].outlines

    def restore(self, pick: Pick) -> None:
        """Show an earlier pick again: go to its sample and its slice.

        Raises
        ------
        AnalysisError
            If the pick is of a run that is not in view, or not in its image.
        """
        view = self._session.views[0] if self._session.views else None
        names = () if view is None else (view.source.sample, *self._session.samples)
        is_in_view = view is not None and view.source.sample == pick.sample
        if view is None or pick.sample not in names or (is_in_view and not pick.is_of(view)):
            msg = (
                f"Expected a pick of the run in view, got one of {pick.run}, at {pick.title()}. "
                "Open that run first; one that was captured anew is another."
            )
            raise AnalysisError(msg)
        if not is_in_view:  # Its capture is known when it is open.
            self._awaited = pick
            self._session.show_sample(pick.sample)
            return
        if pick.reference != view.source.reference and pick.reference in view.references:
            self._awaited = pick
            self._session.reanalyze(reference=pick.reference)
            return
        check_inside(pick, view)
        self._is_moving_sliders = True
        try:
            self._go_to(pick, view)
        finally:
            self._is_moving_sliders = False
        self.request(pick)

    def clear(self) -> None:
        """Remove the pick and its SRAM: the maps are shown again."""
        self._stop()
        self.pick = self.estimate = self._awaited = None
        for layers in self._layers:
            layers.hide()
        self._session.describe_pick("")
        self.cleared.emit()

    def close(self) -> None:
        """Stop the thread, and leave the mouse alone; called when the window is gone."""
        self._stop()
        self.cancel_prefetch()
        self._picker.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start_request(self, view: SampleView, view_index: int, pick: Pick) -> SramRequest:
        """Start the request of a pick: the prefetched one if it is the same, or a new one."""
        prefetched = self._prefetched
        if prefetched is not None and prefetched.view is view and prefetched.pick == pick:
            request, self._prefetched = prefetched, None
        else:
            request = SramRequest(view, view_index, pick, self._arrived.emit)
        request.start(self._thread)
        return request

    def _start_prefetched(self) -> None:
        if self._prefetched is not None:
            self._prefetched.start(self._thread)

    def _prepare(self) -> None:
        """Make layers, and have the thread read what a first click needs, before there is one."""
        session = self._session
        if not session.views or self.pick is not None or self._is_paused:
            return
        if session.share_loaded < 1 and session.load_error is None:
            self._prepare_soon.start(_PREPARE_AFTER_MS)  # What is in view comes first.
            return
        for view, layers in zip(session.views, self._layers, strict=False):
            if not {"generated", "reference"} <= view.images.keys() or not view.sram_layers:
                continue
            height, width = image_size(view, "generated")
            area = (height // 2, width // 2, height // 2 + 1, width // 2 + 1)
            pick = Pick(view.source.run, view.source.sample, "generated", area)
            maps = view.volumes.get("g2r", view.volumes["r2g"])
            layers.prepare(pick, maps.loaded.grid)
            self._thread.submit(_read_once, ref(view))
        self._drawn_soon.start(_DRAWN_AFTER_MS)

    def _end_preparation(self) -> None:
        for layers in self._layers:
            layers.end_preparation()

    def _stop(self) -> None:
        """Stop the requests that are under way."""
        self._outline_soon.cancel()
        for request in self._requests.values():
            request.stop()
        self._requests.clear()

    def _outline(self) -> None:
        """Outline the pick where there is no result yet."""
        for view_index, request in self._requests.items():
            if request.latest is None and view_index < len(self._session.views):
                self._layers[view_index].outline(request.pick)

    def _on_escape(self, viewer: Any) -> None:
        if self.pick is not None:
            self.clear()

    def _show(self, request: SramRequest, found: Result) -> None:
        view_index = request.view_index
        is_current = self._requests.get(view_index) is request
        if not is_current or request.latest is not found or self._shown.get(view_index) is found:
            return
        self._shown[view_index] = found
        if isinstance(found, SramEstimate):
            self._draw()
        else:
            self._layers[view_index].hide_sram()
            self._layers[view_index].outline(request.pick)
            if view_index == self.view_index:
                self._session.describe_pick("")
                self._report_error(found)
        if view_index == self.view_index:
            self.estimate = found if isinstance(found, SramEstimate) else None
            self.estimated.emit()

    def _draw(self) -> None:
        """Draw the latest SRAM of each sample in view; of a shared contrast on one scale."""
        found = {
            view_index: (request.pick, request.latest.values.to_numpy())
            for view_index, request in self._requests.items()
            if isinstance(request.latest, SramEstimate)
        }
        is_shared = self._session.appearance.contrast == "shared"
        every = [values.ravel() for _, values in found.values()]
        for view_index, (pick, values) in found.items():
            limits = contrast_limits(np.concatenate(every) if is_shared else values)
            self._layers[view_index].show(pick, values, limits)
            if view_index == self.view_index:
                self._describe(pick, values)

    def _describe(self, pick: Pick, values: NDArray[np.float32]) -> None:
        """Say what is asked, and where its SRAM is highest."""
        box = self._session.placed[self.view_index][pick.target_side].box
        y, x = peak_pixel(values, box)
        sample = f"{pick.sample}, " if self.view_index else ""
        self._session.describe_pick(
            f"asked: {sample}{pick.region_in_words()}, "
            f"SRAM up to {np.nanmax(values):.3g} at {pick.target_side} ({y}, {x})"
        )

    def _report_error(self, error: Exception) -> None:
        """Show once why there is no SRAM; while sliders move, in the status bar alone."""
        text = what_failed(error)
        show_status(self._session.viewer, text)
        if not self._is_reported:
            notify_error(text)
        self._is_reported = True

    def _follow(self) -> None:
        """Request the SRAM anew for the maps in view now."""
        if (
            self.pick is None
            or self._is_moving_sliders
            or self.view_index >= len(self._session.views)
        ):
            return
        view = self._session.views[self.view_index]
        was_reported = self._is_reported
        pick = pick_in_view(self.pick, view, self._session.position, self._session.averaged_dims)
        if pick != self.pick or self._views != [ref(one) for one in self._session.views]:
            self.request(pick, self.view_index)
            self._is_reported = was_reported
            return
        self._draw()  # The appearance may have changed.

    def _reopen(self) -> None:
        """Request the same region of another sample."""
        self._prepare_soon.start(_PREPARE_AFTER_MS)
        views = self._session.views
        for gone in range(len(views), len(self._layers)):
            self._layers[gone].remove()
            if (request := self._requests.pop(gone, None)) is not None:
                request.stop()
            self._shown.pop(gone, None)
        for layers in self._layers[: len(views)]:
            layers.leave()
        awaited, self._awaited = self._awaited, None
        if awaited is not None and views and views[0].source.sample == awaited.sample:
            self._try_to_restore(awaited)
            return
        if self.pick is None:
            return
        if self.view_index >= len(views) or self.pick.side not in views[self.view_index].images:
            self.clear()
            return
        source = views[self.view_index].source
        own = (self.pick.run, self.pick.sample, self.pick.reference)
        if (source.run, source.sample, source.reference) != own:
            self.pick = self.pick.on(views[self.view_index], self._size)
        self._follow()

    def _try_to_restore(self, pick: Pick) -> None:
        try:
            self.restore(pick)
        except I2AMError as e:
            self._report_error(e)

    def _go_to(self, pick: Pick, view: SampleView) -> None:
        """Move sliders and switches to the pick's layers, steps and heads, where they can show them."""
        moves = {}
        for dim, labels, known in zip(
            AVERAGEABLE_DIMS,
            (pick.layers, pick.steps, pick.heads),
            (view.axes.layers, view.axes.steps, view.axes.heads),
            strict=True,
        ):
            if not labels:
                self._session.set_averaged(dim, True)
            elif len(labels) == 1 and labels[0] in known:
                moves[dim] = known.index(labels[0])
        self._session.go_to(**moves)


def _read_once(known: ref[SampleView]) -> None:
    """Compute one SRAM in the thread, of one step: what is imported and opened then stays so."""
    view = known()
    if view is None:
        return
    name = next(one for one in view.axes.layers if one in view.sram_layers)
    with contextlib.suppress(Exception):  # A click tells what is wrong.
        middle = tuple(size // 2 for size in image_size(view, "generated"))
        asked: Any = {"generated": middle, "layers": [name], "steps": [view.axes.steps[0]]}
        for _ in view.live_sram.ask(**asked):
            pass
