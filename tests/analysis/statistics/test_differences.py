from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from i2am.analysis import analyze, difference_maps, open_run
from i2am.analysis.statistics.differences import agreement, shares
from i2am.schemas import AnalysisError
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.figure_reading import values_of
from tests.support.synthetic_run import SyntheticLayer, write_run

ONE = SyntheticLayer("one", (8, 8), (4, 4), heads=2)
TWO = SyntheticLayer("two", (4, 4), (4, 4), heads=3)
FINE = SyntheticLayer("one", (16, 16), (4, 4), heads=2)
LEVELS = {"ulam", "tlam", "llam", "hlam", "volume"}


def maps_of(folder: Path, *layers: SyntheticLayer, seed: int = 0, **options: Any) -> xr.DataTree:
    steps = options.pop("steps", 4)
    path = folder / f"{len(list(folder.iterdir()))}.zarr"
    return analyze(open_run(write_run(path, ["a"], layers, steps=steps, seed=seed))["a"], **options)


def shares_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    whole = values.astype(np.float64)
    shares: np.ndarray[Any, Any] = whole / whole.sum(axis=(-2, -1), keepdims=True)
    return shares


def test_every_level_is_b_less_a_in_shares_of_attention(tmp_path: Path) -> None:
    a, b = maps_of(tmp_path, ONE, TWO), maps_of(tmp_path, ONE, TWO, seed=1)
    found = difference_maps(a, b)
    for direction in DIRECTIONS:
        assert set(found[direction].data_vars) == LEVELS
        for level in LEVELS:
            path = f"{direction}/{level}"
            wanted = shares_of(values_of(b, path)) - shares_of(values_of(a, path))
            assert found[path].dims == a[path].dims
            assert found[path].dtype == np.float32
            # NaN stays where a layer lacks a head.
            np.testing.assert_allclose(values_of(found, path), wanted, atol=1e-7)
    assert np.isnan(values_of(found, "r2g/volume")[0, :, 2]).all()
    assert values_of(found, "r2g/first_step").tolist() == [0, 1, 2, 3]


def test_it_is_lazy(tmp_path: Path) -> None:
    a, b = maps_of(tmp_path, ONE), maps_of(tmp_path, FINE)
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        found = difference_maps(a, b)
    assert all(
        dask.is_dask_collection(v) for node in found.subtree for v in node.data_vars.values()
    )


def test_maps_of_unlike_grids_meet_on_the_larger(tmp_path: Path) -> None:
    a, b = maps_of(tmp_path, ONE), maps_of(tmp_path, FINE)
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        found = difference_maps(first, second)
        placed = np.clip(reference_maps.resize(values_of(a, "r2g/volume"), (16, 16)), 0, None)
        wanted = shares_of(values_of(b, "r2g/volume")) - shares_of(placed)
        np.testing.assert_allclose(values_of(found, "r2g/volume"), sign * wanted, atol=1e-6)
        sums = values_of(found, "r2g/volume").sum(axis=(-2, -1))
        np.testing.assert_allclose(sums, 0, atol=1e-5)


def test_what_the_resize_undershoots_is_no_attention() -> None:
    peak = np.zeros((4, 4), np.float32)
    peak[1, 1] = 1
    assert reference_maps.resize(peak, (8, 8)).min() < -0.01
    coarse, fine = (xr.DataArray(m, dims=("y", "x")) for m in (peak, np.eye(8, dtype=np.float32)))
    for held in (shares(coarse, fine)[0], shares(fine, coarse)[1]):
        assert held.min() == 0
        assert float(held.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("layers", "options", "missing"),
    [
        ((ONE, TWO), {"time_groups": 2}, {"tlam"}),
        ((ONE, TWO), {"steps": [0, 1, 2, 9]}, {"volume"}),
        ((ONE, TWO), {"steps": 2}, {"tlam", "volume"}),
        ((ONE,), {}, {"hlam", "volume"}),
        ((SyntheticLayer("three"),), {}, {"llam", "hlam", "volume"}),
    ],
    ids=["time-groups", "other-steps", "fewer-steps", "a-layer-is-missing", "other-layers"],
)
def test_a_level_that_means_something_else_is_left_out(
    layers: Any, options: Any, missing: set[str], tmp_path: Path
) -> None:
    a, b = maps_of(tmp_path, ONE, TWO), maps_of(tmp_path, *layers, seed=1, **options)
    for first, second in ((a, b), (b, a)):
        found = difference_maps(first, second)["r2g"]
        assert set(found.data_vars) == LEVELS - missing
        if "llam" in found.data_vars:
            assert found["llam"].sizes["layer"] == len(layers)


