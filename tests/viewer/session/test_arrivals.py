"""A second run opened in one window, as File > Open does: it replaces the first or is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from tests.support.synthetic_run import write_run
from tests.support.wait import wait

PICKS = ("SRAM", "pick")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return a run of larger pictures."""
    return write_run(tmp_path / "other.zarr", ("second",), size_px=(48, 96), seed=5)


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    wait(lambda: bool(session_of(viewer).samples) and session_of(viewer).share_loaded == 1)
    return viewer


def _open(viewer: Any, path: Path) -> Any:
    """Open a run as File > Open does, and return the question."""
    viewer.open(str(path), plugin="i2am")
    arrivals = session_of(viewer).arrivals
    wait(lambda: arrivals.question is not None)
    return arrivals.question


def _answer(question: Any, name: str) -> None:
    next(one for one in question.buttons() if one.text().replace("&", "") == name).click()


def _of_samples(viewer: Any) -> list[Any]:
    """Return the layers without those of picks, which come when the window is idle."""
    return [layer for layer in viewer.layers if layer.name.partition(" ")[0] not in PICKS]


def _names(viewer: Any) -> list[str]:
    return [layer.name for layer in _of_samples(viewer)]


def _is_in_view(viewer: Any) -> bool:
    """Whether the whole scene is seen, and fills the canvas in one direction."""
    is_inside, filled = _place(viewer)
    return is_inside and filled > 0.6


def _place(viewer: Any) -> tuple[bool, float]:
    """Return whether the whole scene is seen, and how much of the canvas it fills in one direction."""
    height, width = viewer.canvas.size
    camera = viewer.scene.camera
    extent = viewer.layers.extent.world[:, -2:]
    corners = (extent - np.asarray(camera.center)[-2:]) * camera.zoom + np.array(
        [height, width]
    ) / 2
    inside = (corners >= -1).all() and (corners <= [height + 1, width + 1]).all()
    return bool(inside), float((np.ptp(corners, axis=0) / [height, width]).max())


def test_a_second_run_replaces_the_first_where_the_user_says_so(
    window: Any, other: Path, run: Path
) -> None:
    session, names = session_of(window), _names(window)
    mine = window.add_points([[1, 1]], name="mine")
    source = session.views[0].source
    controller = sram_controller_of(session)
    controller.request(Pick(source.run, "first", "generated", (9, 30, 10, 31)))
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    question = _open(window, other)
    assert f"first of {run}" in question.text()
    assert f"second of {other}" in question.text()
    # Meanwhile nothing has changed.
    assert session.views[0].source.sample == "first"
    assert {*names, "mine"} == set(_names(window))
    _answer(question, "Replace")
    assert session.views[0].source.run == str(other)
    assert len(session.views) == 1
    assert {*names, "mine"} == set(_names(window))
    assert mine in window.layers
    shown = window.layers["generated"].data
    np.testing.assert_array_equal(shown, zarr.open_group(other)["second/images/generated"])
    assert _is_in_view(window)
    # What is asked now lies over the picture that is seen.
    assert controller.pick is not None
    assert controller.pick.run == str(other)
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    order = [layer.name for layer in window.layers]
    assert order.index("SRAM") > order.index("reference")
    assert window.layers["captions"].features["caption"][0].startswith("second: generated")
    window.layers.remove(mine)


def test_what_is_hidden_of_larger_pictures_is_no_part_of_the_scene(
    open_window: Callable[..., Any], other: Path, run: Path
) -> None:
    window = open_window(other)
    session, controller = session_of(window), sram_controller_of(session_of(window))
    wait(lambda: bool(session.samples) and session.share_loaded == 1)
    controller.request(Pick(str(other), "second", "generated", (40, 90, 41, 91)))
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    controller.clear()
    assert not window.layers["SRAM"].visible
    assert not window.layers["source"].visible
    _answer(_open(window, run), "Replace")
    assert _is_in_view(window)
    seen = [layer for layer in window.layers if layer.visible]
    extents = [layer.extent.world[:, -2:] for layer in seen]
    np.testing.assert_array_equal(
        window.layers.extent.world[:, -2:],
        [np.min(extents, axis=0)[0], np.max(extents, axis=0)[1]],
    )


def test_a_second_run_is_compared_where_the_user_says_so(window: Any, other: Path) -> None:
    session, names = session_of(window), _names(window)
    _answer(_open(window, other), "Compare")
    assert [view.source.sample for view in session.views] == ["first", "second"]
    assert sorted(_names(window)) == sorted([*names, *(f"{name} (2)" for name in names)])
    assert _is_in_view(window)
    above = window.layers["captions"].features["caption"][0]
    below = window.layers["captions (2)"].features["caption"][0]
    assert above.startswith("first of run.zarr: generated")
    assert below.startswith("second of other.zarr: generated")
    session.stop_comparing()


def test_a_second_run_that_nobody_wants_leaves_no_trace(
    window: Any, other: Path, run: Path
) -> None:
    session, layers = session_of(window), _of_samples(window)
    _answer(_open(window, other), "Cancel")
    assert _of_samples(window) == layers
    assert [view.source.run for view in session.views] == [str(run)]
    # Neither does the same run, opened again.
    _answer(_open(window, run), "Cancel")
    assert _of_samples(window) == layers


def test_a_run_takes_the_place_of_what_is_left_of_another(window: Any, other: Path) -> None:
    session, names = session_of(window), _names(window)
    del window.layers["R2G"]
    assert not session.views
    window.open(str(other), plugin="i2am")
    wait(lambda: sorted(_names(window)) == sorted(names))
    assert session.views[0].source.run == str(other)
    assert session.arrivals.question is None, session.arrivals.question.text()


def test_a_copy_of_a_layer_is_the_users(window: Any, run: Path) -> None:
    from napari.layers._layer_actions import _duplicate_layer

    session = session_of(window)
    window.layers.selection = {window.layers["R2G"]}
    _duplicate_layer(window.layers)
    copy = window.layers["R2G copy"]
    session.show_sample("second")
    wait(lambda: session.views[0].source.sample == "second")
    assert copy.data is not session.views[0].volumes["r2g"]
    assert window.layers["R2G"].data is session.views[0].volumes["r2g"]
    assert session.arrivals.question is None, session.arrivals.question.text()
    window.layers.remove(copy)


def test_the_view_follows_the_windows_size_unless_a_user_has_moved_it(window: Any) -> None:
    session, camera = session_of(window), window.scene.camera
    session.fit()
    before, size = camera.zoom, window.window.geometry()[2:]
    filled = _place(window)[1]
    window.window.resize(1150, 700)
    wait(lambda: camera.zoom != before)
    assert _is_in_view(window)
    camera.zoom = users = 20.0
    window.window.resize(*size)
    wait(lambda: window.window.geometry()[2:] == size)
    session.refresh()
    wait(lambda: not session._fit_soon._timer.isActive())
    assert camera.zoom == users
    session.fit()
    # Of the canvas, whose height a dock may have changed meanwhile.
    assert _is_in_view(window)
    assert _place(window)[1] == pytest.approx(filled, rel=0.05)
