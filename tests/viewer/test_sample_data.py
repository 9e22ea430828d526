from __future__ import annotations

from typing import Any

import numpy as np

from i2am import DEMO_RUN
from i2am.analysis import analyze, open_run
from i2am.cli import main


def test_the_demo_run_opens_from_the_menu_and_its_maps_come(
    make_napari_viewer: Any, qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.open_sample("i2am", "demo-run")
    r2g = viewer.layers["R2G"]
    assert r2g.metadata["i2am"]["sample"] == "doughnut"
    from i2am.viewer.session.attach import session_of

    session = session_of(viewer)
    qtbot.waitUntil(lambda: session.share_loaded == 1, timeout=60_000)
    truth = analyze(open_run(DEMO_RUN)["doughnut"])["r2g"].dataset["volume"]
    np.testing.assert_allclose(r2g.data[0, 2, 3, 1], truth[2, 3, 1], rtol=1e-5)
    qtbot.waitUntil(lambda: session.samples == ("doughnut", "frog", "truck"))


def test_the_demo_run_keeps_the_contract_and_nothing_else_is_in_it() -> None:
    assert main(["validate", str(DEMO_RUN)]) == 0
    assert {path.name for path in DEMO_RUN.iterdir()} == {"doughnut", "frog", "truck", "zarr.json"}
