"""Means with intervals that can be trusted.

Three situations need three intervals:

* boolean values (a proportion): Wilson's score interval. It stays inside [0, 1] and keeps a width at 0 and 1, where
  a bootstrap of equal values has none. Samples that share a cluster (captions of one video, the
  two clips of a pair) count less than independent ones: Wilson is then taken at the effective
  sample size ``n / design_effect`` ("modified Wilson", Franco et al. 2019, J. Surv. Stat.
  Methodol. 7(3)). The design effect is never taken below 1, so that a model whose errors
  cancel inside every cluster does not get a width of zero; when all values are equal it cannot
  be estimated and every cluster counts as one sample.
* numbers: percentile bootstrap over clusters.
* numbers that are all equal, or of a single cluster: the sample says nothing about the spread, and
  the interval is None.

The dtype decides, not the values: ranks that are all 1 are not a proportion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.types import MetricResult

Z_95 = 1.959963984540054
_EXACT_UP_TO = 2000  # samples; beyond it a sum of Bernoulli draws is normal for every practical purpose

Interval = tuple[float, float]
Statistic = Callable[[NDArray[np.float64]], float]
Clusters = Sequence[str] | Sequence[int] | NDArray[Any]


def wilson_interval(num_successes: float, num_samples: float) -> Interval:
    """Wilson's 95 % score interval of a proportion.

    Both counts may be fractional, which an effective sample size makes them.

    Raises:
        EvaluationError: `num_samples` is not positive or `num_successes` lies outside [0, num_samples].
    """
    if not num_samples > 0 or not 0 <= num_successes <= num_samples:
        raise EvaluationError(
            f"a proportion needs 0 <= num_successes <= num_samples and num_samples > 0; "
            f"got {num_successes} of {num_samples}"
        )
    share, z2 = num_successes / num_samples, Z_95**2
    centre = share + z2 / (2 * num_samples)
    margin = Z_95 * math.sqrt(share * (1 - share) / num_samples + z2 / (4 * num_samples**2))
    scale = 1 + z2 / num_samples
    # The bounds at 0 and n are exact; rounding must not push them past the estimate.
    low = 0.0 if num_successes == 0 else max(0.0, (centre - margin) / scale)
    high = 1.0 if num_successes == num_samples else min(1.0, (centre + margin) / scale)
    return low, high


def newcombe_interval(first: tuple[float, float], second: tuple[float, float]) -> Interval:
    """95 % interval of the difference of two independent proportions, ``first - second``.

    Each argument is (num_successes, num_samples). Newcombe's hybrid score method (1998, Stat. Med.
    17, method 10); inside [-1, 1].
    """
    (low_1, high_1), (low_2, high_2) = wilson_interval(*first), wilson_interval(*second)
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    difference = share_1 - share_2
    low = difference - math.hypot(share_1 - low_1, high_2 - share_2)
    high = difference + math.hypot(high_1 - share_1, share_2 - low_2)
    return max(-1.0, low), min(1.0, high)


def clustered_stderr(values: ArrayLike, clusters: Clusters | None = None) -> float | None:
    """Standard error of the mean of `values` (N,) when samples of one cluster are not independent.

    ``sqrt(G / (G - 1) * sum_g (sum_{i in g} (x_i - mean))^2) / N`` over G clusters; with one sample
    per cluster (or `clusters=None`) it is the usual ``s / sqrt(N)``. None with fewer than two clusters.
    """
    samples = _finite(values)
    codes, num_clusters = _cluster_codes(clusters, len(samples))
    if num_clusters < 2:
        return None
    sums = np.bincount(codes, weights=samples - samples.mean(), minlength=num_clusters)
    return float(np.sqrt(num_clusters / (num_clusters - 1) * np.square(sums).sum()) / len(samples))


def proportion_interval(values: ArrayLike, clusters: Clusters | None = None) -> Interval:
    """95 % interval of the mean of 0/1 `values` (N,): Wilson at the effective sample size.

    See the module's text for the effective sample size.
    """
    samples = _finite(values)
    if not ((samples == 0) | (samples == 1)).all():
        raise EvaluationError("proportion_interval needs values that are all 0 or 1; use bootstrap_interval otherwise")
    effective = len(samples) / _design_effect(samples, clusters)
    return wilson_interval(float(samples.mean()) * effective, effective)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic | None = None,
    *,
    clusters: Clusters | None = None,
    num_bootstrap: int,
    seed: int,
) -> Interval | None:
    """95 % percentile interval of `statistic` under resampling of whole clusters.

    Args:
        values: (N,) or (N, C), one row per sample, finite.
        statistic: maps a resampled array of the same kind to a number; None means the mean of (N,).
            Resamples on which it is NaN are left out.
        clusters: (N,) labels; None makes every sample its own cluster.
        num_bootstrap: resamples drawn.
        seed: of the resampling; equal seeds give equal intervals.

    Returns:
        (low, high), or None where resampling says nothing: fewer than two clusters, all rows equal,
        or a statistic that is undefined on half of the resamples or more.
    """
    samples = _finite(values, max_ndim=2)
    if num_bootstrap < 1:
        raise EvaluationError(f"num_bootstrap must be at least 1, got {num_bootstrap}")
    codes, num_clusters = _cluster_codes(clusters, len(samples))
    if num_clusters < 2 or bool((samples == samples[0]).all()):
        return None
    rng = np.random.default_rng(seed)
    if statistic is None:
        replicates = _bootstrap_means(samples, codes, num_clusters, num_bootstrap, rng)
    else:
        replicates = _bootstrap_statistics(samples, codes, statistic, num_bootstrap, rng)
    defined = replicates[~np.isnan(replicates)]
    if 2 * len(defined) <= num_bootstrap:
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def jackknife_interval(
    num_samples: int, statistic: Callable[[NDArray[np.intp]], float], *, num_groups: int = 20, seed: int
) -> Interval | None:
    """95 % interval of a statistic that compares samples with one another, by the delete-a-group jackknife.

    Nearest neighbours, kernels and tables of groups take a sample that a bootstrap draws twice for two alike ones, and
    are too high on every resample; leaving samples out has no such effect.

    Args:
        num_samples: N.
        statistic: maps the indices of the samples that are kept to a number.
        num_groups: at most N; each is left out once.
        seed: of the division into groups.

    Returns:
        The statistic of all samples plus and minus 1.96 standard errors; None with fewer than two groups, or where
        the statistic is undefined (NaN) on some of them.
    """
    groups = min(num_groups, num_samples)
    if groups < 2:
        return None
    group_of = np.random.default_rng(seed).permutation(num_samples) % groups
    parts = np.array([statistic(np.flatnonzero(group_of != group)) for group in range(groups)])
    value = statistic(np.arange(num_samples))
    if np.isnan(value) or np.isnan(parts).any():
        return None
    spread = Z_95 * math.sqrt((groups - 1) / groups * float(((parts - parts.mean()) ** 2).sum()))
    return value - spread, value + spread


def mean_result(
    name: str,
    values: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int,
    num_bootstrap: int,
    higher_is_better: bool = True,
) -> MetricResult:
    """The mean of `values` (N,) with its standard error and 95 % interval.

    Values of dtype bool are a proportion and get `proportion_interval`; numbers get
    `bootstrap_interval`. The standard error of a proportion is at least that of independent
    samples; it is None when all values are equal.

    Raises:
        EvaluationError: `values` is empty or not finite.
    """
    samples = _finite(values)
    stderr = clustered_stderr(samples, clusters)
    interval: Interval | None
    if np.asarray(values).dtype == np.bool_:
        interval = proportion_interval(samples, clusters)
        independent = clustered_stderr(samples)
        stderr = None if stderr is None or independent is None else max(stderr, independent)
    else:
        interval = bootstrap_interval(samples, clusters=clusters, num_bootstrap=num_bootstrap, seed=seed)
    constant = bool((samples == samples[0]).all())
    return MetricResult(
        name=name,
        value=float(samples.mean()),
        num_samples=len(samples),
        stderr=None if constant else stderr,
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        higher_is_better=higher_is_better,
    )


def statistic_result(
    name: str,
    values: ArrayLike,
    statistic: Statistic,
    *,
    clusters: Clusters | None = None,
    seed: int,
    num_bootstrap: int,
    higher_is_better: bool = True,
) -> MetricResult:
    """`statistic` of `values` (N,) or (N, C) with its bootstrap interval; no standard error."""
    samples = _finite(values, max_ndim=2)
    interval = bootstrap_interval(samples, statistic, clusters=clusters, num_bootstrap=num_bootstrap, seed=seed)
    return MetricResult(
        name=name,
        value=float(statistic(samples)),
        num_samples=len(samples),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
        higher_is_better=higher_is_better,
    )


def guess_interval(probabilities: ArrayLike) -> Interval:
    """Where the score of a guesser falls in 95 % of all runs.

    The score is the mean of N independent draws that hit with `probabilities` (N,). The 2.5 % and
    97.5 % quantiles are exact (Poisson-binomial) up to 2,000 samples and normal beyond.
    """
    chances = _finite(probabilities)
    if chances.min() < 0 or chances.max() > 1:
        raise EvaluationError(f"probabilities must lie in [0, 1]; got {chances.min()} to {chances.max()}")
    num_samples = len(chances)
    if num_samples > _EXACT_UP_TO:
        spread = Z_95 * math.sqrt(float((chances * (1 - chances)).sum())) / num_samples
        return max(0.0, float(chances.mean()) - spread), min(1.0, float(chances.mean()) + spread)
    mass = np.zeros(num_samples + 1)
    mass[0] = 1.0
    for chance in chances:
        mass[1:] = mass[1:] * (1 - chance) + mass[:-1] * chance
        mass[0] *= 1 - chance
    cumulative = np.cumsum(mass)
    low, high = np.searchsorted(cumulative, [0.025, 0.975])
    return float(low) / num_samples, min(float(high), num_samples) / num_samples


def chance_result(name: str, probabilities: ArrayLike, *, higher_is_better: bool = True) -> MetricResult:
    """The metric ``name/chance``: the expected score of a guesser, exact.

    `ci_low` and `ci_high` are `guess_interval`: a measured value inside them is what guessing gives.
    """
    chances = _finite(probabilities)
    low, high = guess_interval(chances)
    return MetricResult(
        name=f"{name}/chance",
        value=float(chances.mean()),
        num_samples=len(chances),
        ci_low=low,
        ci_high=high,
        higher_is_better=higher_is_better,
    )


def _finite(values: ArrayLike, max_ndim: int = 1) -> NDArray[np.float64]:
    samples = np.asarray(values, dtype=np.float64)
    if not 1 <= samples.ndim <= max_ndim or len(samples) == 0:
        raise EvaluationError(f"expected at least one sample in an array of up to {max_ndim} axes, got {samples.shape}")
    if not np.isfinite(samples).all():
        raise EvaluationError(
            f"{int((~np.isfinite(samples)).sum())} of {samples.size} values are NaN or infinite; "
            "leave undefined samples out and count them"
        )
    return samples


def _cluster_codes(clusters: Clusters | None, num_samples: int) -> tuple[NDArray[np.intp], int]:
    if clusters is None:
        return np.arange(num_samples), num_samples
    labels = np.asarray(clusters)
    if labels.shape != (num_samples,):
        raise EvaluationError(f"expected one cluster label for each of {num_samples} samples, got shape {labels.shape}")
    names, codes = np.unique(labels, return_inverse=True)
    return codes, len(names)


def _design_effect(samples: NDArray[np.float64], clusters: Clusters | None) -> float:
    num_samples = len(samples)
    num_clusters = _cluster_codes(clusters, num_samples)[1]
    clustered, independent = clustered_stderr(samples, clusters), clustered_stderr(samples)
    if not clustered and not independent or clustered is None or independent is None:
        return num_samples / num_clusters
    return min(max(1.0, (clustered / independent) ** 2), float(num_samples))


def _bootstrap_means(
    samples: NDArray[np.float64],
    codes: NDArray[np.intp],
    num_clusters: int,
    num_bootstrap: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    if samples.ndim != 1:
        raise EvaluationError(f"the mean needs values of shape (N,), got {samples.shape}; pass a statistic")
    sums = np.bincount(codes, weights=samples, minlength=num_clusters)
    sizes = np.bincount(codes, minlength=num_clusters)
    replicates = np.empty(num_bootstrap)
    even = bool((sizes == sizes[0]).all())
    for index in range(num_bootstrap):
        drawn = rng.integers(0, num_clusters, num_clusters)
        total = len(samples) if even else sizes[drawn].sum()
        replicates[index] = sums[drawn].sum() / total
    return replicates


def _bootstrap_statistics(
    samples: NDArray[np.float64],
    codes: NDArray[np.intp],
    statistic: Statistic,
    num_bootstrap: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    by_cluster = samples[np.argsort(codes, kind="stable")]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    replicates = np.empty(num_bootstrap)
    for index in range(num_bootstrap):
        drawn = rng.integers(0, len(sizes), len(sizes))
        lengths = sizes[drawn]
        ends = np.cumsum(lengths)
        rows = np.arange(ends[-1]) + np.repeat(starts[drawn] - (ends - lengths), lengths)
        replicates[index] = statistic(by_cluster[rows])
    return replicates
