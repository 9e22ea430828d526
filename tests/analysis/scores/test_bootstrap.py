from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from i2am.analysis.scores.bootstrap import bootstrap_mean_interval
from i2am.schemas import AnalysisError


def test_an_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [bootstrap_mean_interval(rng.normal(3, 2, size=100)) for _ in range(300)]
    coverage = np.mean([low <= 3 <= high for low, high in found])
    # Two standard errors of a share of 0.95 among 300 are 0.025.
    assert coverage == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_three_values_give_the_quantiles_of_all_their_resamples(confidence: float) -> None:
    values = [0.0, 1.0, 10.0]
    means = np.sort([np.mean(drawn) for drawn in itertools.product(values, repeat=3)])
    tail = (1 - confidence) / 2
    # No quantile asked for lies at the edge between two of the means.
    assert min(abs(tail * 27 - round(tail * 27)), 1) > 0.2
    wanted = means[int(tail * 27)], means[int((1 - tail) * 27)]
    assert bootstrap_mean_interval(values, confidence) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.0, 3.0], (1.0, 3.0)),
        ([2.5, 2.5, 2.5], (2.5, 2.5)),
        ([1.0, math.nan, 3.0], (1.0, 3.0)),
    ],
    ids=["two", "alike", "nan-is-left-out"],
)
def test_small_cases_by_hand(values: list[float], wanted: tuple[float, float]) -> None:
    assert bootstrap_mean_interval(values) == wanted


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert all(math.isnan(end) for end in bootstrap_mean_interval(values))


def test_two_calls_agree_and_more_confidence_is_wider() -> None:
    values = np.random.default_rng(1).lognormal(size=20)
    assert bootstrap_mean_interval(values) == bootstrap_mean_interval(values)
    (low, high), (lower, higher) = (
        bootstrap_mean_interval(values, 0.8),
        bootstrap_mean_interval(values, 0.99),
    )
    assert lower < low < values.mean() < high < higher


@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_a_confidence_that_is_no_share_is_refused(confidence: float) -> None:
    with pytest.raises(AnalysisError, match=r"Expected a confidence between 0 and 1, got .* 0\.95"):
        bootstrap_mean_interval([1.0, 2.0], confidence)
