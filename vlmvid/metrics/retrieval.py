"""Ranks and recall of a similarity matrix, with ties decided on purpose.

Rows are queries (Q), columns the gallery (G). A rank is 1-based: 1 is the best place. A query may
have several relevant items; its rank is that of the best-placed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError

Ties = Literal["pessimistic", "expected", "optimistic"]
Relevant = NDArray[np.integer[Any]] | Sequence[int] | Sequence[Sequence[int] | NDArray[np.integer[Any]]]


def ranks(similarity: ArrayLike, relevant: Relevant, ties: Ties = "pessimistic") -> NDArray[np.float64]:
    """1-based rank of the best-placed relevant item of each query.

    Args:
        similarity: (Q, G), higher is nearer; infinities are allowed, NaN is not.
        relevant: int (Q,), the one relevant column of each query, or one non-empty list of columns
            per query.
        ties: what an irrelevant item with the same similarity does. ``pessimistic`` places it
            before the relevant item, so that a constant model ranks last; ``optimistic`` after it;
            ``expected`` gives the mean place over all orders of the tied items,
            ``better + (m + r + 1) / (r + 1)`` for m irrelevant and r relevant tied items. With r = 1
            this is the "averaging" of collaborative-experts: a two-way tie at the top has rank 1.5
            and is no hit at 1.

    Returns:
        float64 (Q,), between 1 and G.

    Raises:
        EvaluationError: NaN, wrong shapes, or a column outside the gallery.
    """
    if ties not in ("pessimistic", "expected", "optimistic"):
        raise EvaluationError(f"unknown tie rule {ties!r}; known: pessimistic, expected, optimistic")
    better, tied_irrelevant, tied_relevant = _compare(similarity, relevant)
    if ties == "optimistic":
        return better + 1.0
    if ties == "pessimistic":
        return better + tied_irrelevant + 1.0
    return better + (tied_irrelevant + tied_relevant + 1.0) / (tied_relevant + 1.0)


def count_ties(similarity: ArrayLike, relevant: Relevant) -> int:
    """Queries whose best relevant item has exactly the similarity of an irrelevant one."""
    return int((_compare(similarity, relevant)[1] > 0).sum())


def recall_at_k(rank: ArrayLike, k: int) -> float:
    """R@k in [0, 1]: the share of queries with a rank (Q,) of at most k."""
    if k < 1:
        raise EvaluationError(f"k must be at least 1, got {k}")
    return float((_ranks(rank) <= k).mean())


def median_rank(rank: ArrayLike) -> float:
    """MdR: the median of the ranks (Q,); of an even number the mean of the middle two."""
    return float(np.median(_ranks(rank)))


def mean_rank(rank: ArrayLike) -> float:
    """MnR: the mean of the ranks (Q,)."""
    return float(_ranks(rank).mean())


def random_hit_probability(num_relevant: int, num_items: int, k: int) -> float:
    """Chance that a random order of `num_items` has one of `num_relevant` items in its first k."""
    if not 1 <= num_relevant <= num_items or k < 1:
        raise EvaluationError(
            f"expected 1 <= num_relevant <= num_items and k >= 1; got {num_relevant}, {num_items} and {k}"
        )
    miss = 1.0
    for drawn in range(min(k, num_items)):
        miss *= max(0, num_items - num_relevant - drawn) / (num_items - drawn)
    return 1.0 - miss


def _ranks(rank: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(rank, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not (values >= 1).all():
        raise EvaluationError(f"expected 1-based ranks of shape (Q,) with Q >= 1, got shape {values.shape}")
    return values


def _compare(
    similarity: ArrayLike, relevant: Relevant
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per query: columns above the best relevant one, irrelevant and relevant columns equal to it."""
    scores = np.asarray(similarity)
    if scores.ndim != 2 or 0 in scores.shape:
        raise EvaluationError(f"expected a similarity matrix (Q, G) with Q, G >= 1, got shape {scores.shape}")
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).any(axis=1))
        raise EvaluationError(
            f"the similarity of {len(rows)} of {len(scores)} queries holds NaN, first in row {rows[0]}; "
            "check the embeddings that made it"
        )
    mask = _relevance_mask(relevant, scores.shape)
    best = np.where(mask, scores, -np.inf).max(axis=1, keepdims=True)
    equal = scores == best
    better, tied_irrelevant, tied_relevant = (
        np.count_nonzero(hits, axis=1).astype(np.float64) for hits in (scores > best, equal & ~mask, equal & mask)
    )
    return better, tied_irrelevant, tied_relevant


def _relevance_mask(relevant: Relevant, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if len(relevant) != shape[0]:
        raise EvaluationError(f"expected relevant items for {shape[0]} queries, got {len(relevant)}")
    per_query = [np.atleast_1d(np.asarray(items)) for items in relevant]
    empty = [row for row, items in enumerate(per_query) if items.size == 0]
    if empty:
        raise EvaluationError(f"{len(empty)} queries have no relevant item, first row {empty[0]}; leave them out")
    columns = np.concatenate(per_query)
    if not np.issubdtype(columns.dtype, np.integer) or columns.min() < 0 or columns.max() >= shape[1]:
        raise EvaluationError(f"relevant items must be columns 0..{shape[1] - 1}, got {columns.min()}..{columns.max()}")
    mask = np.zeros(shape, dtype=np.bool_)
    mask[np.repeat(np.arange(shape[0]), [items.size for items in per_query]), columns] = True
    return mask
