from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from i2am.analysis import analyze, open_run, spread
from i2am.analysis.scores.masks import area_mean, masks_of
from i2am.schemas import AnalysisError
from tests.support import reference_maps
from tests.support.synthetic_run import SyntheticLayer, write_run

Floats = np.ndarray[Any, np.dtype[np.float64]]


def maps_of(values: Any, *lead: str) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, np.float32), dims=(*lead, "y", "x"))


def one_place(size: int) -> Floats:
    values = np.zeros((size, size))
    values[1, 2] = 7
    return values


PEAKS = np.ones((5, 5))
PEAKS[0, :3] = 5, 4, 3


@pytest.mark.parametrize(
    ("values", "entropy", "concentration"),
    [
        (np.full((10, 10), 3), 1, 0.1),
        (np.full((3, 5), 3), 1, 0.1),
        (one_place(10), 0, 1),
        # Fewer than ten positions: a tenth of them is less than one.
        (one_place(3), 0, 0.9),
        ([[1, 0], [1, 0]], np.log(2) / np.log(4), 0.2),
        ([[3, 1]], -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)) / np.log(2), 0.15),
        # A tenth of 25 is the two largest and half of the third; all add up to 34.
        (PEAKS, None, (5 + 4 + 3 / 2) / 34),
    ],
    ids=["even", "even-15", "one-place", "small", "two-of-four", "three-to-one", "part-of-a-place"],
)
def test_entropy_and_concentration_by_hand(
    values: Any, entropy: float | None, concentration: float
) -> None:
    found = spread(maps_of(values))
    assert set(found.data_vars) == {"entropy", "concentration"}
    if entropy is not None:
        assert float(found["entropy"]) == pytest.approx(entropy, abs=1e-6)
    assert float(found["concentration"]) == pytest.approx(concentration, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "mask", "inside", "chance"),
    [
        ([[3, 1], [0, 0]], [[1, 0], [0, 0]], 0.75, 0.25),
        ([[1, 1], [1, 1]], [[1, 0.5], [0, 0]], 0.375, 0.375),
        # Finer: each position holds the mask's mean over its area.
        ([[3, 1]], [[1, 0, 1, 0], [0, 0, 1, 0]], (3 * 0.25 + 1 * 0.5) / 4, 0.375),
        # In no whole proportion: of three pixels the middle one belongs to both positions.
        ([[2, 1]], [[0, 1, 1]], (2 * (1 / 3) + 1 * 1) / 3, 2 / 3),
        # Coarser than the map.
        ([[1, 2, 3, 4]], [[0, 1]], 0.7, 0.5),
    ],
    ids=["whole", "fractions", "finer", "thirds", "coarser"],
)
def test_the_share_inside_a_mask_by_hand(
    values: Any, mask: Any, inside: float, chance: float
) -> None:
    found = spread(maps_of(values), np.asarray(mask, float))
    assert float(found["inside"]) == pytest.approx(inside, abs=1e-6)
    assert float(found["chance"]) == pytest.approx(chance, abs=1e-6)


