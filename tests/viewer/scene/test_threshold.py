"""The threshold in a real window: what is below is clear, and the peak is always seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from tests.support.maps_store import spot_volume, write_maps
from tests.support.synthetic_run import write_run
from tests.support.wait import wait

SCALE = 8
PATCH = 4 * SCALE  # 32 pixels, 8 patches
REFERENCE = 34 * SCALE
PEAK, LOWER = (3, 4), (6, 1)
Pixels = np.ndarray[Any, np.dtype[np.int64]]


@pytest.fixture
def window(tmp_path: Path, open_window: Callable[..., Any]) -> Any:
    """Return a window on maps of two lone patches, one half as high as the other."""
    run = write_run(tmp_path / "run.zarr")
    volume = np.zeros_like(spot_volume())
    volume[..., PEAK[0], PEAK[1]] = 1
    volume[..., LOWER[0], LOWER[1]] = 0.5
    volume[0, 1] *= 0.1  # beside the others of its layer it is weak
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume, "g2r": volume}})
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and bool(session.samples))
    session.go_to(layer=0, step=0, head=0)
    return viewer


def _scene(viewer: Any) -> Pixels:
    """Return the scene as it is seen, eight pixels a picture's pixel: maps are interpolated."""
    hidden = [viewer.layers["captions"], *(one for one in viewer.layers if one.name == "pick")]
    shown = [layer.visible for layer in hidden]
    viewer.canvas.overlays.text.visible = False
    for layer in hidden:
        layer.visible = False
    scene: Pixels = viewer.export_figure(scale_factor=SCALE, flash=False)[..., :3].astype(np.int64)
    for layer, was_shown in zip(hidden, shown, strict=True):
        layer.visible = was_shown
    return scene[-32 * SCALE :]


def _patch(scene: Pixels, at: tuple[int, int], left: int = 0) -> Pixels:
    """Return the middle of a patch: four pixels."""
    y, x = (PATCH * one + PATCH // 2 for one in at)
    return scene[y - 1 : y + 1, left + x - 1 : left + x + 1]


def _set(viewer: Any, **appearance: Any) -> Pixels:
    session_of(viewer).set_appearance(**appearance)
    return _scene(viewer)


def test_a_lone_peak_is_seen_at_every_threshold_and_what_is_below_is_clear(window: Any) -> None:
    bare = _set(window, opacity=0)
    whole = _set(window, opacity=1)
    for left in (0, REFERENCE):  # both directions
        assert np.abs(_patch(whole, PEAK, left) - _patch(bare, PEAK, left)).mean() > 50
        assert np.abs(_patch(whole, LOWER, left) - _patch(bare, LOWER, left)).mean() > 10
    for threshold in (0.3, 0.6):
        shown = _set(window, threshold=threshold)
        for left in (0, REFERENCE):
            np.testing.assert_allclose(_patch(shown, PEAK, left), _patch(whole, PEAK, left), atol=2)
            expected = whole if threshold < 0.5 else bare
            np.testing.assert_allclose(
                _patch(shown, LOWER, left), _patch(expected, LOWER, left), atol=2
            )
    shown = _set(window, threshold=1)
    y, x = (PATCH * one for one in PEAK)
    seen = (np.abs(shown - bare).max(axis=-1) > 20)[:, :REFERENCE]
    assert 4 <= seen.sum() < PATCH**2 / 4  # the middle of the highest patch
    assert seen[y : y + PATCH, x : x + PATCH].sum() == seen.sum()
    np.testing.assert_allclose(_set(window, threshold=0), whole, atol=1)


def test_the_threshold_is_of_each_maps_own_range(window: Any) -> None:
    session = session_of(window)
    session.set_appearance(contrast="slice")
    bare, whole = _set(window, opacity=0), _set(window, opacity=1)
    for step in (0, 1, 2):
        session.go_to(step=step)
        shown = _set(window, threshold=0.6)
        np.testing.assert_allclose(_patch(shown, PEAK), _patch(whole, PEAK), atol=2)
        np.testing.assert_allclose(_patch(shown, LOWER), _patch(bare, LOWER), atol=2)
    # On the scale of the whole layer a weak map's peak is faint, and seen.
    session.go_to(step=1)
    faint = _set(window, contrast="shared", threshold=0)
    shown = _set(window, threshold=0.6)
    np.testing.assert_allclose(_patch(shown, PEAK), _patch(faint, PEAK), atol=2)
    assert np.abs(_patch(shown, PEAK) - _patch(bare, PEAK)).mean() > 2


def test_inverted_the_threshold_leaves_clear_where_attention_is_higher(window: Any) -> None:
    bare = _set(window, opacity=0)
    whole = _set(window, opacity=1, polarity="inverted")
    cold = (1, 6)
    assert np.abs(_patch(whole, cold) - _patch(bare, cold)).mean() > 20
    assert np.abs(_patch(whole, LOWER) - _patch(bare, LOWER)).mean() > 2
    shown = _set(window, threshold=0.6)
    np.testing.assert_allclose(_patch(shown, cold), _patch(whole, cold), atol=2)
    np.testing.assert_allclose(_patch(shown, LOWER), _patch(bare, LOWER), atol=2)


def test_limits_gamma_and_colours_of_a_user_leave_the_threshold_where_it_is(window: Any) -> None:
    r2g = window.layers["R2G"]
    bare = _set(window, opacity=0)
    _set(window, opacity=1, threshold=0.4)
    for name, value in (("contrast_limits", (0, 2)), ("gamma", 2.0), ("colormap", "viridis")):
        setattr(r2g, name, value)
        session_of(window).refresh()
        shown = _scene(window)
        for at in (PEAK, LOWER):
            assert np.abs(_patch(shown, at) - _patch(bare, at)).mean() > 5, (name, at)
        between = _patch(shown, (1, 6))
        np.testing.assert_allclose(between, _patch(bare, (1, 6)), atol=2)
    _set(window, threshold=0)
    assert r2g.colormap.name == "viridis"
    r2g.gamma = 1


def test_polarity_and_threshold_act_on_the_sram(window: Any) -> None:
    controller, session = sram_controller_of(session_of(window)), session_of(window)
    session.set_averaged_dims(frozenset({"layer", "step", "head"}))
    view = session.views[0]
    area = (9, 30, 10, 31)
    controller.request(Pick(view.source.run, "first", "generated", area))
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    values = window.layers["SRAM"].data
    size = 32 * SCALE // values.shape[0]
    high = np.unravel_index(values.argmax(), values.shape)
    low = np.unravel_index(values.argmin(), values.shape)

    def part(scene: Pixels, at: Any) -> Pixels:
        y, x = (int(one) * size + size // 2 for one in at)
        return scene[y - 1 : y + 1, REFERENCE + x - 1 : REFERENCE + x + 1]

    bare, whole = _set(window, opacity=0), _set(window, opacity=1)
    shown = _set(window, threshold=0.8)
    np.testing.assert_allclose(part(shown, high), part(whole, high), atol=2)
    cut = int((np.abs(shown - bare).sum(axis=-1) > 6)[:, REFERENCE:].sum())
    assert 0 < cut < int((np.abs(whole - bare).sum(axis=-1) > 6)[:, REFERENCE:].sum())
    inverted = _set(window, polarity="inverted", threshold=0)
    np.testing.assert_allclose(part(inverted, high), part(bare, high), atol=2)
    assert np.abs(part(inverted, low) - part(bare, low)).mean() > 20
