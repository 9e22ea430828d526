"""The plots of the panels, fed with arrays and clicked with a mouse, in windows of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from i2am.viewer.data.scores import score_map, short_names

SHARES = np.array([[0.1, 0.8], [0.3, 0.6], [np.nan, 0.4]], np.float32)  # (step, head)


@pytest.fixture
def curves_plot(qtbot: Any) -> Any:
    from i2am.viewer.widgets.plots import CurvesPlot

    return _shown(CurvesPlot(), qtbot)


@pytest.fixture
def cells_plot(qtbot: Any) -> Any:
    from i2am.viewer.widgets.plots import CellsPlot

    return _shown(CellsPlot("concentration"), qtbot)


def _shown(widget: Any, qtbot: Any) -> Any:
    qtbot.addWidget(widget)
    widget.set_foreground("#d0d0d0")
    widget.resize(420, 320)
    with qtbot.waitExposed(widget):
        widget.show()
    return widget


def _curves(**changes: Any) -> Any:
    from i2am.viewer.widgets.plots import Curves

    options: dict[str, Any] = {"chance": 0.25, "step": 1, "head": 1, **changes}
    return Curves(SHARES, [981.0, 500.5, 1.0], [0, 4], **options)


def _cells(**changes: Any) -> Any:
    from i2am.viewer.widgets.plots import Cells

    values = np.array([[0.1, 0.2], [np.nan, 0.9], [0.3, 0.4]], np.float32)
    options: dict[str, Any] = {"layer": 1, "head": 1, **changes}
    return Cells(values, ["a.0.x", "b.0.x", "c.0.x"], ["a 0", "b 0", "c 0"], [0, 4], **options)


def _click(plot: Any, qtbot: Any, x: float, y: float) -> None:
    """Click a point of a plot's own coordinates with the mouse."""
    from qtpy.QtCore import QPointF, Qt
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    scene = plot.getViewBox().mapViewToScene(QPointF(x, y))
    where = plot.mapFromScene(scene)
    qtbot.mouseClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=where)


