"""Windows of napari, used and watched by `viewer_latency.py`: drawn frames, clicks, whose code runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "SETTLE_S",
    "Draws",
    "click",
    "counting",
    "drawn",
    "pump",
    "renew_canvas",
    "set_step",
    "timed",
    "virtual_display",
    "wait",
    "watching",
]

SETTLE_S = 0.05


class Draws:
    """When a window's canvas has been drawn."""

    def __init__(self, viewer: Any) -> None:
        self._events = viewer.window._qt_viewer.canvas._scene_canvas.events
        self._times: list[float] = []
        self._events.draw.connect(self._note, position="last")

    def after(self, time_s: float) -> float:
        """Return when the first draw after a time has ended."""
        wait(lambda: bool(self._times) and self._times[-1] > time_s)
        return next(at for at in self._times if at > time_s)

    def stop(self) -> None:
        """Watch no longer."""
        self._events.draw.disconnect(self._note)

    def _note(self, _: Any) -> None:
        self._times.append(time.perf_counter())


def set_step(viewer: Any, at: int) -> None:
    """Move the timestep slider."""
    viewer.dims.set_current_step(2, at)


def click(viewer: Any, at: tuple[int, ...]) -> None:
    """Press and release the mouse on a pixel of the generated picture, as the canvas does."""
    canvas = viewer.window._qt_viewer.canvas
    height, width = viewer.canvas.size
    camera = viewer.scene.camera
    centre = camera.center[-2:]
    x = (at[1] - centre[1]) * camera.zoom + width / 2
    y = (at[0] - centre[0]) * camera.zoom + height / 2
    events = canvas._scene_canvas.events
    for event in (events.mouse_press, events.mouse_release):
        event(pos=(x, y), button=1, buttons=[1], modifiers=())


def renew_canvas(viewer: Any) -> None:
    """Give a window's canvas a new framebuffer, as when a user changes the window's size.

    Mesa's software renderer keeps frames that were once drawn faster than shown, and their textures in use:
    from then on each move of a slider waits for the frame before, in one window and not in another.
    """
    window = viewer.window._qt_window
    width, height = window.width(), window.height()
    for less in (20, 0):
        window.resize(width - less, height)
        pump(0.5)


def drawn(viewer: Any, act: Callable[[], object]) -> float:
    """Return the seconds from an act to the end of the draw that it causes."""
    pump(SETTLE_S)
    draws = Draws(viewer)
    begin = time.perf_counter()
    act()
    done = draws.after(begin)
    draws.stop()
    return done - begin


class Own:
    """Seconds that were spent in our code."""

    seconds = 0.0


@contextmanager
def counting() -> Iterator[Own]:
    """Count the time in our entry points during a slider move: reading a plane, following."""
    from i2am.viewer.data.volume import MapVolume
    from i2am.viewer.session.session import Session as Core

    own, depth = Own(), 0
    originals: list[tuple[Any, str, Callable[..., Any]]] = [
        (Core, "_on_sliders_moved", Core._on_sliders_moved),
        (MapVolume, "__getitem__", MapVolume.__getitem__),
    ]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal depth
            depth += 1
            begin = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                depth -= 1
                if not depth:
                    own.seconds += time.perf_counter() - begin

        return call

    for kind, name, function in originals:
        setattr(kind, name, wrapped(function))
    try:
        yield own
    finally:
        for kind, name, function in originals:
            setattr(kind, name, function)


class Watch:
    """The longest stretch of the main thread in our code."""

    longest_s = 0.0
    where = ""


@contextmanager
def watching() -> Iterator[Watch]:
    """Sample the main thread's stack every millisecond; its innermost known frame tells whose it is."""
    watch, main, is_over = Watch(), threading.main_thread().ident, threading.Event()

    def sample() -> None:
        begin = None
        while not is_over.wait(0.001):
            where = _ours(sys._current_frames().get(main or 0))
            now = time.perf_counter()
            if where is None:
                begin = None
                continue
            begin = begin or now
            if now - begin > watch.longest_s:
                watch.longest_s, watch.where = now - begin, where

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield watch
    is_over.set()
    thread.join()


def _ours(frame: Any) -> str | None:
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith(("napari", "vispy", "qtpy", "superqt", "__main__", "viewer_")):
            return None
        if name.startswith("i2am."):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def pump(seconds: float) -> None:
    """Let the window live for a while."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.001)


def wait(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Let the window live until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + seconds
    while not is_so():
        if time.perf_counter() > end:
            msg = f"Expected an answer of the window, got none within {seconds:.0f} s."
            raise TimeoutError(msg)
        QApplication.processEvents()
        time.sleep(0.0005)


def timed(work: Callable[[], object]) -> float:
    """Return how long it took, in seconds."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def virtual_display() -> Iterator[None]:
    """Have a display, a virtual one where there is none; settings of its own, not the user's."""
    os.environ["QT_QPA_PLATFORM"] = "xcb"
    with tempfile.TemporaryDirectory() as settings:
        os.environ["NAPARI_CONFIG"] = str(Path(settings) / "settings.yaml")
        if os.environ.get("DISPLAY"):
            yield
            return
        read, write = os.pipe()
        server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "3200x1000x24", "-nolisten", "tcp"],
            pass_fds=(write,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        with os.fdopen(read) as answer:
            os.environ["DISPLAY"] = ":" + answer.readline().strip()
        try:
            yield
        finally:
            server.terminate()
