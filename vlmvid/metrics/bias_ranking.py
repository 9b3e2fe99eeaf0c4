"""Group bias of many ranked lists at once, with intervals over queries and the range of an indifferent ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.bias import Reference, ZeroCount, reference_shares, skews_of_counts
from vlmvid.metrics.stats import mean_result
from vlmvid.types import MetricResult

_FEWEST = 100
_MAX_ENTRIES = 100_000_000  # queries x places x groups x permutations


@dataclass(frozen=True, slots=True)
class RankingSpec:
    """What is measured.

    Attributes:
        k: the cut.
        reference: shares that skew and NDKL compare with.
        zero_count: what a group absent from the first k counts as.
        eligible: groups that MaxSkew and MinSkew run over, which leave out groups too small to be ranked; None = all.
            With fewer than two they are not reported.
        compared: two groups for Bias@k, first minus second; None = not reported.
        label: ends the names of the skews, e.g. ``[zero=floor]``.
        num_bootstrap: resamples of each interval, and most permutations of the labels.
        seed: of both.
    """

    k: int
    reference: Reference = "dataset"
    zero_count: ZeroCount = "floor"
    eligible: Sequence[Any] | None = None
    compared: tuple[Any, Any] | None = None
    label: str = ""
    num_bootstrap: int = 1000
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RankingMeasures:
    """Measures of Q lists; G groups in the order of their sorted names.

    Attributes:
        counts: (Q, G), places of each group in the first k.
        skews: float64 (Q, G).
        ndkl: float64 (Q,), over all places.
        ndkl_at_k: float64 (Q,), over the first k.
    """

    counts: NDArray[np.intp]
    skews: NDArray[np.float64]
    ndkl: NDArray[np.float64]
    ndkl_at_k: NDArray[np.float64]


def measure_rankings(
    codes: NDArray[np.intp], shares: NDArray[np.float64], k: int, zero_count: ZeroCount = "floor"
) -> RankingMeasures:
    """Skew and NDKL of lists of group codes (Q, D), best place first, against `shares` (G,).

    The fast path of `skew_at_k` and `ndkl`.

    Raises:
        EvaluationError: k > D or an unknown rule.
    """
    if codes.ndim != 2 or not 1 <= k <= codes.shape[1]:
        raise EvaluationError(f"k must lie in 1..D of lists (Q, D); got k={k} and shape {codes.shape}")
    # p ln(p / q) with p = c / i is (c ln c - c ln q - c ln i) / i: a table over counts replaces the logarithms.
    places = np.arange(1, codes.shape[1] + 1)
    weights = 1 / np.log2(places + 1)
    number = np.arange(codes.shape[1] + 1)
    entropy = number * np.log(np.maximum(number, 1))
    counts = np.empty((len(codes), len(shares)), dtype=np.intp)
    divergence = np.zeros(codes.shape)
    for group, share in enumerate(shares):
        running = np.cumsum(codes == group, axis=1, dtype=np.int32)
        counts[:, group] = running[:, k - 1]
        divergence += np.take(entropy - number * np.log(share), running)
    divergence = divergence / places - np.log(places)
    return RankingMeasures(
        counts=counts,
        skews=skews_of_counts(counts, k, shares, zero_count),
        ndkl=divergence @ weights / weights.sum(),
        ndkl_at_k=divergence[:, :k] @ weights[:k] / weights[:k].sum(),
    )


def ranking_results(
    orders: NDArray[np.intp], groups: Sequence[str] | NDArray[Any], slugs: Sequence[str], spec: RankingSpec
) -> tuple[list[MetricResult], RankingMeasures]:
    """Means over queries of everything that `RankingMeasures` holds, each with its ``/chance``.

    Args:
        orders: (Q, D), for each query indices of the gallery, best first; D may be less than the gallery.
        groups: (N,), group of each item of the gallery.
        slugs: the sorted names of the groups as parts of metric names.
        spec: what is measured.

    Returns:
        ``max_skew_at_K``, ``ndkl``, ``skew_GROUP_at_K``, ``min_skew_at_K``, ``ndkl_at_K``, ``absent_groups_at_K`` (mean
        number of groups that the first k lack), ``count_GROUP_at_K``, and ``bias_at_K`` and ``abs_bias_at_K`` of two
        compared groups; then the measures. Intervals resample queries: they speak about other queries on the same
        gallery. ``/chance`` is the mean and the central 95 % range when labels are permuted over the gallery, which
        keeps the overlap of the queries; large galleries get fewer permutations, at least 100. MaxSkew, NDKL and the
        absolute bias exceed 0 by chance alone.
    """
    by_name = reference_shares(groups, spec.reference)
    names, shares = list(by_name), np.array(list(by_name.values()))
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[name] for name in np.asarray(groups).tolist()], dtype=np.intp)
    columns = _columns(slugs, spec)
    measured = measure_rankings(codes[orders], shares, spec.k, spec.zero_count)
    values = _table(measured, names, spec)
    rng = np.random.default_rng(spec.seed)
    permuted = np.stack(
        [
            _table(measure_rankings(rng.permutation(codes)[orders], shares, spec.k, spec.zero_count), names, spec).mean(
                axis=0
            )
            for _ in range(_num_permutations(orders.size * len(names), spec))
        ]
    )
    metrics: list[MetricResult] = []
    for column, name in enumerate(columns):
        better = more_is_fairer(name)
        metrics += [
            mean_result(
                name, values[:, column], seed=spec.seed, num_bootstrap=spec.num_bootstrap, higher_is_better=better
            ),
            permuted_result(name, permuted[:, column], len(orders), higher_is_better=better),
        ]
    return metrics, measured


def _num_permutations(size: int, spec: RankingSpec) -> int:
    return min(spec.num_bootstrap, max(_FEWEST, _MAX_ENTRIES // size))


def more_is_fairer(name: str) -> bool:
    """Whether a higher value of a ranking's measure is the better one: MinSkew is far below 0 where a group is absent.

    Signed skews and counts of single groups have no better side.
    """
    return name.startswith("min_skew")


def permuted_result(
    name: str, replicates: NDArray[np.float64], num_samples: int, *, higher_is_better: bool = False
) -> MetricResult:
    """``NAME/chance``: mean and central 95 % range of what permuted labels gave."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return MetricResult(
        name=f"{name}/chance",
        value=float(replicates.mean()),
        num_samples=num_samples,
        ci_low=float(low),
        ci_high=float(high),
        higher_is_better=higher_is_better,
    )


