from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from i2am.analysis import analyze, open_run
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
    wait(lambda: len(session.views) == 2)
    assert widget.state.text() == "first above, second below"
    assert [view.source.sample for view in session.views] == ["first", "second"]
    widget.stop.click()
    assert len(session.views) == 1
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
    wait(lambda: len(session.views) == 2)
    assert widget.state.text() == f"first above, first of {other} below"


def test_the_branches_of_the_guidance_come_one_below_the_other(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "guided.zarr", ("first", "second"), guidance=True)
    viewer = open_window(run)
    session, widget = session_of(viewer), _dock(viewer)
    wait(lambda: widget.sample.count() == 2)
    assert widget.guidance.currentText() == "conditional"
    widget.guidance.setCurrentText("unconditional")
    widget.start.click()
    wait(lambda: len(session.views) == 2 and session.share_loaded == 1)
    assert widget.state.text() == "first (conditional) above, first (unconditional) below"
    for name, branch in (("R2G", "conditional"), ("R2G (2)", "unconditional")):
        truth = analyze(open_run(run)["first"], guidance=branch)["r2g"].dataset["volume"]
        np.testing.assert_allclose(viewer.layers[name].data[0, 1, 2, 1], truth[1, 2, 1], rtol=1e-5)
    captions = [viewer.layers[name].features["caption"][0] for name in ("captions", "captions (2)")]
    assert captions == [
        "first, conditional: generated · R2G",
        "first, unconditional: generated · R2G",
    ]
    # Both go to the next sample, and keep their branches.
    session.show_sample("second")
    wait(lambda: all(view.source.sample == "second" for view in session.views))
    assert [view.source.guidance for view in session.views] == ["conditional", "unconditional"]
    session.stop_comparing()


def test_a_run_that_is_not_there_is_reported_and_nothing_changes(
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
    assert len(session.views) == 1


def test_without_a_run_the_widget_says_what_to_do(make_napari_viewer_proxy: Any) -> None:
    widget = _dock(make_napari_viewer_proxy())
    assert not widget.start.isEnabled()
    assert widget.state.text() == "Open a run first: drop it on the window."
