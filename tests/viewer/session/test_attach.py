"""What belongs to a window ends with it."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2am.viewer.data import open_sample
from i2am.viewer.data.map_readers import ComputedMapReader
from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from tests.support.synthetic_run import write_run
from tests.support.wait import wait


def _threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("i2am-")]


def test_a_window_has_one_session_and_one_controller(
    run: Path, open_new_window: Callable[..., Any]
) -> None:
    viewer, other = open_new_window(run), open_new_window(run)
    session = session_of(viewer)
    assert session_of(viewer) is session
    assert sram_controller_of(session) is sram_controller_of(session)
    assert session_of(other) is not session
    assert sram_controller_of(session_of(other)) is not sram_controller_of(session)


def _is_gone(known: weakref.ref[Any]) -> bool:
    gc.collect()
    return known() is None


def _use(viewer: Any, run: Path) -> weakref.ref[Any]:
    """Have every widget of a window work, and return its session."""
    session = session_of(viewer)
    docked = {
        name: viewer.window.add_plugin_dock_widget("i2am", name)[1]
        for name in ("Ask a patch", "Panels", "Compare", "Export")
    }
    wait(lambda: session.share_loaded == 1 and bool(session.samples))
    sram_controller_of(session).request(Pick(str(run), "first", "generated", (9, 30, 10, 31)))
    docked["Ask a patch"].fill_neighbours()
    wait(lambda: len(docked["Ask a patch"].neighbours.maps) == 9)
    assert {"i2am-open_0", "i2am-ask_0", "i2am-widget_0"} <= set(_threads())
    return weakref.ref(session)


def test_a_closed_window_leaves_no_thread_and_no_session(
    run: Path, open_new_window: Callable[..., Any]
) -> None:
    wait(lambda: not _threads())  # those of windows before
    viewer = open_new_window(run)
    session = _use(viewer, run)
    viewer.close()
    del viewer
    wait(lambda: not _threads())
    wait(lambda: _is_gone(session))


def test_a_window_that_is_closed_while_it_loads_leaves_no_thread(
    tmp_path: Path, open_new_window: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(lambda: not _threads())  # those of windows before
    go, open_view, read = threading.Event(), open_sample.open_view, ComputedMapReader.read

    def open_slowly(*given: Any, **options: Any) -> Any:
        assert go.wait(20)
        return open_view(*given, **options)

    def read_slowly(self: ComputedMapReader, layer: int, steps: Any) -> Any:
        assert go.wait(20)
        return read(self, layer, steps)

    monkeypatch.setattr("i2am.viewer.session.samples.open_view", open_slowly)
    monkeypatch.setattr(ComputedMapReader, "read", read_slowly)
    run = write_run(tmp_path / "run.zarr", ("first", "second"))
    viewer = open_new_window(run)
    session = session_of(viewer)
    assert session.share_loaded < 1
    session.compare(run, "second")
    sram_controller_of(session).request(Pick(str(run), "first", "generated", (9, 30, 10, 31)))
    wait(lambda: {"i2am-open_0", "i2am-maps", "i2am-ask_0"} <= set(_threads()))
    known = weakref.ref(session)
    viewer.close()
    del viewer, session
    go.set()
    wait(lambda: not _threads())
    wait(lambda: _is_gone(known))


def test_a_closed_window_stops_an_animation(
    run: Path, tmp_path: Path, open_new_window: Callable[..., Any]
) -> None:
    from i2am.viewer.export.animation import TimestepAnimation

    viewer = open_new_window(run)
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1)
    animation = TimestepAnimation(session, tmp_path / "moving.gif", scale=32)
    failed: list[str] = []
    animation.failed.connect(failed.append)
    animation.start()
    wait(lambda: "i2am-animation" in _threads())
    viewer.close()
    wait(lambda: not _threads())
    wait(lambda: bool(failed))
    assert not list(tmp_path.glob("moving*"))
