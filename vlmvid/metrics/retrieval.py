"""Ranks and recall, with ties decided on purpose.

Rows are queries (Q), columns the gallery (G). A rank is 1-based: 1 is the best place. A query may
have several relevant items; its rank is that of the best-placed one. The counts that decide ranks come from
`vlmvid.metrics.retrieval_tiles`, tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.retrieval_counts import RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import MatrixScores
from vlmvid.metrics.retrieval_tiles import count_rows

Ties = Literal["pessimistic", "expected", "optimistic"]
TIES: tuple[Ties, ...] = ("pessimistic", "expected", "optimistic")
Relevant = NDArray[np.integer[Any]] | Sequence[int] | Sequence[Sequence[int] | NDArray[np.integer[Any]]]


def ranks(similarity: ArrayLike, relevant: Relevant, ties: Ties = "pessimistic") -> NDArray[np.float64]:
    """1-based rank of the best-placed relevant item of each query.

    Args:
        similarity: (Q, G), higher is nearer; infinities are allowed, NaN is not.
        relevant: int (Q,), the one relevant column of each query, or one non-empty list of columns
            per query.
        ties: what an irrelevant item with the same similarity does, as in `rank_of`.

    Returns:
        float64 (Q,), between 1 and G.

    Raises:
        EvaluationError: NaN, wrong shapes, or a column outside the gallery.
    """
    known_ties(ties)
    return rank_of(_counts(similarity, relevant), ties)


def count_ties(similarity: ArrayLike, relevant: Relevant) -> int:
    """Queries whose best relevant item has exactly the similarity of an irrelevant one."""
    return _counts(similarity, relevant).num_tied


def rank_of(counts: RankCounts, ties: Ties = "pessimistic") -> NDArray[np.float64]:
    """1-based ranks (Q,), between 1 and G.

    ``pessimistic`` places an irrelevant item with the same similarity before the relevant item, so that a constant
    model ranks last; ``optimistic`` after it; ``expected`` gives the mean place over all orders of the tied items,
    ``better + (m + r + 1) / (r + 1)`` for m irrelevant and r relevant tied items. With r = 1 this is the "averaging"
    of collaborative-experts: a two-way tie at the top has rank 1.5 and is no hit at 1.
    """
    before: dict[Ties, Any] = {
        "optimistic": 0,
        "pessimistic": counts.tied_irrelevant,
        "expected": (counts.tied_irrelevant + counts.tied_relevant + 1.0) / (counts.tied_relevant + 1.0) - 1.0,
    }
    return np.asarray(counts.better + before[known_ties(ties)] + 1.0, dtype=np.float64)


def hit_at_k(counts: RankCounts, k: int, ties: Ties = "pessimistic") -> NDArray[np.float64]:
    """Whether a relevant item is among the first k, (Q,) in [0, 1]; its mean is R@k.

    0 or 1 for ``pessimistic`` and ``optimistic``. ``expected`` is the probability over all orders of the tied items,
    a hypergeometric one: ``1 - C(m, t) / C(m + r, t)`` with t of the k places left to m irrelevant and r relevant
    tied items. It is not the share of `rank_of` <= k: of a two-way tie at the top half a hit at 1 is expected.
    """
    at_least_one(k)
    if known_ties(ties) != "expected":
        return np.asarray(rank_of(counts, ties) <= k, dtype=np.float64)
    return _drawn(counts.tied_irrelevant, counts.tied_relevant, k - counts.better, k)


def recall_at_k(rank: ArrayLike, k: int) -> float:
    """R@k in [0, 1]: the share of queries with a rank (Q,) of at most k."""
    at_least_one(k)
    return float((_ranks(rank) <= k).mean())


def median_rank(rank: ArrayLike) -> float:
    """MdR: the median of the ranks (Q,); of an even number the mean of the middle two."""
    return float(np.median(_ranks(rank)))


def mean_rank(rank: ArrayLike) -> float:
    """MnR: the mean of the ranks (Q,)."""
    return float(_ranks(rank).mean())


def geometric_mean(values: ArrayLike) -> float:
    """Geometric mean of rates; 0 when one is 0."""
    rates = np.asarray(values, dtype=np.float64)
    if rates.ndim != 1 or len(rates) == 0 or not (rates >= 0).all():
        raise EvaluationError(f"expected at least one rate that is not negative, got {rates}")
    return float(np.exp(np.log(rates).mean())) if (rates > 0).all() else 0.0


def random_hit_probability(num_relevant: int, num_items: int, k: int) -> float:
    """Chance that a random order of `num_items` has one of `num_relevant` items in its first k."""
    if not 1 <= num_relevant <= num_items or k < 1:
        raise EvaluationError(
            f"expected 1 <= num_relevant <= num_items and k >= 1; got {num_relevant}, {num_items} and {k}"
        )
    return float(_drawn(np.array([num_items - num_relevant]), np.array([num_relevant]), np.array([k]), k)[0])


def _drawn(
    irrelevant: NDArray[np.int64], relevant: NDArray[np.int64], places: NDArray[np.int64], most: int
) -> NDArray[np.float64]:
    """Probability of a relevant item among `places` drawn ones; no draw, no hit."""
    miss = np.ones(len(irrelevant))
    for drawn in range(most):
        left = np.maximum(irrelevant + relevant - drawn, 1)
        miss *= np.where(drawn < places, np.maximum(irrelevant - drawn, 0) / left, 1.0)
    return 1.0 - miss


def known_ties(ties: Ties) -> Ties:
    """`ties`; raises EvaluationError for another word."""
    if ties not in TIES:
        raise EvaluationError(f"unknown tie rule {ties!r}; known: {', '.join(TIES)}")
    return ties


def at_least_one(k: int) -> None:
    """Raise EvaluationError unless a list of `k` items has one."""
    if k < 1:
        raise EvaluationError(f"k must be at least 1, got {k}")


def _ranks(rank: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(rank, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not (values >= 1).all():
        raise EvaluationError(f"expected 1-based ranks of shape (Q,) with Q >= 1, got shape {values.shape}")
    return values


def _counts(similarity: ArrayLike, relevant: Relevant) -> RankCounts:
    scores = MatrixScores(np.asarray(similarity))
    num_queries, num_items = scores.shape
    if len(relevant) != num_queries:
        raise EvaluationError(f"expected relevant items for {num_queries} queries, got {len(relevant)}")
    per_query = [np.atleast_1d(np.asarray(items)) for items in relevant]
    sizes = [items.size for items in per_query]
    if 0 in sizes:
        raise EvaluationError(
            f"{sizes.count(0)} queries have no relevant item, first row {sizes.index(0)}; leave them out"
        )
    columns = np.concatenate(per_query)
    if not np.issubdtype(columns.dtype, np.integer) or columns.min() < 0 or columns.max() >= num_items:
        raise EvaluationError(
            f"relevant items must be columns 0..{num_items - 1}, got {columns.min()}..{columns.max()}"
        )
    return count_rows(scores, Relevance.of(np.repeat(np.arange(num_queries), sizes), columns, num_queries, num_items))
