from __future__ import annotations

import gc
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from i2am.analysis import analyze_run, average_maps, default_average_path, open_maps
from i2am.analysis.statistics.averages import RunningMoments, memory_passes
from i2am.schemas import AnalysisError, StoreError
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.store_reads import watch_reads
from tests.support.synthetic_run import LAYERS, SyntheticLayer, write_run

SAMPLES = ("a", "b", "c", "d", "e")
LABELS: dict[str, dict[str, Any]] = {
    "a": {"category": "upper body", "size": 10},
    "b": {"category": "lower", "size": 9},
    "c": {"category": "upper body", "size": 10},
    "d": {"category": "upper body", "size": 9},
    "e": {"size": 9},
}
LEVELS = ("ulam", "tlam", "hlam", "llam", "volume")
# The second lacks a head of the first's; one token has no G2R.
UNEQUAL = (SyntheticLayer("one", heads=2), SyntheticLayer("two", (4, 4), None, tokens=1, heads=1))


@pytest.fixture(scope="module")
def maps_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("across")
    run = write_run(folder / "run.zarr", SAMPLES)
    for name, labels in LABELS.items():
        reference_maps.change_attributes(run / name, labels=labels, guidance_scale=len(name + "x"))
    return analyze_run(run, folder / "maps.zarr", progress=False)


def stored(maps: Path, names: Any, array: str) -> Any:
    """(sample, …) in float64, by plain Zarr."""
    return np.stack(
        [reference_maps.stored(maps)[f"{name}/{array}"][:].astype(np.float64) for name in names]
    )


def check(node: Any, maps: Path, names: Any, levels: Any = LEVELS) -> None:
    for direction in DIRECTIONS:
        assert node[direction]["count"] == len(names)
        for level in levels:
            values = stored(maps, names, f"{direction}/{level}")
            mean, variance = node[direction][level], node[direction][f"{level}_variance"]
            assert mean.dtype == variance.dtype == np.float32
            assert mean.dims == variance.dims == open_maps(maps)[names[0]][direction][level].dims
            np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)
            wanted = values.var(0, ddof=1) if len(names) > 1 else np.full(mean.shape, np.nan)
            np.testing.assert_allclose(variance, wanted, rtol=1e-5)


def test_all_samples_have_the_mean_and_the_unbiased_variance(maps_path: Path) -> None:
    averages = average_maps(maps_path, levels=LEVELS)
    assert list(averages.children) == ["all"]
    assert averages["all"].attrs["i2am"] == {"labels": {}, "samples": 5}
    check(averages["all"], maps_path, SAMPLES)
    own, first = averages["all/r2g"].coords, open_maps(maps_path)["a"]["r2g"].coords
    assert set(own) == set(first)
    for name in own:
        np.testing.assert_array_equal(own[name], first[name])


@pytest.mark.slow
def test_a_volume_is_averaged_in_parts_that_fit(maps_path: Path) -> None:
    first = open_maps(maps_path)["a"]
    directions = {name: node.to_dataset() for name, node in first.children.items()}
    passes = memory_passes(directions, 100)
    sizes = [[math.prod(part.shape) for part in parts] for parts in passes]
    assert sum(map(sum, sizes)) == sum(
        level.size for maps in directions.values() for level in maps.data_vars.values()
    )
    assert all(sum(some) <= 100 or len(some) == 1 for some in sizes)
    assert max(map(len, sizes)) > 1
    averages = average_maps(maps_path, levels=LEVELS, max_pass_values=100)
    check(averages["all"], maps_path, SAMPLES)