def _columns(slugs: Sequence[str], spec: RankingSpec) -> list[str]:
    at, extremes = f"at_{spec.k}", spec.eligible is None or len(spec.eligible) >= 2
    columns = [f"max_skew_{at}{spec.label}"] if extremes else []
    columns += ["ndkl", *(f"skew_{slug}_{at}{spec.label}" for slug in slugs)]
    columns += [f"min_skew_{at}{spec.label}"] if extremes else []
    columns += [f"ndkl_{at}", f"absent_groups_{at}", *(f"count_{slug}_{at}" for slug in slugs)]
    return [*columns, f"bias_{at}", f"abs_bias_{at}"] if spec.compared else columns


def _table(measured: RankingMeasures, names: Sequence[Any], spec: RankingSpec) -> NDArray[np.float64]:
    """Measures (Q, columns) in the order of `_columns`."""
    skews, counts = measured.skews, measured.counts
    among = skews if spec.eligible is None else skews[:, [name in spec.eligible for name in names]]
    extremes = spec.eligible is None or len(spec.eligible) >= 2
    columns = [among.max(axis=1)] if extremes else []
    columns += [measured.ndkl, *skews.T]
    columns += [among.min(axis=1)] if extremes else []
    columns += [measured.ndkl_at_k, (counts == 0).sum(axis=1), *counts.T]
    if spec.compared is not None:
        first, second = (counts[:, names.index(name)] for name in spec.compared)
        signed = (first - second) / np.maximum(1, first + second)
        columns += [signed, np.abs(signed)]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
