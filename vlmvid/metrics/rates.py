"""The mean of per-sample scores as benchmarks report it, and the paired comparison of two models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Clusters, bootstrap_interval, clustered_stderr, proportion_interval
from vlmvid.types import MetricResult

_EXACT_FLIPS = 12  # pairs of clusters that differ; up to here all 2^n sign flips are counted
_MAX_DRAWS = 1 << 22  # signs held at once


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Model a minus model b on the same samples.

    Attributes:
        difference: mean of a minus mean of b.
        ci_low: lower end of its 95 % bootstrap interval over clusters; None where it is not defined.
        ci_high: upper end.
        permutation_p: two-sided p of the sign-flip permutation test over clusters.
        mcnemar_p: two-sided exact McNemar p, None unless all scores are 0 or 1. It takes samples for independent.
        only_first: samples that a alone got right (more than b).
        only_second: samples that b alone got right.
        num_samples: N.
    """

    difference: float
    ci_low: float | None
    ci_high: float | None
    permutation_p: float
    mcnemar_p: float | None
    only_first: int
    only_second: int
    num_samples: int


def rate_result(
    name: str,
    values: ArrayLike,
    *,
    clusters: Clusters | None = None,
    bounded: bool = True,
    seed: int,
    num_bootstrap: int,
    higher_is_better: bool = True,
) -> MetricResult:
    """The mean of `values` (N,) with its clustered standard error and 95 % percentile bootstrap over clusters.

    A bootstrap of equal values has no width, which would be false certainty at 0 and at 1: scores that are `bounded`
    to [0, 1] and all 0 or all 1 get Wilson's interval, each cluster counted once. Elsewhere equal values, or a single
    cluster, have no interval.

    Raises:
        EvaluationError: no values, or some that are not finite.
    """
    samples = np.asarray(values, dtype=np.float64)
    interval = bootstrap_interval(samples, clusters=clusters, num_bootstrap=num_bootstrap, seed=seed)
    constant = bool((samples == samples[0]).all())
    if interval is None and bounded and constant and samples[0] in (0.0, 1.0):
        interval = proportion_interval(samples, clusters)
    return MetricResult(
        name=name,
        value=float(samples.mean()),
        num_samples=len(samples),
        stderr=None if constant else clustered_stderr(samples, clusters),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        higher_is_better=higher_is_better,
    )


def paired_comparison(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int,
    num_bootstrap: int = 1000,
    num_permutations: int = 10_000,
) -> PairedComparison:
    """Compare the scores (N,) of two models on the same samples.

    The permutation test flips the sign of a whole cluster's summed difference: exactly, over all flips, for up to
    twelve clusters that differ; else from `num_permutations` seeded draws with the observed one added.

    Raises:
        EvaluationError: other shapes, no samples, or values that are not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise EvaluationError(f"expected two scores for each of the same samples, got shapes {a.shape} and {b.shape}")
    difference = a - b
    interval = bootstrap_interval(difference, clusters=clusters, num_bootstrap=num_bootstrap, seed=seed)
    binary = bool((((a == 0) | (a == 1)) & ((b == 0) | (b == 1))).all())
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    return PairedComparison(
        difference=float(difference.mean()),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        permutation_p=_sign_flip_p(_cluster_sums(difference, clusters), num_permutations, seed),
        mcnemar_p=mcnemar_p(only_first, only_second) if binary else None,
        only_first=only_first,
        only_second=only_second,
        num_samples=len(a),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test (1947): as many or fewer of the smaller count among fair coin flips."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    log_half = discordant * math.log(2)
    log_masses = (
        math.lgamma(discordant + 1) - math.lgamma(k + 1) - math.lgamma(discordant - k + 1) - log_half
        for k in range(min(only_first, only_second) + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(mass) for mass in log_masses))


def _cluster_sums(difference: NDArray[np.float64], clusters: Clusters | None) -> NDArray[np.float64]:
    if clusters is None:
        return difference
    codes = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return np.bincount(codes, weights=difference).astype(np.float64)


def _sign_flip_p(sums: NDArray[np.float64], num_permutations: int, seed: int) -> float:
    moving = sums[sums != 0]
    if len(moving) == 0:
        return 1.0
    # Sums of the same numbers in another order differ in the last bits; they count as equal.
    observed = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    if len(moving) <= _EXACT_FLIPS:
        flips = (np.arange(1 << len(moving))[:, None] >> np.arange(len(moving))) & 1
        return float((np.abs((1 - 2 * flips) @ moving) >= observed).mean())
    rng = np.random.default_rng(seed)
    step = max(1, _MAX_DRAWS // len(moving))
    extreme = 0
    for start in range(0, num_permutations, step):
        size = (min(step, num_permutations - start), len(moving))
        signs = 1 - 2 * rng.integers(0, 2, size, dtype=np.int8).astype(np.float64)
        extreme += int((np.abs(signs @ moving) >= observed).sum())
    return (extreme + 1) / (num_permutations + 1)