def by_definition(values: Floats, mask: Floats) -> dict[str, Floats]:
    """Return each measure of maps (n, y, x) whose sizes divide the mask's, in float64."""
    shares = values / values.sum(axis=(-2, -1), keepdims=True)
    flat = shares.reshape(len(shares), -1)
    tenth = flat.shape[1] / 10
    # The sum over the brightest k places, for every k, and between two of them a straight line.
    lorenz = np.cumsum(np.sort(flat, axis=1)[:, ::-1], axis=1)
    edges = np.arange(flat.shape[1] + 1)
    height, width = values.shape[1:]
    blocks = mask.reshape(height, mask.shape[0] // height, width, mask.shape[1] // width)
    return {
        "entropy": -(flat * np.log(flat)).sum(axis=1) / np.log(flat.shape[1]),
        "concentration": np.array([np.interp(tenth, edges, [0, *row]) for row in lorenz]),
        "inside": (shares * blocks.mean(axis=(1, 3))).sum(axis=(1, 2)),
    }


def test_many_maps_are_measured_as_the_definitions_say_in_any_blocks() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(0.3, size=(3, 4, 2, 6, 7)) + 1e-6
    mask = rng.random((12, 28))
    maps = maps_of(values, "layer", "step", "head").assign_coords(head=[2, 5])
    wanted = by_definition(np.float64(maps.values).reshape(-1, 6, 7), mask)
    for chunks in (None, {}, {"step": 1, "head": 1}, {"layer": 2, "y": 2, "x": 3}):
        found = spread(maps if chunks is None else maps.chunk(chunks), mask)
        assert all(v.dtype == np.float32 for v in found.data_vars.values())
        for name, measure in wanted.items():
            assert found[name].dims == ("layer", "step", "head")
            np.testing.assert_allclose(found[name].values.ravel(), measure, rtol=2e-6)
        assert found["head"].values.tolist() == [2, 5]
        assert float(found["chance"]) == pytest.approx(mask.mean())


def test_lazy_maps_stay_lazy() -> None:
    maps = maps_of(np.ones((2, 3, 1, 4, 4)), "layer", "step", "head").chunk({"step": 1})
    with dask.config.set(scheduler=reference_maps.refuse_to_compute):
        found = spread(maps, np.eye(4))
    assert dask.is_dask_collection(found)


@settings(deadline=None)
@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9),
        elements=st.floats(2**-20, 1, width=32),
    ),
    st.floats(1e-3, 1e3),
    st.randoms(use_true_random=False),
)
def test_scale_and_order_of_the_positions_change_no_spread(
    values: Any, factor: float, random: Any
) -> None:
    order = list(range(values.size))
    random.shuffle(order)
    shuffled = values.ravel()[order].reshape(values.shape)
    found, other = spread(maps_of(values)), spread(maps_of(shuffled * np.float32(factor)))
    for name in ("entropy", "concentration"):
        assert 0 <= float(found[name]) <= 1
        assert float(found[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("missing", [np.nan, 0.0], ids=["a-head-that-is-lacking", "no-attention"])
def test_a_map_that_holds_nothing_has_no_spread(missing: float) -> None:
    values = np.ones((2, 4, 4))
    values[0] = missing
    found = spread(maps_of(values, "head"), np.eye(4))
    for name in ("entropy", "concentration", "inside"):
        assert np.isnan(found[name].values).tolist() == [True, False]


def test_a_map_of_one_position_has_no_entropy() -> None:
    assert np.isnan(float(spread(maps_of([[2.0]]))["entropy"]))


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.eye(4) * 255, r"Expected a mask \(y, x\) within 0\.\.1, got 2 dimensions and 0 to 255"),
        (np.zeros(4), "got 1 dimensions"),
    ],
)
def test_a_mask_of_another_kind_is_refused(mask: Any, match: str) -> None:
    with pytest.raises(AnalysisError, match=match):
        spread(maps_of(np.ones((4, 4))), mask)


@settings(deadline=None)
@given(
    npst.arrays(
        np.float64,
        npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
        elements=st.floats(0, 1),
    ),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_a_mask_on_another_grid_keeps_its_mean(mask: Any, grid: tuple[int, int]) -> None:
    resized = area_mean(mask, grid)
    assert resized.shape == grid
    assert resized.mean() == pytest.approx(mask.mean(), abs=1e-12)
    assert resized.min() >= mask.min() - 1e-12
    assert resized.max() <= mask.max() + 1e-12


def test_masks_are_those_that_say_something_of_maps_they_belong_to(tmp_path: Path) -> None:
    first = SyntheticLayer("attn", (4, 4), (2, 2))
    second = SyntheticLayer("attn.reference_1", (4, 4), (2, 2), reference_index=1)
    path = write_run(tmp_path / "run.zarr", ["a"], [first, second])
    sample = open_run(path)["a"]
    masks = masks_of(sample, analyze(sample))
    stored = reference_maps.stored(path / "a" / "images")
    np.testing.assert_array_equal(masks["r2g"], stored["inpainting_mask"][:] / 255)
    np.testing.assert_array_equal(masks["g2r"], stored["reference_mask"][:] / 255)
    assert set(masks_of(sample, analyze(sample, layers=second.name))) == {"r2g"}
    stored["inpainting_mask"][:] = 255
    del stored["reference_mask"]
    sample = open_run(path)["a"]
    assert masks_of(sample, analyze(sample)) == {}


def overlaps(size: int, wanted: int) -> Floats:
    """The shares (wanted, size) that pixels have in the area of each position."""
    edges = np.arange(wanted + 1) * size / wanted
    upper = np.minimum(edges[1:, None], np.arange(size) + 1)
    lower = np.maximum(edges[:-1, None], np.arange(size))
    shares: Floats = np.clip(upper - lower, 0, None) * wanted / size
    return shares


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((512, 512), (64, 64)),
        ((96, 64), (12, 9)),
        ((7, 5), (3, 9)),
        ((1, 3), (1, 2)),
        ((100, 37), (41, 41)),
        ((8, 8), (8, 8)),
        ((2, 2), (6, 5)),
    ],
)
def test_a_mask_on_a_grid_is_the_mean_over_overlapping_areas(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    mask = np.random.default_rng(0).random(size)
    mask[0] = 1.0
    wanted = overlaps(size[0], grid[0]) @ mask @ overlaps(size[1], grid[1]).T
    np.testing.assert_allclose(area_mean(mask, grid), wanted, rtol=0, atol=1e-12)
