"""Yes-no probing as POPE scores it (arXiv 2305.10355, section 5), and means over groups that constants cannot win."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.rates import rate_result
from vlmvid.metrics.stats import Clusters, clustered_stderr, proportion_interval
from vlmvid.types import MetricResult


@dataclass(frozen=True, slots=True)
class YesNoScores:
    """Scores in [0, 1]; NaN where the denominator is empty.

    `precision` is NaN when nothing was answered yes, `recall` when no label is yes, `f1` when both
    hold, `false_yes_rate` (the share of absent objects that were affirmed: the hallucination rate,
    lower is better) when no label is no. `balanced_accuracy` is the mean of the accuracies on the yes and on the no
    labels, 0.5 for a constant answer, NaN when one of the two does not occur. `yes_bias` is the share of predicted
    minus the share of true yes, in [-1, 1]. `false_yes_share` is the share of wrong answers that are a yes, NaN when
    no answer is wrong; 0.5 is no preference (HallusionBench's FP ratio, arXiv 2310.14566).
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    false_yes_rate: float
    num_samples: int
    balanced_accuracy: float = math.nan
    yes_bias: float = math.nan
    false_yes_share: float = math.nan


def yes_no_scores(predicted_yes: ArrayLike, label_yes: ArrayLike) -> YesNoScores:
    """POPE's scores of boolean answers and labels, both (N,).

    `yes_ratio` is the share of predicted yes. POPE's script has no zero guards and stops where the
    scores here are NaN.
    """
    predicted, label = _answers(predicted_yes, label_yes)
    true_yes = int((predicted & label).sum())
    false_yes = int((predicted & ~label).sum())
    false_no = int((~predicted & label).sum())
    false_yes_rate = _ratio(false_yes, int((~label).sum()))
    recall = _ratio(true_yes, true_yes + false_no)
    return YesNoScores(
        accuracy=float((predicted == label).mean()),
        precision=_ratio(true_yes, true_yes + false_yes),
        recall=recall,
        f1=_ratio(2 * true_yes, 2 * true_yes + false_yes + false_no),
        yes_ratio=float(predicted.mean()),
        false_yes_rate=false_yes_rate,
        num_samples=len(label),
        balanced_accuracy=(recall + 1 - false_yes_rate) / 2,
        yes_bias=float(predicted.mean() - label.mean()),
        false_yes_share=_ratio(false_yes, false_yes + false_no),
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


def macro_rate_result(
    name: str,
    values: ArrayLike,
    strata: Sequence[str],
    *,
    clusters: Clusters | None = None,
    seed: int,
    num_bootstrap: int,
) -> MetricResult:
    """The unweighted mean over strata of the mean of `values` (N,), in [0, 1], in each.

    Balanced accuracy when the strata are the labels. The interval and the error are those of its linearisation,
    ``result + (x_i - mean_s) * N / (S * n_s)`` for sample i of stratum s, clipped to [0, 1]: strata keep their sizes.

    Raises:
        EvaluationError: no values, another number of strata, or values outside [0, 1].
    """
    samples = np.asarray(values, dtype=np.float64)
    if samples.ndim != 1 or len(samples) == 0 or len(strata) != len(samples):
        raise EvaluationError(f"expected one stratum per value, at least one; got {samples.shape} and {len(strata)}")
    if not ((samples >= 0) & (samples <= 1)).all():
        raise EvaluationError(f"{name}: rates lie in [0, 1]; got {samples.min()} to {samples.max()}")
    codes = np.unique(np.asarray(strata), return_inverse=True)[1]
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=samples) / sizes
    value = float(means.mean())
    linear = value + (samples - means[codes]) * len(samples) / (len(sizes) * sizes[codes])
    result = rate_result(name, linear, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap)
    low, high = result.ci_low, result.ci_high
    return replace(
        result,
        value=value,
        ci_low=None if low is None else min(value, max(0.0, low)),
        ci_high=None if high is None else max(value, min(1.0, high)),
    )


def matthews_correlation(predicted_yes: ArrayLike, label_yes: ArrayLike) -> float:
    """Matthews' correlation of boolean answers and labels, both (N,), in [-1, 1]; 0 when one of them is constant."""
    predicted, label = _answers(predicted_yes, label_yes)
    true_yes, true_no = int((predicted & label).sum()), int((~predicted & ~label).sum())
    false_yes, false_no = int((predicted & ~label).sum()), int((~predicted & label).sum())
    sides = (true_yes + false_yes) * (true_yes + false_no) * (true_no + false_yes) * (true_no + false_no)
    return (true_yes * true_no - false_yes * false_no) / math.sqrt(sides) if sides else 0.0


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
