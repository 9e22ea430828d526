"""What `i2am score` and `i2am compare` say of intervals, points and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from i2am.analysis import analyze_run
from i2am.cli import main
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (SyntheticLayer("one", (4, 4), (4, 4)), SyntheticLayer("two", (4, 4), (2, 2)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a run of three samples, two of the same pictures, with maps; another run."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("run", "other")):
        write_run(tmp_path / f"{name}.zarr", list("abc"), LAYERS, seed=seed, size_px=(16, 16))
        for sample in "abc":
            digest = "1" if sample in "ab" else "2"
            reference_maps.change_attributes(
                tmp_path / f"{name}.zarr" / sample,
                inputs={"reference": {"path": "r.png", "sha256": digest}},
            )
    analyze_run("run.zarr", "maps.zarr", progress=False)
    return tmp_path


def test_repeated_pictures_are_drawn_together_and_the_command_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "maps.zarr"]) == 0
    together = capsys.readouterr().out
    assert together.endswith("Intervals: of 3 samples in 2 clusters, drawn together\n")
    assert main(["score", "maps.zarr", "--cluster", "sample"]) == 0
    alone = capsys.readouterr().out
    assert "Intervals" not in alone
    assert together.splitlines()[2] != alone.splitlines()[2]
    assert main(["score", "maps.zarr", "--cluster", "colour"]) == 1
    assert "or a column of the run's table, got 'colour'" in capsys.readouterr().err


def test_two_runs_are_compared_step_by_step(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "run.zarr", "other.zarr", "--by-step", "--out", "found"]) == 0
    shown = capsys.readouterr().out
    assert "\nThe steps that differ most, each by its largest difference\n" in shown
    assert shown.endswith("in 2 clusters, drawn together\nComparison: found\n")
    assert ",step,3,inside," in (folder / "found" / "comparison.csv").read_text()
    write_run(folder / "short.zarr", list("abc"), LAYERS, steps=2, size_px=(16, 16))
    assert main(["compare", "run.zarr", "short.zarr", "--by-step"]) == 0
    assert "The timesteps are not the same in both: steps" in capsys.readouterr().out


def test_peaks_are_held_against_a_file_of_points(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        "sample,y,x,reference_y,reference_x",
        "a,3,4,9,9",
        "a,10,4,2,9",
        "b,3,4,9,9",
        "c,1,1,1,1",
    ]
    (folder / "points.csv").write_text("\n".join(rows))
    call = ["score", "maps.zarr", "--points", "points.csv"]
    assert main([*call, "--points-out", "found.csv"]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("Points: found.csv\n")
    table = [line.split() for line in shown.splitlines()[-3:-1]]
    assert [line[:3] for line in table] == [["error_px", "4", "3"], ["hit", "4", "3"]]
    assert len((folder / "found.csv").read_text().splitlines()) == 5
    assert main([*call, "--points-by", "layer", "--samples", "a", "c"]) == 0
    assert "\ntwo   error_px       3        2" in capsys.readouterr().out
    assert main(["score", "maps.zarr", "--points-by", "layer"]) == 1
    assert "Add --points." in capsys.readouterr().err
    (folder / "points.csv").write_text("sample,y\na,1")
    assert main([*call, "--out", "new.csv"]) == 1
    assert "Expected a column 'x', got none, at points.csv" in capsys.readouterr().err
    assert not (folder / "new.csv").exists()


def test_generated_images_are_held_against_true_ones_and_imacs_against_that(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "truths").mkdir()
    for number, name in enumerate("abc"):
        Image.new("RGB", (16, 16), (60 * number, 90, 30)).save(folder / "truths" / f"{name}.png")
    call = ["score", "maps.zarr", "--quality", "truths"]
    assert main([*call, "--quality-out", "quality.csv", "--metrics", "ssim"]) == 0
    shown = capsys.readouterr().out
    assert "\nGenerated images against true ones\n" in shown
    words = shown.split()
    assert words[words.index("ssim_inside") + 1] == "3"
    table = shown.partition("\nRank correlation of IMACS with quality, over samples\n")[2]
    assert [line.split()[:2] for line in table.splitlines()[2:6]] == [
        ["imacs_g", "ssim"], ["ssim_inside", "3"], ["imacs_r", "ssim"], ["ssim_inside", "3"],
    ]  # fmt: skip
    assert shown.endswith("Quality: quality.csv\n")
    assert len((folder / "quality.csv").read_text().splitlines()) == 7
    (folder / "rows.csv").write_text("sample,wanted\na,truths/a.png\n")
    one = ["--samples", "a", "--metrics", "psnr"]
    rows = ["score", "maps.zarr", "--quality", "rows.csv", "--truth-column", "wanted"]
    assert main([*rows, *one]) == 0
    assert main([*rows[:-1], "wantde", *one]) == 1
    assert "Did you mean 'wanted'?" in capsys.readouterr().err
    assert main([*rows, "--out", "new.csv"]) == 1
    assert "of each sample, got none of 'b' and 1 more, at rows.csv" in capsys.readouterr().err
    assert main(["score", "maps.zarr", "--quality-out", "q.csv"]) == 1
    assert "Add --quality." in capsys.readouterr().err
    assert main([*call, "--metrics", "fid", "--quality-out", "q.csv"]) == 1
    assert "Add one of ssim, psnr, lpips." in capsys.readouterr().err
    assert main([*call, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["pictures"]
    assert [row["score"] for row in found["quality"]] == [
        *("ssim", "psnr", "ssim_inside", "psnr_inside")
    ]
    assert len(found["correlations"]) == 8
