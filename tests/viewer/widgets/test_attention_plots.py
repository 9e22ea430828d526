"""The panels in a real window: what they show is what was stored, and clicks move the sliders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from i2am.analysis import imacs
from tests.support.maps_store import NAMES, write_maps
from tests.support.synthetic_run import SyntheticLayer, write_run
from tests.support.wait import wait

STEPS, HEADS = 4, 2


def _volume(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    volume = np.random.default_rng(seed).random((3, STEPS, HEADS, 8, 8), np.float32)
    volume[2, :, 1] = np.nan  # a head that the layer lacks
    return volume


def _mask() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mask of every synthetic sample."""
    mask = np.zeros((32, 32))
    mask[8:16, 8:16] = 1
    return mask


def _inside(maps: Any) -> Any:
    """Return the share of maps (…, 8, 8) inside the mask, which is patches 2 and 3."""
    return maps[..., 2:4, 2:4].sum((-1, -2)) / maps.sum((-1, -2))


def _concentration(maps: Any) -> Any:
    """Return the share of maps (…, 8, 8) in the brightest tenth: six patches and 0.4 of one."""
    flat = np.sort(maps.reshape(*maps.shape[:-2], 64), axis=-1)[..., ::-1]
    return (flat[..., :6].sum(-1) + 0.4 * flat[..., 6]) / flat.sum(-1)


@pytest.fixture
def open_plots(open_window: Callable[..., Any], qtbot: Any) -> Callable[..., Any]:
    """Return what opens a run with the panels beside it, all maps loaded."""
    from i2am.viewer.session.attach import session_of
    from i2am.viewer.widgets.attention_plots import AttentionPlots

    def open_plots(run: Path) -> Any:
        viewer = open_window(run)
        session = session_of(viewer)
        widget = AttentionPlots(viewer)
        viewer.window.add_dock_widget(widget, name="Panels")
        qtbot.waitUntil(lambda: session.share_loaded == 1, timeout=10_000)
        session.go_to(layer=1, step=2, head=1)
        _settle(widget, qtbot)
        return session, widget

    return open_plots


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = write_run(tmp_path / "run.zarr")
    maps = {"r2g": _volume(), "g2r": _volume(1)}
    write_maps(tmp_path / "maps.zarr", {"first": maps})
    return path


def _settle(widget: Any, qtbot: Any) -> None:
    """Wait until the panels have drawn what the sliders say, and the scores have come."""
    qtbot.waitUntil(widget.isVisible, timeout=5000)
    with qtbot.waitSignal(widget.scored, timeout=5000):
        widget.redraw()


def _click(plot: Any, qtbot: Any, x: float, y: float) -> None:
    from qtpy.QtCore import QPointF, Qt
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    where = plot.mapFromScene(plot.getViewBox().mapViewToScene(QPointF(x, y)))
    qtbot.mouseClick(plot.viewport(), Qt.MouseButton.LeftButton, pos=where)


def _drawn(widget: Any) -> Any:
    """Return the shares (step, head) that the curves show."""
    return np.stack([curve.getData()[1] for curve in widget.curves.inside], axis=-1)


