"""Beside each layer of the matrix: its share of the measured effect, and in words what it means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPointF
from qtpy.QtWidgets import QApplication

from i2am.viewer.data.effects import Effects, NoEffects
from i2am.viewer.picking.effect_controller import effect_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.attention_plots import AttentionPlots
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.maps_store import NAMES
from tests.support.synthetic_run import write_run
from tests.support.wait import wait

# Of the first and last layer; the one between was not measured alone.
SHARES = {NAMES[2]: 0.79, NAMES[0]: 0.005}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of two samples, of the first of which effects of two layers were measured."""
    run = write_run(tmp_path / "run.zarr", ("first", "second"))
    arrays = effect_arrays(layers=tuple(SHARES))
    arrays["layer"] = np.stack([share * arrays["ceiling"] for share in SHARES.values()])
    write_effects(tmp_path / "effects.zarr", {"first": arrays})
    return run


def axis_texts(axis: Any) -> list[str]:
    """Return what is written along an axis of the matrix."""
    ticks = [at for _, own in axis.tickValues(-0.5, 2.5, 400) for at in own]
    return list(axis.tickStrings(ticks, 1, 1))


def tip_at(matrix: Any, layer: int) -> str:
    """Return the tool tip where the mouse rests right of a layer."""
    box = matrix.shares.sceneBoundingRect()
    y = matrix.plot.getViewBox().mapViewToScene(QPointF(0, layer)).y()
    matrix.plot.scene().sigMouseMoved.emit(QPointF(box.center().x(), y))
    return str(matrix.shares.toolTip())


def test_each_layer_has_its_share_of_the_effect_at_its_right(
    run: Path, open_window: Callable[..., Any]
) -> None:
    viewer = open_window(run)
    session, effects = session_of(viewer), effect_controller_of(session_of(viewer))
    widget = AttentionPlots(viewer)
    viewer.window.add_dock_widget(widget, name="Panels")
    wait(lambda: session.share_loaded == 1 and isinstance(effects.effects_at(0), Effects))
    wait(lambda: widget.isVisible() and widget.matrix.shares.isVisible())
    wait(lambda: axis_texts(widget.matrix.shares) == ["no effect", "", "79%"])
    assert axis_texts(widget.matrix.layers) == ["down 0.0.0", "mid 0.0", "up 0.0.0"]
    QApplication.processEvents()
    tip = tip_at(widget.matrix, 0)
    assert tip.startswith(f"{NAMES[0]}\nNo effect: less than 2%.")
    assert "by 0.5% of what cutting it in all layers did" in tip
    assert "not measured" in tip_at(widget.matrix, 1)
    assert tip_at(widget.matrix, 2).endswith("by 79% of what cutting it in all layers did.")
    # They are of the layers, whether effects or maps are in view.
    session.set_shows_effects(True)
    widget.redraw()
    assert axis_texts(widget.matrix.shares) == ["no effect", "", "79%"]
    session.set_shows_effects(False)
    session.show_sample("second")
    wait(lambda: isinstance(effects.effects_at(0), NoEffects))
    wait(lambda: not widget.matrix.shares.isVisible())
    assert widget.matrix.isVisible()
