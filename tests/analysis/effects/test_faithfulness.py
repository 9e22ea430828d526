from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from i2am.analysis import (
    analyze_run,
    open_run,
    region_masses,
    score_effects,
    summarise_effect_scores,
)
from i2am.cli import main
from i2am.schemas import AnalysisError, StoreError
from tests.support import reference_maps
from tests.support.effects_store import centres, effect_arrays, even_boxes, write_effects
from tests.support.synthetic_run import SyntheticLayer, write_run

LAYERS = (
    SyntheticLayer("good", (8, 8), (4, 4), 1),
    SyntheticLayer("idle", (8, 8), (4, 4), 0, representation="logits"),
)
SAMPLES = ("a", "b", "c")
CUTS = even_boxes((4, 4), (32, 32))
# The patches of the mask: pixels 8 to 16 of 32.
OBJECT = np.s_[..., 2:4, 2:4]


def _arrays(run: Path, sample: str) -> dict[str, Any]:
    """Effects that are the masses of the good layer; the other has next to none."""
    arrays = effect_arrays(cuts=(4, 4), layers=("good", "idle"), orders=("map", "random"))
    masses = region_masses(open_run(run)[sample], CUTS).sel(layer="good").values
    arrays["region"] = 3 * masses
    arrays["layer"] = np.stack([arrays["ceiling"] * share for share in (0.9, 0.01)])
    return arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faithfulness")
    run = write_run(path / "run.zarr", SAMPLES, LAYERS, steps=2)
    own = {name: _arrays(run, name) for name in SAMPLES}
    write_effects(path / "effects.zarr", own, source="../run.zarr")
    write_run(path / "randomised.zarr", SAMPLES, LAYERS, steps=2, seed=7)
    return path


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return score_effects(folder / "run.zarr", randomised=folder / "randomised.zarr")


def _value(table: pd.DataFrame, sample: str, own: str, score: str) -> float:
    rows = table[(table["sample"] == sample) & (table["map"] == own) & (table["score"] == score)]
    (value,) = rows["value"]
    return float(value)


def test_a_map_that_is_the_effect_agrees_with_it_in_everything(table: pd.DataFrame) -> None:
    for score in ("rank_correlation", "same_peak", "near_peak", "g2r_rank_correlation"):
        assert _value(table, "a", "good", score) == pytest.approx(1)
    assert _value(table, "a", "idle", "rank_correlation") < 0.5
    assert table["map"].unique().tolist() == [
        "mean", "causal", "mean rank", "causal rank", "good", "idle",
        "random", "uniform", "position", "randomised",
    ]  # fmt: skip


def test_the_rank_correlation_is_the_mean_of_the_patches(folder: Path, table: pd.DataFrame) -> None:
    masses = region_masses(open_run(folder / "run.zarr")["b"], CUTS).values
    effect = _arrays(folder / "run.zarr", "b")["region"]
    inside = [own[OBJECT].reshape(16, -1).T for own in (masses.mean(0), effect)]
    each = [stats.spearmanr(ours, theirs).statistic for ours, theirs in zip(*inside, strict=True)]
    assert _value(table, "b", "mean", "rank_correlation") == pytest.approx(np.mean(each), abs=1e-6)
    same = np.mean([ours.argmax() == theirs.argmax() for ours, theirs in zip(*inside, strict=True)])
    assert _value(table, "b", "mean", "same_peak") == pytest.approx(same)
    summed = [own[OBJECT].sum((1, 2)) for own in (masses.mean(0), effect)]
    wanted = stats.spearmanr(*summed).statistic
    assert _value(table, "b", "mean", "g2r_rank_correlation") == pytest.approx(wanted, abs=1e-6)


def test_the_causal_mean_weighs_layers_by_what_they_do(table: pd.DataFrame) -> None:
    # 90 to 1: the idle layer's map is next to nothing in it.
    assert _value(table, "a", "causal", "rank_correlation") > 0.98
    assert _value(table, "a", "mean", "rank_correlation") < 0.98


