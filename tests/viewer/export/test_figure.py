"""The figure of a real window: whole, legible, no larger than can be drawn, its text as text."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2am.schemas import AnalysisError
from i2am.viewer.export.animation import SUFFIXES as ANIMATION_SUFFIXES
from i2am.viewer.export.figure import (
    FIGURE_SUFFIXES,
    FigureRow,
    SceneFigure,
    Title,
    largest_scale,
    take_figure,
    write_figure,
)
from i2am.viewer.export.pictures import SUFFIXES as PICTURE_SUFFIXES
from i2am.viewer.export.pictures import write_picture
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.export import ExportWidget
from tests.support.wait import wait

GAP = 2  # between the two pictures of 32 pixels


@pytest.fixture
def window(run: Path, open_window: Callable[..., Any]) -> Any:
    viewer = open_window(run)
    session = session_of(viewer)
    wait(lambda: session.share_loaded == 1 and len(session.samples) == 2)
    return viewer


def _text_pixels(painted: Any, figure: SceneFigure) -> list[Any]:
    """Return where each row of text differs from its paper: above each picture, and below all."""
    paper = [int(figure.paper[at : at + 2], 16) for at in (1, 3, 5)]
    differs = np.abs(painted.astype(int) - paper).max(axis=2) > 60
    found, y = [], 0
    left = painted.shape[0] - sum(len(row.picture) for row in figure.rows)
    for row in figure.rows:
        picture = row.picture[..., :3]
        starts = [
            at
            for at in range(y, y + left + 1)
            if np.array_equal(painted[at : at + len(picture)], picture)
        ]
        found.append(differs[y : starts[0]])
        y = starts[0] + len(picture)
    return [*found, differs[y:]]


def test_captions_are_whole_at_every_scale_and_in_every_theme(
    window: Any, subtests: pytest.Subtests
) -> None:
    session_of(window).go_to(layer=0, step=0, head=0)
    for theme, paper in (("dark", "#000000"), ("light", "#ffffff")):
        window.theme = theme
        for scale in (2, 5, None):
            with subtests.test(theme=theme, scale=scale):
                figure = take_figure(window, scale, "first · a long line that says which map it is")
                assert figure.paper == paper
                zoom = figure.width // 66
                (row,) = figure.rows
                assert row.picture.shape[:2] == (32 * zoom, 66 * zoom)
                assert [title.text for title in row.titles] == [
                    "first: generated · R2G",
                    "reference · G2R",
                ]
                above, below = _text_pixels(figure.painted(), figure)
                for text in (above[:, : 32 * zoom], above[:, (32 + GAP) * zoom :], below):
                    assert text.any()
                    for edge in (text[0], text[-1], text[:, 0], text[:, -1]):
                        assert not edge.any()


def test_the_pictures_in_a_figure_are_the_stored_ones_pixel_for_pixel(window: Any) -> None:
    for layer in window.layers:
        if layer.name in ("R2G", "G2R"):
            layer.visible = False
    places = window.layers["captions"].data.copy()
    (row,) = take_figure(window, 3).rows
    for name, left in (("generated", 0), ("reference", 34)):
        stored = np.repeat(np.repeat(window.layers[name].data, 3, 0), 3, 1)
        np.testing.assert_array_equal(row.picture[:, 3 * left : 3 * left + 96, :3], stored)
    np.testing.assert_array_equal(window.layers["captions"].data, places)
    assert window.layers["captions"].text.visible


def test_two_compared_samples_are_two_rows_with_their_captions(window: Any) -> None:
    session = session_of(window)
    session.compare(session.views[0].source.run, "second")
    wait(lambda: len(session.views) == 2 and session.share_loaded == 1)
    for layer in window.layers:
        if layer.name.startswith(("R2G", "G2R")):
            layer.visible = False
    figure = take_figure(window, 4)
    assert len(figure.rows) == 2
    assert all(len(row.titles) == 2 for row in figure.rows)
    for row, suffix in zip(figure.rows, ("", " (2)"), strict=True):
        stored = np.repeat(np.repeat(window.layers[f"generated{suffix}"].data, 4, 0), 4, 1)
        np.testing.assert_array_equal(row.picture[:, :128, :3], stored)
    above, between, _ = _text_pixels(figure.painted(), figure)
    assert above.any()
    assert between.any()


def test_no_scale_is_offered_or_taken_that_the_card_cannot_draw(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = largest_scale(window)
    assert 66 * most <= 16_384 < 66 * (most + 6)  # the height counts, too
    with pytest.raises(
        AnalysisError, match=rf"Expected a scale up to {most}, .* got {most + 1}, at"
    ):
        take_figure(window, most + 1)
    # A card that draws less: the one limit that every driver tells.
    monkeypatch.setattr("i2am.viewer.export.figure._MOST_PX", 600)
    widget = ExportWidget(window)
    assert widget.scale.maximum() == 600 // 67
    assert take_figure(window).width <= 600
    assert take_figure(window, widget.scale.maximum()).width <= 600


def test_a_canvas_of_one_colour_is_not_saved(window: Any) -> None:
    for layer in window.layers:
        layer.visible = False
    with pytest.raises(
        AnalysisError, match="Expected a picture, got a single colour, at the canvas"
    ):
        take_figure(window, 2)


FIGURE = SceneFigure(
    (
        FigureRow(
            np.full((64, 128, 4), (200, 100, 50, 255), np.uint8),
            (Title("upper $x^2$ line", 0, 128),),
        ),
    ),
    "lower line: 8×8",
    "#ffffff",
)


def test_a_pdf_and_an_svg_hold_text_as_text(tmp_path: Path) -> None:
    svg = write_figure(FIGURE, tmp_path / "figure.svg").read_text()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert texts == ["upper $x^2$ line", "lower line: 8×8"]
    assert 'width="504pt"' in svg  # seven inches
    pdf = write_figure(FIGURE, tmp_path / "figure.pdf").read_bytes()
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    pages = [zlib.decompress(one) for one in streams if one[:1] == b"x"]
    drawn = b"".join(one for one in pages if b" Tf" in one)
    shown = b"".join(re.findall(rb"\(([^)]*)\)", drawn)).decode("latin-1").replace("\0", "")
    assert "upper $x^2$ line" in shown
    assert "lower line: 8" in shown
    assert b"/FontFile2" in pdf  # TrueType: it can be searched and edited


@pytest.mark.parametrize("suffix", FIGURE_SUFFIXES)
def test_every_kind_that_is_offered_can_be_written(suffix: str, tmp_path: Path) -> None:
    path = write_figure(FIGURE, tmp_path / f"figure{suffix}")
    assert path.stat().st_size > 100
    if suffix in PICTURE_SUFFIXES:
        with Image.open(path) as file:
            np.testing.assert_allclose(np.asarray(file.convert("RGB")), FIGURE.painted(), atol=40)
        large = np.zeros((4, 5000, 4), np.uint8)
        assert write_picture(large, tmp_path / f"large{suffix}").stat().st_size > 0


def test_the_dialogs_offer_what_is_written_and_add_its_ending(
    window: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qtpy.QtWidgets import QFileDialog

    widget = ExportWidget(window)
    offered: list[str] = []

    def choose(*asked: Any) -> tuple[str, str]:
        offered.append(asked[3])
        return str(tmp_path / "named"), "SVG (*.svg)"

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    (tmp_path / "named.png").write_bytes(b"mine")
    for button, suffixes in (
        (widget.figure_button, FIGURE_SUFFIXES),
        (widget.canvas_button, PICTURE_SUFFIXES),
        (widget.animation_button, ANIMATION_SUFFIXES),
    ):
        offered.clear()
        button.click()
        assert set(re.findall(r"\*(\.\w+)", offered[0])) == set(suffixes)
        widget.cancel()
    wait(lambda: (tmp_path / "named.svg").exists())
    # The dialog did not ask about this one, so it stays.
    assert (tmp_path / "named.png").read_bytes() == b"mine"


def test_captions_on_the_canvas_are_read_in_every_theme(window: Any) -> None:
    captions = window.layers["captions"]
    assert captions.text.color.constant[:3].tolist() == [1, 1, 1]
    window.theme = "light"
    assert captions.text.color.constant[:3].tolist() == [0, 0, 0]
    session = session_of(window)
    session.compare(session.views[0].source.run, "second")
    wait(lambda: len(session.views) == 2)
    assert window.layers["captions (2)"].text.color.constant[:3].tolist() == [0, 0, 0]
