"""The guide to scores names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from i2am.analysis import (
    analyze_run,
    compare_runs,
    head_scores,
    pair_runs,
    read_points,
    score_maps,
    score_points,
    summarise_comparison,
    summarise_points,
)
from tests.support.synthetic_run import SyntheticLayer, write_run

GUIDE = Path(__file__).parents[3] / "docs" / "reference" / "scores.md"
LAYERS = (SyntheticLayer("one", (4, 4), (4, 4)), SyntheticLayer("two", (4, 4), (2, 2)))


@pytest.fixture(autouse=True)
def _in_a_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("run", "guided", "free")):
        write_run(tmp_path / f"{name}.zarr", ["first"], LAYERS, seed=seed, size_px=(16, 16))
    analyze_run("run.zarr", "maps.zarr", progress=False)


def test_the_guide_names_every_score_column_and_measure() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w…]+)`", text))
    scores = set(score_maps("maps.zarr")["score"])
    assert {re.sub("^..._(?=inside_chance)", "…_", score) for score in scores} <= named
    assert set(head_scores("maps.zarr").columns) <= named
    place = {"sample": "first", "y": 3, "x": 12, "reference_y": 4, "reference_x": 10}
    points = score_points("run.zarr", pd.DataFrame([place]))
    assert set(summarise_points(points).index) <= named
    assert set(read_points(points).columns) <= named
    comparison = compare_runs(pair_runs("guided.zarr", "free.zarr"))
    assert {*comparison.columns, *summarise_comparison(comparison).columns} <= named
    assert {*comparison["level"], *comparison["measure"]} <= named