def test_layers_and_heads_are_matched_by_their_labels(tmp_path: Path) -> None:
    a = maps_of(tmp_path, ONE, TWO)
    later = {"layer": [1, 0], "head": [2, 0]}
    b = xr.DataTree.from_dict({"r2g": a["r2g"].to_dataset().isel(later)})
    tree = difference_maps(a, b)
    found = tree["r2g"]
    assert values_of(tree, "r2g/layer").tolist() == ["one", "two"]
    assert values_of(tree, "r2g/head").tolist() == [0, 2]
    for level in ("llam", "hlam", "volume"):
        np.testing.assert_allclose(np.nan_to_num(found[level].to_numpy()), 0, atol=1e-7)


def test_what_the_two_tell_differently_of_their_steps_is_left_out(tmp_path: Path) -> None:
    a, b = maps_of(tmp_path, ONE), maps_of(tmp_path, ONE, steps=[0, 5, 10, 15])
    found = difference_maps(a, b)["r2g"]["tlam"]
    assert found.sizes["time"] == 4
    assert "first_step" not in found.coords


def test_maps_without_a_common_direction_are_refused(tmp_path: Path) -> None:
    maps = maps_of(tmp_path, ONE)
    r2g, g2r = (xr.DataTree.from_dict({d: maps[d].to_dataset()}) for d in DIRECTIONS)
    with pytest.raises(AnalysisError, match="of one direction in both, got r2g and g2r"):
        difference_maps(r2g, g2r)


@pytest.mark.parametrize(
    ("first", "second", "correlation", "distance"),
    [
        ([[1, 2], [3, 4]], [[10, 20], [30, 40]], 1, 0),
        ([[1, 3]], [[3, 1]], -1, 0.5),
        ([[4, 0, 0, 0]], [[0, 0, 0, 9]], -1 / 3, 1),
        ([[1, 1]], [[3, 1]], np.nan, 0.25),
    ],
    ids=["scaled", "turned-round", "apart", "even"],
)
def test_agreement_by_hand(first: Any, second: Any, correlation: float, distance: float) -> None:
    a, b = (xr.DataArray(np.float32(maps), dims=("y", "x")) for maps in (first, second))
    found = agreement(a, b)
    assert float(found["correlation"]) == pytest.approx(correlation, nan_ok=True)
    assert float(found["total_variation"]) == pytest.approx(distance)


def test_agreement_of_many_maps_is_that_of_each() -> None:
    rng = np.random.default_rng(0)
    a, b = (xr.DataArray(rng.random((3, 5, 6)), dims=("head", "y", "x")) for _ in range(2))
    found = agreement(a.chunk({"head": 1}), b)
    flat_a, flat_b = (shares_of(maps.values).reshape(3, -1) for maps in (a, b))
    for head in range(3):
        wanted = np.corrcoef(flat_a[head], flat_b[head])[0, 1]
        assert float(found["correlation"][head]) == pytest.approx(wanted, rel=1e-5)
        wanted = abs(flat_a[head] - flat_b[head]).sum() / 2
        assert float(found["total_variation"][head]) == pytest.approx(wanted, rel=1e-5)
