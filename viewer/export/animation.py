"""An animation over the timesteps of what is in view."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import QObject, QTimer, Signal

from i2am.analysis.export.frames import SUFFIXES, Pixels, check_encoder, write_frames
from i2am.schemas.dims import STEP
from i2am.schemas.errors import AnalysisError
from i2am.viewer.data.volume import MapVolume
from i2am.viewer.export.figure import SceneFigure, take_figure
from i2am.viewer.export.pictures import check_export_file

__all__ = ["SUFFIXES", "TimestepAnimation", "caption_of", "check_animation_file", "write_animation"]

_TICK_MS: Final = 10
_FRAMES_WAITING: Final = 4  # for the thread that writes them


def check_animation_file(path: str | Path, *, overwrite: bool = False) -> Path:
    """Return where an animation can be written.

    Raises
    ------
    AnalysisError
        If the file's name ends in neither ``.gif`` nor ``.mp4``.
    StoreError
        If it exists and `overwrite` is false, or its folder does not.
    MissingExtra
        If it is an MP4 and what writes them is not installed.
    """
    path = check_export_file(path, SUFFIXES, overwrite=overwrite)
    check_encoder(path)
    return path


def write_animation(
    frames: Iterable[Pixels],
    path: str | Path,
    *,
    frames_per_second: float = 4,
    overwrite: bool = False,
) -> Path:
    """Write frames one after the other, in a folder that is there.

    Parameters
    ----------
    frames, path, frames_per_second
        As in `write_frames`.
    overwrite : bool
        Whether the file may exist.

    Raises
    ------
    AnalysisError, StoreError, MissingExtra
        As `check_animation_file` and `write_frames`.
    """
    path = check_animation_file(path, overwrite=overwrite)
    return write_frames(frames, path, frames_per_second=frames_per_second)


class TimestepAnimation(QObject):  # type: ignore[misc]  # Qt has no types here
    """Moves the timestep slider from step to step, takes a picture of each, and puts it back.

    Parameters
    ----------
    session : Session
    path : str or Path
        Where the animation is written.
    every : int
        Which steps are shown: every n-th, from the noisiest on.
    frames_per_second : float
    scale : float, optional
        As in `take_figure`.
    overwrite : bool
        Whether the file may exist.

    Raises
    ------
    AnalysisError, StoreError, MissingExtra
        As `check_animation_file`; also if nothing is open, or the mean over the steps is in view.

    Attributes
    ----------
    progressed : Signal(int, int)
        Frames that are taken, and all.
    finished : Signal(str)
        The path, once the file is there.
    failed : Signal(str)
        Why there is none; empty after `cancel`.
    """

    progressed = Signal(int, int)
    finished = Signal(str)
    failed = Signal(str)
    _written = Signal(object)  # from the thread that writes: None, or what went wrong

    def __init__(
        self,
        session: Any,
        path: str | Path,
        *,
        every: int = 1,
        frames_per_second: float = 4,
        scale: float | None = None,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.check(session)
        self.stops = list(range(0, len(session.views[0].axes.steps), every))
        self._session, self._scale = session, scale
        self._path = check_animation_file(path, overwrite=overwrite)
        self._frames_per_second, self._overwrite = frames_per_second, overwrite
        self._start = session.position.step
        self._taken = 0
        self._refreshed = False
        self._stopped_by: Exception | None = None
        self._frames: queue.SimpleQueue[SceneFigure | None] = queue.SimpleQueue()
        self._written.connect(self._end)
        session.closed.connect(self.cancel)
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._tick)

    @staticmethod
    def check(session: Any) -> None:
        """Raise an AnalysisError if there is nothing to animate."""
        if not session.views:
            msg = "Expected a run to animate, got none, at the window. Open one: drop it there."
            raise AnalysisError(msg)
        if session.is_effect_in_view:
            msg = (
                "Expected attention maps to animate, got measured effects, which are of all timesteps "
                "together, at the switches. Show the attention map."
            )
            raise AnalysisError(msg)
        if STEP in session.averaged_dims or session.viewer.dims.ndisplay == 3:
            is_mean = STEP in session.averaged_dims
            got, switch = (
                ("the mean over", "mean over timesteps") if is_mean else ("a view of", "3-D")
            )
            msg = (
                f"Expected timesteps to animate, got {got} all of them, at the switches. "
                f"Switch {switch} off."
            )
            raise AnalysisError(msg)

    def start(self) -> None:
        """Begin; the window goes on answering meanwhile."""
        threading.Thread(target=self._write, name="i2am-animation", daemon=True).start()
        self._timer.start()

    def cancel(self) -> None:
        """Stop; no file is left, and one that was there stays."""
        self._stop(_Cancelled())

    def _tick(self) -> None:
        try:
            self._advance()
        except Exception as e:  # noqa: BLE001  # the window may be gone: whatever it is, it ends
            self._stop(e)

    def _advance(self) -> None:
        """Take the next picture if its maps are loaded; else wait for the next tick."""
        self.check(self._session)  # The run may have been closed, a mean switched on.
        if self._taken == len(self.stops):
            self._stop(None)
        elif self._frames.qsize() < _FRAMES_WAITING and self._is_drawn(self.stops[self._taken]):
            caption = caption_of(self._session)
            self._frames.put(take_figure(self._session.viewer, self._scale, caption))
            self._taken += 1
            self._refreshed = False
            self.progressed.emit(self._taken, len(self.stops))

    def _is_drawn(self, step: int) -> bool:
        session = self._session
        if session.position.step != step:
            session.go_to(step=step)
            self._refreshed = False
        if not all(
            _is_whole(volume, session) for view in session.views for volume in view.volumes.values()
        ):
            if session.load_error is not None:
                raise session.load_error
            return False
        layers = [layer for layer in session.viewer.layers if isinstance(layer.data, MapVolume)]
        if not self._refreshed:
            # What was drawn may be older than what has been loaded meanwhile.
            for layer in layers:
                layer.refresh()
            self._refreshed = True
        return all(layer.loaded for layer in layers)

    def _stop(self, reason: Exception | None) -> None:
        """Let the writer come to its end: to the file's, without a reason."""
        if self._timer.isActive():
            self._timer.stop()
            self._stopped_by = reason
            self._frames.put(None)

    def _write(self) -> None:
        """Write the frames as they arrive; runs in a thread of its own."""
        error: Exception | None = None
        try:
            write_animation(
                self._arriving(),
                self._path,
                frames_per_second=self._frames_per_second,
                overwrite=self._overwrite,
            )
        except Exception as e:  # noqa: BLE001  # whatever it is, it is shown to the user
            error = e
        with contextlib.suppress(RuntimeError):  # of a window that was closed meanwhile
            self._written.emit(error)

    def _arriving(self) -> Iterator[Pixels]:
        while (taken := self._frames.get()) is not None:
            yield taken.painted()
        if self._stopped_by is not None:
            raise self._stopped_by

    def _end(self, error: Exception | None) -> None:
        self._timer.stop()
        if self._session.views:
            is_mean = STEP in self._session.averaged_dims  # going to a step ends it
            self._session.go_to(step=self._start)
            self._session.set_averaged(STEP, is_mean)
        if error is None:
            self.finished.emit(str(self._path))
        else:
            is_cancelled = isinstance(error, _Cancelled)
            self.failed.emit("" if is_cancelled else str(error) or type(error).__name__)


class _Cancelled(Exception):  # no error: the user wanted it
    """The animation was stopped."""


def caption_of(session: Any) -> str:
    """Return what is in view in words, for below a picture; of the first sample where two are."""
    return str(session.description)


def _is_whole(volume: MapVolume, session: Any) -> bool:
    own = volume.to_own_position(session.position, session.averaged_dims)
    return own is None or volume.loaded.is_whole(own, session.averaged_dims)
