from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics.bias import bias_at_k, group_gap, max_skew_at_k, min_skew_at_k, ndkl, skew_at_k
from vlmvid.metrics.bias_amplification import bias_amplification
from vlmvid.metrics.bias_groups import GapSpec, gap_results, pair_comparisons, pair_results
from vlmvid.metrics.bias_ranking import RankingSpec, measure_rankings, ranking_results
from vlmvid.metrics.bias_reference import (
    debias_vision_lang,
    social_counterfactuals,
    social_counterfactuals_bias_at_k,
)

RANKED = [0] * 8 + [1] * 2 + [0] * 2 + [1] * 8
SPLIT = [0] * 5 + [1] * 5
FALLING = np.arange(20, 0, -1)


# --- one list ---------------------------------------------------------------------------------------


def test_bias_at_k_vector() -> None:
    assert bias_at_k([1, 1, 2, 0, 1], 5, first=1, second=2) == 0.5
    assert bias_at_k([0, 0, 1], 2, first=1, second=2) == 0.0
    assert bias_at_k([2, 1, 2], 1, first=1, second=2) == -1.0


def test_min_skew() -> None:
    assert min_skew_at_k(RANKED, 10) == pytest.approx(-0.916291, abs=1e-6)
    assert min_skew_at_k(SPLIT, 5, zero_count="zero") == 0.0


def test_a_list_shorter_than_its_gallery_knows_the_absent_group() -> None:
    shares = {"a": 0.25, "b": 0.75}
    assert skew_at_k(["a", "a"], 2, reference=shares) == pytest.approx({"a": math.log(4), "b": math.log(0.5 / 0.75)})
    assert skew_at_k(["a", "a"], 2, reference=shares, zero_count="zero")["b"] == 0.0
    assert ndkl(["a", "a"], reference=shares) == pytest.approx(math.log(4))


def test_small_groups_are_never_worst_or_best() -> None:
    values, groups = [0, 1, 0, 1, 1, 0], ["x", "x", "y", "y", "y", "tiny"]
    assert group_gap(values, groups).worst_group == "tiny"
    gap = group_gap(values, groups, min_group=2)
    assert (gap.worst_group, gap.best_group, gap.means["tiny"]) == ("x", "y", 0.0)
    assert gap.gap == pytest.approx(2 / 3 - 1 / 2)
    with pytest.raises(EvaluationError, match="two groups of 3"):
        group_gap(values, groups, min_group=3)


# --- many lists -------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0, 1, 2]), min_size=3, max_size=12), st.integers(1, 12), st.randoms())
def test_the_fast_path_equals_the_definitions(labels: list[int], k: int, rng: object) -> None:
    names = sorted(set(labels))
    codes = [names.index(label) for label in labels]
    lists = [codes, codes[::-1], sorted(codes)]
    k = min(k, len(codes))
    shares = np.bincount(codes) / len(codes)
    for rule in ("floor", "zero"):
        found = measure_rankings(np.array(lists), shares, k, rule)  # type: ignore[arg-type]
        for row, ranked in enumerate(lists):
            assert list(skew_at_k(ranked, k, zero_count=rule).values()) == pytest.approx(found.skews[row].tolist())  # type: ignore[arg-type]
            assert ndkl(ranked) == pytest.approx(found.ndkl[row], abs=1e-12)
            assert ndkl(ranked, k=k) == pytest.approx(found.ndkl_at_k[row], abs=1e-12)
            assert [ranked[:k].count(name) for name in sorted(set(ranked))] == found.counts[row].tolist()


def _ranking(**change: object) -> dict[str, float]:
    groups = np.array(["b", "a", "a", "b", "b", "b"])
    orders = np.array([[1, 2, 0, 3, 4, 5], [0, 3, 4, 1, 2, 5]])
    spec = RankingSpec(k=2, num_bootstrap=100, **change)  # type: ignore[arg-type]
    return {metric.name: metric.value for metric in ranking_results(orders, groups, ["a", "b"], spec)[0]}


def test_results_of_two_queries_by_hand() -> None:
    found = _ranking(compared=("a", "b"), label="[zero=floor]")
    # The first query finds a, a (skew ln 3; b counts as 1/2), the second b, b (a counts as 1/2).
    assert found["skew_a_at_2[zero=floor]"] == pytest.approx((math.log(3) + math.log(1.5)) / 2)
    assert found["max_skew_at_2[zero=floor]"] == pytest.approx((math.log(3) + math.log(1.5)) / 2)
    assert found["min_skew_at_2[zero=floor]"] == pytest.approx(math.log(0.75) / 2 + math.log(1.5) / 2)
    assert (found["absent_groups_at_2"], found["count_a_at_2"], found["count_b_at_2"]) == (1.0, 1.0, 1.0)
    assert (found["bias_at_2"], found["abs_bias_at_2"]) == (0.0, 1.0)  # signed values cancel


