"""Where SRAM peaks against places that are known: truth made by hand, and the shipped model's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from i2am.analysis import score_points, summarise_points
from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
from i2am.schemas import AnalysisError, SchemaError, StoreError
from tests.support.synthetic_run import SyntheticLayer, write_run

# On a picture of 32 pixels: generated patches of 4, reference cells of 8.
LAYER = SyntheticLayer(
    "one", (8, 8), (4, 4), special_tokens=0, heads=2, representation="logits", dtype="float32"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run in which patch (y, x) of head 0 reads from cell (y // 2, x // 2), and head 1 the mirror."""
    path = write_run(tmp_path / "run.zarr", ["a", "b", "c"], [LAYER], steps=2)
    y, x = np.divmod(np.arange(64), 8)
    for sample in "abc":
        stored: Any = zarr.open_group(path, mode="r+")[f"{sample}/layers/one/logits"]
        logits = np.zeros(stored.shape, np.float32)  # (step, head, patch, token)
        logits[:, 0, np.arange(64), y // 2 * 4 + x // 2] = 9
        logits[:, 1, np.arange(64), y // 2 * 4 + 3 - x // 2] = 5
        logits[:, :, 0] = 0  # The first patch reads everywhere alike.
        stored[:] = logits
    return path


def points(*rows: tuple[str, float, float, float, float]) -> pd.DataFrame:
    columns = ["sample", "y", "x", "reference_y", "reference_x"]
    return pd.DataFrame(list(rows), columns=columns)


def test_errors_are_distances_in_pixels_and_chance_is_that_of_a_random_cell(run: Path) -> None:
    # Pixel (9, 30) lies in patch (2, 7), which reads from cell (1, 3): its centre is (12, 28).
    table = score_points(run, points(("a", 9, 30, 15, 27.5), ("b", 9.0, 30.5, 12.5, 4.25)))
    centres = np.stack(np.meshgrid([4, 12, 20, 28], [4, 12, 20, 28], indexing="ij"), -1)
    for row, true in zip(table.to_dict("records"), [(15.5, 27.5), (12.5, 4.25)], strict=True):
        assert (row["peak_y"], row["peak_x"]) == (12, 28)
        assert row["error_px"] == pytest.approx(math.dist((12, 28), true))
        away = np.linalg.norm(centres - np.array(true), axis=-1)
        assert row["chance_px"] == pytest.approx(away.mean())
        assert row["least_px"] == pytest.approx(away.min())
        assert row["radius"] == pytest.approx(3.2)
        assert row["hit"] == 0
        assert row["chance_hit"] == pytest.approx((away <= 3.2).mean())
    assert table["chance_hit"].tolist() == [0, 1 / 16]
    wider = score_points(run, points(("a", 9, 30, 15, 27.5)), alpha=0.125)
    assert wider["hit"].tolist() == [1]


def test_each_head_layer_and_step_has_rows_of_its_own_in_the_points_order(run: Path) -> None:
    wanted = points(("b", 20, 2, 20, 4), ("a", 20, 2, 20, 4), ("b", 9, 30, 12, 28))
    table = score_points(run, wanted, keep=["head", "step"])
    assert table["sample"].tolist() == [*"bbbb", *"aaaa", *"bbbb"]
    assert list(table.columns[:3]) == ["sample", "step", "head"]
    first = table.iloc[:4].set_index(["step", "head"])
    assert first["peak_x"].to_dict() == {(s, h): (4, 28)[h] for s in (0, 1) for h in (0, 1)}
    summary = summarise_points(table)
    means = summary["mean"].to_dict()
    assert means[0, 0, "hit"] == 1
    assert means[1, 1, "hit"] == 0
    assert set(summary["points"]) == {3}
    assert set(summary["samples"]) == {2}
    assert score_points(run, wanted, heads=1)["peak_x"].tolist() == [28, 28, 4]
    by_layer = score_points(run, wanted[:1], keep=("layer",))
    assert by_layer["layer"].tolist() == ["one"]


def test_a_radius_of_the_table_is_that_points(run: Path) -> None:
    table = points(("a", 9, 30, 15, 27.5), ("a", 9, 30, 15, 27.5)).assign(radius=[3.4, 4.0])
    assert score_points(run, table)["hit"].tolist() == [0, 1]


def test_an_even_map_has_no_peak_and_counts_in_no_mean(run: Path) -> None:
    table = score_points(run, points(("a", 0, 0, 4, 4), ("b", 9, 30, 12, 28)))
    assert table["error_px"].isna().tolist() == [True, False]
    assert table["hit"].isna().tolist() == [True, False]
    summary = summarise_points(table)
    assert summary["points"].tolist() == [1, 1]
    assert summary.loc["hit", "mean"] == 1


def test_the_interval_draws_samples_with_all_their_points_or_clusters() -> None:
    errors = {"a": [1.0, 2.0, 3.0], "b": [7.0], "c": [5.0, 6.0], "d": [0.0]}
    rows = [
        {"sample": name, "error_px": error, "hit": float(error < 3), "least_px": 1.0}
        | {"chance_px": 9.0, "chance_hit": 0.25, "radius": 3.0}
        for name, own in errors.items()
        for error in own
    ]
    table = pd.DataFrame(rows)
    values, samples = table["error_px"].tolist(), table["sample"].tolist()
    found: Any = summarise_points(table, 0.9).loc["error_px"]
    assert found["mean"] == pytest.approx(np.mean(values))
    assert (found["low"], found["high"]) == bootstrap_mean_interval(values, 0.9, samples)
    clusters = dict.fromkeys("ab", "one") | dict.fromkeys("cd", "two")
    wide: Any = summarise_points(table, 0.9, clusters).loc["error_px"]
    labels = [clusters[name] for name in samples]
    assert (wide["low"], wide["high"]) == bootstrap_mean_interval(values, 0.9, labels)
    assert found[["points", "samples", "chance", "best"]].tolist() == [7, 4, 9, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_of_points_is_read_and_a_table_is_written(
    suffix: str, run: Path, tmp_path: Path
) -> None:
    run = run.rename(tmp_path / "run-7.zarr")
    (run / "a").rename(run / "007")
    given = points(("007", 9, 30, 12, 28)).assign(note="eye")
    file = tmp_path / f"points.{suffix}"
    given.to_csv(file, index=False) if suffix == "csv" else given.to_parquet(file)
    out = tmp_path / f"found.{suffix}"
    table = score_points(run, file, out=out)
    assert table["hit"].tolist() == [1]
    written = pd.read_csv(out, dtype={"sample": str}) if suffix == "csv" else pd.read_parquet(out)
    pd.testing.assert_frame_equal(written, table, check_dtype=False)


def test_what_is_wrong_with_a_table_is_told_with_its_row(run: Path, tmp_path: Path) -> None:
    good = points(("a", 9, 30, 12, 28))
    for table, wanted in (
        (good.drop(columns="reference_x"), r"a column 'reference_x', got none, at points\."),
        (good.iloc[:0], "at least one point, got none"),
        (good.assign(y="nine"), "a place in pixels, got 'nine', at y of row 1 of points"),
        (good.assign(x=math.inf), "a place in pixels, got inf"),
        (good.assign(radius=0), "a radius above 0, got 0, at radius of row 1"),
        (points(("a", 9, 30, 12, 28), ("a", 9, 30, 32, 28)), r"got \(32, 28\), at row 2 of points"),
        (good.assign(y=32), r"\(32, 30\)"),
    ):
        with pytest.raises(AnalysisError, match=wanted):
            score_points(run, table)
    with pytest.raises(AnalysisError, match="a share of the image above 0, got 0"):
        score_points(run, good, alpha=0)
    with pytest.raises(StoreError, match="none named 'z'"):
        score_points(run, good.assign(sample="z"))
    (tmp_path / "points.csv").write_text("sample\n'a,b\"\n1,2,3\n")
    with pytest.raises(SchemaError, match=r"Expected a table as \.csv or \.parquet"):
        score_points(run, tmp_path / "points.csv")
