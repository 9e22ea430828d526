from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2am.analysis.kernel import (
    Factors,
    Logits,
    directional_means,
    softmax_mean,
    token_softmax,
)
from tests.analysis.oracle import softmax

shapes = st.tuples(st.integers(1, 4), st.integers(1, 23), st.integers(1, 19))


def draw_factors(shape: tuple[int, int, int], spread: float, seed: int) -> Factors:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(shape[0], shape[1], 4)).astype(np.float16)
    key = (spread * rng.normal(size=(shape[0], shape[2], 4))).astype(np.float16)
    return Factors(query, key, 0.5)


def float64_scores(factors: Factors) -> Any:
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
    scores = float64_scores(factors)
    means = directional_means(factors, working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(means.r2g, softmax(scores, 1).mean(2), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(means.g2r, softmax(scores, 2).mean(1), rtol=2e-4, atol=1e-7)
    assert means.mass is None


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99), working_set_bytes=st.sampled_from([1, 500, 2**26]))
def test_scores_up_to_300_stay_finite_and_exact(
    shape: tuple[int, int, int], seed: int, working_set_bytes: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-300, 300, size=shape).astype(np.float32)
    means = directional_means(Logits(scores), working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(means.r2g, softmax(scores, 1).mean(2), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(means.g2r, softmax(scores, 2).mean(1), rtol=1e-5, atol=1e-9)


def test_a_token_that_every_patch_scores_far_below_another_keeps_its_own_softmax() -> None:
    near = np.array([1.0, 2.0, 3.0])
    scores = np.stack([near + 250, near - 250], axis=1)[None].astype(np.float32)
    means = directional_means(Logits(scores))
    np.testing.assert_allclose(means.r2g[0], softmax(near, 0), rtol=1e-6)
    np.testing.assert_allclose(means.g2r[0], [1, 0], atol=1e-30)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_each_direction_sums_to_one(shape: tuple[int, int, int], seed: int) -> None:
    means = directional_means(draw_factors(shape, 5.0, seed))
    np.testing.assert_allclose(means.r2g.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(means.g2r.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(token_softmax(draw_factors(shape, 5.0, seed)).sum(2), 1, rtol=1e-5)


@settings(deadline=None)
@given(shape=shapes, spread=st.sampled_from([0.1, 30.0]), seed=st.integers(0, 99))
def test_factors_and_their_product_give_the_same_maps(
    shape: tuple[int, int, int], spread: float, seed: int
) -> None:
    factors = draw_factors(shape, spread, seed)
    product = Logits(float64_scores(factors).astype(np.float32))
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
    scores = Logits(every_key[..., : shape[2]])
    means = directional_means(scores, total.astype(np.float32), working_set_bytes=working_set_bytes)
    assert means.mass is not None
    np.testing.assert_allclose(means.mass, probability.sum(2), rtol=1e-4)
    np.testing.assert_allclose(means.g2r, probability.mean(1), rtol=1e-4)
    np.testing.assert_allclose(means.r2g, softmax(scores.logits, 1).mean(2), rtol=1e-4, atol=1e-9)
    rows = softmax_mean(scores, total, working_set_bytes=working_set_bytes)
    np.testing.assert_allclose(rows, probability.mean(1), rtol=1e-4)


@settings(deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_rows_over_all_patches_average_to_g2r_and_the_mirror_to_r2g(
    shape: tuple[int, int, int], seed: int
) -> None:
    factors = draw_factors(shape, 5.0, seed)
    means = directional_means(factors)
    every_row = [
        softmax_mean(Factors(factors.query[:, [p]], factors.key, factors.scale))
        for p in range(shape[1])
    ]
    every_column = [
        softmax_mean(Factors(factors.query, factors.key[:, [r]], factors.scale).transposed())
        for r in range(shape[2])
    ]
    np.testing.assert_allclose(np.mean(every_row, axis=0), means.g2r, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(np.mean(every_column, axis=0), means.r2g, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("patches", [3, 700])
def test_the_scores_that_are_held_stay_within_the_working_set(
    patches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = draw_factors((6, patches, 50), 1.0, 0)
    made: list[int] = []
    rows = Factors.rows

    def watched(self: Factors, batch: slice, part: slice) -> Any:
        values = rows(self, batch, part)
        made.append(values.nbytes)
        return values

    monkeypatch.setattr(Factors, "rows", watched)
    directional_means(factors, working_set_bytes=20_000)
    assert max(made) <= 20_000