def test_too_small_groups_are_no_extremes() -> None:
    alone = _ranking(eligible=("b",))
    assert not any(name.startswith(("max_skew", "min_skew")) for name in alone)
    assert "skew_a_at_2" in alone and "ndkl" in alone


def test_shares_that_are_given() -> None:
    assert _ranking(reference={"a": 0.5, "b": 0.5})["skew_a_at_2"] == pytest.approx(math.log(2) / 2)
    assert _ranking(reference="equal")["skew_a_at_2"] == pytest.approx(math.log(2) / 2)
    with pytest.raises(EvaluationError, match="add up to 1.1"):
        _ranking(reference={"a": 0.6, "b": 0.5})


# --- released scorers -------------------------------------------------------------------------------


def test_social_counterfactuals_vectors() -> None:
    assert social_counterfactuals(RANKED, 20)["ndkl"] == pytest.approx(0.129955, abs=1e-6)
    assert social_counterfactuals(SPLIT, 5)["max_skew"] == pytest.approx(0.693147, abs=1e-6)
    assert social_counterfactuals(SPLIT, 5)["min_skew"] == 0.0
    # Two of three first places are the larger group's: its weight is q, so that the sum falls below 0.
    assert social_counterfactuals([0, 1, 1, 1, 1, 1, 1, 0], 2)["ndkl"] != pytest.approx(
        ndkl([0, 1, 1, 1, 1, 1, 1, 0], k=2)
    )
    assert social_counterfactuals_bias_at_k([3, 0, 5, 9], 4) == -0.5
    assert social_counterfactuals_bias_at_k([3, 1, 5, 9], 4) == -1.0


def test_debias_vision_lang_vectors() -> None:
    found = debias_vision_lang(FALLING, RANKED, 10)
    assert found["maxskew_dem_par"] == pytest.approx(0.470004, abs=1e-6)
    assert found["ndkl_dem_par"] == pytest.approx(0.638200, abs=1e-6)
    whole = debias_vision_lang(FALLING, RANKED)
    assert whole["maxskew_dem_par"] == whole["maxskew_eq_opp"] == 0.0  # top_n = 1.0 is the whole set
    assert whole["ndkl_dem_par"] == pytest.approx(0.442911, abs=1e-6)


def test_debias_vision_lang_counts_ties_over_the_cut() -> None:
    # All tie: four items are counted and divided by two, so both groups have a share of 1.
    assert debias_vision_lang([1.0] * 4, [0, 0, 1, 1], 2)["maxskew_dem_par"] == pytest.approx(math.log(2))
    assert max_skew_at_k([0, 1], 2) == 0.0
    # A skew below 0 everywhere does not exist: it starts at 0.
    assert debias_vision_lang([3.0, 2.0], [0, 1], 2)["maxskew_dem_par"] == 0.0


# --- groups and pairs -------------------------------------------------------------------------------


def test_gap_results_by_hand() -> None:
    right = np.array([True, False, True, True, False])
    groups = ["a", "a", "b", "b", "c"]
    spec = GapSpec(min_group=2, num_bootstrap=100)
    found = {m.name: m for m in gap_results("accuracy", right, groups, {"a": "a", "b": "b", "c": "c"}, spec)}
    assert found["group_gap_accuracy"].value == 0.5
    assert found["worst_group_accuracy"].value == 0.5
    assert found["group_c_accuracy"].value == 0.0 and found["group_c_accuracy"].num_samples == 1
    low, high = found["group_gap_accuracy"].ci_low, found["group_gap_accuracy"].ci_high
    assert low == 0.0 and high is not None and high > 0.5
    assert found["group_gap_accuracy/chance"].value > 0
    alone = gap_results(
        "accuracy", right, groups, {"a": "a", "b": "b", "c": "c"}, GapSpec(min_group=3, num_bootstrap=100)
    )
    assert [metric.name for metric in alone] == ["group_a_accuracy", "group_b_accuracy", "group_c_accuracy"]