@pytest.mark.parametrize(
    ("by", "wanted"),
    [
        (
            "category",
            {
                "lower": ({"category": "lower"}, ["b"]),
                "upper_body": ({"category": "upper body"}, ["a", "c", "d"]),
                "none": ({"category": None}, ["e"]),
            },
        ),
        (
            ["size", "category"],
            {
                "9+lower": ({"size": 9, "category": "lower"}, ["b"]),
                "9+upper_body": ({"size": 9, "category": "upper body"}, ["d"]),
                "9+none": ({"size": 9, "category": None}, ["e"]),
                "10+upper_body": ({"size": 10, "category": "upper body"}, ["a", "c"]),
            },
        ),
        (["guidance_scale"], {"2": ({"guidance_scale": 2}, list(SAMPLES))}),
    ],
    ids=["one-label", "two-labels", "provenance"],
)
def test_each_group_of_labels_has_its_own(by: Any, wanted: Any, maps_path: Path) -> None:
    averages = average_maps(maps_path, by=by, levels=["ulam", "hlam"])
    assert list(averages.children) == sorted(wanted) or list(averages.children) == list(wanted)
    for name, (labels, samples) in wanted.items():
        own = averages[name].attrs["i2am"]
        assert (own["labels"], own["samples"]) == (labels, len(samples))
        check(averages[name], maps_path, samples, ["ulam", "hlam"])


def test_labels_that_would_share_a_name_are_told_apart(maps_path: Path) -> None:
    run = maps_path.parent / "run.zarr"
    named = {"a": "x/y", "b": "x y", "c": "X:Y", "d": "none", "e": "../.."}
    for sample, odd in named.items():
        reference_maps.change_attributes(run / sample, labels={**LABELS[sample], "odd": odd})
    try:
        averages = average_maps(maps_path, by="odd", levels="ulam")
    finally:
        for sample in named:
            reference_maps.change_attributes(run / sample, labels=LABELS[sample])
    found = {node: own.attrs["i2am"]["labels"]["odd"] for node, own in averages.children.items()}
    assert found == {"group": "../..", "X_Y": "X:Y", "none": "none", "x_y-2": "x y", "x_y-3": "x/y"}


def test_a_large_offset_costs_no_digits() -> None:
    values = 1e4 + np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    moments = RunningMoments((7,))
    for one in values:
        moments.add(one)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(moments.mean, wide.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance(), wide.var(0, ddof=1), rtol=1e-11)


