"""Asking with the mouse in a real window: what is seen is what `i2am.analysis.sram` gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from i2am.analysis import LiveSram, open_run, sram
from i2am.analysis.maps.live_sram import Reading
from i2am.schemas import AnalysisError
from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.sram_controller import SramController, sram_controller_of
from i2am.viewer.scene.layers import own_layers
from i2am.viewer.session.attach import session_of
from tests.support.maps_store import NAMES
from tests.support.synthetic_run import LAYERS, PROVENANCE, SyntheticLayer, write_run
from tests.support.wait import wait

REFERENCE_X = 34  # 32 pixels and the gap of a sixteenth
NO_KEY, LEFT = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.LeftButton
CAPTURE = str(PROVENANCE["created"])  # The run has no inventory.
EDGE = 32 / 120  # An outline lies half its width inside the picture.
MIDDLE = (1, 1, 0)  # of layers, steps and heads: where the sliders are put


def pixel(viewer: Any, y: float, x: float) -> QPoint:
    """Return where a point of the scene is on the canvas."""
    height, width = viewer.canvas.size
    camera = viewer.scene.camera
    centre_y, centre_x = camera.center[-2:]
    return QPoint(
        round((x - centre_x) * camera.zoom + width / 2),
        round((y - centre_y) * camera.zoom + height / 2),
    )


def canvas(viewer: Any) -> Any:
    return viewer.window._qt_viewer.canvas.native


def click(viewer: Any, y: float, x: float, modifier: Any = NO_KEY, button: Any = LEFT) -> None:
    # By position: the two bindings name the parameters apart.
    QTest.mouseClick(canvas(viewer), button, modifier, pixel(viewer, y, x))


def drag(viewer: Any, start: Any, end: Any, modifier: Any) -> None:
    native, left = canvas(viewer), Qt.MouseButton.LeftButton
    first, last = pixel(viewer, *start), pixel(viewer, *end)
    QTest.mousePress(native, left, modifier, first)
    for part in (0.3, 0.7, 1):
        at = first + (last - first) * part
        # QTest's own moves carry neither button nor key.
        move = QMouseEvent(
            QEvent.Type.MouseMove,
            QPointF(at),
            QPointF(native.mapToGlobal(at)),
            Qt.MouseButton.NoButton,
            left,
            modifier,
        )
        QApplication.sendEvent(native, move)
    QTest.mouseRelease(native, left, modifier, last)


def drawn_answer(viewer: Any) -> list[str]:
    """Return the layers of an answer in which something is drawn; a window makes them before a click."""
    drawn = [layer for layer in viewer.layers if layer.visible and layer.opacity]
    return [
        layer.name
        for layer in drawn
        if layer.name == "pick" or (layer.name == "SRAM" and np.isfinite(layer.data).any())
    ]


def redraw(viewer: Any) -> None:
    """Draw, which is when napari learns where the camera went."""
    viewer.screenshot(flash=False)
    QApplication.processEvents()


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: bool(session.samples))
    session.go_to(layer=MIDDLE[0], step=MIDDLE[1], head=MIDDLE[2])
    QApplication.processEvents()
    return viewer


def controller_in(viewer: Any) -> SramController:
    return sram_controller_of(session_of(viewer))


def shown_sram(viewer: Any) -> Any:
    """Wait until the last answer is shown, and return its layer."""
    controller = controller_in(viewer)
    wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
    return viewer.layers["SRAM"]


def outlines(viewer: Any) -> list[tuple[float, float, float, float]]:
    """Return (top, left, bottom, right) of the pick and of the answer's brightest patch."""
    boxes = []
    for squares in np.split(np.asarray(viewer.layers["pick"].data), 2):
        low, high = squares.min(axis=0), squares.max(axis=0)
        boxes.append((*low.tolist(), *high.tolist()))
    return boxes


