"""Selective prediction: a model that may abstain answers where its confidence reaches a threshold.

Whitehead et al., arXiv 2204.13631, sections 3.2 and 4 (coverage at risk, effective reliability); Geifman et al.,
arXiv 1805.08206 (area under the risk-coverage curve). A threshold cannot part equal confidences: samples of one
confidence are answered together or not at all. Samples that were not answered have confidence -inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Clusters
from vlmvid.types import MetricResult

RISKS = (0.01, 0.05, 0.1, 0.2)
COSTS = (1, 10, 100)
Float = NDArray[np.float64]


class RiskCoverage:
    """The risk-coverage curve of samples, each counted once unless `weigh` says otherwise.

    Args:
        scores: (N,) in [0, 1]; the risk of a sample is 1 - score.
        confidence: (N,) higher is surer; -inf = not answered. No NaN.

    Raises:
        EvaluationError: no samples, other shapes, scores outside [0, 1], or NaN.
    """

    def __init__(self, scores: ArrayLike, confidence: ArrayLike) -> None:
        values, sure = np.asarray(scores, dtype=np.float64), np.asarray(confidence, dtype=np.float64)
        if values.ndim != 1 or values.shape != sure.shape or len(values) == 0:
            raise EvaluationError(f"expected a score and a confidence each, got shapes {values.shape} and {sure.shape}")
        if not ((values >= 0) & (values <= 1)).all() or np.isnan(sure).any():
            raise EvaluationError("selective prediction needs scores in [0, 1] and confidences that are not NaN")
        self._order = np.argsort(-sure, kind="stable")
        self._scores, self.confidence = values[self._order], sure[self._order]
        self._wrong = (self._scores == 0).astype(np.float64)
        # A cut is the end of a run of equal confidences; the last, of what was not answered, is none.
        ends = np.flatnonzero(np.append(self.confidence[1:] != self.confidence[:-1], True))
        self._cuts = ends[self.confidence[ends] > -np.inf]
        self._starts = np.concatenate([[0], ends[:-1] + 1])
        self._runs = np.repeat(np.arange(len(ends)), np.diff(np.append(self._starts, len(values))))
        self.weigh(None)

    def weigh(self, weights: Float | None) -> RiskCoverage:
        """This curve with `weights` (N,) >= 0 for the samples, in the order they were given in; None = 1 each."""
        self._weights = np.ones(len(self._scores)) if weights is None else weights[self._order]
        self._covered = np.cumsum(self._weights)
        self._gained = np.cumsum(self._weights * self._scores)
        self._failed = np.cumsum(self._weights * self._wrong)
        return self

    def coverage_at_risk(self, risk: float) -> float:
        """The largest share of samples that one threshold answers with a mean risk of at most `risk`; 0 if none."""
        covered = self._covered[self._cuts]
        allowed = np.flatnonzero(covered - self._gained[self._cuts] <= risk * covered + 1e-9)
        return float(covered[allowed[-1]] / self._covered[-1]) if len(allowed) else 0.0

    def area(self) -> float:
        """The mean risk over all coverages 1/N..1 (AURC), with equal confidences in random order; lower is better."""
        errors = self._covered - self._gained
        if len(self._starts) < len(self._scores):
            lost = np.add.reduceat(self._weights * (1 - self._scores), self._starts)
            held = np.add.reduceat(self._weights, self._starts)
            errors = np.cumsum(self._weights * (lost / np.maximum(held, 1e-300))[self._runs])
        risks = errors / np.maximum(self._covered, 1e-300)
        return float((self._weights * risks).sum() / self._covered[-1])

    def effective_reliability(self, cost: float, threshold: float) -> float:
        """Mean of: the score of an answer that is at least partly right, -`cost` for a wrong one, 0 for an abstention.

        Answered is what has a confidence of at least `threshold`. In [-cost, 1].
        """
        answered = int(np.searchsorted(-self.confidence, -threshold, side="right"))
        if answered == 0:
            return 0.0
        return float((self._gained[answered - 1] - cost * self._failed[answered - 1]) / self._covered[-1])

    def best_reliability(self, cost: float) -> float:
        """`effective_reliability` at the threshold that is best on these very samples: an upper bound, at least 0."""
        gains = self._gained[self._cuts] - cost * self._failed[self._cuts]
        return max(0.0, float(gains.max(initial=0.0) / self._covered[-1]))


def selective_results(
    scores: ArrayLike,
    confidence: ArrayLike,
    *,
    clusters: Clusters,
    seed: int,
    num_bootstrap: int,
    risks: Sequence[float] = RISKS,
    costs: Sequence[int] = COSTS,
) -> list[MetricResult]:
    """Coverage at each risk, AURC and effective reliability, with 95 % bootstrap intervals over clusters.

    The threshold of ``effective_reliability_cC`` is ``C / (1 + C)``: where the confidence is the probability of being
    right, answering then gains more than it costs. It is reported for confidences in [0, 1] only; ``/best`` is the
    best threshold in hindsight. Whitehead et al. choose the threshold on a validation set, which lies between.
    """
    curve = RiskCoverage(scores, confidence)
    answered = np.isfinite(curve.confidence)
    probable = bool(((curve.confidence[answered] >= 0) & (curve.confidence[answered] <= 1)).all())
    names = [f"coverage_at_risk_{100 * risk:g}" for risk in risks] + ["aurc"]
    names += [f"effective_reliability_c{cost}" for cost in costs] if probable else []
    names += [f"effective_reliability_c{cost}/best" for cost in costs]

    def values(weights: Float | None) -> list[float]:
        curve.weigh(weights)
        found = [curve.coverage_at_risk(risk) for risk in risks] + [curve.area()]
        if probable:
            found += [curve.effective_reliability(cost, cost / (1 + cost)) for cost in costs]
        return found + [curve.best_reliability(cost) for cost in costs]

    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    num_clusters = int(codes.max()) + 1
    low_high: NDArray[np.float64] | None = None
    if num_clusters > 1:
        rng = np.random.default_rng(seed)
        draws = np.empty((num_bootstrap, len(names)))
        for row in range(num_bootstrap):
            drawn = np.bincount(rng.integers(0, num_clusters, num_clusters), minlength=num_clusters)
            draws[row] = values(drawn[codes].astype(np.float64))
        low_high = np.quantile(draws, [0.025, 0.975], axis=0)
    return [
        MetricResult(
            name=name,
            value=value,
            num_samples=len(codes),
            # A percentile interval of a maximum may miss the value itself; it is widened to hold it.
            ci_low=None if low_high is None else min(value, float(low_high[0, place])),
            ci_high=None if low_high is None else max(value, float(low_high[1, place])),
            higher_is_better=name != "aurc",
        )
        for place, (name, value) in enumerate(zip(names, values(None), strict=True))
    ]
