"""The guide to scores: its commands and its code run as they stand, from the top down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from i2am.analysis import (
    analyze_run,
    compare_runs,
    head_scores,
    known_scores,
    pair_runs,
    read_points,
    score_maps,
    score_points,
    summarise_comparison,
    summarise_points,
    unregister_score,
)
from tests.support.store_reads import run_guide
from tests.support.synthetic_run import SyntheticLayer, write_run

GUIDE = Path(__file__).parents[3] / "docs" / "reference" / "scores.md"
LAYERS = (SyntheticLayer("one", (4, 4), (4, 4)), SyntheticLayer("two", (4, 4), (2, 2)))


@pytest.fixture(autouse=True)
def _in_a_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("run", "guided", "free")):
        write_run(tmp_path / f"{name}.zarr", ["first"], LAYERS, seed=seed, size_px=(16, 16))
    analyze_run("run.zarr", "maps.zarr", progress=False)
    Path("points.csv").write_text("sample,y,x,reference_y,reference_x\nfirst,3,12,4,10.5\n")
    yield
    if "peak" in [score.name for score in known_scores()]:
        unregister_score("peak")


def test_the_commands_and_the_code_of_the_guide_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guide(GUIDE) == (["score", "score", "score", "compare"], 9)
    assert float(capsys.readouterr().out.splitlines()[-1]) < 1e-6
    files = {path.name for path in Path("comparison").iterdir()}
    text = GUIDE.read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", text, re.MULTILINE))
    assert files == {name.replace("SAMPLE", "first") for name in listed if "." in name}


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
