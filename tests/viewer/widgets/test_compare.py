from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.compare import CompareWidget
from tests.support.synthetic_run import write_run
from tests.support.wait import wait


def _dock(viewer: Any) -> CompareWidget:
    _, widget = viewer.window.add_plugin_dock_widget("i2am", "Compare")
    assert isinstance(widget, CompareWidget)
    return widget


def test_another_sample_of_the_run_comes_below_and_goes_again(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    session, widget = session_of(viewer), _dock(viewer)
    wait(lambda: widget.sample.count() == 2)
    assert not widget.stop.isEnabled()
    widget.sample.setCurrentText("second")
    widget.start.click()
    wait(lambda: len(session.rows) == 2)
    assert widget.state.text() == "first above, second below"
    assert [row.origin.sample for row in session.rows] == ["first", "second"]
    widget.stop.click()
    assert len(session.rows) == 1
    assert not widget.stop.isEnabled()


def test_a_sample_of_another_run_comes_below(
    run: Path, tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    other = write_run(tmp_path / "other.zarr", seed=3)
    viewer = open_window(run)
    session, widget = session_of(viewer), _dock(viewer)
    wait(lambda: widget.sample.count() == 2)
    widget.run.setText(str(other))
    widget.start.click()
    wait(lambda: len(session.rows) == 2)
    assert widget.state.text() == f"first above, first of {other} below"


def test_a_run_that_is_not_there_is_told_and_nothing_changes(
    run: Path, tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    from napari.utils.notifications import notification_manager

    viewer = open_window(run)
    session, widget = session_of(viewer), _dock(viewer)
    widget.run.setText(str(tmp_path / "nothing.zarr"))
    widget.start.click()
    told = "Expected a store, got nothing"
    wait(lambda: any(told in record.message for record in notification_manager.records))
    wait(lambda: widget.state.text() == "")
    assert len(session.rows) == 1


def test_without_a_run_the_widget_says_what_to_do(make_napari_viewer_proxy: Any) -> None:
    widget = _dock(make_napari_viewer_proxy())
    assert not widget.start.isEnabled()
    assert widget.state.text() == "Open a run first: drop it on the window."
