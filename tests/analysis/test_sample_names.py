"""Samples whose names read like a number, or like nothing at all, go through every table as text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from i2am.analysis import (
    analyze_run,
    average_maps,
    open_maps,
    open_run,
    read_scores,
    score_maps,
    summarise_store,
)
from i2am.analysis.statistics.comparison import compare_runs
from i2am.analysis.statistics.run_pair import pair_runs
from i2am.page.report import write_report
from i2am.schemas import AnalysisError, SchemaError
from i2am.viewer.data.open_sample import open_view, run_of_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

NAMES = ["007", "1e5", "NA", "True", "a.b", "nan", "null", "zarr"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    layers = [SyntheticLayer("down", (4, 4), (2, 2), channels=3)]
    path = write_run(folder / "run.zarr", NAMES, layers, steps=1, size_px=(16, 16))
    analyze_run(path, folder / "maps.zarr", progress=False)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_scores_is_read_as_it_was_written(
    suffix: str, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"scores.{suffix}"
    table = score_maps(run.with_name("maps.zarr"), out=path)
    assert list(dict.fromkeys(table["sample"])) == NAMES
    pd.testing.assert_frame_equal(read_scores(path), table, check_dtype=False)


def test_a_report_shows_the_scores_of_every_sample(run: Path, tmp_path: Path) -> None:
    maps, path = run.with_name("maps.zarr"), tmp_path / "scores.csv"
    score_maps(maps, out=path)
    opened, named = open_run(run), open_maps(maps)
    page = write_report(opened, named, read_scores(path), tmp_path / "report.html", max_samples=1)
    text = page.read_text(encoding="utf-8")
    assert text.count('<th scope="row">R2G entropy<') == 1  # In the summary.
    assert text.count('"r2g_entropy":') == 2  # Of the one sample that is shown, in table and data.
    assert f">{len(NAMES)}</td>" in text


def test_numbers_in_the_place_of_names_are_refused_by_a_report(run: Path, tmp_path: Path) -> None:
    maps = run.with_name("maps.zarr")
    score_maps(maps, out=(path := tmp_path / "scores.csv"))
    by_pandas_own_rules = pd.read_csv(path)
    with pytest.raises(AnalysisError, match=r"names as text, got nan, at scores\..*read_scores"):
        write_report(open_run(run), open_maps(maps), by_pandas_own_rules, tmp_path / "report.html")


def test_a_table_with_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "scores.csv").write_text("sample,score,value\na,imacs_g,high\n")
    with pytest.raises(SchemaError, match=r"another table, at .*scores\.csv .*'i2am score --out'"):
        read_scores(path)
    path.write_text("sample,score,value\nNA,nan,\n")
    assert read_scores(path).to_numpy().tolist()[0][:2] == ["NA", "nan"]


def test_samples_are_compared_and_averaged_by_name(run: Path) -> None:
    table = compare_runs(pair_runs(run, run, samples=["NA", "007"]))
    assert list(dict.fromkeys(table["sample"])) == ["NA", "007"]
    maps = run.with_name("maps.zarr")
    averages = average_maps(maps, by="seed", samples=["NA", "007"])
    assert averages["0"].attrs["i2am"]["samples"] == 2


@pytest.mark.parametrize("name", ["a.b", "1.5", "zarr.json.old"])
def test_a_name_with_a_dot_is_found_and_viewed(name: str, tmp_path: Path) -> None:
    layers = [SyntheticLayer("down", (4, 4), (2, 2), channels=3)]
    run = write_run(tmp_path / "run.zarr", [name], layers, steps=1, size_px=(16, 16))
    assert open_run(run).first() == name
    assert open_view(run).source.sample == name
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    assert run_of_maps(maps)[1] == name
    assert summarise_store(run)["samples"] == f"1 complete: {name}"
