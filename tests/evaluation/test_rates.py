from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics import mcnemar_p, paired_comparison, rate_result


def test_a_rate_is_a_mean_with_a_clustered_error_and_a_bootstrap_interval() -> None:
    values = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.5])
    clusters = ["a", "a", "b", "b", "c", "c"]
    result = rate_result("accuracy", values, clusters=clusters, seed=0, num_bootstrap=4000)
    assert result.value == pytest.approx(3.5 / 6)
    deviations = [2 - 7 / 6, -7 / 6, 1.5 - 7 / 6]
    assert result.stderr == pytest.approx(math.sqrt(3 / 2 * sum(d * d for d in deviations)) / 6)
    # Every resample of three clusters, each as likely as the others.
    sums = {"a": 2.0, "b": 0.0, "c": 1.5}
    means = [sum(sums[name] for name in drawn) / 6 for drawn in itertools.product("abc", repeat=3)]
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (result.ci_low, result.ci_high) == (pytest.approx(low), pytest.approx(high))
    assert result == rate_result("accuracy", values, clusters=clusters, seed=0, num_bootstrap=4000)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_scores_are_not_certain(value: float) -> None:
    result = rate_result("accuracy", [value] * 20, seed=0, num_bootstrap=100)
    assert result.stderr is None and result.ci_low is not None and result.ci_high is not None
    assert result.ci_high - result.ci_low > 0.1
    assert result.ci_low <= value <= result.ci_high
    unbounded = rate_result("error", [value] * 20, bounded=False, seed=0, num_bootstrap=100)
    assert unbounded.ci_low is None


def test_one_cluster_has_no_interval() -> None:
    assert rate_result("accuracy", [0.0, 1.0], clusters=["v", "v"], seed=0, num_bootstrap=100).ci_low is None


def flips(difference: list[float]) -> float:
    """The permutation p from its definition."""
    observed = abs(sum(difference))
    every = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(difference))
    ]
    return sum(value >= observed - 1e-9 for value in every) / len(every)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=9))
def test_permutation_counts_every_flip(difference: list[float]) -> None:
    found = paired_comparison(np.array(difference), np.zeros(len(difference)), seed=0, num_bootstrap=100)
    assert found.permutation_p == pytest.approx(flips(difference))
    assert found.difference == pytest.approx(np.mean(difference))
    assert (found.only_first, found.only_second) == (sum(d > 0 for d in difference), sum(d < 0 for d in difference))


def test_many_clusters_are_drawn_and_seeded() -> None:
    rng = np.random.default_rng(3)
    first, second = (rng.random(300) < 0.7).astype(float), (rng.random(300) < 0.5).astype(float)
    found = [paired_comparison(first, second, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0].permutation_p < 0.001
    assert paired_comparison(first, first, seed=0).permutation_p == 1.0
    # Of samples that are right or wrong it is McNemar's test.
    weak = np.array([1.0] * 60 + [-1.0] * 45)
    found_p = paired_comparison(weak, np.zeros(105), seed=0).permutation_p
    assert found_p == pytest.approx(mcnemar_p(60, 45), abs=0.015)


def test_clusters_flip_whole() -> None:
    difference = np.array([1.0, 1.0, 1.0, -1.0])
    found = paired_comparison(difference, np.zeros(4), clusters=["a", "a", "a", "b"], seed=0)
    assert found.permutation_p == pytest.approx(flips([3.0, -1.0]))


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_a_binomial_test(first: int, second: int) -> None:
    n, k = first + second, min(first, second)
    exact = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)
    assert mcnemar_p(first, second) == pytest.approx(exact)
    assert mcnemar_p(first, second) == mcnemar_p(second, first)


def test_mcnemar_only_for_right_and_wrong() -> None:
    assert paired_comparison([1.0, 0.0, 1.0], [0.0, 0.0, 1.0], seed=0).mcnemar_p == pytest.approx(1.0)
    assert paired_comparison([0.5, 0.0], [0.0, 0.0], seed=0).mcnemar_p is None
    with pytest.raises(EvaluationError, match="two scores for each"):
        paired_comparison([1.0], [1.0, 0.0], seed=0)
