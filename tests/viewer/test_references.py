"""A sample with several references: the maps of each, chosen in the window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze, analyze_run, open_run, sram
from i2am.schemas import AnalysisError
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, SliderPosition
from i2am.viewer.data.effects import NoEffects, effects_of_view
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.export.script import map_script, sram_script
from i2am.viewer.picking.pick import Pick
from i2am.viewer.picking.pick_table import read_picks, write_picks
from i2am.viewer.picking.sram_controller import sram_controller_of
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.run_browser import RunBrowser
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run
from tests.support.wait import wait

SECOND = "up.attn2.reference_1"
LAYERS = (
    SyntheticLayer("down.attn2", (8, 8), (4, 4)),
    SyntheticLayer("up.attn2", (8, 8), (4, 4)),
    SyntheticLayer(SECOND, (8, 8), (6, 4), 0, reference_index=1),
)
EVERY = frozenset(AVERAGEABLE_DIMS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = write_run(tmp_path / "run.zarr", ("a", "b"), LAYERS)
    analyze_run(path, tmp_path / "maps.zarr", progress=False)
    return path


def python(script: str) -> Any:
    names: dict[str, Any] = {}
    exec(script, names)
    return names["attention"]


def test_the_reference_is_chosen_in_the_window(
    run: Path, open_new_window: Callable[..., Any], qtbot: Any
) -> None:
    viewer = open_new_window(run)
    session: Any = session_of(viewer)
    controller: Any = sram_controller_of(session)
    browser = RunBrowser(viewer)
    qtbot.addWidget(browser)
    names = [browser.reference.itemText(at) for at in range(browser.reference.count())]
    assert (names, browser.reference.currentText()) == (["reference", "reference_1"], "reference")
    browser.reference.setCurrentText("reference_1")
    browser.reference.textActivated.emit("reference_1")
    wait(lambda: session.views[0].source.reference == "reference_1" and session.share_loaded == 1)
    view, sample = session.views[0], open_run(run)["a"]
    truth: Any = analyze(sample, layers=SECOND)
    np.testing.assert_allclose(
        viewer.layers["G2R"].data[0, 0, 2, 1], truth["g2r/volume"][0, 2, 1], rtol=1e-5
    )
    # The picture below is the second reference, of another size than the first.
    np.testing.assert_array_equal(viewer.layers["reference"].data, sample["images/reference_1"])
    assert "reference 1" in viewer.canvas.overlays.text.text.splitlines()[0]
    # A click asks the layers of that reference, from both sides; the Python says the same.
    session.set_averaged_dims(EVERY)
    picks: list[Pick] = []
    for side, area in (("generated", (9, 30, 10, 31)), ("reference", (23, 2, 24, 3))):
        pick = Pick(str(run), "a", side, area, (), (), (), "", view.identity, "reference_1")  # type: ignore[arg-type]
        controller.request(pick)
        wait(lambda: controller.estimate is not None and controller.estimate.share == 1)
        picks.append(controller.pick)
        asked: Any = {side: area[:2], "layers": SECOND}
        wanted = sram(sample, **asked)
        np.testing.assert_allclose(controller.estimate.values, wanted, rtol=1e-5)
        np.testing.assert_allclose(python(sram_script(view, pick)), wanted, rtol=1e-5)
    position = SliderPosition(0, 2, 1)
    made = python(map_script(view, "g2r", position, EVERY))
    np.testing.assert_allclose(made, truth["g2r/ulam"], rtol=1e-5)
    # It stays with the next sample, and a pick goes back to its own.
    session.show_sample("b")
    wait(lambda: session.views[0].source.sample == "b")
    assert session.views[0].source.reference == "reference_1"
    path = write_picks(picks, run.with_name("picks.csv"))
    assert read_picks(path) == picks
    session.reanalyze(reference="reference")
    wait(lambda: session.views[0].source.reference == "reference")
    assert not session.views[0].source.computed
    controller.restore(picks[1])
    wait(lambda: controller.pick == picks[1])
    assert session.views[0].source.reference == "reference_1"


def test_maps_that_are_stored_of_a_later_reference_are_shown_as_theirs(
    run: Path, tmp_path: Path
) -> None:
    maps = analyze_run(run, tmp_path / "second.zarr", layers=SECOND, progress=False)
    view = open_view(run, maps=maps)
    assert (view.source.reference, view.source.computed) == ("reference_1", False)
    assert view.sram_layers == {SECOND}
    first = open_view(run, maps=maps, reference="reference")
    assert (first.source.reference, first.source.computed) == ("reference", True)
    assert first.sram_layers == {"down.attn2", "up.attn2"}
    with pytest.raises(
        AnalysisError, match=r"got 'reference_2', at a\. Did you mean 'reference_1'"
    ):
        open_view(run, reference="reference_2")
    arrays = effect_arrays(layers=["down.attn2", "up.attn2"])
    write_effects(tmp_path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    assert isinstance(effects_of_view(view), NoEffects)
    assert not isinstance(effects_of_view(first), NoEffects)