def test_in_a_mean_of_ranks_a_diffuse_layer_does_not_decide(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder / "run.zarr")["a"]
    masses = region_masses(run, CUTS).sel(layer=["idle", "good"]).values[OBJECT].reshape(2, 16, -1)
    ranks = stats.rankdata(masses, axis=1)
    arrays = _arrays(folder / "run.zarr", "a")
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    table = score_effects(folder / "run.zarr", path)
    effect = arrays["region"][OBJECT].reshape(16, -1)
    for name, weights in (("mean rank", (1, 1)), ("causal rank", (0.01, 0.9))):
        own = np.tensordot(weights, ranks, 1)
        each = [stats.spearmanr(a, b).statistic for a, b in zip(own.T, effect.T, strict=True)]
        assert _value(table, "a", name, "rank_correlation") == pytest.approx(
            np.mean(each), abs=1e-6
        )
    summary: Any = summarise_effect_scores(table)
    assert summary.loc[("causal rank - mean rank", "rank_correlation"), "mean"] > 0


def test_baselines_know_nothing(table: pd.DataFrame) -> None:
    assert _value(table, "a", "uniform", "rank_correlation") == 0
    assert _value(table, "a", "uniform", "same_peak") == pytest.approx(1 / 16)
    means = table[table["score"] == "rank_correlation"].groupby("map")["value"].mean()
    assert abs(means["random"]) < 0.3
    assert abs(means["randomised"]) < 0.3


def test_near_is_what_touches_the_region_that_matters(folder: Path, tmp_path: Path) -> None:
    arrays = _arrays(folder / "run.zarr", "a")
    effect = np.zeros((16, 8, 8), np.float32)
    effect[5] = 1  # Row 1, column 1 of 4x4: a uniform map is near in 9 of 16 regions.
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays | {"region": effect}})
    table = score_effects(folder / "run.zarr", path)
    assert _value(table, "a", "uniform", "near_peak") == pytest.approx(9 / 16)
    effect[5], effect[0] = 0, 1
    path = write_effects(tmp_path / "corner.zarr", {"a": arrays | {"region": effect}})
    table = score_effects(folder / "run.zarr", path)
    assert _value(table, "a", "uniform", "near_peak") == pytest.approx(4 / 16)


def test_the_position_prior_takes_the_same_place_of_the_picture(
    folder: Path, tmp_path: Path
) -> None:
    arrays = _arrays(folder / "run.zarr", "a")
    y, x = np.meshgrid(centres(8, 32), centres(8, 32), indexing="ij")
    middles = (CUTS[:, :2] + CUTS[:, 2:]) / 2
    distance = np.hypot(y - middles[:, 0, None, None], x - middles[:, 1, None, None])
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays | {"region": 50 - distance}})
    table = score_effects(folder / "run.zarr", path)
    assert _value(table, "a", "position", "rank_correlation") == pytest.approx(1)
    assert _value(table, "a", "position", "near_peak") == 1


def test_shares_and_areas_are_those_of_the_curves(table: pd.DataFrame) -> None:
    assert _value(table, "a", "good", "share_of_effect") == pytest.approx(0.9, rel=1e-5)
    assert _value(table, "a", "idle", "share_of_effect") == pytest.approx(0.01, rel=1e-5)
    taken = np.linspace(0, 1, 17)
    # The order "map" is that of the mean; its curve rises evenly, that of "random" as the square.
    assert _value(table, "a", "mean", "deletion_area") == pytest.approx(0.5, rel=1e-5)
    wanted = np.trapezoid(taken**2, taken)
    assert _value(table, "a", "random", "deletion_area") == pytest.approx(wanted, rel=1e-5)
    assert _value(table, "a", "random", "insertion_area") == pytest.approx(1 - wanted, rel=1e-5)


def test_an_object_that_is_given_takes_the_place_of_the_mask(folder: Path, tmp_path: Path) -> None:
    arrays = _arrays(folder / "run.zarr", "a")
    arrays["region"][:, :2] = arrays["region"][::-1, :2]  # There the map is wrong,
    arrays["deletion"][..., :2, :] = 0  # and cutting does nothing.
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays}, source="../run.zarr")
    mask = np.zeros((32, 32), bool)
    mask[:8] = True
    own = score_effects(folder / "run.zarr", path, objects={"a": mask})
    other = score_effects(folder / "run.zarr", path, objects={"a": ~mask})
    assert _value(own, "a", "good", "rank_correlation") < 0.5
    assert _value(other, "a", "good", "rank_correlation") == pytest.approx(1)
    assert _value(own, "a", "mean", "deletion_area") == 0
    assert _value(other, "a", "mean", "deletion_area") == pytest.approx(0.5, rel=1e-5)


