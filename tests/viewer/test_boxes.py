"""A run whose model saw a part of its pictures, in a real window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt

from i2am.analysis import open_run, sram
from i2am.schemas import AnalysisError, Box
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.export.figure import take_figure
from i2am.viewer.export.script import map_script, sram_script
from i2am.viewer.picking.pick import Pick
from i2am.viewer.scene.box_layers import VEIL
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.neighbours import draw_tile, neighbour_picks
from tests.support.image_boxes import write_boxes
from tests.support.maps_store import NAMES
from tests.support.synthetic_run import write_run
from tests.support.wait import wait
from tests.viewer.picking.test_sram_controller import (
    EDGE,
    click,
    controller_in,
    drag,
    outlines,
    redraw,
    requests,
    shown_sram,
)

CROP = (8, 16, 24, 80)  # of the generated image, 32 by 96 pixels
CENTRE = (0, 32, 32, 64)  # of the reference, as large
REFERENCE_X = 96 + 6  # the gap is a sixteenth of the width
BOXES = ("generated box", "reference box")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples; of the second one the model saw all."""
    path = write_run(tmp_path / "run.zarr", ("first", "second"), size_px=(32, 96))
    return write_boxes(path, {"generated": CROP, "reference": CENTRE})


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: bool(session.samples) and session.share_loaded == 1)
    session.go_to(layer=1, step=1, head=0)  # of 4 by 4 patches on either side
    redraw(viewer)
    return viewer


def _world(layer: Any) -> list[float]:
    """Return top, left, bottom and right of a layer in the scene."""
    ends = [-0.5, -0.5], [n - 0.5 for n in layer.data.shape[-2:]]
    lead = (0,) * (layer.ndim - 2)
    return [float(at) for end in ends for at in layer.data_to_world((*lead, *end))[-2:]]


def test_maps_and_srams_lie_in_the_boxes(window: Any) -> None:
    assert _world(window.layers["R2G"]) == [7.5, 15.5, 23.5, 79.5]
    centre = [-0.5, REFERENCE_X + 31.5, 31.5, REFERENCE_X + 63.5]
    assert _world(window.layers["G2R"]) == centre
    click(window, 12, 60)
    assert _world(shown_sram(window)) == centre
    click(window, 12, REFERENCE_X + 40)
    wait(lambda: controller_in(window).pick.side == "reference")  # type: ignore[union-attr]
    assert _world(shown_sram(window)) == [7.5, 15.5, 23.5, 79.5]


