"""Measured effects in a real window: what is seen is what was stored, and never attention beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from i2am.analysis import open_run, sram
from i2am.schemas import AnalysisError, StoreError
from i2am.viewer import open_viewer
from i2am.viewer.data.effects import Effects, NoEffects
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.export.animation import TimestepAnimation, caption_of
from i2am.viewer.picking.effect_controller import (
    LEGEND,
    EffectController,
    effect_controller_of,
)
from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.session.attach import session_of
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.maps_store import NAMES
from tests.support.synthetic_run import write_run
from tests.support.wait import wait
from tests.viewer.picking.test_sram_controller import (
    REFERENCE_X,
    canvas,
    click,
    drag,
    drawn_answer,
)

SHIFT = Qt.KeyboardModifier.ShiftModifier
ARRAYS = effect_arrays(cuts=(4, 4))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples, of the first of which effects were measured."""
    path = write_run(tmp_path / "run.zarr", ("first", "second"))
    write_effects(tmp_path / "effects.zarr", {"first": ARRAYS})
    return path


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    """Return a window whose effects have been read, and are shown."""
    viewer = opened(open_window, run)
    session_of(viewer).set_shows_effects(True)
    return viewer


def opened(open_window: Callable[..., Any], run: Path) -> Any:
    viewer = open_window(run)
    session = session_of(viewer)
    session.set_shows_effects(False)
    wait(lambda: bool(session.samples) and controller_in(viewer).effects_at(0) is not None)
    QApplication.processEvents()
    return viewer


def controller_in(viewer: Any) -> EffectController:
    return effect_controller_of(session_of(viewer))


def shown(viewer: Any, side: str) -> Any:
    """Return the values that lie over an image."""
    layer = viewer.layers[{"generated": "effect on generated"}.get(side, "effect of reference")]
    assert layer.visible
    return layer.data


def text(viewer: Any) -> str:
    return str(viewer.canvas.overlays.text.text)


def by_region(arrays: Any = ARRAYS) -> Any:
    return np.sqrt((arrays["region"] ** 2).mean((1, 2)))


def captions(viewer: Any) -> list[str]:
    return list(own_layers(viewer)["captions"].features["caption"][:2])


def test_the_switch_shows_effects_in_place_of_the_maps(window: Any) -> None:
    np.testing.assert_allclose(shown(window, "generated"), ARRAYS["ceiling"], rtol=1e-6)
    np.testing.assert_allclose(shown(window, "reference"), by_region().reshape(4, 4), rtol=1e-6)
    assert not window.layers["R2G"].visible
    assert not window.layers["G2R"].visible
    assert captions(window) == ["first: generated · measured effect", "reference · measured effect"]
    assert text(window).startswith(
        "first · measured effect: change of the latent when the reference is cut"
    )
    assert "rounding alone 1e-06" in text(window)
    assert window.layers.selection.active.name == "effect on generated"
    assert window.layers.selection.active.colormap.name == "effect inferno"
    # 4 × 4 boxes over 32 × 32 pixels, with their edges.
    layer = window.layers["effect of reference"]
    assert layer.interpolation2d == "nearest"
    np.testing.assert_allclose(layer.scale, [8, 8])
    np.testing.assert_allclose(layer.translate, [3.5, REFERENCE_X + 3.5])


def test_a_click_on_the_generated_image_shows_which_regions_changed_that_patch(
    window: Any,
) -> None:
    click(window, 9, 30)
    wanted = ARRAYS["region"][:, 2, 7]
    np.testing.assert_allclose(shown(window, "reference"), wanted.reshape(4, 4), rtol=1e-6)
    np.testing.assert_allclose(shown(window, "generated"), ARRAYS["ceiling"], rtol=1e-6)
    assert text(window).startswith(f"first · {LEGEND}")
    assert "attention" not in text(window)
    assert f"up to {wanted.max():.2g}" in text(window)
    assert "SRAM" not in drawn_answer(window)
    # The patch is outlined, and the region with the largest effect.
    squares = window.layers["pick"].data
    np.testing.assert_allclose(squares[:160].mean(0), [9.5, 29.5], atol=0.3)
    row, column = divmod(int(np.argmax(wanted)), 4)
    centre = [8 * row + 3.5, REFERENCE_X + 8 * column + 3.5]
    np.testing.assert_allclose(squares[160:].mean(0), centre, atol=0.3)