def test_heads_that_a_layer_lacks_stay_nan(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b"], UNEQUAL)
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    volume = average_maps(maps, levels="volume")["all/r2g"]
    for name in ("volume", "volume_variance"):
        assert np.isnan(volume[name].sel(layer="two", head=1)).all()
        assert np.isfinite(volume[name].sel(layer="two", head=0)).all()
        assert np.isfinite(volume[name].sel(layer="one")).all()


def test_maps_without_g2r_have_averages_without(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run.zarr", ["a"], UNEQUAL[1:])
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    assert list(average_maps(maps)["all"].children) == ["r2g"]


def test_the_mass_is_averaged_where_it_is_asked_for(tmp_path: Path) -> None:
    joint = SyntheticLayer("joint", other_keys=5)
    run = write_run(tmp_path / "run.zarr", ["a", "b"], [joint])
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    averages = average_maps(maps, levels=["ulam", "mass"])
    mass = stored(maps, ["a", "b"], "r2g/mass")
    np.testing.assert_allclose(averages["all/r2g/mass"], mass.mean(0), rtol=1e-6)
    assert "mass" not in averages["all/g2r"]


def test_a_written_average_is_read_by_plain_xarray(maps_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "maps.average.zarr"
    lazy = average_maps(maps_path, by="category", out=out, levels=LEVELS)
    with xr.open_datatree(out, engine="zarr", consolidated=False) as tree:
        assert tree.attrs["i2am"] == {
            "kind": "average",
            "schema": 1,
            "convention": "i2am",
            "normalisation": "mass",
            "source": str(maps_path.resolve()),
            "by": ["category"],
        }
        check(tree["upper_body"], maps_path, ["a", "c", "d"])
        layers = [layer.name for layer in LAYERS]
        assert tree["lower/r2g"].coords["layer"].values.tolist() == layers
        assert "timestep" in tree["lower/r2g"].coords
        xr.testing.assert_equal(lazy["lower/g2r"].to_dataset(), tree["lower/g2r"].to_dataset())
    assert lazy["lower/r2g/volume"].chunks is not None
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_what_stands_at_the_output_is_kept(maps_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.average.zarr"
    average_maps(maps_path, out=out, samples=["a"])
    with pytest.raises(StoreError, match=r"got an average, at .*Overwrite it, or name another"):
        average_maps(maps_path, out=out)
    # A failure leaves the earlier one alone.
    with pytest.raises(AnalysisError, match="Expected maps with mass, got none, at a"):
        average_maps(maps_path, out=out, levels="mass", overwrite=True)
    assert zarr.open_group(out)["all"].attrs["i2am"] == {"labels": {}, "samples": 1}
    average_maps(maps_path, out=out, overwrite=True)
    assert zarr.open_group(out)["all"].attrs["i2am"] == {"labels": {}, "samples": 5}
    for other in (maps_path, Path(__file__), tmp_path):
        with pytest.raises(StoreError, match=r"got something else, at .*Name another output"):
            average_maps(maps_path, out=other, overwrite=True)
    with pytest.raises(StoreError, match="Expected a local folder"):
        average_maps(maps_path, out="s3://bucket/average.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"by": "categry"}, AnalysisError, r"got 'categry', at .*Did you mean 'category'"),
        ({"levels": ["ulan"]}, AnalysisError, r"got 'ulan', at levels\. Did you mean 'ulam'"),
        ({"levels": []}, AnalysisError, "Expected at least one level, got none"),
        ({"samples": ["f"]}, StoreError, "Expected a complete sample, got none named 'f'"),
        ({"samples": []}, StoreError, "Expected samples to average, got none"),
        ({"by": "size", "run": "missing.zarr"}, StoreError, "got nothing, at missing.zarr"),
    ],
)
def test_a_wrong_call_is_refused(options: Any, error: Any, match: str, maps_path: Path) -> None:
    with pytest.raises(error, match=match):
        average_maps(maps_path, **options)


def test_a_sample_that_the_run_lacks_has_no_labels(maps_path: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other.zarr", ["a"])
    with pytest.raises(StoreError, match=r"none named 'b', at .*other\.zarr"):
        average_maps(maps_path, by="seed", run=other)


ONE, OTHER = LAYERS[0], SyntheticLayer("other")


@pytest.mark.parametrize(
    ("changed", "levels", "match"),
    [
        (
            {"layers": [SyntheticLayer(ONE.name, (6, 4))]},
            "ulam",
            r"Expected the grid of a \(8x8\), got 6x4, at r2g of z\. Analyze both with "
            "'i2am analyze --grid HxW', or average them apart",
        ),
        (
            {"layers": [ONE, OTHER]},
            "llam",
            r"Expected the layers of a \(1 of them\), got 'other', at g2r of z\. Analyze both with "
            "'i2am analyze --layers GLOB'",
        ),
        (
            {"layers": [SyntheticLayer(ONE.name, heads=3)]},
            "hlam",
            r"Expected the heads of a \(0, 1\), got 0 to 2, at g2r of z\. Leave out hlam",
        ),
        (
            {"layers": [ONE], "steps": 7},
            "tlam",
            r"Expected the time groups of a \(0 to 3\), got 0, 2, 4, 5, 6, at .*Leave out tlam",
        ),
        ({"layers": [ONE], "steps": 3}, "volume", r"the steps of a \(0 to 3\), got 0 to 2"),
        (
            {"layers": [SyntheticLayer(ONE.name, reference_grid=None, tokens=4)]},
            "ulam",
            "Expected g2r/ulam, r2g/ulam as a has, got r2g/ulam, at z",
        ),
    ],
    ids=["grid", "layers", "heads", "time-groups", "steps", "directions"],
)
def test_samples_that_differ_are_named_with_what_they_differ_in(
    changed: Any, levels: str, match: str, tmp_path: Path
) -> None:
    maps = tmp_path / "maps.zarr"
    analyze_run(write_run(tmp_path / "run.zarr", ["a", "b"], [ONE]), maps, progress=False)
    other = write_run(tmp_path / "other.zarr", ["z"], **changed)
    analyze_run(other, tmp_path / "others.zarr", progress=False)
    (tmp_path / "others.zarr" / "z").rename(maps / "z")
    with pytest.raises(AnalysisError, match=match):
        average_maps(maps, levels=levels)
    assert average_maps(maps, samples=["a", "b"], levels=levels)["all/r2g/count"] == 2
    if levels != "ulam":  # Which has but its grid to share.
        assert average_maps(maps, levels="ulam")["all/r2g/count"] == 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    layer = SyntheticLayer("one", (64, 64), heads=4)
    run = write_run(tmp_path / "run.zarr", ["s0"], [layer], steps=8)
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    # Under another name its inventory would not be its own: so it has none, as in older stores.
    for group in (zarr.open_group(maps, mode="r+"), zarr.open_group(maps / "s0", mode="r+")):
        own: Any = group.attrs["i2am"]
        group.attrs["i2am"] = {k: v for k, v in own.items() if k not in ("objects", "digest")}
    size = open_maps(maps)["s0"]["r2g/volume"].nbytes
    for number in range(1, 12):
        (maps / f"s{number}").symlink_to(maps / "s0")

    def peak(count: int) -> int:
        # Often, or the graphs of earlier samples wait until the collector happens to come by.
        often = gc.get_threshold()
        gc.collect()
        gc.set_threshold(500, 2, 1)
        tracemalloc.start()
        try:
            average_maps(maps, samples=[f"s{n}" for n in range(count)], levels="volume")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.set_threshold(*often)

    peak(1)  # What is imported and cached once.
    few, many = peak(2), peak(12)
    # Mean and squares in float64, two float64 temporaries, the sample itself and the result.
    assert few < 14 * size
    assert many < few + 3 * size


def test_each_small_sample_is_read_once(maps_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = watch_reads(monkeypatch)
    average_maps(maps_path)
    # A look at a sample's objects reads the four bytes of their checksums.
    whole = [key for key, size in reads if size > 4]
    chunks = [key for key in whole if "/ulam/c/" in key or "/tlam/c/" in key]
    assert len(chunks) == len(set(chunks)) == 2 * 2 * len(SAMPLES)
    assert not [key for key in whole if "/volume/c/" in key]


def test_the_default_output_lies_beside_the_maps() -> None:
    assert default_average_path("out/shirts.maps.zarr") == Path("out/shirts.maps.average.zarr")
    assert default_average_path("s3://bucket/maps.zarr") == Path("maps.average.zarr")


@pytest.mark.parametrize(
    ("changed", "is_shared"), [(None, True), ({"box": [0, 0, 16, 16]}, False)], ids=["alike", "not"]
)
def test_only_samples_over_the_same_pixels_have_a_mean_over_them(
    changed: Any, is_shared: bool, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run.zarr", ["a", "b", "c"], [SyntheticLayer("one")])
    if changed:
        reference_maps.stored(run)["b/images/generated"].update_attributes({"i2am": changed})
    maps = analyze_run(run, tmp_path / "maps.zarr", progress=False)
    averages = average_maps(maps, levels=["ulam", "volume"], max_pass_values=100)
    check(averages["all"], maps, ["a", "b", "c"], ["ulam", "volume"])
    own = averages["all/r2g"].coords
    assert [dim in own for dim in ("y", "x")] == [is_shared, is_shared]
    assert averages["all/g2r"].coords["reference_x"].values.tolist() == [4, 12, 20, 28]
    if is_shared:
        assert own["y"].attrs["units"] == "px"
        assert own["y"].values.tolist() == [2, 6, 10, 14, 18, 22, 26, 30]
