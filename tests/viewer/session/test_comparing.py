"""Two samples in one window: one scale, each named, no text on a picture, and gone when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import write_run
from tests.support.wait import wait

PICKS = {"SRAM", "pick"}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return a run whose maps have half the values of the first one's."""
    path = write_run(tmp_path / "other.zarr", ("first", "second"), seed=5)
    half = (spot_volume() / 2).astype(np.float32)
    volumes = {"r2g": half, "g2r": half}
    write_maps(tmp_path / "other.maps.zarr", {"first": volumes}, source="x/other.zarr")
    return path


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    wait(lambda: bool(session_of(viewer).samples) and session_of(viewer).share_loaded == 1)
    return viewer


def _compare(viewer: Any, run: Path) -> Any:
    session = session_of(viewer)
    session.compare(run, "first")
    wait(lambda: len(session.views) == 2 and session.share_loaded == 1)
    session.go_to(layer=1, step=1, head=0)
    session.refresh()
    return session


def _camera(viewer: Any) -> list[float]:
    camera = viewer.scene.camera
    return [*camera.center, camera.zoom]


def test_a_shared_contrast_is_that_of_both_samples(window: Any, other: Path) -> None:
    session = _compare(window, other)
    for role in ("R2G", "G2R"):
        above, below = window.layers[role], window.layers[f"{role} (2)"]
        assert above.contrast_limits == below.contrast_limits
        assert above.contrast_limits[1] == 1  # that of the higher one
    # The peak of the lower sample is half as high, and drawn so.
    colors = [window.layers[name].colormap for name in ("R2G", "R2G (2)")]
    assert colors[0].same_colors(colors[1])
    # What a user sets for one holds for the other.
    window.layers["R2G (2)"].contrast_limits = (0, 0.25)
    assert window.layers["R2G"].contrast_limits == [0, 0.25]
    assert window.layers["G2R"].contrast_limits[1] == 1
    session.set_appearance(contrast="slice")
    high = [window.layers[name].contrast_limits[1] for name in ("R2G", "R2G (2)")]
    assert high[0] == pytest.approx(2 * high[1])
    session.set_appearance(contrast="shared")
    controller = sram_controller_of(session)
    run = session.views[0].source.run
    controller.request(Pick(run, "first", "generated", (9, 30, 10, 31)))
    names = ("SRAM", "SRAM (2)")
    wait(lambda: set(names) <= {layer.name for layer in window.layers})
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    wait(lambda: all(np.isfinite(window.layers[name].data).all() for name in names))
    values = [window.layers[name].data for name in names]
    limits = [window.layers[name].contrast_limits for name in names]
    assert limits[0] == limits[1]
    together = np.concatenate([one.ravel() for one in values])
    np.testing.assert_allclose(
        limits[0], [together.mean(), np.quantile(together, 0.995)], rtol=1e-4
    )
    session.stop_comparing()


def test_each_sample_is_named_and_no_text_lies_on_a_picture(window: Any, other: Path) -> None:
    session = _compare(window, other)
    viewer = window
    captions = [
        viewer.layers[name].features["caption"][:2] for name in ("captions", "captions (2)")
    ]
    assert list(captions[0]) == ["first of run.zarr: generated · R2G", "reference · G2R"]
    assert list(captions[1]) == ["first of other.zarr: generated · R2G", "reference · G2R"]
    # With text and without: what differs lies on no picture.
    shown = viewer.screenshot(flash=False)[..., :3].astype(int)
    viewer.canvas.overlays.text.visible = False
    texts = [viewer.layers[name] for name in ("captions", "captions (2)")]
    for layer in texts:
        layer.visible = False
    bare = viewer.screenshot(flash=False)[..., :3].astype(int)
    differs = (shown != bare).any(axis=2)
    assert differs.sum() > 500
    height, width = differs.shape
    camera = viewer.scene.camera
    for placed in (one for views in session.placed for one in views.values()):
        top, left, bottom, right = (
            round((at - centre) * camera.zoom + size / 2)
            for at, centre, size in zip(
                placed.bounds, camera.center[-2:] * 2, (height, width) * 2, strict=True
            )
        )
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert not differs[top + 1 : bottom - 1, left + 1 : right - 1].any()
    for layer in texts:
        layer.visible = True
    viewer.canvas.overlays.text.visible = True
    session.stop_comparing()


def test_the_end_of_a_comparison_leaves_nothing_behind(window: Any, other: Path) -> None:
    session = session_of(window)
    session.fit()
    before, layers = _camera(window), {layer.name for layer in window.layers}
    _compare(window, other)
    assert _camera(window) != before
    controller = sram_controller_of(session)
    controller.request(Pick(session.views[0].source.run, "first", "generated", (9, 30, 10, 31)))
    wait(lambda: "SRAM (2)" in {layer.name for layer in window.layers})
    session.stop_comparing()
    assert {layer.name for layer in window.layers} | PICKS == layers | PICKS
    np.testing.assert_allclose(_camera(window), before)
    assert window.layers["captions"].features["caption"][0] == "first: generated · R2G"
    # So does the end that a user makes by removing its map.
    _compare(window, other)
    del window.layers["R2G (2)"]
    wait(lambda: not [layer for layer in window.layers if "(2)" in layer.name])
    assert len(session.views) == 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Have samples open only when the event is set, as from a slow disk."""
    from i2am.viewer.data import open_sample

    go, opened = Event(), open_sample.open_view

    def open_view(*given: Any, **options: Any) -> Any:
        assert go.wait(20)
        return opened(*given, **options)

    monkeypatch.setattr("i2am.viewer.session.samples.open_view", open_view)
    yield go
    go.set()


def test_what_is_cleared_while_a_sample_opens_stays_cleared(
    window: Any, other: Path, held: Event
) -> None:
    session = session_of(window)
    for is_comparison in (True, False):
        if is_comparison:
            session.compare(other, "first")
        else:
            session.show_sample("second")
        window.layers.clear()
        assert not session.views
        held.set()
        wait(lambda: session._opener.pending(0) is None and session._opener.pending(1) is None)
        session._opener._pool.submit(lambda: None).result()
        session.refresh()
        assert not list(window.layers)
        assert not window.canvas.overlays.text.visible
        held.clear()
        if not session.views:
            window.open(str(other), plugin="i2am")
            wait(lambda: bool(session.views))
    # A comparison that is ended before its sample is there does not begin.
    session.compare(other, "second")
    session.stop_comparing()
    held.set()
    session._opener._pool.submit(lambda: None).result()
    wait(lambda: session.share_loaded == 1)
    assert len(session.views) == 1
