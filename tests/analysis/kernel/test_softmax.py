from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.analysis.kernel.logits import AttentionLogits, FactoredLogits, StoredLogits
from i2am.analysis.kernel.softmax import directional_means, region_means, softmax_over_patches
from tests.support.reference_maps import softmax

pytestmark = pytest.mark.usefixtures("each_way")


def mean_of_rows(logits: AttentionLogits, logsumexp: Any = None, **options: Any) -> Any:
    rows = logits.shape[1]
    shares = np.full((1, rows), 1 / rows, np.float32)
    return region_means(logits, shares, logsumexp, **options)[:, 0]


shapes = st.tuples(st.integers(1, 4), st.integers(1, 23), st.integers(1, 19))


def draw_factors(shape: tuple[int, int, int], spread: float, seed: int) -> FactoredLogits:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(shape[0], shape[1], 4)).astype(np.float16)
    key = (spread * rng.normal(size=(shape[0], shape[2], 4))).astype(np.float16)
    return FactoredLogits(query, key, 0.5)


def float64_logits(factors: FactoredLogits) -> Any:
    query, key = factors.query.astype(np.float64), factors.key.astype(np.float64)
    return factors.scale * query @ key.swapaxes(1, 2)


@settings(deadline=None)
@given(
    shape=shapes,
    spread=st.sampled_from([0.1, 3.0, 40.0]),
    seed=st.integers(0, 99),
    working_set_bytes=st.sampled_from([1, 200, 1000, 2**26]),
)
def test_factors_give_both_softmax_means_in_any_working_set(
    shape: tuple[int, int, int], spread: float, seed: int, working_set_bytes: int
) -> None:
    factors = draw_factors(shape, spread, seed)
    logits = float64_logits(factors)
    means = directional_means(factors, working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(means.r2g, softmax(logits, 1).mean(2), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(means.g2r, softmax(logits, 2).mean(1), rtol=2e-4, atol=1e-7)
    assert means.mass is None


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99), working_set_bytes=st.sampled_from([1, 500, 2**26]))
def test_logits_up_to_300_stay_finite_and_exact(
    shape: tuple[int, int, int], seed: int, working_set_bytes: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.uniform(-300, 300, size=shape).astype(np.float32)
    means = directional_means(StoredLogits(logits), working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(means.r2g, softmax(logits, 1).mean(2), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(means.g2r, softmax(logits, 2).mean(1), rtol=1e-5, atol=1e-9)


def test_a_token_that_every_patch_logits_far_below_another_keeps_its_own_softmax() -> None:
    near = np.array([1.0, 2.0, 3.0])
    logits = np.stack([near + 250, near - 250], axis=1)[None].astype(np.float32)
    means = directional_means(StoredLogits(logits))
    np.testing.assert_allclose(means.r2g[0], softmax(near, 0), rtol=1e-6)
    np.testing.assert_allclose(means.g2r[0], [1, 0], atol=1e-30)


@settings(deadline=None)
@given(
    shape=shapes,
    spread=st.sampled_from([0.1, 40.0]),
    seed=st.integers(0, 99),
    working_set_bytes=st.sampled_from([1, 500, 2**26]),
)
def test_a_region_multiplies_what_each_patch_contributes(
    shape: tuple[int, int, int], spread: float, seed: int, working_set_bytes: int
) -> None:
    factors = draw_factors(shape, spread, seed)
    logits = float64_logits(factors)
    region = np.random.default_rng(seed).uniform(-0.5, 1.5, shape[1]).clip(0, 1).astype(np.float32)
    close: Any = {"rtol": 2e-4, "atol": 1e-7}
    means = directional_means(factors, None, region, working_set_bytes=working_set_bytes)
    forward = softmax(logits, 2) * region[:, None]
    np.testing.assert_allclose(means.r2g, softmax(logits, 1).mean(2) * region, **close)
    np.testing.assert_allclose(means.g2r, forward.mean(1), **close)
    shares = np.full((1, shape[1]), 1 / shape[1], np.float32)
    rows = region_means(factors, shares, None, region, working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(rows[:, 0], forward.mean(1), **close)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_each_direction_sums_to_one(shape: tuple[int, int, int], seed: int) -> None:
    means = directional_means(draw_factors(shape, 5.0, seed))
    np.testing.assert_allclose(means.r2g.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(means.g2r.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        softmax_over_patches(draw_factors(shape, 5.0, seed)).sum(2), 1, rtol=1e-5
    )


@settings(deadline=None)
@given(shape=shapes, spread=st.sampled_from([0.1, 30.0]), seed=st.integers(0, 99))
def test_factors_and_their_product_give_the_same_maps(
    shape: tuple[int, int, int], spread: float, seed: int
) -> None:
    factors = draw_factors(shape, spread, seed)
    product = StoredLogits(float64_logits(factors).astype(np.float32))
    first, second = directional_means(factors), directional_means(product)
    np.testing.assert_allclose(first.r2g, second.r2g, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(first.g2r, second.g2r, rtol=1e-3, atol=1e-7)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99), working_set_bytes=st.sampled_from([1, 2**26]))
def test_a_logsumexp_over_more_keys_gives_true_probabilities_and_the_mass(
    shape: tuple[int, int, int], seed: int, working_set_bytes: int
) -> None:
    rng = np.random.default_rng(seed)
    every_key = (9 * rng.normal(size=(shape[0], shape[1], shape[2] + 6))).astype(np.float32)
    total = np.log(np.exp(every_key.astype(np.float64)).sum(axis=2))
    probability = softmax(every_key, 2)[..., : shape[2]]
    logits = StoredLogits(every_key[..., : shape[2]])
    means = directional_means(logits, total.astype(np.float32), working_set_bytes=working_set_bytes)
    assert means.mass is not None
    np.testing.assert_allclose(means.mass, probability.sum(2), rtol=1e-4)
    np.testing.assert_allclose(means.g2r, probability.mean(1), rtol=1e-4)
    np.testing.assert_allclose(means.r2g, softmax(logits.logits, 1).mean(2), rtol=1e-4, atol=1e-9)
    rows = mean_of_rows(logits, total, working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(rows, probability.mean(1), rtol=1e-4)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_rows_over_all_patches_average_to_g2r_and_the_mirror_to_r2g(
    shape: tuple[int, int, int], seed: int
) -> None:
    factors = draw_factors(shape, 5.0, seed)
    means = directional_means(factors)
    every_row = [
        mean_of_rows(FactoredLogits(factors.query[:, [p]], factors.key, factors.scale))
        for p in range(shape[1])
    ]
    every_column = [
        mean_of_rows(FactoredLogits(factors.query, factors.key[:, [r]], factors.scale).transposed())
        for r in range(shape[2])
    ]
    np.testing.assert_allclose(np.mean(every_row, axis=0), means.g2r, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(np.mean(every_column, axis=0), means.r2g, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("patches", [3, 700, 20_000])
def test_the_logits_that_are_held_stay_within_the_working_set(patches: int) -> None:
    factors = draw_factors((6, patches, 50), 1.0, 0)
    maps_bytes = 4 * 6 * (patches + 50)
    tracemalloc.start()
    directional_means(factors, working_set_bytes=400_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Beside the logits: the maps, a few numbers for each row of a matrix, and keys of a batch.
    assert peak_bytes <= 400_000 + maps_bytes + 4 * 12 * patches + 100_000


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("low_first", [True, False])
def test_rows_of_every_magnitude_stay_exact_across_tiles(is_kept: bool, low_first: bool) -> None:
    rng = np.random.default_rng(0)
    # Of 2 MiB each: a tile that needs no maximum subtracted, and two that do.
    offsets = np.repeat([0.0, 50.0, 280.0, -280.0], 600)
    logits = (rng.normal(size=(2, 2400, 700)) * 5).astype(np.float32)
    logits += (offsets if low_first else offsets[::-1])[:, None].astype(np.float32)
    logits[:, :, 5] -= 400  # Far below the others everywhere: its own softmax is as good.
    working_set_bytes = 2**26 if is_kept else 2**21
    means = directional_means(StoredLogits(logits), working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(means.r2g, softmax(logits, 1).mean(2), rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(means.g2r, softmax(logits, 2).mean(1), rtol=1e-4, atol=1e-12)


def test_tokens_that_no_patch_sees_and_patches_that_see_none_are_left_out() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 5, 4)).astype(np.float32)
    hidden = np.full((1, 7, 6), -np.inf, np.float32)
    hidden[:, 1:6, 2:] = logits
    hidden[:, 2, 3] = -np.inf  # Seen by others.
    seen = hidden[:, 1:6, 2:].astype(np.float64)
    means = directional_means(StoredLogits(hidden))
    np.testing.assert_allclose(means.r2g[:, 1:6], softmax(seen, 1).mean(2), rtol=1e-5)
    np.testing.assert_allclose(means.g2r[:, 2:], softmax(seen, 2).mean(1), rtol=1e-5)
    assert not means.r2g[:, [0, 6]].any()
    assert not means.g2r[:, :2].any()


def test_factors_that_come_round_again_are_those_of_every_step() -> None:
    factors = draw_factors((6, 30, 20), 3.0, 0)
    of_two = FactoredLogits(factors.query, factors.key[:2], factors.scale)
    repeated = FactoredLogits(factors.query, np.tile(factors.key[:2], (3, 1, 1)), factors.scale)
    for first, second in zip(directional_means(of_two), directional_means(repeated), strict=True):
        np.testing.assert_array_equal(first, second)
    mirrored = mean_of_rows(of_two.transposed())
    np.testing.assert_array_equal(mirrored, mean_of_rows(repeated.transposed()))
