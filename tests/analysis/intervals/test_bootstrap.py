from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from i2am.analysis.intervals.bootstrap import bootstrap_mean_interval
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


def test_clusters_give_the_quantiles_of_all_their_resamples() -> None:
    values, clusters = [0.0, 2.0, 4.0, 10.0, 20.0], ["a", "a", "a", "b", "c"]
    members = {"a": [0.0, 2.0, 4.0], "b": [10.0], "c": [20.0]}
    means = np.sort(
        [
            np.mean([value for label in drawn for value in members[label]])
            for drawn in itertools.product(members, repeat=3)
        ]
    )
    wanted = means[int(0.1 * 27)], means[int(0.9 * 27)]
    assert bootstrap_mean_interval(values, 0.8, clusters) == pytest.approx(wanted)


def test_an_interval_of_repeated_pictures_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 5).tolist()
    covered = {"clusters": 0, "alone": 0}
    for _ in range(200):
        # A picture decides most of a value, its seed little.
        values = np.repeat(rng.normal(3, 2, 60), 5) + rng.normal(0, 0.5, 300)
        for name, own in (("clusters", labels), ("alone", None)):
            low, high = bootstrap_mean_interval(values, 0.95, own)
            covered[name] += low <= 3 <= high
    # Two standard errors of a share of 0.95 among 200 are 0.03.
    assert covered["clusters"] / 200 == pytest.approx(0.945, abs=0.035)
    assert covered["alone"] / 200 < 0.75


def test_clusters_of_one_value_each_change_nothing() -> None:
    values = np.random.default_rng(1).lognormal(size=20)
    assert bootstrap_mean_interval(values, 0.9, list(range(20))) == bootstrap_mean_interval(
        values, 0.9
    )


def test_one_cluster_alone_has_no_interval_and_nan_counts_in_none() -> None:
    assert all(math.isnan(end) for end in bootstrap_mean_interval([1.0, 2.0], 0.9, ["a", "a"]))
    found = bootstrap_mean_interval([1.0, 3.0, math.nan], 0.95, ["a", "b", "c"])
    assert found == bootstrap_mean_interval([1.0, 3.0])
    with pytest.raises(AnalysisError, match="a cluster for each of 2 values, got 1"):
        bootstrap_mean_interval([1.0, 2.0], 0.9, ["a"])
