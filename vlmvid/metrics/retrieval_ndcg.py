"""nDCG of queries with one or several relevant items, in tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.metrics.retrieval import Ties, at_least_one, known_ties
from vlmvid.metrics.retrieval_counts import RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import Index, Scores
from vlmvid.metrics.retrieval_tiles import count_levels


def ndcg_at_k(
    scores: Scores, relevance: Relevance, counts: RankCounts, k: int, ties: Ties = "pessimistic"
) -> NDArray[np.float64]:
    """nDCG@k of every query with binary relevance, (Q,) in [0, 1]; 0 for rows without a relevant item.

    Gain 1 / log2(1 + place) of each relevant item among the first k, over that of the best order (Jarvelin and
    Kekalainen 2002). With one relevant item per query it follows from `counts`; else the places of the further
    relevant items of queries with a hit are counted in a second pass. ``expected`` averages over the orders of ties.

    Args:
        scores: (Q, G), the source of `counts`.
        relevance: pairs of (row, column).
        counts: of the rows.
        k: length of the list.
        ties: as in `rank_of`.
    """
    at_least_one(k)
    total = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])  # gain of the first n places
    values = scores.pairs(relevance.queries, relevance.items)
    order = np.lexsort((-values, relevance.queries))
    blocks = _Blocks(relevance.queries[order], relevance.items[order], values[order])
    # All items before each block of equal relevant ones, and the irrelevant ones that tie with it.
    better, tied = np.full(len(blocks.start), k), np.zeros(len(blocks.start), dtype=np.int64)
    best = blocks.level == 0
    better[best], tied[best] = counts.better[blocks.query[best]], counts.tied_irrelevant[blocks.query[best]]
    reachable = counts.better[blocks.query] + blocks.before < k
    levels = [np.flatnonzero((blocks.level == level) & reachable) for level in range(1, k)]
    levels = [level for level in levels if len(level)]
    if levels:
        _count_further(scores, blocks, levels, better, tied)
    gain = np.bincount(blocks.query, _gains(blocks.size, better, tied, total, ties), minlength=len(counts.better))
    best_gain = total[np.minimum(counts.num_relevant, k)]
    return np.asarray(np.divide(gain, best_gain, out=np.zeros_like(gain), where=best_gain > 0))


class _Blocks:
    """Relevant items of one query with one similarity, by query and from the highest on.

    `before` are the query's relevant items with a higher similarity, `level` its blocks of them, `item` is one of it.
    """

    def __init__(self, queries: Index, items: Index, values: NDArray[np.floating[Any]]) -> None:
        other_query = np.diff(queries, prepend=-1) != 0
        other_value = np.ones(len(values), dtype=np.bool_)
        other_value[1:] = values[1:] != values[:-1]
        self.start = np.flatnonzero(other_query | other_value)
        self.size = np.diff(self.start, append=len(values))
        self.query, self.item = queries[self.start], items[self.start]
        first = np.flatnonzero(other_query)  # of each query, among the items
        mine = np.searchsorted(first, self.start, side="right") - 1
        self.before = self.start - first[mine]
        self.level = np.arange(len(self.start)) - np.searchsorted(self.start, first)[mine]


def _count_further(
    scores: Scores, blocks: _Blocks, levels: list[Index], better: NDArray[np.int64], tied: NDArray[np.int64]
) -> None:
    rows = np.unique(blocks.query[np.concatenate(levels)])
    shape = len(rows), scores.shape[1]
    wanted = [Relevance.of(np.searchsorted(rows, blocks.query[b]), blocks.item[b], *shape) for b in levels]
    for level, pairs, found in zip(levels, wanted, count_levels(scores.taken(rows), wanted), strict=True):
        better[level] = found.better[pairs.queries]
        # To the one item that was asked for, the others of its block count as irrelevant.
        tied[level] = found.tied_irrelevant[pairs.queries] - (blocks.size[level] - 1)


def _gains(
    relevant: NDArray[np.int64],
    better: NDArray[np.int64],
    tied: NDArray[np.int64],
    total: NDArray[np.float64],
    ties: Ties,
) -> NDArray[np.float64]:
    """Gain of each block of `relevant` items behind `better` ones, among `tied` irrelevant ones."""
    last = len(total) - 1
    averaged = known_ties(ties) == "expected"
    start = better + tied if ties == "pessimistic" else better
    size = relevant + tied if averaged else relevant
    gains = total[np.minimum(start + size, last)] - total[np.minimum(start, last)]
    return np.asarray(gains * relevant / size)
