"""Skew and NDKL vectors of the reference study, POPE's scores, and choice accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics import (
    accuracy_by_group,
    choice_accuracy,
    choice_correct,
    count_cut_ties,
    f1_result,
    group_gap,
    max_skew_at_k,
    ndkl,
    rank_order,
    skew_at_k,
    wilson_interval,
    yes_no_scores,
)

RANKED = [0] * 8 + [1] * 2 + [0] * 2 + [1] * 8
SPLIT = [0] * 5 + [1] * 5


def test_skew_vectors() -> None:
    assert skew_at_k(RANKED, 10) == pytest.approx({0: 0.470004, 1: -0.916291}, abs=1e-6)
    assert max_skew_at_k(RANKED, 10) == pytest.approx(0.470004, abs=1e-6)
    assert skew_at_k(SPLIT, 5) == pytest.approx({0: 0.693147, 1: -0.916291}, abs=1e-6)
    assert skew_at_k(SPLIT, 5, zero_count="zero") == pytest.approx({0: 0.693147, 1: 0.0}, abs=1e-6)


def test_ndkl_vectors() -> None:
    assert ndkl(RANKED) == pytest.approx(0.442911, abs=1e-6)
    assert ndkl(RANKED, k=10) == pytest.approx(0.638200, abs=1e-6)
    assert ndkl(SPLIT) == pytest.approx(0.478387, abs=1e-6)
    assert ndkl([0, 1] * 5) == pytest.approx(0.161664, abs=1e-6)


def test_reference_shares() -> None:
    ranked = ["a", "b", "a", "a"]
    assert skew_at_k(ranked, 2) == pytest.approx({"a": math.log(0.5 / 0.75), "b": math.log(0.5 / 0.25)})
    assert skew_at_k(ranked, 2, reference="equal") == {"a": 0.0, "b": 0.0}
    given_shares = {"a": 0.9, "b": 0.1}
    assert skew_at_k(ranked, 2, reference=given_shares)["b"] == pytest.approx(math.log(5))
    assert ndkl(ranked, reference="equal", k=1) == pytest.approx(math.log(2))


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.integers(1, 20))
def test_ndkl_equals_the_double_loop(ranked: list[str], k: int) -> None:
    k = min(k, len(ranked))
    total = weight = 0.0
    for i in range(1, k + 1):
        for name in sorted(set(ranked)):
            p, q = ranked[:i].count(name) / i, ranked.count(name) / len(ranked)
            total += p * math.log(p / q) / math.log2(i + 1) if p else 0.0
        weight += 1 / math.log2(i + 1)
    assert ndkl(ranked, k=k) == pytest.approx(total / weight, abs=1e-12)
    assert max_skew_at_k(ranked, len(ranked)) == pytest.approx(0.0)


def test_ranking_is_stable_and_counts_ties_across_the_cut() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.5], dtype=np.float32)
    assert rank_order(scores).tolist() == [1, 0, 2, 4, 3]
    assert [count_cut_ties(scores, k) for k in (1, 2, 3, 4, 5)] == [0, 2, 1, 0, 0]


def test_group_gap_by_hand() -> None:
    gap = group_gap([1, 0, 1, 1, 0, 1], ["x", "x", "y", "y", "z", "z"])
    assert (gap.gap, gap.worst_group, gap.best_group) == (0.5, "x", "y")
    assert gap.means == {"x": 0.5, "y": 1.0, "z": 0.5}
    assert gap.num_samples == {"x": 2, "y": 2, "z": 2}


def test_pope_always_yes() -> None:
    label = np.array([True, False] * 10)
    scores = yes_no_scores(np.ones(20, dtype=bool), label)
    assert (scores.accuracy, scores.precision, scores.recall) == (0.5, 0.5, 1.0)
    assert scores.f1 == pytest.approx(2 / 3)
    assert (scores.yes_ratio, scores.false_yes_rate, scores.num_samples) == (1.0, 1.0, 20)


def test_pope_by_hand() -> None:
    predicted = np.array([True, True, False, True, False])
    label = np.array([True, False, True, True, False])
    scores = yes_no_scores(predicted, label)
    assert (scores.accuracy, scores.precision, scores.recall, scores.f1) == pytest.approx((0.6, 2 / 3, 2 / 3, 2 / 3))
    assert (scores.yes_ratio, scores.false_yes_rate) == (0.6, 0.5)


def test_pope_zero_guards() -> None:
    no, yes = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    never_yes = yes_no_scores(no, yes)
    assert math.isnan(never_yes.precision) and math.isnan(never_yes.false_yes_rate)
    assert (never_yes.recall, never_yes.f1) == (0.0, 0.0)
    nothing = yes_no_scores(no, no)
    assert math.isnan(nothing.recall) and math.isnan(nothing.f1)
    assert (nothing.accuracy, nothing.false_yes_rate) == (1.0, 0.0)


def test_f1_interval_is_that_of_the_jaccard_share() -> None:
    predicted = np.array([True, True, False, True, False, False])
    label = np.array([True, False, True, True, False, False])
    result = f1_result("f1", predicted, label)
    low, high = wilson_interval(2, 4)
    assert result.value == pytest.approx(2 / 3)
    assert (result.ci_low, result.ci_high) == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))
    # J = 1/2, s(J) = sqrt(1/3 / 4), dF/dJ = 2 / 1.5^2
    assert result.stderr == pytest.approx(math.sqrt(1 / 12) * 2 / 2.25)
    perfect = f1_result("f1", label, label)
    assert perfect.value == 1.0 and perfect.ci_high == 1.0
    assert perfect.ci_low is not None and perfect.ci_low < 0.8 and perfect.stderr is None
    empty = f1_result("f1", np.zeros(2, dtype=bool), np.zeros(2, dtype=bool))
    assert math.isnan(empty.value) and empty.ci_low is None


def test_choice_accuracy_counts_ties_as_wrong() -> None:
    scores = [[0.3, 0.1], [0.2, 0.2], [0.1, 0.5, 0.4], [0.9, 0.8, 0.9]]
    assert choice_correct(scores, [0, 0, 1, 0]).tolist() == [True, False, True, False]
    assert choice_accuracy(scores, [0, 0, 1, 1]) == 0.5
    assert choice_accuracy([np.zeros(4)] * 5, [0, 1, 2, 3, 0]) == 0.0


def test_accuracy_by_group() -> None:
    groups = accuracy_by_group(np.array([True, False, True]), ["b", "a", "b"])
    assert groups == {"a": (0.0, 1), "b": (1.0, 2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: skew_at_k(SPLIT, 11), r"1\.\.10"),
        (lambda: skew_at_k(SPLIT, 0), r"1\.\.10"),
        (lambda: skew_at_k(SPLIT, 5, reference={0: 1.0}), r"missing: \[1\]"),
        (lambda: skew_at_k(SPLIT, 5, reference="fair"), "unknown reference"),  # type: ignore[arg-type]
        (lambda: skew_at_k(SPLIT, 5, zero_count="inf"), "unknown rule"),  # type: ignore[arg-type]
        (lambda: ndkl([]), "group labels"),
        (lambda: rank_order([0.1, math.nan]), "NaN"),
        (lambda: group_gap([1, 0], ["a", "a"]), "two groups"),
        (lambda: group_gap([1], ["a", "b"]), "one finite value"),
        (lambda: yes_no_scores([1, 0], [True, False]), "boolean"),
        (lambda: yes_no_scores(np.array([True]), np.array([True, False])), "as many answers"),
        (lambda: choice_correct([[0.1, 0.2]], [2]), "outside"),
        (lambda: choice_correct([[0.1]], [0]), "two or more"),
        (lambda: choice_correct([[0.1, math.nan]], [0]), "NaN"),
        (lambda: choice_correct([[0.1, 0.2]], []), "one answer"),
        (lambda: choice_accuracy([], []), "no question"),
        (lambda: accuracy_by_group([1], ["a"]), "boolean"),
    ],
)
def test_wrong_input_raises(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]