def test_the_gap_of_scores_is_bootstrapped_over_clusters() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=60), ["a"] * 30 + ["b"] * 30
    values[:30] += 1
    spec = GapSpec(num_bootstrap=200)
    gap = gap_results("score", values, groups, {"a": "a", "b": "b"}, spec, clusters=[i // 2 for i in range(60)])[0]
    assert gap.value == pytest.approx(values[:30].mean() - values[30:].mean())
    assert gap.ci_low is not None and gap.ci_high is not None and 0 < gap.ci_low < gap.value < gap.ci_high


def test_pairs_by_hand() -> None:
    values = [1.0, 0.0, 1.0, 0.5, 0.0, 9.0, 3.0]
    groups = ["m", "f", "m", "m", "f", "m", "f"]
    pairs = ["p1", "p1", "p2", "p2", "p2", None, "alone"]
    found = pair_comparisons(values, groups, pairs, seed=0, num_bootstrap=100)
    assert list(found) == [("f", "m")]
    assert found["f", "m"].difference == pytest.approx((-1.0 - 0.75) / 2)
    assert found["f", "m"].permutation_p == 0.5  # two pairs: two of four flips
    names = [metric.name for metric in pair_results("score", found, {"f": "f", "m": "m"})]
    assert names == ["pair_f_minus_m_score", "pair_f_minus_m_score/permutation_p"]


def test_constant_scores_have_no_paired_difference() -> None:
    found = pair_comparisons([1.0] * 6, ["m", "f"] * 3, ["1", "1", "2", "2", "3", "3"], seed=0, num_bootstrap=100)
    assert (found["f", "m"].difference, found["f", "m"].permutation_p) == (0.0, 1.0)


# --- amplification ----------------------------------------------------------------------------------


def _loop(given: np.ndarray, labels: np.ndarray, predicted: np.ndarray, side: np.ndarray, other: np.ndarray) -> float:
    rows = [row for row in range(len(side)) if side[row].any() or other[row].any()]
    terms = []
    for g in range(given.shape[1]):
        for p in range(labels.shape[1]):
            joint = sum(int(side[row, g] and other[row, p]) for row in rows)
            apart = sum(int(side[row, g]) for row in rows) * sum(int(other[row, p]) for row in rows)
            sign = (len(rows) * joint > apart) - (len(rows) * joint < apart)
            having = [row for row in range(len(given)) if given[row, g]]
            if having:
                terms.append(sign * (predicted[having, p].mean() - labels[having, p].mean()))
    return float(np.mean(terms))


def test_amplification_equals_the_double_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        given, labels, predicted = (rng.integers(0, 2, (9, width)) for width in (2, 3, 3))
        side, other = rng.integers(0, 2, (7, 2)), rng.integers(0, 2, (7, 3))
        found = bias_amplification(given, labels, predicted, train_given=side, train_labels=other)
        assert found.value == pytest.approx(_loop(given, labels, predicted, side, other))


def test_independent_labels_have_no_direction_but_in_the_released_code() -> None:
    # Sizes at which g / n * p / n is not the double next to (g p / n) / n, although the labels are independent.
    n, g, p = next(
        (n, g, p)
        for n in range(2, 60)
        for g in range(1, n)
        for p in range(1, n)
        if g * p % n == 0 and (g * p // n) / n != (g / n) * (p / n)
    )
    side, other = np.zeros((n, 2)), np.zeros((n, 1))
    side[:g, 0], side[g:, 1] = 1, 1
    other[: g * p // n], other[g : g + p - g * p // n] = 1, 1
    exact, released = (
        bias_amplification([[1, 0]], [[1]], [[0]], train_given=side, train_labels=other, released=mode)
        for mode in (False, True)
    )
    assert exact.direction[0, 0] == 0 and exact.value == 0.0
    assert abs(released.direction[0, 0]) == 1 and abs(released.value) == 1.0


def test_pairs_without_their_label_are_left_out() -> None:
    train = {"train_given": np.eye(2), "train_labels": np.eye(2)}
    found = bias_amplification([[1, 0]], [[1, 0]], [[0, 1]], **train)
    assert found.num_undefined == 2 and found.value == pytest.approx(-1.0)
    assert math.isnan(bias_amplification([[0, 0]], [[1, 0]], [[0, 1]], **train).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias_at_k([1, 2], 3, first=1, second=2), r"1\.\.2"),
        (lambda: bias_at_k([1, 2], 1, first=1, second=1), "both are 1"),
        (lambda: measure_rankings(np.zeros((1, 3), dtype=int), np.ones(1), 4), "k must lie"),
        (lambda: measure_rankings(np.zeros((1, 3), dtype=int), np.ones(1), 1, "none"), "unknown rule"),  # type: ignore[arg-type]
        (lambda: debias_vision_lang([1.0, 2.0], [0, 2], 1), "1 does not occur"),
        (lambda: debias_vision_lang([1.0, math.nan], [0, 1], 1), "without NaN"),
        (lambda: social_counterfactuals([0, 1], 3), r"1\.\.2"),
        (lambda: pair_comparisons([1.0], ["a"], ["p", "q"], seed=0, num_bootstrap=10), "expected as many"),
        (lambda: pair_comparisons([1.0, 2.0], ["a", "a"], ["p", "p"], seed=0, num_bootstrap=10), "joins two groups"),
        (lambda: bias_amplification([[2]], [[1]], [[1]], train_given=[[1]], train_labels=[[1]]), "0 or 1"),
        (lambda: bias_amplification([[1]], [[1]], [[1, 0]], train_given=[[1]], train_labels=[[1]]), "do not fit"),
        (lambda: bias_amplification([[1]], [[1]], [[1]], train_given=[[1, 0]], train_labels=[[1]]), "training labels"),
        (lambda: bias_amplification([[1]], [[1]], [[1]], train_given=[[0]], train_labels=[[0]]), "no row"),
    ],
)
def test_wrong_input_raises(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