def test_a_click_at_a_cell_of_the_box_asks_for_that_cell(
    run: Path, window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(monkeypatch)
    # The third cell of the crop's second row: its centre is where four of its 4 by 16 pixels meet.
    click(window, 8 + 6 - 0.5, 16 + 40 - 0.5)
    layer = shown_sram(window)
    pixel = asked[-1]["generated"]
    assert pixel in {(13, 55), (13, 56), (14, 55), (14, 56)}
    assert outlines(window)[0] == pytest.approx((11.5, 47.5, 15.5, 63.5), abs=EDGE)
    options: Any = {"layers": [NAMES[1]], "steps": [1], "heads": [0]}
    wanted = sram(open_run(run)["first"], generated=pixel, **options)
    np.testing.assert_allclose(layer.data, wanted, rtol=1e-5)
    row, column = np.unravel_index(layer.data.argmax(), layer.data.shape)
    top, left = 8 * row - 0.5, REFERENCE_X + 32 + 8 * column - 0.5
    assert outlines(window)[1] == pytest.approx((top, left, top + 8, left + 8), abs=EDGE)
    np.testing.assert_allclose(layer.data, _sram_of_patch(run, 1 * 4 + 2), rtol=1e-4)
    # And of the reference.
    click(window, 20 - 0.5, REFERENCE_X + 32 + 20 - 0.5)
    wait(lambda: "reference" in asked[-1])
    assert asked[-1]["reference"] in {(19, 51), (19, 52), (20, 51), (20, 52)}
    shown_sram(window)
    left = REFERENCE_X + 32 + 16 - 0.5
    assert outlines(window)[0] == pytest.approx((15.5, left, 23.5, left + 8), abs=EDGE)


def _sram_of_patch(run: Path, patch: int) -> Any:
    """Return the softmax of a patch's row over the reference's tokens, from the stored factors."""
    group: Any = zarr.open_group(run, mode="r")[f"first/layers/{NAMES[1]}"]
    query, key = (np.asarray(group[name][:], np.float64) for name in ("query", "key"))
    scores = np.exp(key[0] @ query[1, 0, patch] * group.attrs["i2am"]["scale"])
    return (scores / scores.sum())[1:].reshape(4, 4)  # the first token is special


def test_a_click_outside_says_so_and_asks_nothing(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(monkeypatch)
    before = len(notification_manager.records)
    click(window, 16, REFERENCE_X + 10)
    assert window.status == "The model never saw this part of the reference."
    click(window, 3, 50)
    assert window.status == "The model never saw this part of the generated image."
    assert controller_in(window).pick is None
    assert not asked
    assert "SRAM" not in window.layers or not window.layers["SRAM"].visible
    assert len(notification_manager.records) == before
    # What was picked before stays, also after a drag outside.
    click(window, 12, 60)
    shown_sram(window)
    shown = outlines(window)
    drag(window, (3, REFERENCE_X + 4), (20, REFERENCE_X + 20), Qt.KeyboardModifier.ShiftModifier)
    assert window.status == "The model never saw this part of the reference."
    assert controller_in(window).pick.area == (12, 60, 13, 61)  # type: ignore[union-attr]
    assert outlines(window) == shown
    assert len(asked) == 1


def test_of_a_region_the_part_is_asked_that_the_model_saw(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(monkeypatch)
    start, end = (4, REFERENCE_X + 20), (9, REFERENCE_X + 40)
    drag(window, start, end, Qt.KeyboardModifier.ShiftModifier)
    shown_sram(window)
    mask = np.zeros((32, 96), bool)
    mask[4:10, 32:41] = True
    np.testing.assert_array_equal(asked[-1]["reference"], mask)
    assert controller_in(window).pick.area == (4, 32, 10, 41)  # type: ignore[union-attr]


def test_a_pick_that_was_typed_outside_says_so_and_shows_no_map(run: Path, window: Any) -> None:
    click(window, 12, 60)
    assert shown_sram(window).visible
    controller = controller_in(window)
    outside = Pick(str(run), "first", "generated", (0, 0, 8, 96))
    controller.restore(outside)
    assert window.status == "The model never saw this part of the generated image."
    assert not window.layers["SRAM"].visible
    assert window.layers["G2R"].visible
    assert controller.estimate is None
    assert outlines(window)[0] == pytest.approx((-0.5, -0.5, 7.5, 95.5), abs=EDGE)
    with pytest.raises(AnalysisError, match=r"Expected a place that the model saw, got .*0, 0, 8"):
        sram_script(session_of(window).views[0], outside)
    # Of the sample that was seen whole it is there.
    session_of(window).show_sample("second")
    assert shown_sram(window).visible
    assert not set(BOXES) & {layer.name for layer in window.layers}


def test_neighbours_outside_the_box_are_left_out(run: Path) -> None:
    pick = Pick(str(run), "first", "generated", (9, 20, 10, 21), (NAMES[1],))
    found = neighbour_picks(pick, open_view(run))
    assert [one and one.area[:2] for one in found] == [
        *(None, None, None),
        *(None, (9, 20), (9, 36)),
        *(None, (13, 20), (13, 36)),
    ]


def test_a_box_is_hidden_and_shown_with_its_image(window: Any) -> None:
    box, other = (window.layers[name] for name in BOXES)
    window.layers["generated"].visible = False
    assert (box.visible, other.visible) == (False, True)
    window.layers["source"].visible = True  # It has the same box.
    assert box.visible
    window.layers["source"].visible = False
    session_of(window).show_sample("second")
    wait(lambda: BOXES[0] not in window.layers)
    session_of(window).show_sample("first")
    wait(lambda: BOXES[0] in window.layers)
    assert [window.layers[name].visible for name in BOXES] == [False, True]
    window.layers["generated"].visible = True
    assert window.layers[BOXES[0]].visible


def test_another_samples_box_takes_the_place_of_the_one_before(window: Any, tmp_path: Path) -> None:
    layer = window.layers["generated box"]
    assert layer.data[0].max(axis=0).tolist() == [31.5, 95.5]
    other = write_boxes(
        write_run(tmp_path / "other.zarr", size_px=(32, 32)), {"generated": (0, 8, 16, 24)}
    )
    session_of(window).show(open_view(other))
    assert window.layers["generated box"] is layer
    assert layer.data[0].max(axis=0).tolist() == [31.5, 31.5]
    assert _world(window.layers["R2G"]) == [-0.5, 7.5, 15.5, 23.5]
    assert "reference box" not in window.layers


def test_the_exported_picture_has_the_map_in_the_box_and_the_rest_dimmed(window: Any) -> None:
    for name in ("generated", "reference"):
        layer = window.layers[name]
        layer.data = np.full_like(layer.data, 200)
    session = session_of(window)
    session.set_appearance(threshold=0.0, polarity="direct")
    for volume in session.views[0].volumes.values():
        volume.loaded._values[...] = 1
    for name in ("R2G", "G2R"):
        window.layers[name].contrast_limits = (0, 1)
        window.layers[name].refresh()
    (row,) = take_figure(window, 4).rows
    shot = row.picture[..., :3].astype(int)
    high, low = window.layers.extent.world[1, -2:], window.layers.extent.world[0, -2:]
    low[0] = min(window.layers[name].extent.world[0, -2] for name in ("generated", "R2G", "G2R"))
    assert shot.shape[0] == pytest.approx(4 * (high[0] - low[0]), abs=4)
    heat = 0.85 * 255 * np.array([0.988, 0.998, 0.645]) + 0.15 * 200  # inferno's last colour
    veiled = np.full(3, 200 * (1 - VEIL[3]))
    for left, box in ((0, CROP), (REFERENCE_X, CENTRE)):
        box_of = Box(*box)
        for y in (2, 6, 10, 16, 22, 26, 30):
            for x in (4, 12, 20, 28, 36, 50, 60, 68, 76, 84, 92):
                is_seen = box_of.y0 < y < box_of.y1 and box_of.x0 < x < box_of.x1
                found = shot[round(4 * (y - 0.5 - low[0])), round(4 * (left + x - 0.5 - low[1]))]
                np.testing.assert_allclose(found, heat if is_seen else veiled, atol=8)


def test_the_exported_script_gives_the_same_map(window: Any) -> None:
    session = session_of(window)
    view, controller = session.views[0], controller_in(window)
    click(window, 12, 60)
    shown = shown_sram(window).data
    position, nothing = session.position, frozenset[str]()
    scripts = {
        "SRAM": (sram_script(view, controller.pick), shown),  # type: ignore[arg-type]
        "R2G": (map_script(view, "r2g", position, nothing), None),
        "G2R": (map_script(view, "g2r", position, nothing), None),
    }
    for name, (script, seen) in scripts.items():
        names: dict[str, Any] = {}
        exec(compile(script, "copied", "exec"), names)
        wanted: Any = seen
        if seen is None:
            wanted = view.volumes[name.lower()].loaded.plane(position, nothing)
        np.testing.assert_allclose(names["attention"], wanted, rtol=1e-5)


def test_a_tile_has_the_map_in_the_box_and_the_rest_dimmed(qapp: Any) -> None:
    # An application is there, so that there can be pixmaps.
    picture = np.full((32, 96, 3), 200, np.uint8)
    values = np.ones((4, 4), np.float32)
    tile = draw_tile(picture, values, Box(*CENTRE), (0.0, 1.0), is_framed=False).toImage()
    outside, inside = (tile.pixelColor(round(tile.width() * x), 10) for x in (0.2, 0.5))
    assert outside.red() == pytest.approx(200 * (1 - VEIL[3]), abs=2)
    assert inside.red() == pytest.approx(0.85 * 255 * 0.988 + 0.15 * 200, abs=4)
