from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from i2am.analysis import analyze_run, imacs, open_maps, score_maps, summarise_scores
from i2am.schemas import AnalysisError, StoreError
from tests.support import reference_maps
from tests.support.figure_reading import values_of
from tests.support.synthetic_run import SyntheticLayer, write_run

MASK = np.zeros((4, 4))
MASK[1:3, 1:3] = 1


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("scores")
    run = write_run(folder / "run.zarr", ["a", "b"])
    return run, analyze_run(run, folder / "maps.zarr", progress=False)


@pytest.mark.parametrize(
    ("attention", "options", "wanted"),
    [
        (MASK, {}, 1.0),
        (1 - MASK, {}, -3.0),
        (1 - MASK, {"polarity": "inverted"}, 1.0),
        (1 - MASK, {"penalty": 0.5}, -0.5),
        (5 + 2 * MASK, {}, 1.0),
        (np.where(MASK, 1, 0.4 * (np.arange(16) % 2).reshape(4, 4)), {}, 1.0),
        (np.where(MASK, 1, 0.4 * (np.arange(16) % 2).reshape(4, 4)), {"threshold": 0.3}, 0.4),
    ],
    ids=["inside", "outside", "inverted", "penalty", "scaled", "weak-is-none", "threshold"],
)
def test_imacs_by_hand(attention: Any, options: dict[str, Any], wanted: float) -> None:
    # The last: 6 of the 12 pixels outside hold 0.4, a mean of 0.2, thrice.
    assert imacs(attention, MASK, **options) == pytest.approx(wanted)


def test_fractions_of_the_mask_are_weights() -> None:
    attention = np.array([[1.0, 0.0, 0.0, 0.5]])
    mask = np.array([[1.0, 0.5, 0.0, 0.5]])
    inside, outside = (1 + 0.25) / 2, 0.25 / 2
    assert imacs(attention, mask) == pytest.approx(inside - 3 * outside)


def test_premasking_hides_what_lies_outside() -> None:
    noise = np.random.default_rng(0).random((4, 4)) + 1
    assert imacs(noise, MASK) < 0
    assert imacs(noise, MASK, premask=True) > 0.9


@pytest.mark.parametrize(
    ("mask", "options", "match"),
    [
        (np.zeros((4, 4)), {}, "neither empty nor whole, got 0 to 0"),
        (np.ones((4, 4)), {}, "neither empty nor whole, got 1 to 1"),
        (MASK * 255, {}, "got 0 to 255, at mask"),
        (MASK, {"polarity": "inverse"}, r"got 'inverse', at polarity\. Did you mean 'inverted'"),
    ],
)
def test_a_score_without_meaning_is_refused(mask: Any, options: Any, match: str) -> None:
    with pytest.raises(AnalysisError, match=match):
        imacs(MASK, mask, **options)


