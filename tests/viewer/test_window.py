"""A real window, real pixels: every screenshot is compared with what was put into the stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.synthetic import SyntheticLayer, write_run
from tests.viewer.stores import NAMES, spot_volume, write_maps

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
    if "captions" in viewer.layers:
        del viewer.layers["captions"]
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


def _halves(scene: Pixels) -> tuple[Pixels, Pixels]:
    return scene[:, :32], scene[:, REFERENCE_X : REFERENCE_X + 32]


@pytest.mark.parametrize("position", [(0, 0, 0), (2, 3, 1), (1, 2, 0)])
def test_the_heat_is_where_the_maps_say_at_each_slider_position(
    position: tuple[int, int, int], run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    viewer.dims.set_current_step((0, 1, 2), position)
    layer, step, head = position
    generated, reference = _halves(_shot(viewer))
    _assert_heat(generated, _stored(run, "first", "generated"), (layer + step, head))
    _assert_heat(reference, _stored(run, "first", "reference"), (layer + step, 7 - head))


def test_a_head_without_values_leaves_the_picture_clear(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[0, :, 1] = np.nan
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    viewer.dims.set_current_step((0, 1, 2), (0, 0, 1))
    generated, _ = _halves(_shot(viewer))
    _assert_heat(generated, _stored(run, "first", "generated"), None)
    assert "no R2G map of this layer and head" in viewer.canvas.overlays.text.text


def test_the_unified_map_can_be_switched_on(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = np.zeros((3, 4, 2, 8, 8), np.float32)
    volume[..., 6, 5] = 1
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    viewer.layers["R2G"].visible = False
    _assert_heat(_halves(_shot(viewer))[0], _stored(run, "first", "generated"), None)
    viewer.layers["R2G ULAM"].visible = True
    _assert_heat(_halves(_shot(viewer))[0], _stored(run, "first", "generated"), (6, 5))


def test_the_overlay_names_layer_timestep_and_head(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    viewer.dims.set_current_step((0, 1, 2), (2, 3, 1))
    overlay = viewer.canvas.overlays.text
    assert overlay.visible
    assert overlay.text.splitlines() == [
        NAMES[2],
        "layer 2: 8x8 patches · step 3: timestep 1 · head 1",
    ]
    before = viewer.screenshot(flash=False)
    overlay.visible = False
    changed = np.argwhere((viewer.screenshot(flash=False) != before).any(axis=2))
    assert len(changed) > 200  # it is really drawn, in the lower left
    assert changed[:, 0].min() > before.shape[0] * 0.8
    assert changed[:, 1].min() < before.shape[1] * 0.1


def test_each_layer_is_drawn_in_its_own_limits_and_a_users_limits_stay_within_it(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    run = write_run(tmp_path / "run.zarr")
    volume = spot_volume()
    volume[1] *= 10
    write_maps(tmp_path / "maps.zarr", {"first": {"r2g": volume}})
    viewer = open_window(run)
    r2g = viewer.layers["R2G"]
    viewer.dims.set_current_step((0, 1, 2), (0, 0, 0))
    np.testing.assert_allclose(r2g.contrast_limits, (1 / 64, 1))
    viewer.dims.set_current_step(0, 1)
    np.testing.assert_allclose(r2g.contrast_limits, (10 / 64, 10))
    r2g.contrast_limits = (2, 3)
    viewer.dims.set_current_step(1, 2)
    np.testing.assert_allclose(r2g.contrast_limits, (2, 3))


def test_the_chooser_swaps_the_sample_and_keeps_sliders_and_looks(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    browser = viewer.window.dock_widgets["Run browser"]
    viewer.dims.set_current_step((0, 1, 2), (2, 1, 1))
    viewer.layers["R2G"].visible = viewer.layers["G2R"].visible = False
    viewer.layers["R2G"].opacity = 0.5
    names = [layer.name for layer in viewer.layers]
    assert browser.maps.text() == "read from maps.zarr"
    browser.samples.setCurrentText("second")
    generated, reference = _halves(_shot(viewer))
    np.testing.assert_array_equal(generated, _stored(run, "second", "generated"))
    np.testing.assert_array_equal(reference, _stored(run, "second", "reference"))
    assert [layer.name for layer in viewer.layers] == names[1:]  # _shot took the captions
    assert tuple(viewer.dims.current_step[:3]) == (2, 1, 1)
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
    full = [each.name for each in viewer.layers]
    browser = viewer.window.dock_widgets["Run browser"]
    browser.samples.setCurrentText("token")
    assert "G2R" not in viewer.layers
    assert "one reference token" in browser.maps.text()
    assert "similarity" in viewer.canvas.overlays.text.text
    assert viewer.layers["R2G"].data.shape == (1, 4, 2, 8, 8)
    browser.samples.setCurrentText("grid")
    assert [each.name for each in viewer.layers] == full


def test_a_sample_that_cannot_be_opened_is_reported_and_the_chooser_goes_back(
    run: Path, open_window: Callable[..., Any]
) -> None:
    from napari.utils.notifications import notification_manager

    viewer = open_window(run)
    browser = viewer.window.dock_widgets["Run browser"]
    root = zarr.open_group(run, mode="a")
    del root["second"]
    browser.samples.setCurrentText("second")
    assert "got none named 'second'" in notification_manager.records[-1].message
    assert browser.samples.currentText() == "first"


def test_layers_of_others_are_left_alone(run: Path, open_window: Callable[..., Any]) -> None:
    viewer = open_window(run)
    mine = viewer.add_points([[1, 1]], name="mine")
    browser = viewer.window.dock_widgets["Run browser"]
    browser.samples.setCurrentText("second")
    assert mine in viewer.layers
    del viewer.layers["R2G"]
    assert not browser.samples.isEnabled()
    assert not viewer.canvas.overlays.text.visible


def test_the_whole_window_is_neither_blank_nor_cut_off(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
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


def test_view_shows_a_window_until_it_is_closed(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _VIEW, str(run)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["second", "closed"], done.stderr
