"""The metrics of one direction of retrieval, from its counts; `tasks.retrieval` and the benchmarks share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vlmvid.metrics import chance_result, mean_result, random_hit_probability, rate_result, statistic_result
from vlmvid.metrics.retrieval import Ties, geometric_mean, hit_at_k, rank_of
from vlmvid.metrics.retrieval_counts import RankCounts
from vlmvid.types import MetricResult

RECALL_AT = (1, 5, 10)
NDCG_AT = 10


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn: see `vlmvid.metrics.bootstrap_interval`."""

    seed: int
    num_bootstrap: int


@dataclass(frozen=True, eq=False)
class Direction:
    """The queries of one direction.

    Attributes:
        prefix: ``t2v`` or ``v2t``.
        counts: of the queries (Q,), each with a relevant item.
        clusters: video_id of each query.
        ties: what an irrelevant item with the same similarity does.
        ndcg: nDCG@10 of each query, where asked for.
    """

    prefix: str
    counts: RankCounts
    clusters: Sequence[str]
    ties: Ties = "pessimistic"
    ndcg: NDArray[np.float64] | None = None

    @cached_property
    def codes(self) -> NDArray[np.intp]:
        """The clusters as numbers: texts would be sorted again for every metric."""
        return np.unique(np.asarray(self.clusters), return_inverse=True)[1]

    @cached_property
    def rank(self) -> NDArray[np.float64]:
        """1-based ranks (Q,)."""
        return rank_of(self.counts, self.ties)

    def hits(self, k: int) -> NDArray[np.float64]:
        """Hit of each query among the first k, in [0, 1]."""
        return hit_at_k(self.counts, k, self.ties)

    def recall(self, name: str, k: int, how: Resampling) -> MetricResult:
        """R@k with its interval."""
        hits = self.hits(k)
        if self.ties == "expected":
            return rate_result(name, hits, clusters=self.codes, seed=how.seed, num_bootstrap=how.num_bootstrap)
        return mean_result(
            name, hits.astype(np.bool_), clusters=self.codes, seed=how.seed, num_bootstrap=how.num_bootstrap
        )


def recall_metrics(side: Direction, how: Resampling) -> list[MetricResult]:
    """``PREFIX_r_at_K`` for K = 1, 5, 10, each with its chance."""
    metrics = []
    num_relevant, num_items = side.counts.num_relevant, side.counts.num_items
    for k in RECALL_AT:
        name = f"{side.prefix}_r_at_{k}"
        metrics.append(side.recall(name, k, how))
        by_count = {count: random_hit_probability(count, num_items, k) for count in set(num_relevant.tolist())}
        metrics.append(chance_result(name, [by_count[count] for count in num_relevant.tolist()]))
    return metrics


def rank_metrics(side: Direction, how: Resampling) -> list[MetricResult]:
    """``PREFIX_median_rank``, ``PREFIX_mean_rank`` and ``PREFIX_num_tied``."""
    rank = side.rank
    median = statistic_result(
        f"{side.prefix}_median_rank",
        rank,
        lambda values: float(np.median(values)),
        clusters=side.codes,
        seed=how.seed,
        num_bootstrap=how.num_bootstrap,
        higher_is_better=False,
    )
    mean = mean_result(
        f"{side.prefix}_mean_rank",
        rank,
        clusters=side.codes,
        seed=how.seed,
        num_bootstrap=how.num_bootstrap,
        higher_is_better=False,
    )
    tied = MetricResult(
        name=f"{side.prefix}_num_tied",
        value=float(side.counts.num_tied),
        num_samples=len(rank),
        higher_is_better=False,
    )
    return [median, mean, tied]


def summary_metrics(side: Direction, how: Resampling) -> list[MetricResult]:
    """``PREFIX_geometric_mean`` of the three recalls and, where there is one, ``PREFIX_ndcg_at_10``."""
    recalls = [float(side.hits(k).mean()) for k in RECALL_AT]
    metrics = [
        MetricResult(
            name=f"{side.prefix}_geometric_mean", value=geometric_mean(recalls), num_samples=len(side.counts.better)
        )
    ]
    if side.ndcg is not None:
        name = f"{side.prefix}_ndcg_at_{NDCG_AT}"
        metrics.append(
            rate_result(name, side.ndcg, clusters=side.codes, seed=how.seed, num_bootstrap=how.num_bootstrap)
        )
    return metrics


def recall_sum(sides: Sequence[Direction]) -> MetricResult:
    """``rsum``: the sum of all recalls of `sides`, between 0 and 3 for each."""
    total = sum(float(side.hits(k).mean()) for side in sides for k in RECALL_AT)
    return MetricResult(name="rsum", value=total, num_samples=sum(len(side.counts.better) for side in sides))