def test_every_sample_has_a_row_for_each_score(stores: tuple[Path, Path]) -> None:
    run, maps = stores
    table = score_maps(maps)
    assert table.columns.tolist() == ["sample", "score", "value"]
    measures = ("entropy", "concentration", "inside", "inside_chance")
    scores = ["imacs_g", "imacs_r", "detection_iou", "whole_image_iou", "random_box_iou"]
    scores += [f"{direction}_{measure}" for direction in ("r2g", "g2r") for measure in measures]
    assert table["score"].tolist() == scores * 2
    by_name = table.set_index(["sample", "score"])["value"]
    images = reference_maps.stored(run / "a" / "images")
    for direction, letter, mask in (
        ("r2g", "g", "inpainting_mask"),
        ("g2r", "r", "reference_mask"),
    ):
        ulam = values_of(open_maps(maps)["a"], f"{direction}/ulam").astype(np.float64)
        weights = images[mask][:] / 255
        assert by_name["a", f"imacs_{letter}"] == pytest.approx(imacs(ulam, weights))
        shares = ulam / ulam.sum()
        entropy = -(shares * np.log(shares)).sum() / np.log(shares.size)
        assert by_name["a", f"{direction}_entropy"] == pytest.approx(entropy)
        lorenz = np.cumsum(np.sort(shares.ravel())[::-1])
        tenth = np.interp(shares.size / 10, np.arange(1, shares.size + 1), lorenz)
        assert by_name["a", f"{direction}_concentration"] == pytest.approx(tenth)
        # The mask is a box of whole positions on either grid.
        step = 32 // len(shares)
        box = slice(8 // step, 16 // step)
        assert by_name["a", f"{direction}_inside"] == pytest.approx(shares[box, box].sum())
        assert by_name["a", f"{direction}_inside_chance"] == pytest.approx(1 / 16)
    assert by_name["a", "whole_image_iou"] == pytest.approx(8 * 8 / (32 * 32))
    assert by_name["a", "random_box_iou"] != by_name["b", "random_box_iou"]
    pd.testing.assert_frame_equal(score_maps(maps), table)


def test_polarity_is_of_r2g_and_premasking_of_g2r(stores: tuple[Path, Path]) -> None:
    def scores(**options: Any) -> dict[str, float]:
        table = score_maps(stores[1], samples=["a"], **options)
        return dict(zip(table["score"], table["value"], strict=True))

    plain, inverted, premasked = scores(), scores(polarity="inverted"), scores(premask=True)
    assert inverted["imacs_g"] != plain["imacs_g"]
    assert inverted["imacs_r"] == plain["imacs_r"]
    assert premasked["imacs_r"] != plain["imacs_r"]
    assert premasked["imacs_g"] == plain["imacs_g"]


def test_the_box_of_the_provenance_comes_before_the_mask(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"])
    reference_maps.change_attributes(run / "a", box=[0, 0, 16, 32])
    table = score_maps(analyze_run(run, tmp_path / "maps.zarr", progress=False))
    assert table.set_index("score")["value"]["whole_image_iou"] == pytest.approx(0.5)


def test_scores_that_do_not_exist_have_no_row(tmp_path: Path) -> None:
    layer = SyntheticLayer("clip", reference_grid=None, tokens=1)
    run = write_run(tmp_path / "run.zarr", ["a"], [layer])
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    assert "imacs_r" not in score_maps(maps)["score"].tolist()
    for mask in ("inpainting_mask", "reference_mask"):
        del reference_maps.stored(run / "a" / "images")[mask]
    # How attention is spread can be told of any map.
    assert score_maps(maps)["score"].tolist() == ["r2g_entropy", "r2g_concentration"]
    with pytest.raises(StoreError, match=r"Expected complete samples, got none, at .*maps\.zarr"):
        score_maps(maps, samples=[])


def test_the_summary_counts_and_averages_each_score() -> None:
    table = pd.DataFrame(
        [("a", "imacs_g", 0.5), ("b", "imacs_g", 0.1), ("a", "imacs_r", 0.2)],
        columns=["sample", "score", "value"],
    )
    summary = summarise_scores(table)
    assert summary.index.tolist() == ["imacs_g", "imacs_r"]
    assert summary.columns.tolist() == ["count", "mean", "std", "low", "high"]
    assert summary["count"].tolist() == [2, 1]
    assert summary["mean"].tolist() == pytest.approx([0.3, 0.2])
    # Of two samples a resample is as likely twice the one as twice the other.
    assert [summary.at["imacs_g", end] for end in ("low", "high")] == pytest.approx([0.1, 0.5])
    assert summary[["std", "low", "high"]].isna().all(axis=1).tolist() == [False, True]
    half = summarise_scores(table, confidence=0.4)
    assert [half.at["imacs_g", end] for end in ("low", "high")] == pytest.approx([0.3, 0.3])
    with pytest.raises(AnalysisError, match="Expected a confidence between 0 and 1, got 95"):
        summarise_scores(table, confidence=95)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_table_is_written(suffix: str, stores: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / f"scores.{suffix}"
    table = score_maps(stores[1], out=path)
    read = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)


def test_a_table_of_an_unknown_kind_is_refused(stores: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"Expected a \.csv or \.parquet file, got scores\.xls"):
        score_maps(stores[1], out=tmp_path / "scores.xls")


def test_maps_find_their_run_again_when_both_have_moved(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    run = write_run(tmp_path / "old" / "run.zarr", ["a"])
    analyze_run(run, tmp_path / "old" / "maps.zarr", progress=False)
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(score_maps(tmp_path / "new" / "maps.zarr")) == 13
    (tmp_path / "new" / "run.zarr").rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(StoreError, match=r"Expected a store, got nothing, at .*run\.zarr"):
        score_maps(tmp_path / "new" / "maps.zarr")
    assert len(score_maps(tmp_path / "new" / "maps.zarr", run=tmp_path / "elsewhere.zarr")) == 13
