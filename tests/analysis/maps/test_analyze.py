from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.analysis import analyze, open_run
from i2am.schemas import AnalysisError
from i2am.schemas.choices import CONVENTIONS
from i2am.schemas.dims import LEVELS
from i2am.schemas.directions import DIRECTIONS
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

MIXED = (
    SyntheticLayer("down", (8, 6), (4, 3), heads=2),
    SyntheticLayer("mid", (4, 3), (8, 6), 0, heads=3, block="mid", keys_per_step=True),
    SyntheticLayer("up", (16, 12), (4, 3), heads=2, block="up", representation="logits"),
)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("maps") / "run.zarr"
    return write_run(path, ["a"], MIXED, steps=5, guidance=True)


@pytest.fixture(scope="module")
def sample(run_path: Path) -> Any:
    return open_run(run_path)["a"]


def expected_volume(run_path: Path, direction: str, branch: int = 1) -> Any:
    """(layer, step, head, plane) with NaN for the heads that a layer lacks."""
    make = reference_maps.r2g_volume if direction == "r2g" else reference_maps.g2r_volume
    grid = (16, 12) if direction == "r2g" else (8, 6)
    maps = [make(layer, grid, branch) for layer in reference_maps.layer_groups(run_path / "a")]
    volume = np.full((3, 5, 3, *grid), np.nan)
    for number, one in enumerate(maps):
        volume[number, :, : one.shape[1]] = one
    return volume


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_independent_reading_finds_the_same_maps(
    direction: str, run_path: Path, sample: Any
) -> None:
    maps: Any = analyze(sample)[direction]
    volume = expected_volume(run_path, direction)
    close: Any = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(maps["volume"], volume, **close)
    np.testing.assert_allclose(maps["ulam"], np.nanmean(volume, axis=(0, 1, 2)), **close)
    np.testing.assert_allclose(maps["tlam"], np.nanmean(volume, axis=(0, 2)), **close)
    np.testing.assert_allclose(maps["hlam"], np.nanmean(volume, axis=(0, 1)), **close)
    np.testing.assert_allclose(maps["llam"], np.nanmean(volume, axis=(1, 2)), **close)


def test_dims_dtypes_and_coordinates_are_the_contracts(sample: Any) -> None:
    maps: Any = analyze(sample, time_groups=2)
    for direction, plane in ((d.name, d.plane) for d in DIRECTIONS.values()):
        for level, leading in LEVELS.items():
            assert maps[direction][level].dims == (*leading, *plane)
            assert maps[direction][level].dtype == np.float32
        assert maps[direction]["layer"].values.tolist() == ["down", "mid", "up"]
        assert maps[direction]["head"].values.tolist() == [0, 1, 2]
        assert maps[direction]["first_step"].values.tolist() == [0, 3]
        assert maps[direction]["last_step"].values.tolist() == [2, 4]
        assert maps[direction]["timestep"].values[[0, -1]].tolist() == [981, 1]
    assert maps.attrs["i2am"]["convention"] == "i2am"


def test_building_the_maps_computes_nothing(run_path: Path) -> None:
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        for convention in CONVENTIONS:
            maps = analyze(open_run(run_path)["a"], convention=convention)
            assert all(dask.is_dask_collection(m.data) for m in maps["g2r"].data_vars.values())
    with (
        dask.config.set(scheduler=reference_maps.refuse_to_compute),
        pytest.raises(AssertionError, match="something was computed"),
    ):
        maps["r2g/ulam"].compute()


def test_the_other_guidance_half_is_another_map(run_path: Path, sample: Any) -> None:
    maps: Any = analyze(sample, guidance="unconditional")
    wanted = np.nanmean(expected_volume(run_path, "r2g", branch=0), axis=(0, 1, 2))
    np.testing.assert_allclose(maps["r2g/ulam"], wanted, rtol=1e-5)
    assert not np.allclose(analyze(sample)["r2g/ulam"], wanted, rtol=1e-3)


def test_selected_labels_give_the_means_over_them_alone(run_path: Path, sample: Any) -> None:
    maps: Any = analyze(sample, layers=["up", "mid"], steps=[3, 1], heads=[2, 1])
    volume = expected_volume(run_path, "r2g")[1:][:, [1, 3]][:, :, [1, 2]]
    np.testing.assert_allclose(maps["r2g/volume"], volume, rtol=1e-5, atol=1e-7)
    assert maps["r2g/layer"].values.tolist() == ["mid", "up"]
    assert maps["r2g/step"].values.tolist() == [1, 3]
    assert maps["r2g/head"].values.tolist() == [1, 2]
    maps = analyze(sample, layers="*p", heads=[0])
    assert maps["r2g/layer"].values.tolist() == ["up"]


