from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import EvaluationError
from vlmvid.metrics import RiskCoverage, selective_results

PAIR = st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.1, 0.5, 0.7, 0.9]))
PAIRS = st.lists(PAIR, min_size=1, max_size=12)


def curve(pairs: list[tuple[float, float]]) -> RiskCoverage:
    return RiskCoverage([score for score, _ in pairs], [sure for _, sure in pairs])


def test_by_hand() -> None:
    found = curve([(1, 0.9), (1, 0.8), (0, 0.7), (1, 0.6), (0, 0.5)])
    assert [found.coverage_at_risk(risk) for risk in (0.0, 0.25, 0.33, 0.4, 1.0)] == [0.4, 0.8, 0.8, 1.0, 1.0]
    assert found.area() == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert found.effective_reliability(1, 0.65) == pytest.approx((2 - 1) / 5)
    assert found.effective_reliability(10, 0.8) == pytest.approx(2 / 5)
    assert found.best_reliability(1) == pytest.approx(2 / 5)


def test_partly_right_answers_count_their_score_and_no_cost() -> None:
    found = curve([(0.3, 0.9), (0.0, 0.2)])
    assert found.effective_reliability(10, 0.5) == pytest.approx(0.15)
    assert found.effective_reliability(10, 0.0) == pytest.approx((0.3 - 10) / 2)


@given(PAIRS, st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9]))
def test_coverage_at_risk_is_that_of_the_best_threshold(pairs: list[tuple[float, float]], risk: float) -> None:
    best = 0.0
    for threshold in {sure for _, sure in pairs}:
        taken = [score for score, sure in pairs if sure >= threshold]
        if sum(1 - score for score in taken) / len(taken) <= risk + 1e-9:
            best = max(best, len(taken) / len(pairs))
    assert curve(pairs).coverage_at_risk(risk) == pytest.approx(best)


@given(PAIRS, st.sampled_from([1, 10]))
def test_best_reliability_is_that_of_the_best_threshold(pairs: list[tuple[float, float]], cost: int) -> None:
    found = curve(pairs)
    thresholds = [math.inf, *(sure for _, sure in pairs)]
    assert found.best_reliability(cost) == pytest.approx(max(found.effective_reliability(cost, t) for t in thresholds))


def test_the_area_of_equal_confidences_is_the_mean_over_their_orders() -> None:
    pairs = [(1.0, 0.9), (0.0, 0.5), (1.0, 0.5), (0.3, 0.5), (0.0, 0.1)]
    rng = random.Random(0)
    areas = []
    for _ in range(4000):
        mixed = [(score, sure + rng.random() / 100) for score, sure in pairs]
        areas.append(curve(mixed).area())
    assert curve(pairs).area() == pytest.approx(np.mean(areas), abs=0.01)


@given(PAIRS, st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_weights_are_repeated_samples(pairs: list[tuple[float, float]], counts: list[int]) -> None:
    repeated = [pair for pair, count in zip(pairs, counts, strict=False) for _ in range(count)]
    if not repeated:
        return
    weights = np.array(counts[: len(pairs)], dtype=np.float64)
    weighted, plain = curve(pairs).weigh(weights), curve(repeated)
    assert weighted.coverage_at_risk(0.2) == pytest.approx(plain.coverage_at_risk(0.2))
    assert weighted.best_reliability(1) == pytest.approx(plain.best_reliability(1))
    assert weighted.effective_reliability(1, 0.6) == pytest.approx(plain.effective_reliability(1, 0.6))


def test_what_was_not_answered_is_never_covered() -> None:
    found = curve([(1.0, 0.9), (0.0, -math.inf)])
    assert found.coverage_at_risk(1.0) == 0.5
    assert found.effective_reliability(1, 0.0) == 0.5
    assert found.area() == pytest.approx((0 + 0.5) / 2)
    assert curve([(0.0, -math.inf)]).best_reliability(1) == 0


def test_results_have_intervals_and_thresholds_only_for_probabilities() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=400)
    scores = (rng.uniform(size=400) < sure).astype(float)  # calibrated
    clusters = [str(n // 4) for n in range(400)]
    found = {m.name: m for m in selective_results(scores, sure, clusters=clusters, seed=0, num_bootstrap=200)}
    assert list(found)[:5] == [f"coverage_at_risk_{n}" for n in (1, 5, 10, 20)] + ["aurc"]
    assert not found["aurc"].higher_is_better
    for metric in found.values():
        assert metric.ci_low is not None and metric.ci_high is not None
        assert metric.ci_low <= metric.value <= metric.ci_high
    assert found["effective_reliability_c1"].value > 0.15  # about 1/4 for a calibrated uniform confidence
    assert found["effective_reliability_c1/best"].value >= found["effective_reliability_c1"].value
    logits = selective_results(scores, 10 * sure, clusters=clusters, seed=0, num_bootstrap=10)
    assert "effective_reliability_c1" not in {metric.name for metric in logits}
    single = selective_results([1.0], [0.5], clusters=["a"], seed=0, num_bootstrap=10)
    assert all(metric.ci_low is None for metric in single)


def test_bad_input_is_refused() -> None:
    for scores, sure in (([], []), ([1.0], [0.1, 0.2]), ([2.0], [0.1]), ([1.0], [math.nan])):
        with pytest.raises(EvaluationError):
            RiskCoverage(scores, sure)
