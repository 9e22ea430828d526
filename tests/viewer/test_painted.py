"""Maps of the painted patches alone, in view: computed, stored, as Python, and where they do not exist."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2am.analysis import analyze, analyze_run, open_run
from i2am.viewer.data.axes import AVERAGEABLE_DIMS, SliderPosition
from i2am.viewer.data.open_sample import open_view
from i2am.viewer.data.sample import SampleView
from i2am.viewer.export.script import map_script
from i2am.viewer.session.attach import session_of
from i2am.viewer.widgets.run_browser import RunBrowser
from tests.support.effects_store import effect_arrays, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("down.attn2"),
    SyntheticLayer("up.attn2", (8, 8), (4, 4), 0, representation="logits", other_keys=2),
)
EVERY = frozenset(AVERAGEABLE_DIMS)


def in_view(view: SampleView, direction: str, averaged: frozenset[str]) -> Any:
    """Return the map in view, and hold it against the Python that the viewer gives for it."""
    for layer in range(len(view.axes.layers)):
        for steps in view.reader.step_batches(layer):
            maps = view.reader.read(layer, steps)
            view.volumes[direction].loaded.add(layer, steps, maps.get(direction))
    position = SliderPosition(1, 2, 1)
    shown: Any = view.volumes[direction].loaded.plane(position, averaged)
    names: dict[str, Any] = {}
    exec(map_script(view, direction, position, averaged), names)  # type: ignore[arg-type]
    np.testing.assert_allclose(names["attention"], shown, rtol=1e-5)
    return shown


def test_the_switch_shows_them_and_goes_back_where_there_are_none(
    tmp_path: Path, open_new_window: Callable[..., Any], qtbot: Any
) -> None:
    run = write_run(tmp_path / "run.zarr", ("a", "b"), LAYERS)
    analyze_run(run, tmp_path / "maps.zarr", progress=False)
    viewer = open_new_window(run)
    session: Any = session_of(viewer)
    browser = RunBrowser(viewer)
    qtbot.addWidget(browser)
    assert browser.within.isEnabled()
    assert not session.views[0].source.computed

    def choose(name: str, wanted: str) -> None:
        browser.within.setCurrentText(name)
        browser.within.textActivated.emit(name)
        qtbot.waitUntil(
            lambda: session.views[0].source.within == wanted and session.share_loaded == 1,
            timeout=30_000,
        )

    choose("mask", "mask")
    assert session.views[0].source.computed
    maps: Any = analyze(open_run(run)["a"], within="mask")
    for direction in ("R2G", "G2R"):
        truth = maps[f"{direction.lower()}/volume"]
        shown = viewer.layers[direction].data
        np.testing.assert_allclose(shown[0, 1, 2, 1], truth[1, 2, 1], rtol=1e-5)
    # All of R2G lies inside, so that the share inside says nothing.
    spreads = session.views[0].spreads
    assert spreads["r2g"].mask is None
    assert spreads["g2r"].mask is not None
    session.show_sample("b")
    qtbot.waitUntil(lambda: session.views[0].source.sample == "b", timeout=30_000)
    assert session.views[0].source.within == "mask"
    choose("image", "image")
    assert not session.views[0].source.computed


def test_a_store_of_other_patches_is_not_shown_for_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ("a",), LAYERS)
    maps = analyze_run(run, tmp_path / "maps.zarr", within="mask", progress=False)
    for within, normalisation in product(("image", "mask"), ("mass", "density")):
        view = open_view(run, maps=maps, within=within, normalisation=normalisation)
        assert view.source.computed is not (within == "mask" and normalisation == "mass")
        truth = analyze(open_run(run)["a"], within=within, normalisation=normalisation)  # type: ignore[arg-type]
        for direction in ("r2g", "g2r"):
            shown = in_view(view, direction, EVERY)
            np.testing.assert_allclose(shown, truth[f"{direction}/ulam"], rtol=1e-5)


def test_levels_that_weigh_the_layers_are_not_shown_for_plain_means(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ("a",), LAYERS)
    arrays = effect_arrays(layers=[layer.name for layer in LAYERS])
    arrays["layer"] = np.array([0.1, 0.9])[:, None, None] * np.ones((8, 8))
    write_effects(tmp_path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    analyze_run(run, tmp_path / "maps.zarr", weights="causal", progress=False)
    plain: Any = analyze(open_run(run)["a"])
    view = open_view(run)
    assert not view.source.computed
    for averaged, level in ((EVERY, "ulam"), (frozenset({"step", "head"}), "llam")):
        shown = in_view(view, "g2r", averaged)
        truth = plain[f"g2r/{level}"][1] if level == "llam" else plain[f"g2r/{level}"]
        np.testing.assert_allclose(shown, truth, rtol=1e-5)


def test_a_sample_without_a_mask_has_no_switch(
    tmp_path: Path, open_new_window: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    from i2am.viewer.session import session as session_module

    run = write_run(tmp_path / "run.zarr", ("a",), LAYERS)
    del zarr.open_group(run, mode="a")["a/images/inpainting_mask"]
    viewer = open_new_window(run)
    session, browser = session_of(viewer), RunBrowser(viewer)
    qtbot.addWidget(browser)
    assert not browser.within.isEnabled()
    told: list[str] = []
    monkeypatch.setattr(session_module, "notify_error", told.append)
    session.reanalyze(within="mask")
    qtbot.waitUntil(lambda: bool(told), timeout=30_000)
    assert "Expected an inpainting mask, got none" in told[0]
    assert session.views[0].source.within == "image"
    assert browser.within.currentText() == "image"