def test_a_layer_without_any_of_the_heads_has_no_part(sample: Any) -> None:
    maps: Any = analyze(sample, heads=[2])
    assert maps["r2g/layer"].values.tolist() == ["mid"]


def test_density_makes_uniform_attention_one_on_every_grid() -> None:
    flat = {
        "arrays": {"logits": (("step", "head", "generated", "reference"), np.zeros((2, 1, 6, 5)))},
        "generated_grid": [2, 3],
        "reference_grid": [2, 2],
        "special_tokens": 1,
    }
    sample = reference_maps.sample_of({"flat": flat}, steps=2)
    density: Any = analyze(sample, normalisation="density", grid=(5, 7))
    mass: Any = analyze(sample)
    np.testing.assert_allclose(density["r2g/ulam"], 1, rtol=1e-6)
    np.testing.assert_allclose(density["g2r/ulam"], 1, rtol=1e-6)
    np.testing.assert_allclose(mass["r2g/ulam"], 1 / 6, rtol=1e-6)
    np.testing.assert_allclose(mass["g2r/ulam"], 1 / 5, rtol=1e-6)


def test_maps_are_clamped_at_zero_before_the_means() -> None:
    # One patch holds nearly all attention, another at each step: bicubic undershoots beside it.
    logits = np.full((2, 1, 9, 4), -40.0)
    logits[0, :, 4], logits[1, :, 5] = 0, 0
    layer = {
        "arrays": {"logits": (("step", "head", "generated", "reference"), logits)},
        "generated_grid": [3, 3],
        "reference_grid": [2, 2],
    }
    maps: Any = analyze(reference_maps.sample_of({"sharp": layer}, steps=2), grid=(11, 9))
    own = reference_maps.softmax(logits, 2).mean(3).reshape(2, 3, 3)
    resized = reference_maps.resize(own, (11, 9))
    assert resized.min() < -0.02
    np.testing.assert_allclose(maps["r2g/volume"][0, :, 0], resized.clip(0), atol=1e-7)
    np.testing.assert_allclose(maps["r2g/ulam"], resized.clip(0).mean(0), atol=1e-7)


@pytest.mark.parametrize(
    "layer",
    [
        SyntheticLayer("one-token", reference_grid=None, tokens=1, special_tokens=0),
        SyntheticLayer("no-grid", reference_grid=None, tokens=4, special_tokens=0),
        SyntheticLayer("one-place", reference_grid=(1, 1), special_tokens=0),
    ],
    ids=lambda layer: layer.name,
)
def test_maps_on_the_reference_are_absent_where_they_do_not_exist(
    layer: SyntheticLayer, tmp_path: Path
) -> None:
    maps: Any = analyze(open_run(write_run(tmp_path / "run.zarr", ["a"], [layer]))["a"])
    assert list(maps.children) == ["r2g"]
    np.testing.assert_allclose(maps["r2g/volume"].sum(("y", "x")), 1, rtol=1e-5)
    assert maps["r2g/causal"].values.tolist() == [layer.reference_tokens > 1]


def test_layers_without_a_reference_grid_have_no_part_in_g2r(tmp_path: Path) -> None:
    layers = [SyntheticLayer("clip", reference_grid=None, tokens=1), SyntheticLayer("warp")]
    maps: Any = analyze(open_run(write_run(tmp_path / "run.zarr", ["a"], layers))["a"])
    assert maps["r2g/layer"].values.tolist() == ["clip", "warp"]
    assert maps["g2r/layer"].values.tolist() == ["warp"]


def joint_sample(rng: np.random.Generator) -> tuple[xr.DataTree, Any, Any]:
    """Joint attention: 4 patches read 6 reference tokens (a 2x3 grid) among 9 keys."""
    every_key = 3 * rng.normal(size=(2, 3, 4, 9)).astype(np.float32)
    total = np.log(np.exp(every_key.astype(np.float64)).sum(-1)).astype(np.float32)
    logits = every_key[..., :6]
    names = ("step", "head", "generated", "reference")
    layer = {
        "arrays": {"logits": (names, logits), "logsumexp": (names[:3], total)},
        "generated_grid": [2, 2],
        "reference_grid": [2, 3],
    }
    return reference_maps.sample_of({"joint": layer}, steps=2), logits, total