def test_without_a_mask_the_patches_are_those_that_change_most(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], LAYERS, steps=1)
    del reference_maps.stored(run / "a" / "images")["inpainting_mask"]
    arrays = _arrays(run, "a")
    arrays["ceiling"] = np.ones((8, 8), np.float32)
    arrays["ceiling"][:3] = 2
    arrays["region"][:, 3:] = arrays["region"][::-1, 3:]  # Elsewhere the map is wrong.
    write_effects(tmp_path / "effects.zarr", {"a": arrays})
    table = score_effects(run)
    assert _value(table, "a", "good", "rank_correlation") == pytest.approx(1)


def test_the_summary_has_intervals_and_paired_differences(table: pd.DataFrame) -> None:
    summary: Any = summarise_effect_scores(table)
    row = summary.loc["mean", "rank_correlation"]
    own = [_value(table, name, "mean", "rank_correlation") for name in SAMPLES]
    assert row["count"] == 3
    assert row["mean"] == pytest.approx(np.mean(own))
    assert row["low"] < row["mean"] < row["high"]
    causal = [_value(table, name, "causal", "rank_correlation") for name in SAMPLES]
    paired = summary.loc["causal - mean", "rank_correlation"]
    assert paired["mean"] == pytest.approx(np.mean(np.subtract(causal, own)))
    assert paired["low"] > 0


def test_other_kinds_are_scored_and_missing_ones_refused(folder: Path, tmp_path: Path) -> None:
    run, arrays = folder / "run.zarr", _arrays(folder / "run.zarr", "a")
    path = write_effects(
        tmp_path / "effects.zarr", {"a": arrays | {"occlusion": -arrays["region"]}}
    )
    table = score_effects(run, path, kind="occlusion")
    assert _value(table, "a", "good", "rank_correlation") == pytest.approx(-1)
    with pytest.raises(AnalysisError, match="Expected direct effects of regions, got none, at a"):
        score_effects(run, path, kind="direct")
    with pytest.raises(AnalysisError, match="Expected a known kind"):
        score_effects(run, path, kind="all")  # type: ignore[arg-type]


def test_a_layer_without_an_effect_beside_others_is_refused_unless_left_out(
    folder: Path, tmp_path: Path
) -> None:
    arrays = _arrays(folder / "run.zarr", "a")
    arrays |= {"layer": arrays["layer"][:1], "layer_name": ["good"]}
    del arrays["layer_pixels"]
    path = write_effects(tmp_path / "effects.zarr", {"a": arrays})
    with pytest.raises(
        AnalysisError, match="measured effect of each layer, got none, at layer 'idle'"
    ):
        score_effects(folder / "run.zarr", path)
    table = score_effects(folder / "run.zarr", path, layers="good")
    assert _value(table, "a", "causal", "rank_correlation") == pytest.approx(1)


def test_samples_that_were_captured_again_or_not_measured_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "d"], LAYERS, steps=2)
    with pytest.raises(StoreError, match="Expected measured effects beside the run, got none"):
        score_effects(run)
    path = write_effects(tmp_path / "effects.zarr", {"a": _arrays(run, "a")})
    with pytest.raises(StoreError, match="Expected a complete sample, got none named 'd'"):
        score_effects(run, path, samples=["d"])
    reference_maps.change_attributes(run / "a", created="2027-01-01T00:00:00Z")
    with pytest.raises(StoreError, match="it was captured since"):
        score_effects(run, path)
    empty = write_effects(tmp_path / "empty.zarr", {})
    with pytest.raises(StoreError, match="Expected measured samples, got none"):
        score_effects(run, empty)


def test_the_command_prints_a_line_for_each_map_and_flags_layers_without_effect(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = analyze_run(folder / "run.zarr", folder / "maps.zarr", progress=False)
    out = folder / "effects.csv"
    call = ["score", str(maps), "--effects", "--effects-out", str(out)]
    assert main([*call, "--randomised", str(folder / "randomised.zarr")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["idle"].endswith("no effect")
    assert "no effect" not in lines["good"]
    assert "0.900" in lines["good"]
    assert {"mean", "causal", "random", "uniform", "position", "randomised"} <= lines.keys()
    pd.testing.assert_frame_equal(
        pd.read_csv(out), score_effects(folder / "run.zarr", randomised=folder / "randomised.zarr")
    )
    assert main(["score", str(maps), "--effects", str(folder / "effects.zarr")]) == 0
    assert main(["score", str(maps), "--effects-out", str(folder / "other.csv")]) == 1
    assert "Add --effects" in capsys.readouterr().err