def test_a_click_or_an_area_of_the_reference_shows_where_cutting_it_changed_the_image(
    window: Any,
) -> None:
    click(window, 20, REFERENCE_X + 10)
    wanted = ARRAYS["region"][2 * 4 + 1]
    np.testing.assert_allclose(shown(window, "generated"), wanted, rtol=1e-6)
    np.testing.assert_allclose(shown(window, "reference"), by_region().reshape(4, 4), rtol=1e-6)
    assert f"this region alone changed, up to {wanted.max():.2g}" in text(window)
    np.testing.assert_allclose(
        window.layers["pick"].data[:160].mean(0), [19.5, REFERENCE_X + 11.5], atol=0.3
    )
    drag(window, (2, REFERENCE_X + 2), (6, REFERENCE_X + 12), SHIFT)
    np.testing.assert_allclose(shown(window, "generated"), ARRAYS["region"][:2].mean(0), rtol=1e-6)
    assert "cutting 2 regions, each alone, changed on average" in text(window)


def test_sliders_and_escape_leave_the_effects_what_they_are(window: Any) -> None:
    session = session_of(window)
    click(window, 9, 30)
    before = shown(window, "reference").copy()
    session.go_to(layer=2, step=0)
    session.set_averaged("head", True)
    np.testing.assert_array_equal(shown(window, "reference"), before)
    assert not window.layers["R2G"].visible
    assert text(window).startswith(f"first · {LEGEND}")
    # Of an area, those of all its patches.
    source = session.views[0].source
    pick = Pick(source.run, source.sample, "generated", (1, 1, 7, 3))
    sram_controller_of(session).ask(pick, 0)
    wanted = np.sqrt((ARRAYS["region"][:, :2, :1] ** 2).mean((1, 2)))
    np.testing.assert_allclose(shown(window, "reference"), wanted.reshape(4, 4), rtol=1e-6)
    QTest.keyClick(canvas(window), Qt.Key.Key_Escape)
    np.testing.assert_allclose(shown(window, "reference"), by_region().reshape(4, 4), rtol=1e-6)
    assert not window.layers["pick"].visible


def test_the_controls_of_the_maps_draw_the_effects(window: Any) -> None:
    session = session_of(window)
    click(window, 9, 30)
    layer, own = window.layers["effect of reference"], ARRAYS["region"][:, 2, 7]
    np.testing.assert_allclose(
        layer.contrast_limits, [1e-6, np.quantile(ARRAYS["region"], 0.995)], rtol=1e-5
    )
    session.set_appearance(contrast="slice", colormap="viridis", opacity=0.5, polarity="inverted")
    np.testing.assert_allclose(layer.contrast_limits, [1e-6, np.quantile(own, 0.995)], rtol=1e-5)
    assert layer.colormap.name == "effect viridis inverted"
    assert layer.opacity == 0.5
    low, high = layer.contrast_limits
    position = np.clip((own - low) / (high - low), 0, 1)
    whole = layer.colormap.map(position)[:, 3]
    session.set_appearance(threshold=0.5)
    is_clear = own > own.min() + 0.5 * np.ptp(own)  # inverted
    assert whole[is_clear].any()
    np.testing.assert_allclose(layer.colormap.map(position)[:, 3], np.where(is_clear, 0, whole))
    np.testing.assert_allclose(layer.data.ravel(), own, rtol=1e-6)
    session.set_appearance(direction="r2g")
    assert not layer.visible
    assert window.layers["effect on generated"].visible
    session.set_shows_effects(False)
    assert [window.layers[name].visible for name in ("R2G", "G2R")] == [True, False]