def test_joint_attention_keeps_its_true_probabilities_and_gains_the_mass() -> None:
    sample, logits, total = joint_sample(np.random.default_rng(0))
    maps: Any = analyze(sample)
    probability = np.exp(logits.astype(np.float64) - total[..., None])
    mass = probability.sum(-1).mean((0, 1)).reshape(2, 2)
    used = probability.mean((0, 1, 2)).reshape(2, 3)
    np.testing.assert_allclose(maps["r2g/mass"], mass, rtol=1e-5)
    np.testing.assert_allclose(maps["g2r/ulam"], used, rtol=1e-5)
    assert maps["r2g/mass"].dims == ("y", "x")


@settings(deadline=None, max_examples=6)
@given(
    step=st.integers(1, 5),
    head=st.integers(1, 3),
    patch=st.sampled_from([20, 48]),
    token=st.sampled_from([5, 13]),
    convention=st.sampled_from(CONVENTIONS),
)
def test_chunking_never_changes_a_result(
    sample: Any, step: int, head: int, patch: int, token: int, convention: Any
) -> None:
    whole: Any = analyze(sample, layers="[du]*", convention=convention).compute()
    sizes = {"step": step, "head": head, "generated": patch, "reference": token, "channel": 5}
    pieces = sample.map_over_datasets(
        lambda ds: ds.chunk({k: v for k, v in sizes.items() if k in ds.dims})
    )
    chunked: Any = analyze(pieces, layers="[du]*", convention=convention).compute()
    for direction in DIRECTIONS:
        for level in LEVELS:
            np.testing.assert_allclose(
                chunked[direction][level], whole[direction][level], rtol=2e-6, atol=1e-9
            )


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_permuting_heads_permutes_hlam_and_leaves_ulam(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, 4, 6, 5))
    both: list[Any] = []
    for values in (logits, logits[:, order]):
        arrays = {"logits": (("step", "head", "generated", "reference"), values)}
        layer = {
            "arrays": arrays,
            "generated_grid": [2, 3],
            "reference_grid": [2, 2],
            "special_tokens": 1,
        }
        both.append(analyze(reference_maps.sample_of({"one": layer}, steps=2)))
    for direction in DIRECTIONS:
        straight, permuted = both[0][direction], both[1][direction]
        np.testing.assert_array_equal(permuted["hlam"], straight["hlam"].values[order])
        np.testing.assert_allclose(permuted["ulam"], straight["ulam"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": "dwn"}, r"got 'dwn', at a\. Did you mean 'down'"),
        ({"layers": []}, "Expected at least one layer, got none"),
        ({"steps": [0, 9]}, r"Expected steps from 0 to 4, got 9, at a"),
        ({"steps": []}, "Expected at least one step, got none"),
        ({"heads": [-1]}, r"Expected heads from 0 to 2, got -1, at a"),
        ({"guidance": "conditonal"}, r"got 'conditonal', at a\. Did you mean 'conditional'"),
        ({"guidance": "image"}, r"got 'image', at a\. Known: 'unconditional', 'conditional'"),
        ({"convention": "offical"}, r"got 'offical', .*Did you mean 'official'"),
        ({"normalisation": "weight"}, r"got 'weight', at normalisation\. Known: 'mass', 'density'"),
        ({"convention": "official", "normalisation": "density"}, "Expected normalisation 'mass'"),
        ({"time_groups": 0}, "Expected at least one time group, got 0"),
        ({"grid": (0, 4)}, r"Expected a grid \(height, width\) of 1 or more, got \(0, 4\)"),
    ],
)
def test_what_was_not_captured_or_is_unknown_is_refused(
    options: dict[str, Any], match: str, sample: Any
) -> None:
    with pytest.raises(AnalysisError, match=match):
        analyze(sample, **options)


def test_a_half_that_was_not_kept_is_refused(tmp_path: Path) -> None:
    sample: Any = open_run(write_run(tmp_path / "run.zarr", ["a"]))["a"]
    with pytest.raises(
        AnalysisError, match=r"got 'unconditional', at a\. Did you mean 'conditional'"
    ):
        analyze(sample, guidance="unconditional")


def test_a_tree_without_layers_is_refused() -> None:
    with pytest.raises(AnalysisError, match="Expected a captured sample with layers, got none"):
        analyze(xr.DataTree())
