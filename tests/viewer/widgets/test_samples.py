"""The list of samples of a real window, the button that opens a run, and the colour bars."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from i2am.analysis import analyze_run, score_maps
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.docks import dock_name, open_dock
from i2am.viewer.widgets.samples import SamplesWidget
from tests.support.synthetic_run import write_run
from tests.support.wait import wait
from tests.viewer.picking.test_sram_controller import click

NAMES = ("Doll", "cat", "dog", "eel")
LAYERS = ["captions", "generated", "source", "inpainting mask", "R2G"]
LAYERS += ["reference", "reference mask", "G2R"]


@pytest.fixture
def scored(tmp_path: Path) -> Any:
    """Return a run with maps of three of its samples, and their scores."""
    run = write_run(tmp_path / "run.zarr", NAMES)
    analyze_run(run, maps := tmp_path / "maps.zarr", samples=NAMES[:3], progress=False)
    return run, score_maps(maps)


def _open(open_window: Callable[..., Any], run: Path) -> tuple[Any, SamplesWidget]:
    viewer = open_window(run)
    wait(lambda: session_of(viewer).samples == NAMES)
    widget = open_dock(viewer, "Samples")
    assert isinstance(widget, SamplesWidget)
    return viewer, widget


def _is_in_view(session: Any, sample: str) -> bool:
    return bool(session.views[0].source.sample == sample)


def _column(widget: SamplesWidget, score: str) -> dict[str, str]:
    table = widget.table
    headers = [table.horizontalHeaderItem(at).text() for at in range(table.columnCount())]
    at = headers.index(score)
    cells = {table.item(y, 0).text(): table.item(y, at) for y in range(table.rowCount())}
    return {name: "" if cell is None else cell.text() for name, cell in cells.items()}


def _check_scores(widget: SamplesWidget, truth: Any) -> None:
    shown = {score: _column(widget, score) for score in truth["score"].unique()}
    assert len(shown) > 4
    for name, score, value in truth.itertuples(index=False):
        assert shown[score][name] == f"{value:.3f}"
    assert {column["eel"] for column in shown.values()} == {""}


def test_samples_are_searched_sorted_and_opened(
    scored: Any, open_window: Callable[..., Any]
) -> None:
    run, truth = scored
    truth.to_csv(run.with_name("scores.csv"), index=False)
    viewer, widget = _open(open_window, run)
    wait(lambda: widget.state.text() == "Scores of scores.csv: of 3 of 4 samples")
    _check_scores(widget, truth)
    widget.search.setText("DO")
    assert set(widget.names) == {"dog", "Doll"}
    widget.search.clear()
    own = truth[truth["score"] == "r2g_entropy"].set_index("sample")["value"]
    headers = [
        widget.table.horizontalHeaderItem(i).text() for i in range(widget.table.columnCount())
    ]
    widget.table.sortByColumn(headers.index("r2g_entropy"), Qt.SortOrder.DescendingOrder)
    known = [name for name in widget.names if name != "eel"]
    assert known == list(own.sort_values(ascending=False).index)
    row = widget.names.index("dog")
    widget.table.itemClicked.emit(widget.table.item(row, 1))
    wait(lambda: session_of(viewer).views[0].source.sample == "dog")
    assert widget.table.currentRow() == widget.names.index("dog")


def test_scores_are_computed_where_no_table_lies(
    scored: Any, open_window: Callable[..., Any]
) -> None:
    run, truth = scored
    _, widget = _open(open_window, run)
    assert widget.table.columnCount() == 1
    widget.score_button.click()
    wait(lambda: widget.state.text() == "Scores of maps.zarr, not saved")
    _check_scores(widget, truth)
    assert widget.score_button.isEnabled()
    assert not run.with_name("scores.csv").exists()


def test_a_table_of_something_else_is_told(scored: Any, open_window: Callable[..., Any]) -> None:
    run, _ = scored
    run.with_name("scores.csv").write_text("a,b\n1,2\n")
    _, widget = _open(open_window, run)
    wait(lambda: "Expected columns sample, score and value" in widget.state.text())


def test_open_run_shows_another_run_or_maps_in_place_of_the_one_in_view(
    scored: Any, tmp_path: Path, open_window: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = scored
    viewer, widget = _open(open_window, run)
    session = session_of(viewer)
    other = write_run(tmp_path / "other.zarr", ("x", "y"), seed=3)
    analyze_run(other, maps := tmp_path / "other.maps.zarr", samples=["y"], progress=False)
    browser = viewer.window.dock_widgets[dock_name("Run browser")]
    for folder, sample in ((other, "x"), (maps, "y")):
        monkeypatch.setattr(
            QFileDialog, "getExistingDirectory", lambda *_, folder=folder: str(folder)
        )
        browser.open_button.click()
        wait(partial(_is_in_view, session, sample))
        wait(lambda: session.samples == ("x", "y") and set(widget.names) == {"x", "y"})
        assert session.views[0].source.run == str(other)
        # Those of an answer are made when the window has time.
        names = [layer.name for layer in viewer.layers if layer.name not in {"SRAM", "pick"}]
        assert names == LAYERS
        assert viewer.title == "other.zarr - I²AM"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    browser.open_button.click()
    assert session.views[0].source.sample == "y"


def test_colour_bars_stand_at_the_side_of_their_picture_and_follow_an_sram(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and len(session.samples) == 2)
    session.go_to(layer=0, step=0, head=0)
    browser = viewer.window.dock_widgets[dock_name("Run browser")]
    plain = viewer.screenshot(flash=False).astype(int)
    browser.bars.setChecked(True)
    shown = np.abs(viewer.screenshot(flash=False) - plain)[..., :3].max(axis=2) > 60
    assert shown[:130, :90].sum() > 300
    assert shown[:130, -90:].sum() > 300
    assert not shown[:, 110:-110].any()
    click(viewer, 9, 20)
    wait(lambda: sram_controller_of(session).estimate is not None)
    bar = viewer.layers["SRAM"].colorbar
    assert (bar.visible, str(bar.position)) == (True, "top_right")
    browser.bars.setChecked(False)
    assert not any(viewer.layers[name].colorbar.visible for name in ("R2G", "G2R", "SRAM"))
