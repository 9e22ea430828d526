"""A score is one file, or one call: it then stands in the table, in the report and in the viewer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from i2am.analysis import (
    Score,
    ScoredMap,
    ScoreValue,
    analyze_run,
    known_scores,
    register_score,
    score_maps,
    unregister_score,
)
from i2am.analysis.scores.registry import compute_score, score_map, score_meanings
from i2am.cli import main
from i2am.page.report import write_report
from i2am.schemas import AnalysisError
from i2am.viewer.data import scores as viewer_scores
from tests.support.pictured import pictured
from tests.support.synthetic_run import write_run

# As they stand in tables since the first release.
ORDER = [
    *("imacs_g", "imacs_r", "detection_iou", "whole_image_iou", "random_box_iou"),
    *("r2g_entropy", "r2g_concentration", "r2g_inside", "r2g_inside_chance"),
    *("g2r_entropy", "g2r_concentration", "g2r_inside", "g2r_inside_chance"),
]
MODULE = """
from i2am.analysis import Score

def compute(scored):
    yield f"{scored.direction}_peak", scored.values.max() / scored.values.sum()

PEAK = Score("peak", "The share of attention in the brightest position.", compute)
"""
# What a program sees of a score that a package publishes.
PROGRAM = """
import sys
from i2am.analysis import known_scores
from i2am.analysis.scores.registry import score_meanings
from i2am.cli import main
from i2am.viewer.data.scores import shown_values

assert [score.name for score in known_scores()] == ["imacs", "detection", "spread", "peak"]
assert score_meanings()["g2r_peak"] == "The share of attention in the brightest position."
assert shown_values("r2g")[-1].label == "peak"
main(["score", sys.argv[1], "--out", sys.argv[2]])
"""


def peak(scored: ScoredMap) -> Iterator[tuple[str, float]]:
    yield f"{scored.direction}_peak", float(scored.values.max() / scored.values.sum())


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    return analyze_run(write_run(folder / "run.zarr", ["a"]), folder / "maps.zarr", progress=False)


@pytest.fixture
def score() -> Iterator[Score]:
    score = Score("peak", "The share of attention in the brightest position.", peak)
    register_score(score)
    yield score
    unregister_score("peak")


def test_the_table_has_its_scores_in_the_order_that_it_always_had(maps: Path) -> None:
    assert score_maps(maps)["score"].tolist() == ORDER
    assert set(score_meanings()) == set(ORDER)
    assert all(score.meaning and score.values for score in known_scores())


@pytest.mark.usefixtures("score")
def test_a_registered_score_stands_in_the_table_and_in_the_printed_summary(
    maps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = score_maps(maps).set_index("score")["value"]
    assert table.index.tolist() == [*ORDER, "r2g_peak", "g2r_peak"]
    assert 0 < table["r2g_peak"] < 1
    assert main(["score", str(maps)]) == 0
    assert "r2g_peak" in capsys.readouterr().out


def test_a_registered_score_stands_in_the_report_with_its_meaning(
    score: Score, tmp_path: Path
) -> None:
    case = pictured()
    table = pd.DataFrame([("one", "g2r_peak", 0.25)], columns=["sample", "score", "value"])
    page = write_report({"one": case.sample}, {"one": case.maps}, table, tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert "g2r_peak" in text
    assert score.meaning in text


@pytest.mark.usefixtures("score")
def test_a_registered_score_stands_beside_the_map_in_view() -> None:
    map_in_view = np.array([[3.0, 1.0]])
    assert viewer_scores.score_map(map_in_view, None)["peak"] == 0.75
    for direction in ("r2g", "g2r"):
        assert viewer_scores.shown_values(direction)[-1].label == "peak"


def test_a_score_that_a_package_publishes_is_found(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "peaks.py").write_text(MODULE)
    about = tmp_path / "peaks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: peaks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[i2am.scores]\npeak = peaks:PEAK\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    call = [sys.executable, "-c", code, str(maps), str(tmp_path / "scores.csv")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "r2g_peak" in done.stdout
    assert pd.read_csv(tmp_path / "scores.csv")["score"].tolist()[-2:] == ["r2g_peak", "g2r_peak"]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            (ScoreValue("imacs_g", "Another.", "r2g"),),
            r"got 'imacs_g' of score 'imacs', at score 'peak'\. Choose another name",
        ),
        (
            (ScoreValue("r2g_entropy", "Another.", "r2g"),),
            "got 'r2g_entropy' of score 'spread'",
        ),
    ],
)
def test_a_value_that_another_score_has_is_refused(
    values: tuple[ScoreValue, ...], match: str
) -> None:
    with pytest.raises(AnalysisError, match=match):
        register_score(Score("peak", "Another.", peak, values))
    assert "peak" not in [score.name for score in known_scores()]


def test_a_value_that_is_not_declared_is_an_error() -> None:
    score = Score("peak", "One.", peak, (ScoreValue("r2g_peaks", "One.", "r2g"),))
    with pytest.raises(AnalysisError, match=r"got 'r2g_peak', at its compute\. Did you mean"):
        compute_score(score, ScoredMap("r2g", np.ones((2, 2))))


def test_a_score_that_was_not_registered_cannot_be_removed() -> None:
    with pytest.raises(AnalysisError, match="Expected a registered score, got 'imacs'"):
        unregister_score("imacs")


def test_a_map_without_a_sample_has_no_detection() -> None:
    mask = np.zeros((8, 8))
    mask[2:4, 2:4] = 1
    found = score_map(ScoredMap("r2g", np.random.default_rng(0).random((4, 4)), mask))
    assert set(found) == {name for name in ORDER if name.startswith("r2g")} | {"imacs_g"}
