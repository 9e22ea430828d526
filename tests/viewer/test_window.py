"""A real window, real pixels: every screenshot is compared with what was put into the stores."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import analyze
from i2am.viewer.data.axes import LEVELS
from i2am.viewer.session.attach import session_of
from i2am.viewer.session.shortcuts import SHORTCUTS, show_shortcuts
from tests.support.maps_store import NAMES, spot_volume, write_maps
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run
from tests.support.wait import wait

# The last colour of inferno, and how opaque the hottest patch is drawn.
HOTTEST = 255 * np.array([0.988362, 0.998364, 0.644924])
OPAQUE = 0.85
PATCH = 4  # 32 pixels, 8 patches
REFERENCE_X = 34  # 32 pixels and the gap of a sixteenth
Pixels = np.ndarray[Any, np.dtype[np.int64]]


def _stored(run: Path, sample: str, name: str) -> Pixels:
    return np.asarray(zarr.open_group(run, mode="r")[f"{sample}/images/{name}"], dtype=np.int64)


def _shot(viewer: Any) -> Pixels:
    """Return the scene at one pixel a picture's pixel, without text or smoothing."""
    viewer.canvas.overlays.text.visible = False
    for name in [layer.name for layer in viewer.layers if layer.name.startswith("captions")]:
        del viewer.layers[name]
    for layer in viewer.layers:
        if layer.name.startswith(("R2G", "G2R")):
            layer.interpolation2d = "nearest"
    scene: Pixels = viewer.export_figure(flash=False)[..., :3].astype(np.int64)
    return scene


def _assert_heat(shown: Pixels, picture: Pixels, patch: tuple[int, int] | None) -> None:
    """Check that one patch is hot and that the picture is as it was everywhere else."""
    expected = picture.astype(float)
    if patch is not None:
        where = tuple(slice(PATCH * at, PATCH * (at + 1)) for at in patch)
        expected[where] = OPAQUE * HOTTEST + (1 - OPAQUE) * expected[where]
    np.testing.assert_allclose(shown, expected, atol=2)


def _stand(viewer: Any, layer: int, step: int, head: int) -> None:
    """Move the sliders, and wait until what they stand on is loaded."""
    session = session_of(viewer)
    viewer.dims.set_current_step((1, 2, 3), (layer, step, head))
    wait(lambda: session.share_loaded == 1 and bool(session.samples))
    session.refresh()  # the timer's, now


def _halves(scene: Pixels) -> tuple[Pixels, Pixels]:
    return scene[:, :32], scene[:, REFERENCE_X : REFERENCE_X + 32]


def test_the_heat_is_where_the_maps_say_at_each_slider_position(
    run: Path, open_window: Callable[..., Any], subtests: pytest.Subtests
) -> None:
    viewer = open_window(run)
    for layer, step, head in ((0, 0, 0), (2, 3, 1), (1, 2, 0)):
        with subtests.test(layer=layer, step=step, head=head):
            _stand(viewer, layer, step, head)
            generated, reference = _halves(_shot(viewer))
            _assert_heat(generated, _stored(run, "first", "generated"), (layer + step, head))
            _assert_heat(reference, _stored(run, "first", "reference"), (layer + step, 7 - head))