def _pixels(widget: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    import pyqtgraph as pg
    from qtpy.QtGui import QImage
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    bgra = pg.functions.ndarray_from_qimage(image)
    return np.array(bgra[..., 2::-1])


def _color_at(plot: Any, widget: Any, x: float, y: float) -> Any:
    from qtpy.QtCore import QPointF
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()  # ranges are set when the plot is drawn
    where = plot.mapFromScene(plot.getViewBox().mapViewToScene(QPointF(x, y)))
    return _pixels(widget)[where.y(), where.x() + plot.x()]


def test_each_head_has_a_curve_of_its_shares_and_the_one_in_view_is_wide(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves())
    for head, curve in enumerate(curves_plot.inside):
        steps, shares = curve.getData()
        np.testing.assert_array_equal(steps, [0, 1, 2])
        np.testing.assert_array_equal(shares, SHARES[:, head])
    assert [curve.opts["pen"].width() for curve in curves_plot.inside] == [1, 3]
    assert not curves_plot.mean.isVisible()


def test_chance_is_a_line_and_a_marker_stands_at_the_step_in_view(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves())
    assert curves_plot.chance.isVisible()
    assert curves_plot.chance.value() == 0.25
    assert curves_plot.here.value() == 1
    curves_plot.show_curves(_curves(chance=math.nan, step=None))
    assert not curves_plot.chance.isVisible()
    assert not curves_plot.here.isVisible()


def test_what_is_outside_is_the_rest_and_dashed_only_where_it_is_asked_for(
    curves_plot: Any,
) -> None:
    from qtpy.QtCore import Qt

    curves_plot.show_curves(_curves())
    assert not curves_plot.outside
    curves_plot.show_curves(_curves(), outside=True)
    for head, curve in enumerate(curves_plot.outside):
        assert curve.opts["pen"].style() == Qt.PenStyle.DashLine
        np.testing.assert_allclose(curve.getData()[1], 1 - SHARES[:, head])


def test_the_mean_over_the_heads_is_drawn_of_what_there_is(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves(head=None))
    assert curves_plot.mean.isVisible()
    np.testing.assert_allclose(curves_plot.mean.getData()[1], [0.45, 0.45, 0.4], rtol=1e-6)
    assert "mean" in curves_plot.legend.text()


def test_heads_that_are_gone_leave_no_curve(curves_plot: Any) -> None:
    from i2am.viewer.widgets.plots import Curves

    curves_plot.show_curves(_curves())
    curves_plot.show_curves(Curves(SHARES[:, :1], [3, 2, 1], [0], math.nan, 0, 0))
    assert len(curves_plot.inside) == 1
    # Its own, the mean and the dots.
    assert len(curves_plot.plot.getPlotItem().curves) == 3


def test_the_axis_names_the_true_timesteps_and_only_as_many_as_fit(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves())
    axis = curves_plot.steps
    ((_, positions),) = axis.tickValues(-0.1, 2.1, 300)
    assert axis.tickStrings(positions, 1, 1) == ["981", "500.5", "1"]
    ((_, positions),) = axis.tickValues(-0.1, 2.1, 60)
    assert axis.tickStrings(positions, 1, 1) == ["981", "1"]


@pytest.mark.parametrize(
    ("x", "y", "picked"),
    [(1.1, 0.31, (1, 0)), (0.9, 0.59, (1, 1)), (0.0, 0.75, (0, 1)), (2.0, 0.11, (2, 1))],
)
def test_a_click_picks_the_nearest_point_that_is_there(
    x: float, y: float, picked: tuple[int, int], curves_plot: Any, qtbot: Any
) -> None:
    curves_plot.show_curves(_curves())
    with qtbot.waitSignal(curves_plot.picked, timeout=2000) as caught:
        _click(curves_plot.plot, qtbot, x, y)
    assert tuple(caught.args) == picked


def test_a_click_on_a_dashed_curve_picks_its_head(curves_plot: Any, qtbot: Any) -> None:
    curves_plot.show_curves(_curves(), outside=True)
    with qtbot.waitSignal(curves_plot.picked, timeout=2000) as caught:
        _click(curves_plot.plot, qtbot, 0, 0.9)
    assert tuple(caught.args) == (0, 0)


def test_the_legend_names_every_head_in_its_colour_and_can_be_clicked(
    curves_plot: Any, qtbot: Any
) -> None:
    curves_plot.show_curves(_curves())
    drawn = [curve.opts["pen"].color().name() for curve in curves_plot.inside]
    legend = curves_plot.legend.text()
    for index, (head, color) in enumerate(zip([0, 4], drawn, strict=True)):
        assert f'<a href="{index}" style="color: {color}' in legend
        assert f"{head}</a>" in legend
    assert legend.count("underline") == 1
    with qtbot.waitSignal(curves_plot.head_picked, timeout=2000) as caught:
        curves_plot.legend.linkActivated.emit("1")
    assert caught.args == [1]


def test_24_heads_have_24_colours() -> None:
    from i2am.viewer.widgets.plots import head_colors

    colors = [tuple(bytes.fromhex(color[1:])) for color in head_colors(24)]
    away = [math.dist(a, b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(away) > 40


def test_a_curve_is_really_drawn_where_its_share_says(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves())
    # Half way between two steps of the head in view, far from all dots.
    color = _color_at(curves_plot.plot, curves_plot, 0.5, 0.7)
    expected = curves_plot.inside[1].opts["pen"].color().getRgb()[:3]
    np.testing.assert_allclose(color, expected, atol=3)


def test_one_step_alone_is_shown_as_dots_of_all_heads_that_have_a_share(curves_plot: Any) -> None:
    from i2am.viewer.widgets.plots import Curves

    share = np.array([[0.1, np.nan, 0.4]])
    curves_plot.show_curves(Curves(share, [981], [0, 1, 2], math.nan, 0, 1))
    np.testing.assert_allclose(curves_plot.dots.data["y"], [0.1, 0.4])


def test_the_head_in_view_has_a_dot_at_each_share_and_a_mean_has_none(curves_plot: Any) -> None:
    curves_plot.show_curves(_curves(head=0))
    np.testing.assert_array_equal(curves_plot.dots.data["x"], [0, 1])
    np.testing.assert_array_equal(curves_plot.dots.data["y"], SHARES[:2, 0])
    curves_plot.show_curves(_curves(head=None))
    assert len(curves_plot.dots.data) == 0


def test_cells_are_drawn_in_their_colours_and_missing_ones_stay_clear(cells_plot: Any) -> None:
    import pyqtgraph as pg

    cells_plot.show_cells(_cells(layer=0, head=0))
    viridis = pg.colormap.get("viridis")
    for (layer, head), share in {(0, 1): 0.125, (1, 1): 1, (2, 0): 0.25, (2, 1): 0.375}.items():
        color = _color_at(cells_plot.plot, cells_plot, head, layer)
        np.testing.assert_allclose(color, viridis.map(share)[:3], atol=4)
    clear = _color_at(cells_plot.plot, cells_plot, 0, 1)
    beside = _color_at(cells_plot.plot, cells_plot, 1.53, -0.53)  # the plot's own ground
    np.testing.assert_array_equal(clear, beside)
    assert cells_plot.bar.levels() == pytest.approx((0.1, 0.9))


@pytest.mark.parametrize(
    ("layer", "head", "framed"),
    [(1, 1, (0.5, 0.5, 1, 1)), (None, 0, (-0.5, -0.5, 1, 3)), (2, None, (-0.5, 1.5, 2, 1))],
)
def test_the_cell_in_view_is_framed_and_all_that_a_mean_is_over(
    layer: int | None, head: int | None, framed: tuple[float, ...], cells_plot: Any
) -> None:
    cells_plot.show_cells(_cells(layer=layer, head=head))
    assert cells_plot.frame.rect().getRect() == framed


@pytest.mark.parametrize("cell", [(0, 0), (1, 0), (2, 1)])
def test_a_click_on_a_cell_picks_it(cell: tuple[int, int], cells_plot: Any, qtbot: Any) -> None:
    cells_plot.show_cells(_cells())
    with qtbot.waitSignal(cells_plot.picked, timeout=2000) as caught:
        _click(cells_plot.plot, qtbot, cell[1], cell[0])
    assert tuple(caught.args) == cell


def test_the_tool_tip_names_layer_head_and_number_of_the_cell_below_the_mouse(
    cells_plot: Any,
) -> None:
    from qtpy.QtCore import QPointF

    cells_plot.show_cells(_cells())
    for (x, y), text in {(1, 1): "b.0.x\nhead 4: 0.900", (0, 1): "b.0.x\nhead 0: no map"}.items():
        position = cells_plot.plot.getViewBox().mapViewToScene(QPointF(x, y))
        cells_plot.plot.scene().sigMouseMoved.emit(position)
        assert cells_plot.image.toolTip().startswith(text)


def test_nothing_loaded_yet_is_an_empty_matrix_without_an_error(cells_plot: Any) -> None:
    from i2am.viewer.widgets.plots import Cells

    cells_plot.show_cells(Cells(np.full((2, 2), np.nan), ["a", "b"], ["a", "b"], [0, 1], 0, 0))
    beside = _color_at(cells_plot.plot, cells_plot, 1.52, -0.52)
    for layer, head in np.ndindex(2, 2):
        color = _color_at(cells_plot.plot, cells_plot, head, layer)
        np.testing.assert_array_equal(color, beside)


@pytest.mark.parametrize(
    ("layers", "short"),
    [
        (["down_blocks.0.attentions.1.attn2", "mid_block.attn2"], ["down 0.1", "mid"]),
        (["transformer_blocks.17.attn", "single_blocks.3.attn"], ["transformer 17", "single 3"]),
        (["x.0.attn1", "x.0.attn2", "y.0.attn1"], ["x.0.attn1", "x.0.attn2", "y 0"]),
        ([], []),
    ],
)
def test_short_names_tell_layers_apart(layers: list[str], short: list[str]) -> None:
    assert short_names(layers) == short


def test_scores_without_a_mask_are_those_that_need_none() -> None:
    even = score_map(np.ones((10, 10)), None)
    assert even == pytest.approx({"entropy": 1, "concentration": 0.1}, abs=1e-6)
    mask = np.zeros((10, 10))
    mask[:5] = 1
    found = score_map(2 * mask, mask)
    expected = {"IMACS": 1, "inside the mask": 1, "by chance": 0.5, "concentration": 0.2}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["entropy"] == pytest.approx(math.log(50) / math.log(100), abs=1e-6)
