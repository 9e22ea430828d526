from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from PIL import Image

from i2am.analysis import (
    analyze_run,
    compare_runs,
    difference_maps,
    imacs,
    pair_runs,
    summarise_comparison,
    write_comparison,
)
from i2am.analysis.figures.comparison import draw_comparison
from i2am.analysis.statistics.run_pair import SampleWithMaps
from i2am.schemas import AnalysisError, StoreError
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.figure_reading import texts_of, titles_of, values_of
from tests.support.pictured import pictured
from tests.support.synthetic_run import SyntheticLayer, write_run

ONE = SyntheticLayer("one", (8, 8), (4, 4), heads=2)
TWO = SyntheticLayer("two", (4, 4), (4, 4), heads=2)
KEYS = ["sample", "direction", "level", "label", "measure"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that share the samples b and c; the maps of the first lie beside it."""
    folder = tmp_path_factory.mktemp("runs")
    a = write_run(folder / "guided.zarr", ["a", "b", "c"], [ONE, TWO], size_px=(16, 16))
    b = write_run(folder / "free.zarr", ["b", "c", "d", "e"], [ONE, TWO], seed=1, size_px=(16, 16))
    analyze_run(a, folder / "guided.maps.zarr", progress=False)
    return a, b


def stored_maps(run: Path, folder: Path) -> Any:
    out = folder / f"{run.stem}-again.zarr"
    return reference_maps.stored(analyze_run(run, out, progress=False))


def test_samples_are_paired_by_name(runs: tuple[Path, Path]) -> None:
    pair = pair_runs(*runs)
    assert pair.names == ("b", "c")
    assert (pair.only_a, pair.only_b) == (1, 2)
    assert (pair.convention, pair.normalisation) == ("i2am", "mass")
    assert pair_runs(*runs, samples=["c", "c"]).names == ("c",)


def test_every_measure_is_that_of_each_runs_maps(runs: tuple[Path, Path], tmp_path: Path) -> None:
    table = compare_runs(pair_runs(*runs))
    found = table.set_index(KEYS).sort_index()
    assert found.index.is_unique
    assert set(table["sample"]) == {"b", "c"}
    groups = table.drop_duplicates(KEYS[2:4])[KEYS[2:4]].itertuples(index=False, name=None)
    assert list(groups) == [
        *(("ulam", "all"), ("layer", "one"), ("layer", "two"), ("head", "0"), ("head", "1")),
    ]

    def row_of(*keys: str) -> Any:
        return found.xs(keys, level=KEYS[: len(keys)])

    maps = [stored_maps(run, tmp_path) for run in runs]
    mask = reference_maps.stored(runs[0] / "b" / "images")["inpainting_mask"][:] / 255
    planes = {
        ("ulam", "all"): [own["b/r2g/ulam"][:] for own in maps],
        ("layer", "two"): [own["b/r2g/llam"][1] for own in maps],
        ("head", "1"): [own["b/r2g/hlam"][1] for own in maps],
    }
    weights = mask.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    for (level, label), values in planes.items():
        a, b = (np.float64(v) / np.float64(v).sum() for v in values)
        row = row_of("b", "r2g", level, label)
        for measure, of_a, of_b in (
            ("inside", (a * weights).sum(), (b * weights).sum()),
            ("entropy", *(-(p * np.log(p)).sum() / np.log(p.size) for p in (a, b))),
        ):
            wanted = [of_a, of_b, of_b - of_a]
            assert row.loc[measure].tolist() == pytest.approx(wanted, abs=1e-6)
        alike = np.corrcoef(a.ravel(), b.ravel())[0, 1], abs(a - b).sum() / 2
        for measure, value in zip(("correlation", "total_variation"), alike, strict=True):
            assert row.loc[measure][["a", "b"]].isna().all()
            assert row.loc[measure]["difference"] == pytest.approx(value, abs=1e-6)
    scores = [imacs(values, mask) for values in planes["ulam", "all"]]
    wanted = [*scores, scores[1] - scores[0]]
    assert row_of("b", "r2g", "ulam", "all").loc["imacs_g"].tolist() == pytest.approx(wanted)
    from_reference = table[(table["direction"] == "g2r") & (table["level"] == "ulam")]
    assert (
        from_reference["measure"].tolist()
        == [
            *("inside", "entropy", "concentration", "imacs_r", "correlation", "total_variation"),
        ]
        * 2
    )


def test_a_run_is_like_itself_and_turning_round_changes_the_sign(runs: tuple[Path, Path]) -> None:
    there, back = (compare_runs(pair_runs(*order)) for order in (runs, runs[::-1]))
    turned = back.set_index(KEYS).add_suffix("_back")
    pairs = there.set_index(KEYS).join(turned)
    is_alike = pairs["a"].isna()
    np.testing.assert_allclose(
        pairs["difference"], pairs["difference_back"] * np.where(is_alike, 1, -1), atol=1e-7
    )
    same = compare_runs(pair_runs(runs[0], runs[0])).set_index("measure")["difference"]
    assert same["correlation"].to_numpy() == pytest.approx(1)
    assert same.drop("correlation").abs().max() == 0


def test_the_summary_is_the_mean_of_the_pairs_with_its_interval(runs: tuple[Path, Path]) -> None:
    table = compare_runs(pair_runs(*runs))
    summary = summarise_comparison(table)
    assert summary.columns.tolist() == [
        *("direction", "level", "label", "measure"),
        *("n", "mean_a", "mean_b", "mean_difference", "low", "high"),
    ]
    assert len(summary) == len(table) / 2
    assert (summary["n"] == 2).all()
    wanted = table.groupby(KEYS[1:], sort=False)["difference"].agg(["mean", "min", "max"])
    assert summary["mean_difference"].tolist() == pytest.approx(wanted["mean"].tolist())
    # Of two pairs, a resample is as likely twice the one as twice the other.
    assert summary["low"].tolist() == pytest.approx(wanted["min"].tolist())
    assert summary["high"].tolist() == pytest.approx(wanted["max"].tolist())
    known = summary.dropna()
    np.testing.assert_allclose(
        known["mean_b"] - known["mean_a"], known["mean_difference"], atol=1e-12
    )
    one = summarise_comparison(table[table["sample"] == "b"])
    assert one[["low", "high"]].isna().all(axis=None)
    with pytest.raises(AnalysisError, match="between 0 and 1, got 2"):
        summarise_comparison(table, confidence=2)


@pytest.mark.parametrize(
    ("layers", "levels"),
    [
        ([ONE], {"ulam", "layer"}),
        ([SyntheticLayer("other", (16, 16), (4, 4))], {"ulam"}),
        ([SyntheticLayer("one", (4, 4), None, tokens=3), TWO], {"ulam", "layer", "head"}),
    ],
    ids=["a-layer-is-missing", "another-model", "tokens-without-a-grid"],
)
def test_models_are_compared_where_they_have_the_same_parts(
    layers: list[SyntheticLayer], levels: set[str], runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other.zarr", ["b"], layers, steps=2)
    table = compare_runs(pair_runs(runs[0], other))
    assert set(table["level"]) == levels
    assert table["difference"].notna().all()


def test_a_mask_that_one_run_lacks_is_no_measure(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.zarr", ["b"], [ONE, TWO])
    del reference_maps.stored(other / "b" / "images")["inpainting_mask"]
    table = compare_runs(pair_runs(runs[0], other)).set_index("direction")["measure"]
    assert {"inside", "imacs_g"}.isdisjoint(table["r2g"])
    assert {"inside", "imacs_r"} <= set(table["g2r"])


def test_runs_that_share_no_sample_are_refused_with_a_few_names(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other.zarr", ["v", "w", "x", "y"], [ONE])
    with pytest.raises(StoreError, match=r"got 'a', 'b', 'c' at .* and 'v', 'w', 'x', … at .*same"):
        pair_runs(runs[0], other)
    with pytest.raises(StoreError, match=r"both runs hold, got 'a', at .*Known: 'b', 'c'"):
        pair_runs(*runs, samples=["b", "a"])
    with pytest.raises(StoreError, match=r"at least one sample, got none, at .*Known: 'b', 'c'\."):
        pair_runs(*runs, samples=[])


@pytest.mark.parametrize(
    "options", [{"normalisation": "density"}, {"convention": "official"}], ids=str
)
def test_maps_of_another_kind_are_not_compared(
    options: dict[str, Any], runs: tuple[Path, Path], tmp_path: Path
) -> None:
    maps = analyze_run(runs[1], tmp_path / "m.zarr", samples=["b"], progress=False, **options)
    (kind,) = options.values()
    with pytest.raises(AnalysisError, match=f"got i2am and mass beside .*{kind}.* at sample 'b'"):
        pair_runs(*runs, maps_b=maps)
    # Of the sample c the second run has maps of the usual kind: they are compute_together.
    assert pair_runs(*runs, maps_b=maps, samples=["c"]).names == ("c",)
    assert pair_runs(runs[1], runs[1], maps_a=maps, maps_b=maps, samples=["b"]).names == ("b",)


def test_the_files_of_a_comparison(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "comparison"
    pair = pair_runs(*runs)
    table = write_comparison(pair, out, progress=False)
    names = {"comparison.csv", "summary.csv", "differences.zarr", "b.png", "c.png"}
    assert {path.name for path in out.iterdir()} == names
    pd.testing.assert_frame_equal(table, compare_runs(pair))
    read = pd.read_csv(out / "comparison.csv", dtype={"label": str})
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    read = pd.read_csv(out / "summary.csv", dtype={"label": str})
    pd.testing.assert_frame_equal(read, summarise_comparison(table), check_dtype=False)
    own = zarr.open_group(out / "differences.zarr", mode="r").attrs["i2am"]
    assert own == {
        **{"kind": "differences", "schema": 1, "convention": "i2am", "normalisation": "mass"},
        **{"a": str(runs[0]), "b": str(runs[1])},
    }
    with xr.open_datatree(out / "differences.zarr", engine="zarr", consolidated=False) as tree:
        for name in "bc":
            wanted = difference_maps(pair.maps_a[name], pair.maps_b[name])
            for direction in DIRECTIONS:
                stored = tree[f"{name}/{direction}"].to_dataset()
                xr.testing.assert_allclose(stored, wanted[direction].to_dataset(), atol=1e-7)
                assert set(stored.coords) >= {"layer", "head", "step", "timestep", "first_step"}


def test_nothing_is_overwritten_unasked(runs: tuple[Path, Path], tmp_path: Path) -> None:
    pair = pair_runs(*runs, samples=["c"])
    for name in ("summary.csv", "c.png", "differences.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
        with pytest.raises(StoreError, match=f"Expected no earlier comparison, got {name}, at "):
            write_comparison(pair, tmp_path, progress=False)
        assert [path.name for path in tmp_path.rglob("*")] == [name, "mine"]
        (tmp_path / name / "mine").unlink()
        (tmp_path / name).rmdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "c.png").write_text("mine")
    write_comparison(pair, tmp_path, progress=False, overwrite=True)
    write_comparison(pair, tmp_path, progress=False, overwrite=True)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for out, what in ((tmp_path / "notes.txt", "a file"), ("s3://bucket/out", "a URL")):
        with pytest.raises(StoreError, match=f"Expected a local folder, got {what}, at "):
            write_comparison(pair, out, progress=False, overwrite=True)


@pytest.mark.slow
def test_comparing_many_samples_takes_less_memory_than_one_volume(tmp_path: Path) -> None:
    layer = SyntheticLayer("one", (48, 48), None, tokens=2, heads=4)
    names = [f"s{number}" for number in range(4)]
    run = write_run(tmp_path / "run.zarr", names, [layer], steps=100)
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    pair = pair_runs(run, run)
    compare_runs(pair_runs(run, run, samples=names[:1]))  # What is loaded once does not count.
    tracemalloc.start()
    table = compare_runs(pair)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(table["sample"]) == set(names)
    assert peak < reference_maps.stored(maps / "s0" / "r2g")["volume"].nbytes


def test_the_figure_has_a_row_for_each_direction_and_shows_where_b_has_more() -> None:
    sample, maps = pictured().both
    moved = maps.copy(deep=True)
    # Sharper, so that the largest rise is larger than the largest fall.
    moved["r2g"]["ulam"] = maps["r2g"].dataset["ulam"] ** 3
    figure = draw_comparison(SampleWithMaps(sample, maps), SampleWithMaps(sample, moved), "a note")
    assert titles_of(figure)[:6] == ["A", "B", "B − A"] * 2
    (difference,) = [axes for axes in figure.subfigs[0].axes if axes.get_title() == "B − A"]
    colors = difference.images[-1]
    low, high = colors.get_clim()
    assert low == -high < 0
    shown = np.asarray(colors.get_array())
    before = values_of(maps, "r2g/ulam") / values_of(maps, "r2g/ulam").sum() * 100
    wanted = before**3 / (before**3).sum() * 100 - before
    np.testing.assert_allclose(shown, wanted, atol=1e-5)
    assert high == pytest.approx(wanted.max(), abs=1e-5)
    assert wanted.max() > -wanted.min()
    assert "a note" in str(figure.get_supxlabel())


def test_the_figure_of_one_token_warns_that_it_is_a_similarity() -> None:
    one = SampleWithMaps(*pictured(tokens="one").both)
    figure = draw_comparison(one, one)
    assert len(figure.subfigs) == 1
    assert "similarity map, not causal" in str(figure.subfigs[0].get_suptitle())


def test_models_that_saw_other_parts_are_compared_by_scores_alone(tmp_path: Path) -> None:
    # A saw the middle of a wide reference, B all of it; of the generated image both saw all.
    size, box = (16, 48), {"reference": (0, 16, 16, 32)}
    a = write_run(tmp_path / "a.zarr", ["b"], [ONE, TWO], size_px=size, boxes=box)
    b = write_run(tmp_path / "b.zarr", ["b"], [ONE, TWO], size_px=size, seed=1)
    pair = pair_runs(a, b)
    table = compare_runs(pair)
    of_both = {
        direction: set(table[table["direction"] == direction]["measure"])
        for direction in DIRECTIONS
    }
    assert of_both["r2g"] - of_both["g2r"] == {"imacs_g", "correlation", "total_variation"}
    with pytest.raises(AnalysisError, match="over the same part of an image"):
        difference_maps(
            *(xr.DataTree.from_dict({"g2r": m["b"]["g2r"].to_dataset()}) for m in maps(pair))
        )
    assert list(difference_maps(*(one["b"] for one in maps(pair))).children) == ["r2g"]
    write_comparison(pair, tmp_path / "out", progress=False)
    assert set(zarr.open_group(tmp_path / "out" / "differences.zarr")["b"].group_keys()) == {"r2g"}  # type: ignore[union-attr]
    ((_, of_a, of_b),) = pair.opened()
    drawn = draw_comparison(of_a, of_b)
    assert "A and B saw other parts" in texts_of(drawn)
    assert "What the models did not see is dimmed." in drawn.get_supxlabel()


def maps(pair: Any) -> Any:
    return pair.maps_a, pair.maps_b


def test_the_same_part_of_pictures_of_other_sizes_is_compared(tmp_path: Path) -> None:
    a = write_run(
        tmp_path / "a.zarr", ["b"], [ONE], size_px=(16, 48), boxes={"reference": (0, 16, 16, 32)}
    )
    b = write_run(
        tmp_path / "b.zarr", ["b"], [ONE], size_px=(32, 96), boxes={"reference": (0, 32, 32, 64)}
    )
    pair = pair_runs(a, b)
    table = compare_runs(pair)
    assert {"correlation", "total_variation"} <= set(table[table["direction"] == "g2r"]["measure"])
    write_comparison(pair, tmp_path / "out", progress=False)
    stored = xr.open_datatree(
        tmp_path / "out" / "differences.zarr", engine="zarr", consolidated=False
    )
    assert set(stored["b"].children) == {"r2g", "g2r"}
    assert "y" not in stored["b/r2g"].coords


def test_steps_are_compared_where_the_timesteps_are_the_same(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    table = compare_runs(pair_runs(*runs), by_step=True)
    assert set(compare_runs(pair_runs(*runs))["level"]) == {"ulam", "layer", "head"}
    steps = table[table["level"] == "step"]
    assert set(steps["label"]) == {"0", "1", "2", "3"}
    found = steps.set_index(KEYS).xs(("b", "r2g", "step", "2"), level=KEYS[:4])
    maps = [stored_maps(run, tmp_path)["b/r2g/volume"][:, 2] for run in runs]
    mask = reference_maps.stored(runs[0] / "b" / "images")["inpainting_mask"][:] / 255
    weights = mask.reshape(8, 2, 8, 2).mean(axis=(1, 3))
    a, b = ((own.mean(axis=(0, 1)) * weights).sum() / own.mean(axis=(0, 1)).sum() for own in maps)
    wanted = {"a": a, "b": b, "difference": b - a}
    assert found.loc["inside"].to_dict() == pytest.approx(wanted, rel=1e-4)
    assert {"entropy", "concentration", "correlation", "total_variation"} <= set(found.index)
    fewer = write_run(tmp_path / "fewer.zarr", ["b"], [ONE, TWO], steps=3, size_px=(16, 16))
    other = compare_runs(pair_runs(runs[0], fewer), by_step=True)
    assert "step" not in set(other["level"])


def test_the_summary_draws_pairs_of_the_same_pictures_together(tmp_path: Path) -> None:
    rows = [
        {"sample": name, "direction": "r2g", "level": "ulam", "label": "all", "measure": "inside"}
        | {"a": 0.0, "b": value, "difference": value}
        for name, value in zip("abc", (0.1, 0.2, 0.9), strict=True)
    ]
    table = pd.DataFrame(rows)
    (alone,) = summarise_comparison(table).to_dict("records")
    clusters = {"a": 1, "b": 1, "c": 2}
    (together,) = summarise_comparison(table, clusters=clusters).to_dict("records")
    assert (alone["low"], alone["high"]) == pytest.approx((0.1, 0.9))
    assert (together["low"], together["high"]) == pytest.approx((0.15, 0.9))