def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return a list that is to hold what is asked; not what a window asks itself, to be ready."""
    asked = []
    ask = LiveSram.ask

    def note(self: LiveSram, **given: Any) -> Iterator[Any]:
        if "stop" in given:  # What a user asks can be stopped.
            asked.append(given)
        return ask(self, **given)

    monkeypatch.setattr(LiveSram, "ask", note)
    return asked


def sample_of(run: Path, name: str = "first") -> Any:
    return open_run(run)[name]


def test_a_click_shows_the_sram_of_the_slice_in_view(run: Path, window: Any) -> None:
    click(window, 9, 30)
    layer = shown_sram(window)
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(sample_of(run), generated=(9, 30), **options)
    np.testing.assert_allclose(layer.data, wanted, rtol=1e-5)
    assert layer.metadata["i2am"]["role"] == "sram"
    assert layer.metadata["i2am"]["run"] == str(run)
    assert controller_in(window).pick == Pick(
        str(run), "first", "generated", (9, 30, 10, 31), (NAMES[1],), (1,), (0,), capture=CAPTURE
    )
    # Spread over the reference, whose corner is the centre of its first pixel less a half.
    corner = layer.data_to_world((-0.5, -0.5))
    np.testing.assert_allclose(corner, (-0.5, REFERENCE_X - 0.5))
    np.testing.assert_allclose(layer.data_to_world((3.5, 3.5)), (31.5, REFERENCE_X + 31.5))


def test_what_is_averaged_over_is_requested_whole(run: Path, window: Any) -> None:
    for dim in ("layer", "step", "head"):
        session_of(window).set_averaged(dim, True)
    click(window, 9, 30)
    wanted = sram(sample_of(run), generated=(9, 30))
    np.testing.assert_allclose(shown_sram(window).data, wanted, rtol=1e-5)
    assert controller_in(window).pick == Pick(
        str(run), "first", "generated", (9, 30, 10, 31), capture=CAPTURE
    )


def test_moving_sliders_and_switches_makes_a_new_request(run: Path, window: Any) -> None:
    click(window, 9, 30)
    shown_sram(window)
    window.dims.set_current_step(2, 3)
    session_of(window).set_averaged("head", True)
    wanted = sram(sample_of(run), generated=(9, 30), layers=[NAMES[1]], steps=[3])
    controller = controller_in(window)
    wait(
        lambda: (
            controller.pick is not None
            and controller.pick.heads == ()
            and controller.estimate is not None
        )
    )
    wait(lambda: np.allclose(shown_sram(window).data, wanted, rtol=1e-5))


def test_a_click_on_the_reference_shows_the_mirror(run: Path, window: Any) -> None:
    assert window.layers["R2G"].visible
    click(window, 9, REFERENCE_X + 25)
    layer = shown_sram(window)
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(sample_of(run), reference=(9, 25), **options)
    np.testing.assert_allclose(layer.data, wanted, rtol=1e-5)
    np.testing.assert_allclose(layer.data_to_world((-0.5, -0.5)), (-0.5, -0.5))
    assert [window.layers[name].visible for name in ("R2G", "G2R")] == [False, True]
    # The other way round the maps change places, too.
    click(window, 9, 5)
    wait(lambda: window.layers["R2G"].visible)
    assert not window.layers["G2R"].visible


def test_the_outlines_stand_on_the_picked_patch_and_the_brightest_one(window: Any) -> None:
    click(window, 9, 30)
    layer = shown_sram(window)
    # The layer in view has 4x4 patches of 8 pixels.
    picked, brightest = outlines(window)
    assert picked == pytest.approx((7.5, 23.5, 15.5, 31.5), abs=EDGE)
    row, column = np.unravel_index(layer.data.argmax(), layer.data.shape)
    top, left = 8 * row - 0.5, REFERENCE_X + 8 * column - 0.5
    assert brightest == pytest.approx((top, left, top + 8, left + 8), abs=EDGE)


@pytest.mark.parametrize("brightness", [0, 255])
def test_the_outline_is_seen_where_the_patch_is(brightness: int, window: Any) -> None:
    del window.layers["captions"]
    for name in ("source", "inpainting mask", "R2G", "G2R", "reference mask"):
        window.layers[name].visible = False
    for name in ("generated", "reference"):
        window.layers[name].data = np.full_like(window.layers[name].data, brightness)
    click(window, 9, 30)
    shown_sram(window).visible = False
    window.canvas.overlays.text.visible = False
    scale = 16
    shot = window.export_figure(flash=False, scale_factor=scale)[..., :3].astype(int)
    assert shot.shape[0] == 32 * scale  # No outline makes the figure larger.
    # Black and white meet along the patch's edge, whatever the picture is like.
    top, left, bottom, right = (round(scale * (at + 0.5)) for at in outlines(window)[0])
    for y, x in ((top, (left + right) // 2), ((top + bottom) // 2, left)):
        around = shot[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9].reshape(-1, 3)
        assert around.min() < 60
        assert around.max() > 195
    inside = shot[top + 16 : bottom - 16, left + 16 : right - 16]
    assert (inside == brightness).all()
    changed = (shot[:, : 32 * scale] != brightness).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert rows.min() >= top - 8
    assert columns.min() >= left - 8


def test_a_drag_with_shift_requests_an_area_and_leaves_the_view_still(
    run: Path, window: Any
) -> None:
    camera = window.scene.camera
    before = (tuple(camera.center), camera.zoom)
    drag(window, (6, 5), (20, 11), Qt.KeyboardModifier.ShiftModifier)
    redraw(window)
    assert (tuple(camera.center), camera.zoom) == before
    assert camera.mouse_pan
    mask = np.zeros((32, 32), bool)
    pick: Any = controller_in(window).pick
    assert pick.area == (6, 5, 21, 12)
    mask[6:21, 5:12] = True
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(sample_of(run), generated=mask, **options)
    np.testing.assert_allclose(shown_sram(window).data, wanted, rtol=1e-5)
    assert outlines(window)[0] == pytest.approx((5.5, 4.5, 20.5, 11.5))


def test_the_area_is_seen_while_it_is_dragged(window: Any) -> None:
    seen: list[tuple[list[str], object]] = []

    def look(viewer: Any, event: Any) -> Iterator[None]:
        yield
        while event.type == "mouse_move":
            seen.append((drawn_answer(viewer), controller_in(viewer).pick))
            yield

    window.mouse_drag_callbacks.append(look)
    drag(window, (6, 5), (20, 11), Qt.KeyboardModifier.ShiftModifier)
    window.mouse_drag_callbacks.remove(look)
    assert seen[-1] == (["pick"], None)  # Before there is an answer, or even a question.


def test_a_press_is_requested_before_the_release(
    run: Path, window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = requests(monkeypatch)
    native, left = canvas(window), Qt.MouseButton.LeftButton
    QTest.mousePress(native, left, pos=pixel(window, 9, 30))
    wait(lambda: bool(requested))
    QApplication.processEvents()
    assert controller_in(window).pick is None
    assert not drawn_answer(window)
    QTest.mouseRelease(native, left, pos=pixel(window, 9, 30))
    wanted = sram(sample_of(run), generated=(9, 30), layers=[NAMES[1]], steps=[1], heads=[0])
    np.testing.assert_allclose(shown_sram(window).data, wanted, rtol=1e-5)
    assert len(requested) == 1


def test_a_plain_drag_is_left_to_the_view(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = requests(monkeypatch)
    left = Qt.MouseButton.LeftButton
    QTest.mousePress(canvas(window), left, pos=pixel(window, 6, 5))
    wait(lambda: bool(requested))
    drag(window, (6, 5), (20, 11), Qt.KeyboardModifier.NoModifier)
    assert controller_in(window).pick is None
    assert not drawn_answer(window)
    assert window.scene.camera.mouse_pan
    # What the press requested is stopped.
    assert all(given["stop"]() for given in requested)


def test_a_click_beside_the_pictures_or_with_other_keys_requests_nothing(window: Any) -> None:
    click(window, 9, 32.5)
    click(window, 9, 20, modifier=Qt.KeyboardModifier.ControlModifier)
    click(window, 9, 20, button=Qt.MouseButton.RightButton)
    assert controller_in(window).pick is None


def test_a_tool_of_a_layer_keeps_the_mouse(window: Any) -> None:
    points = window.add_points(ndim=2, name="mine")
    points.mode = "add"
    click(window, 9, 20)
    assert len(points.data) == 1
    assert controller_in(window).pick is None


def test_a_turned_view_is_not_picked_in(window: Any) -> None:
    window.dims.ndisplay = 3
    click(window, 9, 20)
    assert controller_in(window).pick is None
    window.dims.ndisplay = 2


def test_escape_clears_the_pick_and_brings_the_map_back(window: Any) -> None:
    click(window, 9, 30)
    shown_sram(window)
    assert not window.layers["G2R"].visible
    QTest.keyClick(canvas(window), Qt.Key.Key_Escape)
    assert controller_in(window).pick is None
    assert window.layers["G2R"].visible
    assert not window.layers["SRAM"].visible
    assert not window.layers["pick"].visible
    click(window, 9, 30)
    assert shown_sram(window).visible
    assert window.layers["pick"].visible
    QTest.keyClick(canvas(window), Qt.Key.Key_Q)
    assert controller_in(window).pick is None


def test_a_map_that_was_hidden_stays_hidden(window: Any) -> None:
    window.layers["G2R"].visible = False
    click(window, 9, 30)
    shown_sram(window)
    controller_in(window).clear()
    assert not window.layers["G2R"].visible


def test_the_latest_pick_wins(run: Path, window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    ask = LiveSram.ask

    def slowly(self: LiveSram, **options: Any) -> Iterator[Any]:
        for found in ask(self, **options):
            time.sleep(0.1)
            yield found
        ended.append(options["stop"]())

    monkeypatch.setattr(LiveSram, "ask", slowly)
    shown = []
    controller = controller_in(window)
    connection = controller.estimated.connect(lambda: shown.append(controller.pick))
    for y in (2, 10, 18, 26):
        controller.request(Pick(str(run), "first", "generated", (y, 9, y + 1, 10)))
    wanted = sram(sample_of(run), generated=(26, 9))
    np.testing.assert_allclose(shown_sram(window).data, wanted, rtol=1e-5)
    controller.estimated.disconnect(connection)
    assert [pick.area[0] for pick in shown if pick is not None] == [26]
    wait(lambda: not ended[-1])
    assert ended[:-1] == [True] * (len(ended) - 1)


def test_estimates_are_shown_as_they_come(
    window: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_passes = Reading(single_pass_bytes=0, slow_chunk_bytes=0)
    ask = LiveSram.ask

    def slowly(self: LiveSram, **options: Any) -> Iterator[Any]:
        self._reading = in_passes  # Also of one that the window has made before.
        for found in ask(self, **options):
            yield found
            time.sleep(1)

    monkeypatch.setattr(LiveSram, "ask", slowly)
    controller = controller_in(window)
    shown: list[Any] = []
    connection = controller.estimated.connect(
        lambda: shown.append((controller.estimate.share, window.layers["SRAM"].data.copy()))  # type: ignore[union-attr]
    )
    controller.request(Pick(str(run), "first", "generated", (9, 30, 10, 31)))
    shown_sram(window)
    controller.estimated.disconnect(connection)
    assert len(shown) > 1
    assert shown[0][0] < 1
    assert not np.allclose(shown[0][1], shown[-1][1])


def test_another_sample_shows_the_sram_of_the_same_region(run: Path, window: Any) -> None:
    click(window, 9, 30)
    shown_sram(window)
    session_of(window).show_sample("second")
    controller = controller_in(window)
    wait(lambda: controller.pick is not None and controller.pick.sample == "second")
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(sample_of(run, "second"), generated=(9, 30), **options)
    wait(lambda: np.allclose(shown_sram(window).data, wanted, rtol=1e-5))
    assert not window.layers["G2R"].visible


def test_a_pick_is_shown_again_with_its_sample_and_slice(run: Path, window: Any) -> None:
    controller, session = controller_in(window), session_of(window)
    controller.restore(Pick(str(run), "second", "reference", (3, 4, 4, 5), (NAMES[2],), (), (1,)))
    wanted = sram(sample_of(run, "second"), reference=(3, 4), layers=[NAMES[2]], heads=[1])
    wait(lambda: controller.estimate is not None)
    np.testing.assert_allclose(shown_sram(window).data, wanted, rtol=1e-5)
    assert session.views[0].source.sample == "second"
    assert session.averaged_dims == {"step"}
    assert (session.position.layer, session.position.head) == (2, 1)
    with pytest.raises(AnalysisError, match=r"got one of other\.zarr, .*Open that run first"):
        controller.restore(Pick("other.zarr", "second", "generated", (0, 0, 1, 1)))
    with pytest.raises(AnalysisError, match=r"Expected a region within \(32, 32\) pixels"):
        controller.restore(Pick(str(run), "second", "generated", (0, 0, 33, 1)))


def test_a_compared_sample_shows_the_sram_of_the_same_region(run: Path, window: Any) -> None:
    session = session_of(window)
    session.compare(run, "second")
    wait(lambda: len(session.views) == 2)
    click(window, 9, 30)
    shown_sram(window)
    wait(lambda: "SRAM (2)" in window.layers and window.layers["SRAM (2)"].visible)
    wait(lambda: bool(np.isfinite(window.layers["SRAM (2)"].data).all()))
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(sample_of(run, "second"), generated=(9, 30), **options)
    np.testing.assert_allclose(window.layers["SRAM (2)"].data, wanted, rtol=1e-5)
    assert not own_layers(window, view_index=1)["g2r"].visible
    # And the other way: a click below asks above, too.
    top = session.placed[1]["generated"].top
    click(window, top + 3.5, 3)
    wait(lambda: controller_in(window).pick is not None)
    pick: Any = controller_in(window).pick
    assert (pick.sample, pick.area) == ("second", (3, 3, 4, 4))
    session.stop_comparing()
    wait(lambda: len(session.views) == 1)
    assert not {"SRAM (2)", "pick (2)"} & {layer.name for layer in window.layers}


def test_a_region_without_an_sram_is_reported_once_and_the_map_stays(
    tmp_path: Path, open_window: Callable[..., Any]
) -> None:
    from napari.utils.notifications import notification_manager

    token = SyntheticLayer("clip.attn2", reference_grid=None, tokens=1)
    run = write_run(tmp_path / "run.zarr", layers=[*LAYERS, token])
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: bool(session.samples))
    session.go_to(layer=3, step=0, head=0)
    before = len(notification_manager.records)
    click(viewer, 9, 20)
    wait(lambda: len(notification_manager.records) > before)
    assert "SRAM does not exist here" in notification_manager.records[-1].message
    session.go_to(step=1)
    QApplication.processEvents()
    assert viewer.layers["G2R"].visible
    session.go_to(layer=0)
    shown_sram(viewer)
    assert len(notification_manager.records) == before + 1
    # The mean over layers is of those that have an answer.
    session.set_averaged_dims(frozenset({"layer", "step", "head"}))
    wanted = sram(sample_of(run), generated=(9, 20))
    np.testing.assert_allclose(shown_sram(viewer).data, wanted, rtol=1e-5)
    assert len(notification_manager.records) == before + 1


def test_the_words_name_what_is_asked_and_the_pixel_of_the_highest_value(window: Any) -> None:
    click(window, 9, 30)
    values = shown_sram(window).data
    row, column = np.unravel_index(values.argmax(), values.shape)
    size = 32 // values.shape[0]
    y, x = row * size + size // 2, column * size + size // 2
    told = f"asked: generated (9, 30), SRAM up to {values.max():.3g} at reference ({y}, {x})"
    overlay = window.canvas.overlays.text
    wait(lambda: told in overlay.text)
    # Of G2R, which it hides, nothing is said.
    assert "highest: R2G" in overlay.text
    assert "G2R" not in overlay.text.splitlines()[-2]
    QTest.keyClick(canvas(window), Qt.Key.Key_Escape)
    wait(lambda: "asked" not in overlay.text)


def test_the_layers_of_an_answer_are_there_before_the_first_click_and_unseen(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    names = {"SRAM", "pick"}
    wait(lambda: names <= {layer.name for layer in viewer.layers})
    made = [viewer.layers[name] for name in sorted(names)]
    wait(lambda: not any(layer.visible for layer in made))
    click(viewer, 9, 30)
    assert shown_sram(viewer) is made[0]
    assert [layer.visible and layer.opacity == 1 for layer in made] == [True, True]
