"""Correlation of two numbers over few things, with what is needed not to be fooled by one of them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Clusters, statistic_result
from vlmvid.types import MetricResult

Method = Literal["pearson", "spearman"]
FEWEST = 3  # with two things every correlation is 1 or -1


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's r of `x` (N,) and `y` (N,), in [-1, 1]; NaN when either is constant or N < 2."""
    first, second = _pair(x, y)
    # Equal values need not have their mean exactly; their differences from it would then pass as spread.
    if len(first) < 2 or (first == first[0]).all() or (second == second[0]).all():
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    # Of unit scale, so that squares of tiny values do not vanish.
    first, second = first / np.abs(first).max(), second / np.abs(second).max()
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's r: Pearson's of the ranks, tied values share their mean rank; NaN when either is constant."""
    first, second = _pair(x, y)
    return pearson(average_ranks(first), average_ranks(second))


def average_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """1-based ranks (N,), smallest first; equal values share the mean of their ranks."""
    _, codes, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    answer: NDArray[np.float64] = (ends - (counts - 1) / 2)[codes]
    return answer


def leverage(x: ArrayLike) -> NDArray[np.float64]:
    """Hat values (N,) of a straight line over `x` (N,): ``1/N + (x - mean)^2 / sum (x - mean)^2``.

    In [1/N, 1], their sum is 2: how far each point pulls the line towards itself whatever its own y.
    """
    values, _ = _pair(x, x)
    apart = values - values.mean()
    spread = float(apart @ apart)
    share = apart**2 / spread if spread > 0 else np.zeros_like(apart)
    answer: NDArray[np.float64] = 1 / len(values) + share
    return answer


def has_high_leverage(x: ArrayLike) -> NDArray[np.bool_]:
    """Which points (N,) have more than twice the mean hat value, 4/N (Hoaglin and Welsch 1978)."""
    hat = leverage(x)
    answer: NDArray[np.bool_] = hat > 4 / len(hat)
    return answer


def correlation_result(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Method,
    clusters: Clusters | None = None,
    num_bootstrap: int,
    seed: int,
) -> MetricResult:
    """The correlation of `x` (N,) and `y` (N,) with its 95 % percentile bootstrap interval over whole clusters.

    The interval is None where resampling says nothing (see `bootstrap_interval`), the value NaN where one of the two
    is constant.

    Raises:
        EvaluationError: N < 3, other lengths, values that are not finite.
    """
    first, second = _pair(x, y)
    if len(first) < FEWEST:
        raise EvaluationError(f"a correlation needs at least {FEWEST} points, got {len(first)}")
    measure = {"pearson": pearson, "spearman": spearman}[method]
    return statistic_result(
        name,
        np.stack([first, second], axis=1),
        lambda pairs: measure(pairs[:, 0], pairs[:, 1]),
        clusters=clusters,
        num_bootstrap=num_bootstrap,
        seed=seed,
    )


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise EvaluationError(f"expected two arrays of the same length (N,), got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EvaluationError("a correlation takes finite values only; leave undefined points out and count them")
    return first, second
