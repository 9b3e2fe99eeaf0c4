"""Scores by group: worst group and gap with their intervals, and pairs that differ in the group only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.bias import Groups, group_gap
from vlmvid.metrics.bias_ranking import permuted_result
from vlmvid.metrics.rates import PairedComparison, paired_comparison
from vlmvid.metrics.stats import Clusters, bootstrap_interval, mean_result, newcombe_interval
from vlmvid.types import MetricResult


@dataclass(frozen=True, slots=True)
class GapSpec:
    """How groups are compared.

    Attributes:
        min_group: groups of fewer samples are reported, and are never the worst or the best.
        num_bootstrap: resamples of each interval, and permutations of the labels.
        seed: of both.
    """

    min_group: int = 1
    num_bootstrap: int = 1000
    seed: int = 0


def gap_results(
    name: str,
    values: ArrayLike,
    groups: Groups,
    slugs: Mapping[Any, str],
    spec: GapSpec,
    clusters: Clusters | None = None,
) -> list[MetricResult]:
    """``group_gap_NAME`` with its chance, ``worst_group_NAME`` and ``group_GROUP_NAME`` of each group.

    The gap's interval is that of the difference of the two groups that are best and worst here (Newcombe's for right
    and wrong answers, else a bootstrap over clusters), cut at 0: choosing them after the fact makes it too high, and
    ``/chance``, the gap when labels are permuted over the samples, says by how much. The gap and the worst group are
    left out where fewer than two groups have `min_group` samples; the others are always there.

    Args:
        name: of the score, e.g. ``accuracy``.
        values: (N,), higher is better; dtype bool for right and wrong.
        groups: (N,).
        slugs: each group as part of a metric name.
        spec: how groups are compared.
        clusters: (N,), samples that are not independent.
    """
    scores, labels = np.asarray(values), np.asarray(groups)
    cluster = None if clusters is None else np.asarray(clusters)
    metrics: list[MetricResult] = []

    def mean_of(metric: str, group: Any) -> MetricResult:
        rows = labels == group
        return mean_result(
            metric,
            scores[rows],
            clusters=None if cluster is None else cluster[rows],
            seed=spec.seed,
            num_bootstrap=spec.num_bootstrap,
        )

    if len(ranked_groups(labels, spec.min_group)) >= 2:
        gap = group_gap(scores, labels, min_group=spec.min_group)
        low, high = _gap_interval(scores, labels, (gap.best_group, gap.worst_group), cluster, spec) or (None, None)
        permuted = _permuted_gaps(scores.astype(np.float64), labels, spec)
        metrics = [
            MetricResult(
                name=f"group_gap_{name}",
                value=gap.gap,
                num_samples=len(scores),
                ci_low=None if low is None else max(0.0, low),
                ci_high=high,
                higher_is_better=False,
            ),
            permuted_result(f"group_gap_{name}", permuted, len(scores)),
            mean_of(f"worst_group_{name}", gap.worst_group),
        ]
    return metrics + [mean_of(f"group_{slugs[group]}_{name}", group) for group in np.unique(labels).tolist()]


def _permuted_gaps(scores: NDArray[np.float64], labels: NDArray[Any], spec: GapSpec) -> NDArray[np.float64]:
    """The gap (num_bootstrap,) of labels permuted over the samples, which keeps the sizes of the groups."""
    codes = np.unique(labels, return_inverse=True)[1]
    sizes = np.bincount(codes)
    ranked = sizes >= spec.min_group
    rng = np.random.default_rng(spec.seed)
    gaps = np.empty(spec.num_bootstrap)
    for index in range(spec.num_bootstrap):
        means = (np.bincount(codes, weights=rng.permutation(scores)) / sizes)[ranked]
        gaps[index] = means.max() - means.min()
    return gaps


def ranked_groups(groups: Groups, min_group: int) -> list[Any]:
    """The groups, sorted, of at least `min_group` samples."""
    names, sizes = np.unique(np.asarray(groups), return_counts=True)
    found: list[Any] = names[sizes >= min_group].tolist()
    return found


def _gap_interval(
    scores: NDArray[Any],
    labels: NDArray[Any],
    pair: tuple[Any, Any],
    clusters: NDArray[Any] | None,
    spec: GapSpec,
) -> tuple[float, float] | None:
    best, worst = (labels == group for group in pair)
    shared = clusters is not None and len(np.unique(clusters)) < len(clusters)
    if scores.dtype == np.bool_ and not shared:
        return newcombe_interval(
            (float(scores[best].sum()), float(best.sum())), (float(scores[worst].sum()), float(worst.sum()))
        )
    rows = best | worst
    table = np.stack([scores[rows].astype(np.float64), best[rows].astype(np.float64)], axis=1)

    def difference(drawn: NDArray[np.float64]) -> float:
        one = drawn[:, 1] == 1
        if one.all() or not one.any():
            return float("nan")
        return float(drawn[one, 0].mean() - drawn[~one, 0].mean())

    return bootstrap_interval(
        table,
        difference,
        clusters=None if clusters is None else clusters[rows],
        num_bootstrap=spec.num_bootstrap,
        seed=spec.seed,
    )


def pair_comparisons(
    values: ArrayLike, groups: Groups, pair_ids: Sequence[str | None], *, seed: int, num_bootstrap: int
) -> dict[tuple[Any, Any], PairedComparison]:
    """Pairs that share an id and differ in the group: (first, second) group, sorted -> first minus second.

    Samples without a pair id (None or empty) stand alone. Several samples of one group under one id are averaged. The
    permutation test flips whole pairs; see `paired_comparison`.

    Raises:
        EvaluationError: other lengths, or no id that joins two groups.
    """
    scores, labels = np.asarray(values, dtype=np.float64), np.asarray(groups).tolist()
    if not len(scores) == len(labels) == len(pair_ids):
        raise EvaluationError(
            f"expected as many values, groups and pair ids: {len(scores)}, {len(labels)}, {len(pair_ids)}"
        )
    found: dict[str, dict[Any, list[float]]] = {}
    for value, group, pair in zip(scores.tolist(), labels, pair_ids, strict=True):
        if pair:
            found.setdefault(pair, {}).setdefault(group, []).append(value)
    sides: dict[tuple[Any, Any], list[tuple[float, float]]] = {}
    for _, by_group in sorted(found.items()):
        means = {group: float(np.mean(by_group[group])) for group in sorted(by_group)}
        for place, first in enumerate(means):
            for second in list(means)[place + 1 :]:
                sides.setdefault((first, second), []).append((means[first], means[second]))
    if not sides:
        raise EvaluationError(
            f"none of the {len(found)} pair ids joins two groups; give one id to clips that differ in the group"
        )
    return {
        key: paired_comparison(
            [pair[0] for pair in pairs], [pair[1] for pair in pairs], seed=seed, num_bootstrap=num_bootstrap
        )
        for key, pairs in sorted(sides.items())
    }


def pair_results(
    name: str, compared: Mapping[tuple[Any, Any], PairedComparison], slugs: Mapping[Any, str]
) -> list[MetricResult]:
    """``pair_FIRST_minus_SECOND_NAME`` and its ``/permutation_p`` for each pair of groups; 0 is the best difference."""
    metrics = []
    for (first, second), found in compared.items():
        metrics += difference_results(f"pair_{slugs[first]}_minus_{slugs[second]}_{name}", found)
    return metrics


def difference_results(name: str, found: PairedComparison) -> list[MetricResult]:
    """A paired difference, of which 0 is the best value, and its ``/permutation_p``."""
    return [
        MetricResult(
            name=name,
            value=found.difference,
            num_samples=found.num_samples,
            ci_low=found.ci_low,
            ci_high=found.ci_high,
            higher_is_better=False,
        ),
        MetricResult(name=f"{name}/permutation_p", value=found.permutation_p, num_samples=found.num_samples),
    ]
