"""Intervals: hand-computed values, coverage on simulated data, and the cases where a bootstrap lies."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics import (
    bootstrap_interval,
    chance_result,
    clustered_stderr,
    guess_interval,
    mean_result,
    newcombe_interval,
    proportion_interval,
    statistic_result,
    wilson_interval,
)


def test_wilson_interval_equals_published_values() -> None:
    # Newcombe 1998, Stat. Med. 17:857, table I, score method: 81/263, 15/148, 0/20, 1/29.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_share_and_mirrors(case: tuple[int, int]) -> None:
    hits, total = case
    low, high = wilson_interval(hits, total)
    assert 0 <= low <= hits / total <= high <= 1
    assert high > low
    assert wilson_interval(total - hits, total) == pytest.approx((1 - high, 1 - low))


def test_newcombe_interval_equals_published_values() -> None:
    # Newcombe 1998, Stat. Med. 17:873, table II, method 10.
    assert newcombe_interval((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe_interval((9, 10), (3, 10)) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert newcombe_interval((10, 10), (0, 10)) == pytest.approx((0.6075, 1.0), abs=5e-5)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_singleton_clusters_give_the_usual_standard_error(values: list[float]) -> None:
    usual = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    assert clustered_stderr(values) == pytest.approx(usual, abs=1e-9)
    assert clustered_stderr(values, [f"c{i}" for i in range(len(values))]) == pytest.approx(usual, abs=1e-9)


def test_clustered_stderr_by_hand() -> None:
    # mean 1/2; cluster sums of deviations 1, -1: sqrt(2/1 * 2) / 4 = 1/2
    assert clustered_stderr([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    # copies of every sample in its own cluster leave the error of the distinct samples
    base = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    assert clustered_stderr(np.repeat(base, 4), np.repeat(np.arange(5), 4)) == pytest.approx(clustered_stderr(base))
    assert clustered_stderr([1.0, 2.0], ["a", "a"]) is None


def test_proportion_of_copies_has_the_interval_of_the_distinct_samples() -> None:
    base = np.array([0, 1, 1, 0, 1, 1, 1, 1])
    repeated = proportion_interval(np.repeat(base, 5), np.repeat(np.arange(8), 5))
    # 5 copies: design effect (n - 1) / (G - 1) = 39 / 7
    assert repeated == pytest.approx(wilson_interval(0.75 * 40 / (39 / 7), 40 / (39 / 7)))
    single = proportion_interval(base)
    assert single == wilson_interval(6, 8)
    assert repeated[0] < single[0] + 0.02 and repeated[1] > single[1] - 0.02


def test_constant_proportions_keep_a_width() -> None:
    all_right = mean_result("x", np.ones(12, dtype=bool), seed=0, num_bootstrap=100)
    assert (all_right.ci_low, all_right.ci_high) == wilson_interval(12, 12)
    assert all_right.stderr is None
    # twelve samples of three videos say as much as three samples
    clustered = mean_result("x", np.ones(12, dtype=bool), clusters=["a", "b", "c"] * 4, seed=0, num_bootstrap=100)
    assert (clustered.ci_low, clustered.ci_high) == wilson_interval(3, 3)


def test_one_right_of_every_pair_keeps_a_width_around_one_half() -> None:
    hits = np.array([True, False] * 30)
    pairs = np.repeat(np.arange(30), 2)
    assert clustered_stderr(hits, pairs) == 0
    result = mean_result("x", hits, clusters=pairs, seed=0, num_bootstrap=100)
    assert result.value == 0.5
    assert (result.ci_low, result.ci_high) == wilson_interval(30, 60)
    assert result.stderr == pytest.approx(math.sqrt(0.25 / 59))


@pytest.mark.parametrize(("share", "spread"), [(0.5, 0.2), (0.9, 0.08), (0.97, 0.03)])
def test_clustered_proportion_interval_covers(share: float, spread: float) -> None:
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(60), 5)
    covered = 0
    for _ in range(400):
        per_cluster = share + rng.choice([-spread, spread], size=60)
        low, high = proportion_interval(rng.random(300) < per_cluster[clusters], clusters)
        covered += low <= share <= high
    # 95 % nominal; three standard errors of 400 trials are 3.3 points
    assert covered / 400 >= 0.917


def test_bootstrap_of_the_mean_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=400)
    interval = bootstrap_interval(values, num_bootstrap=4000, seed=5)
    error = clustered_stderr(values)
    assert interval is not None and error is not None
    assert interval == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.03)
    assert bootstrap_interval(values, num_bootstrap=4000, seed=5) == interval
    assert bootstrap_interval(values, num_bootstrap=4000, seed=6) != interval


def test_bootstrap_enumerates_whole_clusters() -> None:
    values, clusters = [0.0, 6.0, 6.0, 9.0, 12.0, 15.0, 20.0], ["a", "b", "b", "c", "c", "c", "d"]
    groups = {"a": [0.0], "b": [6.0, 6.0], "c": [9.0, 12.0, 15.0], "d": [20.0]}
    means = [np.mean(sum((groups[name] for name in draw), [])) for draw in product("abcd", repeat=4)]
    expected = np.quantile(np.repeat(means, 100), [0.025, 0.975])
    fast = bootstrap_interval(values, clusters=clusters, num_bootstrap=5000, seed=0)
    slow = bootstrap_interval(values, lambda rows: float(rows.mean()), clusters=clusters, num_bootstrap=5000, seed=0)
    assert fast == pytest.approx(expected, abs=0.5)
    assert slow == pytest.approx(fast)


def test_bootstrap_of_rows_and_undefined_statistics() -> None:
    rows = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])

    def precision(sample: np.ndarray) -> float:
        return float(sample[:, 0] @ sample[:, 1] / sample[:, 0].sum()) if sample[:, 0].any() else math.nan

    interval = bootstrap_interval(rows, precision, num_bootstrap=300, seed=0)
    assert interval is not None and 0 <= interval[0] <= 2 / 3 <= interval[1] <= 1
    assert bootstrap_interval(rows, lambda sample: math.nan, num_bootstrap=50, seed=0) is None


def test_samples_that_say_nothing_about_spread_have_no_interval() -> None:
    assert bootstrap_interval([2.0, 2.0, 2.0], num_bootstrap=100, seed=0) is None
    assert bootstrap_interval([1.0, 5.0], clusters=["a", "a"], num_bootstrap=100, seed=0) is None
    # ranks that are all 1 are numbers, not a proportion
    ranks = mean_result("mean_rank", np.ones(5), seed=0, num_bootstrap=100, higher_is_better=False)
    assert (ranks.value, ranks.ci_low, ranks.ci_high, ranks.stderr) == (1.0, None, None, None)
    assert ranks.higher_is_better is False


def test_statistic_result_reports_the_statistic() -> None:
    result = statistic_result("m", [1.0, 2.0, 3.0, 40.0], lambda v: float(np.median(v)), seed=0, num_bootstrap=200)
    assert (result.value, result.num_samples, result.stderr) == (2.5, 4, None)
    assert result.ci_low is not None and result.ci_high is not None and result.ci_low <= 2.5 <= result.ci_high


@given(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0]), min_size=1, max_size=10))
def test_guess_interval_equals_enumeration(chances: list[float]) -> None:
    mass: dict[int, float] = {}
    for draw in product([0, 1], repeat=len(chances)):
        weight = math.prod(p if hit else 1 - p for p, hit in zip(chances, draw, strict=True))
        mass[sum(draw)] = mass.get(sum(draw), 0.0) + weight
    cumulative = np.cumsum([mass.get(hits, 0.0) for hits in range(len(chances) + 1)])
    if np.abs(cumulative[:, None] - [0.025, 0.975]).min() < 1e-9:
        return  # a quantile that rounding decides
    expected = [int(np.argmax(cumulative >= level)) / len(chances) for level in (0.025, 0.975)]
    assert guess_interval(chances) == pytest.approx(expected)


def test_guess_interval_is_continuous_where_it_turns_normal() -> None:
    exact, normal = guess_interval(np.full(2000, 0.1)), guess_interval(np.full(2001, 0.1))
    assert exact == pytest.approx(normal, abs=1e-3)
    result = chance_result("r_at_1", [0.25, 0.75])
    assert (result.name, result.value, result.num_samples) == ("r_at_1/chance", 0.5, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(math.nan, 2),
        lambda: proportion_interval([0.5, 1.0]),
        lambda: mean_result("x", [], seed=0, num_bootstrap=10),
        lambda: mean_result("x", [1.0, math.nan], seed=0, num_bootstrap=10),
        lambda: mean_result("x", [1.0, 2.0], clusters=["a"], seed=0, num_bootstrap=10),
        lambda: bootstrap_interval([1.0, 2.0], num_bootstrap=0, seed=0),
        lambda: bootstrap_interval([[1.0], [2.0]], num_bootstrap=10, seed=0),
        lambda: guess_interval([1.2]),
    ],
)
def test_wrong_input_raises(call: object) -> None:
    with pytest.raises(EvaluationError):
        call()  # type: ignore[operator]