def test_switched_off_the_maps_are_back_and_the_pick_has_its_sram(run: Path, window: Any) -> None:
    session = session_of(window)
    session.go_to(layer=1, step=1, head=0)
    click(window, 9, 30)
    session.set_shows_effects(False)
    wait(lambda: "SRAM" in window.layers and window.layers["SRAM"].visible)
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(open_run(run)["first"], generated=(9, 30), **options)
    np.testing.assert_allclose(window.layers["SRAM"].data, wanted, rtol=1e-5)
    assert not window.layers["effect of reference"].visible
    assert not window.layers["effect on generated"].visible
    assert captions(window) == ["first: generated · R2G", "reference · SRAM"]
    assert not text(window).startswith("measured")
    sram_controller_of(session).clear()
    assert window.layers["R2G"].visible
    assert window.layers["G2R"].visible
    # And on again: the SRAM makes room.
    click(window, 9, 30)
    wait(lambda: bool(window.layers["SRAM"].visible))
    session.set_shows_effects(True)
    assert not window.layers["SRAM"].visible
    np.testing.assert_allclose(
        shown(window, "reference").ravel(), ARRAYS["region"][:, 2, 7], rtol=1e-6
    )


def test_a_sample_without_effects_shows_its_maps_and_the_next_one_its_effects(window: Any) -> None:
    session, controller = session_of(window), controller_in(window)
    browser = window.window.dock_widgets["Run browser (i2am)"]
    assert browser.shows.isEnabled()
    assert browser.shows.currentText() == "measured effect"
    assert browser.effects.text() == "read from effects.zarr"
    session.show_sample("second")
    wait(lambda: isinstance(controller.effects_at(0), NoEffects))
    assert session.views[0].source.sample == "second"
    assert window.layers["R2G"].visible
    assert not window.layers["effect on generated"].visible
    assert captions(window) == ["second: generated · R2G", "reference · G2R"]
    assert not browser.shows.isEnabled()
    assert browser.shows.currentText() == "attention map"
    assert browser.effects.text() == "effects.zarr holds no finished effects of 'second'."
    session.show_sample("first")
    wait(lambda: isinstance(controller.effects_at(0), Effects))
    np.testing.assert_allclose(shown(window, "generated"), ARRAYS["ceiling"], rtol=1e-6)
    assert not window.layers["R2G"].visible


def test_the_choice_in_the_browser_and_the_key_switch(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = opened(open_window, run)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    for name, is_on in (("measured effect", True), ("attention map", False)):
        browser.shows.setCurrentText(name)
        browser.shows.textActivated.emit(name)
        assert controller_in(viewer).is_on is is_on
    for is_on in (True, False):
        QTest.keyClick(canvas(viewer), Qt.Key.Key_E, Qt.KeyboardModifier.ShiftModifier)
        QApplication.processEvents()
        assert controller_in(viewer).is_on is is_on
        assert viewer.layers["R2G"].visible is not is_on


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "other.zarr"}, "effects of another run, 'other.zarr'"),
        ({"own": {"source_created": "2025-01-01T00:00:00Z"}}, "it was captured anew"),
        ({"arrays": {"region": -ARRAYS["region"]}}, "Expected finite numbers, none below 0"),
    ],
    ids=["another run", "a changed sample", "no effects at all"],
)
def test_effects_of_something_else_are_refused_with_one_notice(
    tmp_path: Path, open_window: Callable[..., Any], change: Any, message: str
) -> None:
    run = write_run(tmp_path / "run.zarr", ("first",))
    arrays = ARRAYS | change.get("arrays", {})
    options = {name: value for name, value in change.items() if name != "arrays"}
    write_effects(tmp_path / "effects.zarr", {"first": arrays}, **options)
    before = len(notification_manager.records)
    viewer = opened(open_window, run)
    session = session_of(viewer)
    session.set_shows_effects(True)
    notices = [str(record.message) for record in notification_manager.records[before:]]
    assert len([notice for notice in notices if message in notice]) == 1
    assert not controller_in(viewer).is_on
    assert not viewer.window.dock_widgets["Run browser (i2am)"].shows.isEnabled()
    assert viewer.layers["R2G"].visible
    assert "effect on generated" not in viewer.layers or not (
        viewer.layers["effect on generated"].visible
    )