def test_a_head_without_values_leaves_the_image_clear(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[0, :, 1] = np.nan
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    _stand(viewer, 0, 0, 1)
    generated, _ = _halves(_shot(viewer))
    _assert_heat(generated, _stored(run, "first", "generated"), None)
    assert "no R2G map of this layer and head" in viewer.canvas.overlays.text.text


AVERAGEABLE_DIMS = ("layer", "step", "head")


def test_each_switch_shows_the_mean_over_its_axis_wherever_its_slider_stands(
    run: Path, open_window: Callable[..., Any], subtests: pytest.Subtests
) -> None:
    viewer = open_window(run)
    for n in range(4):
        for averaged_dims in itertools.combinations(AVERAGEABLE_DIMS, n):
            with subtests.test("+".join(averaged_dims) or "none"):
                _assert_the_mean_is_shown(viewer, run, averaged_dims)


def _assert_the_mean_is_shown(viewer: Any, run: Path, averaged_dims: tuple[str, ...]) -> None:
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    for dim in AVERAGEABLE_DIMS:
        browser.averaged[dim].setChecked(dim in averaged_dims)
    _stand(viewer, 1, 2, 1)
    truth: Any = spot_volume()
    for axis, dim in reversed(list(enumerate(AVERAGEABLE_DIMS))):
        truth = truth.mean(axis) if dim in averaged_dims else truth.take((1, 2, 1)[axis], axis)
    r2g = viewer.layers["R2G"]
    np.testing.assert_allclose(r2g.data[0, 1, 2, 1], truth, rtol=1e-6)
    patch = np.unravel_index(truth.argmax(), truth.shape)
    scene, picture = _halves(_shot(viewer))[0], _stored(run, "first", "generated")
    where = tuple(slice(PATCH * at, PATCH * (at + 1)) for at in patch)
    expected = OPAQUE * HOTTEST + (1 - OPAQUE) * picture[where]
    np.testing.assert_allclose(scene[where], expected, atol=2)
    level = LEVELS.get(frozenset(averaged_dims), "single" if not averaged_dims else None)
    assert [name for name, button in browser.levels.items() if button.isChecked()] == (
        [level] if level else []
    )
    if level not in (None, "single"):
        assert str(level) in viewer.canvas.overlays.text.text


def test_the_buttons_put_the_switches_into_the_methods_positions(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    wait(lambda: session_of(viewer).share_loaded == 1)  # until then the overlay ends with it
    session_of(viewer).refresh()
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    for averaged_dims, level in LEVELS.items():
        browser.levels[level].click()
        assert session_of(viewer).averaged_dims == averaged_dims
        assert {
            dim for dim, switch in browser.averaged.items() if switch.isChecked()
        } == averaged_dims
        lines = viewer.canvas.overlays.text.text.splitlines()
        assert any(line.startswith(f"{level} · ") for line in lines)
    browser.levels["single"].click()
    assert not session_of(viewer).averaged_dims


def test_sliders_are_named_and_the_sample_slider_opens_another_sample(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    session = session_of(viewer)
    assert viewer.dims.axis_labels == ("sample", "layer", "timestep", "head", "y", "x")
    wait(lambda: len(session.samples) == 2)
    assert viewer.dims.nsteps[:4] == (2, 3, 4, 2)
    viewer.dims.set_current_step(0, 1)
    wait(lambda: session.views[0].source.sample == "second")
    generated, _ = _halves(_shot(viewer))
    assert (generated != _stored(run, "first", "generated")).any()
    assert viewer.window.dock_widgets["Run browser (i2am)"].samples.currentText() == "second"
    session.show_sample("first")
    wait(lambda: session.views[0].source.sample == "first")
    assert viewer.dims.current_step[0] == 0


def test_the_status_bar_holds_the_value_under_the_cursor(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    _stand(viewer, 1, 2, 1)
    viewer.layers["R2G"].refresh()
    point = (0, 1, 2, 1, 3 * PATCH + 1, 1 * PATCH + 1)  # in the hot patch (layer + step, head)
    assert viewer.layers["R2G"].get_value(point, world=True) == 1
    told = viewer.layers["R2G"].get_status(point, world=True)
    assert told["value"] == "1"


def test_the_appearance_is_drawn(run: Path, open_window: Callable[..., Any]) -> None:
    viewer = open_window(run)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    _stand(viewer, 0, 1, 0)
    session, r2g = session_of(viewer), viewer.layers["R2G"]
    picture = _stored(run, "first", "generated")
    browser.appearance["direction"].textActivated.emit("g2r")
    assert not r2g.visible
    assert viewer.layers["G2R"].visible
    browser.appearance["direction"].textActivated.emit("both")
    browser.appearance["colormap"].textActivated.emit("viridis")
    browser.opacity.setValue(50)
    generated, _ = _halves(_shot(viewer))
    hot = 255 * np.array([0.993248, 0.906157, 0.143936])  # viridis' last
    where = (slice(PATCH, 2 * PATCH), slice(0, PATCH))
    expected = 0.5 * OPAQUE * hot + (1 - 0.5 * OPAQUE) * picture[where]
    np.testing.assert_allclose(generated[where], expected, atol=2)
    browser.appearance["polarity"].textActivated.emit("inverted")
    generated, _ = _halves(_shot(viewer))
    np.testing.assert_allclose(generated[where], picture[where], atol=2)  # hot is clear
    assert np.abs(generated[12:] - picture[12:]).mean() > 20  # cold is not
    assert session.appearance.polarity == "inverted"


def test_what_is_below_the_threshold_is_clear(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[..., 5, 5] = 0.5
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    _stand(viewer, 0, 0, 0)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    browser.threshold.setValue(60)
    _assert_heat(_halves(_shot(viewer))[0], _stored(run, "first", "generated"), (0, 0))


def test_contrast_is_shared_within_a_layer_or_each_slices_own(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[0, 1] *= 0.5
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    _stand(viewer, 0, 1, 0)
    shared = viewer.layers["R2G"].contrast_limits
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    browser.appearance["contrast"].textActivated.emit("slice")
    own = viewer.layers["R2G"].contrast_limits
    assert own[1] < shared[1]
    _stand(viewer, 0, 2, 0)
    assert viewer.layers["R2G"].contrast_limits[1] > own[1]
    browser.appearance["contrast"].textActivated.emit("shared")
    np.testing.assert_allclose(viewer.layers["R2G"].contrast_limits, shared)


def _press(viewer: Any, key: str) -> None:
    """Press a key as the window gets it."""
    from napari.utils.key_bindings import coerce_keybinding

    viewer.keymap[coerce_keybinding(key)](viewer)


def test_every_shortcut_does_what_its_help_says(run: Path, open_window: Callable[..., Any]) -> None:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: len(session.samples) == 2)
    _stand(viewer, 1, 1, 0)
    for key, position in (
        ("K", (2, 1, 0)),
        ("K", (2, 1, 0)),  # the last one
        ("J", (1, 1, 0)),
        (".", (1, 2, 0)),
        (",", (1, 1, 0)),
        ("H", (1, 1, 1)),
        ("G", (1, 1, 0)),
    ):
        _press(viewer, key)
        assert session.position == position, key
    for key, dim in (("Shift-K", "layer"), ("Shift-T", "step"), ("Shift-H", "head")):
        for averaged_dims in ({dim}, set[str]()):
            _press(viewer, key)
            assert session.averaged_dims == averaged_dims
    for count in (3, 0):
        _press(viewer, "U")
        assert len(session.averaged_dims) == count
    for key, setting, values in (
        ("Shift-D", "direction", ("r2g", "g2r", "both")),
        ("Shift-C", "contrast", ("slice", "shared")),
        ("Shift-I", "polarity", ("inverted", "direct")),
    ):
        for value in values:
            _press(viewer, key)
            assert getattr(session.appearance, setting) == value
    for is_volume in (True, False):
        _press(viewer, "Shift-Y")
        assert session.is_volume is is_volume
    _press(viewer, "N")
    wait(lambda: session.views[0].source.sample == "second")
    _press(viewer, "Shift-N")
    wait(lambda: session.views[0].source.sample == "first")
    help_window = show_shortcuts(viewer.window.dock_widgets["Run browser (i2am)"])
    for shortcut in SHORTCUTS.values():
        assert shortcut.what in help_window.text()
    help_window.close()


def test_timesteps_become_the_third_axis_and_a_slider_again(
    run: Path, open_new_window: Callable[..., Any]
) -> None:
    viewer = open_new_window(run)
    _stand(viewer, 1, 2, 1)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    before = viewer.screenshot(flash=False)
    browser.volume.setChecked(True)
    r2g = viewer.layers["R2G"]
    shown = r2g._slice.image.raw
    truth = spot_volume()[1, :, 1]
    np.testing.assert_array_equal(shown, truth)
    assert viewer.dims.ndisplay == 3
    assert "timesteps 981 (at the pictures) to 1" in viewer.canvas.overlays.text.text
    shot = viewer.screenshot(flash=False)[..., :3].astype(int)
    hot = (np.abs(shot - HOTTEST) < 60).all(axis=2)
    assert hot.sum() > 20  # the spot's way through the steps
    browser.volume.setChecked(False)
    assert session_of(viewer).position == (1, 2, 1)
    np.testing.assert_array_equal(viewer.screenshot(flash=False), before)


@pytest.mark.slow
def test_a_second_sample_is_compared_with_linked_sliders(
    run: Path, tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    session = session_of(viewer)
    other = write_run(tmp_path / "other.zarr", ("first", "second"), seed=5)
    volume = spot_volume()[..., ::-1, :]
    write_maps(tmp_path / "other.maps.zarr", {"first": {"r2g": volume}}, source="x/other.zarr")
    session.compare(other, "first")
    wait(lambda: len(session.views) == 2)
    _stand(viewer, 2, 1, 1)
    lower = viewer.layers["R2G (2)"].data[0, 2, 1, 1]
    np.testing.assert_array_equal(lower, volume[2, 1, 1])
    scene = _shot(viewer)
    below = scene[-32:, :32]
    _assert_heat(below, _stored(other, "first", "generated"), (7 - 3, 1))
    _assert_heat(scene[:32, :32], _stored(run, "first", "generated"), (3, 1))
    session.show_sample("second")  # another run's sample of the same name comes along
    wait(lambda: all(view.source.sample == "second" for view in session.views))
    session.stop_comparing()
    assert len(session.views) == 1
    assert not [layer.name for layer in viewer.layers if "(2)" in layer.name]


def test_a_compared_run_with_other_layers_and_steps_is_held_against_by_their_labels(
    run: Path, tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    layers = [LAYERS[2], SyntheticLayer("another.attn2")]
    other = write_run(tmp_path / "other.zarr", layers=layers, steps=(0, 2, 5))
    viewer = open_window(run)
    session = session_of(viewer)
    session.compare(other)
    wait(lambda: len(session.views) == 2)
    shown = viewer.layers["R2G (2)"].data
    assert shown.shape == viewer.layers["R2G"].data.shape
    _stand(viewer, 2, 2, 0)
    truth = analyze(session.views[1].capture)["r2g"].dataset["volume"]
    np.testing.assert_allclose(
        shown[0, 2, 2, 0], truth.sel(layer=LAYERS[2].name, head=0).isel(step=1), rtol=1e-5
    )
    assert np.isnan(shown[0, 0, 0, 0]).all()
    assert np.isnan(shown[0, 2, 1, 0]).all()


def test_maps_that_are_computed_come_while_the_window_lives(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    viewer = open_window(run)
    session = session_of(viewer)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    assert "computed from the run" in browser.maps.text()
    _stand(viewer, 1, 2, 1)
    truth = analyze(session.views[0].capture)["r2g"].dataset
    np.testing.assert_allclose(
        viewer.layers["R2G"].data[0, 1, 2, 1], truth["volume"][1, 2, 1], rtol=1e-5
    )
    session.set_averaged_dims(frozenset(AVERAGEABLE_DIMS))
    np.testing.assert_allclose(viewer.layers["R2G"].data[0, 0, 0, 0], truth["ulam"], rtol=1e-5)
    assert not browser.loading.isVisible()


def test_the_overlay_names_layer_timestep_and_head(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    _stand(viewer, 2, 3, 1)
    overlay = viewer.canvas.overlays.text
    assert overlay.visible
    assert overlay.text.splitlines() == [
        "first · R2G and G2R · conditional branch · mass · direct polarity",
        NAMES[2],
        "8×8 patches · step 3: timestep 1 · head 1",
        "highest: R2G 1 at (22, 6), G2R 1 at (22, 26)",
    ]
    session_of(viewer).set_appearance(direction="r2g", polarity="inverted", threshold=0.5)
    wait(lambda: "inverted" in overlay.text)
    assert overlay.text.splitlines()[0] == (
        "first · R2G · conditional branch · mass · inverted polarity · clear below 50%"
    )
    assert overlay.text.splitlines()[-1] == "highest: R2G 1 at (22, 6)"
    before = viewer.screenshot(flash=False)
    overlay.visible = False
    changed = np.argwhere((viewer.screenshot(flash=False) != before).any(axis=2))
    assert len(changed) > 200  # it is really drawn, in the lower left
    assert changed[:, 0].min() > before.shape[0] * 0.8
    assert changed[:, 1].min() < before.shape[1] * 0.1


def test_the_overlay_follows_when_the_sliders_have_come_to_rest(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    _stand(viewer, 2, 3, 1)
    viewer.dims.set_current_step(2, 1)
    assert "step 3" in viewer.canvas.overlays.text.text
    wait(lambda: "step 1" in viewer.canvas.overlays.text.text)


def test_each_layer_is_drawn_in_its_own_limits_and_a_users_limits_stay_within_it(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[1] *= 10
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    r2g = viewer.layers["R2G"]
    _stand(viewer, 0, 0, 0)
    np.testing.assert_allclose(r2g.contrast_limits, (1 / 64, 1))
    _stand(viewer, 1, 0, 0)
    np.testing.assert_allclose(r2g.contrast_limits, (10 / 64, 10))
    r2g.contrast_limits = (2, 3)
    _stand(viewer, 1, 2, 0)
    np.testing.assert_allclose(r2g.contrast_limits, (2, 3))


def test_the_chooser_swaps_the_sample_and_keeps_sliders_and_appearance(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    session = session_of(viewer)
    _stand(viewer, 2, 1, 1)
    viewer.layers["R2G"].visible = viewer.layers["G2R"].visible = False
    viewer.layers["R2G"].opacity = 0.5
    names = [layer.name for layer in viewer.layers]
    assert browser.maps.text() == "read from maps.zarr"
    wait(lambda: len(session.samples) == 2)
    browser.samples.setCurrentText("second")
    wait(lambda: session.views[0].source.sample == "second")
    generated, reference = _halves(_shot(viewer))
    np.testing.assert_array_equal(generated, _stored(run, "second", "generated"))
    np.testing.assert_array_equal(reference, _stored(run, "second", "reference"))
    shown = [layer.name for layer in viewer.layers if layer.name in names]
    assert shown == names[1:]  # _shot took the captions
    assert tuple(viewer.dims.current_step[:4]) == (1, 2, 1, 1)
    assert viewer.layers["R2G"].opacity == 0.5
    assert browser.maps.text() == "computed from the run"  # the store has no maps of it
    assert "steps 4" in browser.provenance.text()


def test_the_chooser_adds_and_removes_what_only_one_sample_has(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    layer = SyntheticLayer("block.attn2", reference_grid=None, tokens=1)
    run = write_run(tmp_path / "run.zarr", ("grid", "token"))
    other = write_run(tmp_path / "other.zarr", ("token",), [layer], size_px=(16, 24))
    root = zarr.open_group(run, mode="a")
    del root["token"]
    (other / "token").rename(run / "token")
    viewer = open_window(run)
    full = [each.name for each in viewer.layers if each.name not in ("SRAM", "pick")]
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    session = session_of(viewer)
    wait(lambda: len(session.samples) == 2)
    browser.samples.setCurrentText("token")
    wait(lambda: session.views[0].source.sample == "token")
    assert "G2R" not in viewer.layers
    assert "one reference token" in browser.maps.text()
    assert "similarity" in viewer.canvas.overlays.text.text
    assert viewer.layers["R2G"].data.shape == (2, 1, 4, 2, 8, 8)
    browser.samples.setCurrentText("grid")
    wait(lambda: session.views[0].source.sample == "grid")
    shown = [each.name for each in viewer.layers if each.name not in ("SRAM", "pick")]
    assert shown == full


def test_a_sample_that_cannot_be_opened_is_reported_and_the_chooser_goes_back(
    run: Path, open_window: Callable[..., Any]
) -> None:
    from napari.utils.notifications import notification_manager

    viewer = open_window(run)
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    wait(lambda: browser.samples.count() == 2)
    root = zarr.open_group(run, mode="a")
    del root["second"]
    browser.samples.setCurrentText("second")
    wait(lambda: browser.samples.currentText() == "first")
    assert "got none named 'second'" in notification_manager.records[-1].message
    assert session_of(viewer).views[0].source.sample == "first"


def test_maps_that_cannot_be_read_are_reported_with_what_to_do(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    from napari.utils.notifications import notification_manager

    run = write_run(tmp_path / "run.zarr")
    for chunk in (run / "first" / "layers" / NAMES[0] / "query" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"broken")
    earlier = len(notification_manager.records)
    open_window(run)
    wait(lambda: len(notification_manager.records) > earlier)
    told = notification_manager.records[-1].message
    assert f"at {run / 'first' / 'layers' / NAMES[0] / 'query'}" in told
    assert told.endswith("The object is damaged; get the store again, or do without the sample.")


def test_layers_of_others_are_left_alone(run: Path, open_window: Callable[..., Any]) -> None:
    viewer = open_window(run)
    mine = viewer.add_points([[1, 1]], name="mine")
    browser = viewer.window.dock_widgets["Run browser (i2am)"]
    session_of(viewer).show_sample("second")
    wait(lambda: session_of(viewer).views[0].source.sample == "second")
    assert mine in viewer.layers
    del viewer.layers["R2G"]
    assert not browser.samples.isEnabled()
    assert not viewer.canvas.overlays.text.visible


def test_the_whole_window_is_neither_blank_nor_cut_off(
    run: Path, open_new_window: Callable[..., Any]
) -> None:
    viewer = open_new_window(run)
    assert viewer.window.geometry()[2:] == (1500, 900)
    height, width = viewer.canvas.size
    extent = viewer.layers.extent.world[:, -2:]
    camera = viewer.scene.camera
    corners = (extent - np.asarray(camera.center)[-2:]) * camera.zoom + np.array(
        [height, width]
    ) / 2
    assert (corners > 0).all()
    assert (corners < [height, width]).all()
    shot = viewer.screenshot(flash=False)[..., :3]
    assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 1000


_VIEW = """
import sys
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
import napari
from i2am.viewer import view

application = QApplication([])

def close_when_shown():
    viewer = napari.current_viewer()
    if viewer is not None and "G2R" in viewer.layers:
        print(viewer.layers["R2G"].metadata["i2am"]["sample"])
        viewer.close()
    else:
        QTimer.singleShot(100, close_when_shown)

close_when_shown()
view(sys.argv[1], sample="second")
print("closed")
"""


@pytest.mark.slow
def test_view_shows_a_window_until_it_is_closed(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _VIEW, str(run)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["second", "closed"], done.stderr
