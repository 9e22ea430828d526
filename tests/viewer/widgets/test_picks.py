"""Picks: kept, named, saved and read again; and the panel of nine."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog, QPushButton

from i2am.analysis import open_run, sram
from i2am.schemas import AnalysisError, Box, SchemaError, StoreError
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.picking.pick import Pick, pick_in
from i2am.viewer.picking.pick_table import read_picks, write_picks
from i2am.viewer.scene.placement import PlacedImage
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.neighbours import draw_tile, neighbour_picks
from i2am.viewer.widgets.picks import PicksWidget
from tests.support.maps_store import NAMES
from tests.support.wait import wait
from tests.viewer.picking.test_sram_controller import click

_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
_label = st.text("abc.0123", min_size=1, max_size=9)
_areas = st.tuples(*[st.integers(0, 600)] * 2, *[st.integers(1, 90)] * 2).map(
    lambda at: (at[0], at[1], at[0] + at[2], at[1] + at[3])
)
_numbers = st.lists(st.integers(0, 60), max_size=3).map(tuple)
_picks = st.builds(
    Pick,
    run=_text,
    sample=_text,
    side=st.sampled_from(["generated", "reference"]),
    area=_areas,
    layers=st.lists(_label, max_size=3).map(tuple),
    steps=_numbers,
    heads=_numbers,
    note=_text,
    capture=_text,
)
PICKS = [
    Pick(
        "run.zarr", "first", "generated", (9, 30, 10, 31), (NAMES[1],), (1,), (0,), "button, left"
    ),
    Pick(
        *("run.zarr", "second", "reference", (0, 0, 8, 9)),
        capture="2026-11-29T07:00:00+00:00 c0ffee",
        reference="reference_1",
    ),
]


@given(st.lists(_picks, max_size=4))
def test_a_table_that_is_read_is_the_one_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, picks: list[Pick]
) -> None:
    path = tmp_path_factory.mktemp("picks") / "picks.csv"
    assert read_picks(write_picks(picks, path)) == picks


def test_a_table_is_what_a_spreadsheet_reads(tmp_path: Path) -> None:
    path = write_picks(PICKS, tmp_path / "picks.csv")
    assert path.read_text(encoding="utf-8").splitlines() == [
        "run,sample,side,y0,x0,y1,x1,layers,steps,heads,note,capture,reference",
        f'run.zarr,first,generated,9,30,10,31,{NAMES[1]},1,0,"button, left",,reference',
        "run.zarr,second,reference,0,0,8,9,,,,,2026-11-29T07:00:00+00:00 c0ffee,reference_1",
    ]


def test_a_table_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "picks.csv"
    path.write_text("mine")
    with pytest.raises(StoreError, match=r"Expected no file, got one, at .*picks\.csv"):
        write_picks(PICKS, path)
    assert path.read_text() == "mine"
    write_picks(PICKS, path, overwrite=True)
    assert read_picks(path) == PICKS
    with pytest.raises(StoreError, match="got 'No such file or directory'"):
        write_picks(PICKS, tmp_path / "nowhere" / "picks.csv")


COLD_AND_HOT = ((3.5 / 4, 0.5 / 4), (1.5 / 4, 2.5 / 4))  # centres of patches, down and along
HEADER = "run,sample,side,y0,x0,y1,x1,layers,steps,heads,note\n"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"sample,score,value\n", "got none named run, side, y0, x0, y1, x1, layers, steps"),
        (b"\xff\xfe\x00", "got no CSV text"),
        (b"", "got none named run, sample"),
        (HEADER.encode() + b"r,a,left,0,0,1,1,,,,\n", "got line 2: 'left' as the side"),
        (
            HEADER.encode() + b"r,a,generated,0,0,1,1,,,,\nr,a,reference,0,x,1,1,,,,\n"
            b"r,a,reference,5,0,5,1,,,,\nr,a,reference,0,0,1,1,,one,,\n",
            r"got line 3: 'x' as x0; line 4: the area \(5, 0, 5, 1\); line 5: 'one' as steps, at",
        ),
    ],
)
def test_another_file_is_refused_with_every_fault(
    content: bytes, match: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(SchemaError, match=match):
        read_picks(path)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Expected a table of picks, got 'No such file"):
        read_picks(tmp_path / "none.csv")


def view_of_size(size: tuple[int, int]) -> Any:
    images = {"generated": np.zeros((*size, 3), np.uint8)}
    source = SimpleNamespace(run="run.zarr", sample="a", reference="reference")
    return SimpleNamespace(images=images, source=source, identity="now")


@pytest.mark.parametrize(
    ("points", "area"),
    [
        (((-0.5, 9.5), (-0.5, 9.5)), (0, 0, 1, 1)),
        (((19.49, 29.4), (19.49, 29.4)), (9, 9, 10, 10)),
        (((15, 12), (3, 25)), (1, 1, 8, 8)),
        (((3, 12), (300, -50)), (1, 0, 10, 2)),
    ],
)
def test_points_of_the_scene_are_pixels_of_the_stored_image(points: Any, area: Any) -> None:
    # 10 by 10 pixels, shown twice as large, ten to the right.
    placed = PlacedImage((10, 10), Box.whole(10, 10), left=9.5, zoom=2)
    pick = pick_in(view_of_size((10, 10)), "generated", placed, points)
    assert pick == Pick("run.zarr", "a", "generated", area, capture="now")


def test_a_region_in_an_image_of_another_size_is_as_far_along() -> None:
    point = Pick("run.zarr", "b", "generated", (8, 4, 9, 5))
    assert point.on(view_of_size((10, 40)), (20, 20)) == Pick(
        "run.zarr", "a", "generated", (4, 8, 5, 9), capture="now"
    )
    area = Pick("run.zarr", "b", "generated", (8, 4, 18, 20))
    assert area.on(view_of_size((10, 40)), (20, 20)).area == (4, 8, 9, 40)


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> tuple[Any, PicksWidget]:
    viewer = open_window(run)
    session = session_of(viewer)
    widget = PicksWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Ask a patch", area="right")
    wait(lambda: bool(session.samples))
    session.go_to(layer=1, step=1, head=0)
    return viewer, widget


def last_sram(widget: PicksWidget) -> Any:
    wait(lambda: widget.controller.estimate is not None and widget.controller.estimate.share == 1)
    answer: Any = widget.controller.estimate
    return answer.values.to_numpy()


def test_picks_are_kept_named_and_shown_again(run: Path, window: Any) -> None:
    viewer, widget = window
    click(viewer, 9, 30)
    first = last_sram(widget)
    session_of(viewer).go_to(layer=2, step=3)
    click(viewer, 20, 5)
    wait(lambda: widget.controller.pick is not None and widget.controller.pick.area[0] == 20)
    assert [pick.area for pick in widget.picks] == [(9, 30, 10, 31), (20, 5, 21, 6)]
    assert widget.list.item(1).text() == f"first · generated (20, 5) · {NAMES[2]} · step 3 · head 0"
    widget.list.itemClicked.emit(widget.list.item(0))
    assert widget.controller.pick == widget.picks[0]
    assert session_of(viewer).position[:2] == (1, 1)
    np.testing.assert_array_equal(last_sram(widget), first)
    widget.list.item(0).setText(" cuff ")
    assert widget.picks[0].note == "cuff"
    assert widget.list.item(0).text() == "cuff"
    widget.list.item(0).setText("")
    assert widget.list.item(0).text() == f"first · generated (9, 30) · {NAMES[1]} · step 1 · head 0"
    widget.list.setCurrentRow(0)
    QTest.mouseClick(widget.buttons["Remove"], Qt.MouseButton.LeftButton)
    assert [pick.area[0] for pick in widget.picks] == [20]
    assert widget.controller.pick is None
    assert viewer.layers["G2R"].visible


def test_picks_are_saved_and_opened_by_the_buttons(
    window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari.utils.notifications import notification_manager

    _, widget = window
    widget.add(PICKS)
    named = tmp_path / "named"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(named), ""))
    QTest.mouseClick(widget.buttons["Save"], Qt.MouseButton.LeftButton)
    saved = named.with_suffix(".csv")
    assert read_picks(saved) == PICKS
    QTest.mouseClick(widget.buttons["Save"], Qt.MouseButton.LeftButton)
    assert "Expected no file, got one" in notification_manager.records[-1].message
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(saved), ""))
    QTest.mouseClick(widget.buttons["Open"], Qt.MouseButton.LeftButton)
    assert widget.picks == PICKS * 2
    saved.write_text("no table")
    QTest.mouseClick(widget.buttons["Open"], Qt.MouseButton.LeftButton)
    assert "Expected columns of picks" in notification_manager.records[-1].message
    widget.list.itemClicked.emit(widget.list.item(0))
    assert "Open that run first" in notification_manager.records[-1].message
    for dialog in ("getSaveFileName", "getOpenFileName"):
        monkeypatch.setattr(QFileDialog, dialog, lambda *_: ("", ""))
    QTest.mouseClick(widget.buttons["Save"], Qt.MouseButton.LeftButton)
    QTest.mouseClick(widget.buttons["Open"], Qt.MouseButton.LeftButton)
    assert widget.picks == PICKS * 2


def test_nine_srams_are_those_of_the_patch_and_its_neighbours(run: Path, window: Any) -> None:
    viewer, widget = window
    QTest.mouseClick(widget.buttons["3×3"], Qt.MouseButton.LeftButton)
    assert widget.neighbours.caption.text() == "Pick a patch, then press 3×3."
    session_of(viewer).go_to(layer=0)
    click(viewer, 9, 30)  # in patch (2, 7) of 8 by 8: there is none to its right
    last_sram(widget)
    QTest.mouseClick(widget.buttons["3×3"], Qt.MouseButton.LeftButton)
    wait(lambda: len(widget.neighbours.maps) == 9)
    options: Any = {"layers": [NAMES[0]], "steps": [1], "heads": [0]}
    sample: Any = open_run(run)["first"]
    for number, (down, along) in enumerate(itertools.product((-4, 0, 4), repeat=2)):
        found, tile = widget.neighbours.maps[number], widget.neighbours.tiles[number]
        if along == 4:
            assert found is None
            assert tile.pixmap().isNull()
            continue
        wanted = sram(sample, generated=(9 + down, 30 + along), **options)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert not tile.pixmap().isNull()
    shown = widget.neighbours.tiles[4].pixmap().toImage()
    frame = shown.pixelColor(2, 54)
    assert (frame.red(), frame.green(), frame.blue()) == (255, 255, 255)
    # A neighbour that is clicked is asked, and kept.
    QTest.mouseClick(widget.neighbours.tiles[0], Qt.MouseButton.LeftButton)
    assert widget.controller.pick == widget.picks[-1]
    assert widget.picks[-1].area == (5, 26, 6, 27)


def test_neighbours_of_an_area_are_as_large(run: Path, window: Any) -> None:
    viewer, _ = window
    view = session_of(viewer).views[0]
    pick = Pick(str(run), "first", "generated", (0, 8, 8, 20))
    found = neighbour_picks(pick, view)
    assert [one is None for one in found] == [True] * 3 + [False] * 6
    assert [one.area for one in found if one is not None] == [
        *[(0, 0, 8, 8), (0, 8, 8, 20), (0, 20, 8, 32)],
        *[(8, 0, 16, 8), (8, 8, 16, 20), (8, 20, 16, 32)],
    ]


def test_every_button_says_what_it_does(window: Any) -> None:
    _, widget = window
    buttons = widget.findChildren(QPushButton)
    assert len(buttons) == 6
    assert all(len(button.toolTip()) > 10 for button in buttons)


def test_a_tile_is_the_image_where_it_is_cold_and_the_heat_where_it_is_hot(
    window: Any,
) -> None:
    # A window is there, so that there can be pixmaps.
    picture = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = 1
    drawn = draw_tile(picture, values, Box.whole(64, 64), (0.0, 1.0), is_framed=False).toImage()
    size = drawn.width()
    assert size == drawn.height()
    cold, hot = (drawn.pixelColor(round(size * x), round(size * y)) for y, x in COLD_AND_HOT)
    assert (cold.red(), cold.green(), cold.blue()) == (10, 200, 30)
    # The last colour of inferno, 0.85 of it.
    prefetched = 0.85 * 255 * np.array([0.988, 0.998, 0.645]) + 0.15 * np.array([10, 200, 30])
    np.testing.assert_allclose((hot.red(), hot.green(), hot.blue()), prefetched, atol=12)


def test_a_table_of_an_older_version_has_no_captures(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text(HEADER + "run.zarr,a,generated,0,0,1,1,,,,\n")
    assert read_picks(path) == [Pick("run.zarr", "a", "generated", (0, 0, 1, 1))]


def test_a_pick_is_known_by_its_capture_wherever_the_run_lies(
    run: Path, window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, widget = window
    session = session_of(viewer)
    click(viewer, 9, 30)
    last_sram(widget)
    (pick,) = widget.picks
    assert pick.capture == session.views[0].identity
    assert "captured 20" in widget.list.item(0).toolTip()
    moved = shutil.copytree(run, tmp_path / "elsewhere" / "moved.zarr")
    session.show(open_view(moved))
    wait(lambda: session.samples == ("first", "second"))
    session.show_sample("second")
    wait(lambda: session.views[0].source.sample == "second")
    widget.list.itemClicked.emit(widget.list.item(0))
    wait(lambda: session.views[0].source.sample == "first")
    wait(lambda: widget.controller.pick is not None and widget.controller.pick.area == pick.area)
    # By its path as well, however it is written, where no capture was kept.
    monkeypatch.chdir(moved.parent)
    for kept in (replace(pick, run="moved.zarr", capture=""), replace(pick, run="x.zarr")):
        widget.controller.restore(kept)
    for other in (
        replace(pick, capture=""),
        replace(pick, run=str(moved), capture="2020-01-01"),
        replace(pick, sample="third"),
    ):
        with pytest.raises(AnalysisError, match="Expected a pick of the run in view, got one of"):
            widget.controller.restore(other)
