"""The result of alignment probing: measures of encoders and pairs, and how they go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from vlmvid.evaluation.representation import RECALL
from vlmvid.metrics import correlation_result, has_high_leverage
from vlmvid.metrics.correlation import FEWEST, Method
from vlmvid.types import MetricResult

Modality = Literal["vision", "language"]
MODALITIES: tuple[Modality, ...] = ("vision", "language")
METHODS: tuple[Method, ...] = ("pearson", "spearman")
_NOT_CORRELATED = ("t2v_r_at_10", "v2t_r_at_10", RECALL)
FEWEST_RESAMPLED = 5  # of fewer, many resamples hold one or two things only, and r is then 1 or -1


@dataclass(frozen=True)
class ProbedEncoder:
    """One encoder and what its features say of labels.

    Attributes:
        name: as the probe names it.
        modality: vision or language.
        weights: what tells its weights from those of others; encoders that share them, as the depths of one network
            do, are resampled together.
        is_random: whether the weights were never trained.
        metrics: `label_metrics`.
    """

    name: str
    modality: Modality
    weights: str
    is_random: bool
    metrics: tuple[MetricResult, ...]


@dataclass(frozen=True)
class ProbedPair:
    """A vision and a language encoder: `retrieval_metrics` of trained linear heads, and `pair_metrics` without."""

    vision: str
    language: str
    metrics: tuple[MetricResult, ...]


@dataclass(frozen=True)
class ProbeFailure:
    """What could not be probed: the encoder or the pair, in which stage, and the error."""

    what: str
    stage: str
    error: str


@dataclass(frozen=True)
class Correlation:
    """How a measure and the mean R@10 go together over encoders.

    Attributes:
        modality: which encoders are the points.
        metric: the measure.
        subset: ``all`` encoders, or the ``trained`` ones.
        method: pearson or spearman.
        without_leverage: whether points of high leverage are left out.
        left_out: those points.
        points: the names of the encoders that remain.
        num_weights: networks that they come from.
        resampled: what the interval resamples: networks; encoders, where these come from fewer than five networks and
            the interval is therefore too narrow; nothing, where there are fewer than five encoders.
        result: the correlation; None where there is none, and `why_not` says why.
        why_not: empty where there is a result.
    """

    modality: Modality
    metric: str
    subset: Literal["all", "trained"]
    method: Method
    without_leverage: bool
    left_out: tuple[str, ...]
    points: tuple[str, ...]
    num_weights: int
    resampled: Literal["networks", "encoders", "nothing"]
    result: MetricResult | None
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        return {**vars(self), "result": self.result.to_json() if self.result else None}


@dataclass(frozen=True)
class Point:
    """One encoder in a scatter: its measures and its mean R@10 with the encoders of the other modality.

    `intervals` holds those of the measures that are not a mean over several pairs, by name, R@10 among them.
    """

    name: str
    weights: str
    is_random: bool
    values: dict[str, float]
    recall: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def points_of(
    modality: Modality, encoders: Sequence[ProbedEncoder], pairs: Sequence[ProbedPair], partners: Sequence[str]
) -> list[Point]:
    """The encoders of a modality that have been probed with all of `partners`.

    Measures of pairs, R@10 among them, are averaged over the partners.
    """
    points = []
    for encoder in encoders:
        own = {
            (pair.language if modality == "vision" else pair.vision): pair
            for pair in pairs
            if encoder.name == (pair.vision if modality == "vision" else pair.language)
        }
        if encoder.modality != modality or not partners or any(name not in own for name in partners):
            continue
        by_pair = [{m.name: m.value for m in own[name].metrics} for name in partners]
        shared = set.intersection(*(set(values) for values in by_pair))
        values = {metric.name: metric.value for metric in encoder.metrics}
        values |= {name: float(np.mean([v[name] for v in by_pair])) for name in by_pair[0] if name in shared}
        recall = values[RECALL]
        values = {name: v for name, v in values.items() if "/" not in name and name not in _NOT_CORRELATED}
        exact = [*encoder.metrics, *(own[partners[0]].metrics if len(partners) == 1 else ())]
        intervals = {m.name: (m.ci_low, m.ci_high) for m in exact if m.ci_low is not None and m.ci_high is not None}
        points.append(Point(encoder.name, encoder.weights, encoder.is_random, values, recall, intervals))
    return points


def correlate(modality: Modality, points: Sequence[Point], *, num_bootstrap: int, seed: int) -> list[Correlation]:
    """Every measure with the mean R@10: Pearson and Spearman, all and trained encoders, with and without leverage.

    The trained ones are listed only where some encoder is random. With fewer than three encoders there is no
    correlation, with fewer than five no interval.
    """
    subsets: list[tuple[Literal["all", "trained"], list[Point]]] = [("all", list(points))]
    if any(point.is_random for point in points):
        subsets.append(("trained", [point for point in points if not point.is_random]))
    names = list(dict.fromkeys(name for point in points for name in point.values))
    found = []
    for metric in names:
        for subset, chosen in subsets:
            known = [p for p in chosen if math.isfinite(p.values.get(metric, math.nan)) and math.isfinite(p.recall)]
            high = has_high_leverage([p.values[metric] for p in known]) if known else np.zeros(0, bool)
            outside = tuple(p.name for p, is_high in zip(known, high, strict=True) if is_high)
            for left_out in [(), outside] if outside else [()]:
                kept = [p for p in known if p.name not in left_out]
                for method in METHODS:
                    result, why_not, resampled = _correlation(metric, method, kept, num_bootstrap, seed)
                    found.append(
                        Correlation(
                            modality=modality,
                            metric=metric,
                            subset=subset,
                            method=method,
                            without_leverage=bool(left_out),
                            left_out=left_out,
                            points=tuple(p.name for p in kept),
                            num_weights=len({p.weights for p in kept}),
                            resampled=resampled,
                            result=result,
                            why_not=why_not,
                        )
                    )
    return found


def _correlation(
    metric: str, method: Method, points: Sequence[Point], num_bootstrap: int, seed: int
) -> tuple[MetricResult | None, str, Literal["networks", "encoders", "nothing"]]:
    if len(points) < FEWEST:
        return None, f"needs at least {FEWEST} encoders, has {len(points)}", "nothing"
    weights = [p.weights for p in points]
    by_network = len(set(weights)) >= FEWEST_RESAMPLED
    result = correlation_result(
        f"{method}_r",
        [p.values[metric] for p in points],
        [p.recall for p in points],
        method=method,
        clusters=weights if by_network else None,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )
    if math.isnan(result.value):
        return None, "one of the two does not vary", "nothing"
    if len(points) < FEWEST_RESAMPLED:
        return replace(result, ci_low=None, ci_high=None), "", "nothing"
    return result, "", "networks" if by_network else "encoders"
