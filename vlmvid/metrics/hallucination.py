"""Yes-no object probing as POPE scores it (arXiv 2305.10355, section 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Clusters, clustered_stderr, proportion_interval
from vlmvid.types import MetricResult


@dataclass(frozen=True, slots=True)
class YesNoScores:
    """Scores in [0, 1]; NaN where the denominator is empty.

    `precision` is NaN when nothing was answered yes, `recall` when no label is yes, `f1` when both
    hold, `false_yes_rate` (the share of absent objects that were affirmed: the hallucination rate,
    lower is better) when no label is no.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    false_yes_rate: float
    num_samples: int


def yes_no_scores(predicted_yes: ArrayLike, label_yes: ArrayLike) -> YesNoScores:
    """POPE's scores of boolean answers and labels, both (N,).

    `yes_ratio` is the share of predicted yes. POPE's script has no zero guards and stops where the
    scores here are NaN.
    """
    predicted, label = _answers(predicted_yes, label_yes)
    true_yes = int((predicted & label).sum())
    false_yes = int((predicted & ~label).sum())
    false_no = int((~predicted & label).sum())
    return YesNoScores(
        accuracy=float((predicted == label).mean()),
        precision=_ratio(true_yes, true_yes + false_yes),
        recall=_ratio(true_yes, true_yes + false_no),
        f1=_ratio(2 * true_yes, 2 * true_yes + false_yes + false_no),
        yes_ratio=float(predicted.mean()),
        false_yes_rate=_ratio(false_yes, int((~label).sum())),
        num_samples=len(label),
    )


def f1_result(
    name: str, predicted_yes: ArrayLike, label_yes: ArrayLike, *, clusters: Clusters | None = None
) -> MetricResult:
    """F1 of the yes answers with a 95 % interval.

    F1 is ``2 J / (1 + J)`` with J = TP / (TP + FP + FN), and J is a proportion of the samples that
    are yes in the answer or in the label. So the interval is J's Wilson interval (clustered) sent
    through that map, and it keeps its width at 0 and 1. Value NaN, no interval: no such sample.
    """
    predicted, label = _answers(predicted_yes, label_yes)
    either = predicted | label
    value = yes_no_scores(predicted, label).f1
    if not either.any():
        return MetricResult(name=name, value=value, num_samples=len(label))
    hits = (predicted & label)[either].astype(np.float64)
    groups = None if clusters is None else np.asarray(clusters)[either]
    low, high = (2 * bound / (1 + bound) for bound in proportion_interval(hits, groups))
    spread = clustered_stderr(hits, groups)
    slope = 2 / (1 + hits.mean()) ** 2
    return MetricResult(
        name=name,
        value=value,
        num_samples=len(label),
        stderr=float(spread * slope) if spread else None,
        ci_low=float(low),
        ci_high=float(high),
    )


def _answers(predicted_yes: ArrayLike, label_yes: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    predicted, label = np.asarray(predicted_yes), np.asarray(label_yes)
    if predicted.dtype != np.bool_ or label.dtype != np.bool_:
        raise EvaluationError(f"answers and labels must be boolean; got {predicted.dtype} and {label.dtype}")
    if predicted.ndim != 1 or predicted.shape != label.shape or len(label) == 0:
        raise EvaluationError(
            f"expected as many answers as labels, at least one; got {predicted.shape} and {label.shape}"
        )
    return predicted, label


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else math.nan