def test_a_compared_sample_has_its_own_effects(tmp_path: Path, run: Path, window: Any) -> None:
    session, controller = session_of(window), controller_in(window)
    other = write_run(tmp_path / "b" / "run.zarr", ("first",))
    arrays = effect_arrays(seed=9)
    write_effects(tmp_path / "b" / "effects.zarr", {"first": arrays})
    session.compare(str(other), "first")
    wait(lambda: len(session.views) == 2 and isinstance(controller.effects_at(1), Effects))
    click(window, 9, 30)
    below = window.layers["effect of reference (2)"]
    np.testing.assert_allclose(below.data.ravel(), arrays["region"][:, 2, 7], rtol=1e-6)
    np.testing.assert_allclose(
        shown(window, "reference").ravel(), ARRAYS["region"][:, 2, 7], rtol=1e-6
    )
    assert not own_layers(window, view_index=1)["r2g"].visible
    session.compare(str(run), "second")
    wait(lambda: isinstance(controller.effects_at(1), NoEffects))
    # Neither effects nor, unasked, a map.
    assert not below.visible
    assert not own_layers(window, view_index=1)["r2g"].visible
    below_captions = own_layers(window, view_index=1)["captions"].features["caption"]
    assert below_captions[0] == "second: generated · no measured effect"
    session.stop_comparing()


def test_pictures_say_that_it_is_an_effect_and_timesteps_are_not_animated(window: Any) -> None:
    click(window, 9, 30)
    session = session_of(window)
    assert caption_of(session) == text(window)
    with pytest.raises(AnalysisError, match="got measured effects, which are of all timesteps"):
        TimestepAnimation.check(session)


def test_a_named_store_is_read_and_a_wrong_one_opens_no_window(
    run: Path, tmp_path: Path, open_new_window: Callable[..., Any]
) -> None:
    arrays = effect_arrays(seed=4)
    named = write_effects(tmp_path / "mine.zarr", {"first": arrays})
    viewer = open_new_window(run, effects=named)
    wait(lambda: isinstance(controller_in(viewer).effects_at(0), Effects))
    session_of(viewer).set_shows_effects(True)
    np.testing.assert_allclose(shown(viewer, "generated"), arrays["ceiling"], rtol=1e-6)
    # Another normalisation is the same sample: its effects stay the named ones.
    session_of(viewer).reanalyze(normalisation="density")
    wait(lambda: session_of(viewer).normalisation == "density")
    wait(lambda: isinstance(controller_in(viewer).effects_at(0), Effects))
    np.testing.assert_allclose(shown(viewer, "generated"), arrays["ceiling"], rtol=1e-6)
    with pytest.raises(StoreError, match="Expected an effects store, got a run store"):
        open_viewer(run, effects=run)


def test_effects_that_are_hidden_are_no_part_of_a_scene_of_smaller_pictures(
    window: Any, tmp_path: Path
) -> None:
    assert shown(window, "reference") is not None
    session_of(window).set_shows_effects(False)
    assert not window.layers["effect of reference"].visible
    small = open_view(write_run(tmp_path / "small.zarr", ("first",), size_px=(16, 16)))
    session_of(window).show(small)
    end = window.layers["reference"].extent.world[1, -1] + 0.5
    assert window.layers.extent.world[1, -1] == end