def test_the_curves_are_the_shares_inside_the_mask_of_the_layer_in_view(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    np.testing.assert_allclose(_drawn(widget), _inside(_volume()[1]), rtol=1e-5)
    assert widget.curves.chance.value() == pytest.approx(4 / 64)
    assert widget.curves.here.value() == 2
    assert widget.title.text() == "inside the inpainting mask · mid 0.0"
    assert widget.title.toolTip() == session.views[0].axes.layers[1]
    session.go_to(layer=0)
    _settle(widget, qtbot)
    np.testing.assert_allclose(_drawn(widget), _inside(_volume()[0]), rtol=1e-5)
    session.set_averaged("layer", True)
    _settle(widget, qtbot)
    expected = np.nanmean(_inside(_volume()), axis=0)
    np.testing.assert_allclose(_drawn(widget), expected, rtol=1e-5)
    assert "mean over the layers" in widget.title.text()


def test_the_matrix_is_the_concentration_at_the_step_in_view_or_its_mean(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    expected = _concentration(_volume())
    np.testing.assert_allclose(widget.matrix.image.image, expected[:, 2], rtol=1e-5)
    assert np.isnan(widget.matrix.image.image[2, 1])
    assert widget.matrix.frame.rect().getRect() == (0.5, 0.5, 1, 1)
    session.set_averaged("step", True)
    _settle(widget, qtbot)
    np.testing.assert_allclose(widget.matrix.image.image, expected.mean(1), rtol=1e-5)
    assert not widget.curves.here.isVisible()


def test_both_directions_have_curves_and_a_matrix(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    _, widget = open_plots(run)
    widget.direction.setCurrentIndex(1)
    _settle(widget, qtbot)
    np.testing.assert_allclose(_drawn(widget), _inside(_volume(1)[1]), rtol=1e-5)
    expected = _concentration(_volume(1)[:, 2])
    np.testing.assert_allclose(widget.matrix.image.image, expected, rtol=1e-5)
    assert "reference mask" in widget.title.text()


def test_the_scores_are_those_of_the_map_in_view_in_both_directions(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    for averaged_dims in ((), ("layer", "head")):
        for dim in averaged_dims:
            session.set_averaged(dim, True)
        _settle(widget, qtbot)
        for direction, volume in {"r2g": _volume(), "g2r": _volume(1)}.items():
            plane = np.nanmean(volume[:, 2], axis=(0, 1)) if averaged_dims else volume[1, 2, 1]
            shown = {name: label.text() for name, label in widget.scores[direction].items()}
            assert shown["IMACS"] == f"{imacs(plane, _mask()):.3f}"
            assert shown["inside the mask"] == f"{_inside(plane):.3f}"
            assert shown["by chance"] == "0.062"
            assert shown["concentration"] == f"{_concentration(plane):.3f}"
            share = plane / plane.sum()
            entropy = -(share * np.log(share)).sum() / np.log(64)
            assert shown["entropy"] == f"{entropy:.3f}"
    assert widget.note.text() == ""


def test_a_map_that_does_not_exist_has_dashes_and_a_sentence(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    session.go_to(layer=2, head=1)
    _settle(widget, qtbot)
    assert {label.text() for label in widget.scores["r2g"].values()} == {"—"}
    assert "No R2G map of this layer and head." in widget.note.text()


def test_a_click_on_a_curve_moves_the_sliders_there(
    run: Path, open_plots: Callable[..., Any], qtbot: Any, subtests: pytest.Subtests
) -> None:
    session, widget = open_plots(run)
    for step, head in ((0, 0), (3, 1)):
        with subtests.test(step=step, head=head):
            _click(widget.curves.plot, qtbot, step, float(_inside(_volume()[1, step, head])))
            wanted = (1, step, head)
            qtbot.waitUntil(lambda wanted=wanted: session.position == wanted, timeout=2000)
            _settle(widget, qtbot)
            assert widget.curves.here.value() == step


def test_a_click_on_a_cell_moves_the_sliders_there_and_ends_the_mean(
    run: Path, open_plots: Callable[..., Any], qtbot: Any, subtests: pytest.Subtests
) -> None:
    session, widget = open_plots(run)
    for layer, head in ((0, 0), (2, 1)):
        with subtests.test(layer=layer, head=head):
            session.set_averaged("layer", True)
            session.set_averaged("step", True)
            _settle(widget, qtbot)
            _click(widget.matrix.plot, qtbot, head, layer)
            wanted = (layer, 2, head)
            qtbot.waitUntil(lambda wanted=wanted: session.position == wanted, timeout=2000)
            assert session.averaged_dims == {"step"}


def test_a_click_in_the_legend_moves_the_head_slider(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    widget.curves.legend.linkActivated.emit("0")
    assert session.position == (1, 2, 0)


def test_the_panels_follow_the_sliders_by_themselves(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    before = widget.scores["r2g"]["IMACS"].text()
    session.go_to(step=0, layer=0)
    qtbot.waitUntil(lambda: widget.curves.here.value() == 0, timeout=3000)
    qtbot.waitUntil(lambda: widget.scores["r2g"]["IMACS"].text() != before, timeout=3000)
    np.testing.assert_allclose(_drawn(widget), _inside(_volume()[0]), rtol=1e-5)


def test_what_is_outside_is_drawn_on_demand(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    _, widget = open_plots(run)
    widget.outside.setChecked(True)
    outside = np.stack([curve.getData()[1] for curve in widget.curves.outside], axis=-1)
    np.testing.assert_allclose(outside, 1 - _inside(_volume()[1]), rtol=1e-5)


def test_without_a_mask_the_panels_say_so_in_a_sentence(
    run: Path, open_plots: Callable[..., Any]
) -> None:
    del zarr.open_group(run, mode="a")["first/images/inpainting_mask"]
    _, widget = open_plots(run)
    assert widget.message.text() == (
        "No curves: the sample has no inpainting mask that is neither empty nor whole."
    )
    assert not widget.curves.isVisible()
    assert widget.matrix.isVisible()
    assert widget.scores["r2g"]["IMACS"].text() == "—"
    assert widget.scores["g2r"]["IMACS"].text() != "—"
    assert "No IMACS of R2G" in widget.note.text()


def test_one_reference_token_leaves_g2r_out_and_says_why(
    tmp_path: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    layers = [SyntheticLayer(f"{n}.attn2", reference_grid=None, tokens=1) for n in ("a", "b")]
    _, widget = open_plots(write_run(tmp_path / "run.zarr", layers=layers))
    assert "the reference is one token" in widget.note.text()
    assert {label.text() for label in widget.scores["g2r"].values()} == {"—"}
    widget.direction.setCurrentIndex(1)
    _settle(widget, qtbot)
    assert "the reference is one token" in widget.message.text()
    assert not widget.matrix.isVisible()


def test_a_window_without_a_run_says_what_to_do(make_napari_viewer: Any, qtbot: Any) -> None:
    from i2am.viewer.widgets.attention_plots import AttentionPlots

    viewer = make_napari_viewer(show=True)
    widget = AttentionPlots(viewer)
    viewer.window.add_dock_widget(widget, name="Panels")
    qtbot.waitUntil(lambda: widget.message.text() != "", timeout=5000)
    assert widget.message.text() == "Open a run: drop it on the window."
    assert not widget.matrix.isVisible()


def test_the_plots_take_the_colours_of_the_theme(run: Path, open_plots: Callable[..., Any]) -> None:
    session, widget = open_plots(run)
    found = []
    for theme in ("dark", "light"):
        session.viewer.theme = theme
        found.append(widget.curves.steps.textPen().color().lightnessF())
    assert found[0] > 0.7
    assert found[1] < 0.5


def test_plots_that_are_closed_follow_the_theme_no_more(
    run: Path, open_plots: Callable[..., Any]
) -> None:
    session, widget = open_plots(run)
    theme = session.viewer.events.theme
    followers = len(theme.callbacks)
    session.viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    wait(lambda: len(theme.callbacks) == followers - 1)
    session.viewer.theme = "light"


def test_panels_that_are_not_seen_are_not_drawn(
    run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    session, widget = open_plots(run)
    widget.parent().hide()
    session.go_to(step=0)
    qtbot.wait(150)
    assert widget.curves.here.value() == 2
    widget.parent().show()
    qtbot.waitUntil(lambda: widget.curves.here.value() == 0, timeout=3000)


def test_a_compared_sample_can_be_chosen_and_its_clicks_go_by_label(
    tmp_path: Path, run: Path, open_plots: Callable[..., Any], qtbot: Any
) -> None:
    other = write_run(tmp_path / "other.zarr", ("other",))
    own = _volume(5)[1:]  # without the first layer
    maps = tmp_path / "other.maps.zarr"
    write_maps(maps, {"other": {"r2g": own}}, source="other.zarr", layers=NAMES[1:])
    session, widget = open_plots(run)
    assert not widget.samples.isVisible()
    session.compare(str(other), "other")
    qtbot.waitUntil(lambda: len(session.views) == 2, timeout=10_000)
    qtbot.waitUntil(lambda: session.share_loaded == 1, timeout=10_000)
    assert widget.samples.isVisible()
    widget.samples.setCurrentIndex(1)
    _settle(widget, qtbot)
    np.testing.assert_allclose(_drawn(widget), _inside(own[0]), rtol=1e-5)
    assert widget.matrix.frame.rect().getRect() == (0.5, -0.5, 1, 1)
    _click(widget.matrix.plot, qtbot, 0, 1)
    qtbot.waitUntil(lambda: session.position == (2, 2, 0), timeout=2000)
