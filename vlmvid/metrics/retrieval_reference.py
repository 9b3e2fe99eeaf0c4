"""Retrieval metrics as released scripts compute them, from the same counts; rates in [0, 1].

What each does with ties, and where it departs from R@k as defined, is in its docstring. Positions are 0-based here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.retrieval import geometric_mean
from vlmvid.metrics.retrieval_counts import RankCounts

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class ReferenceMetrics:
    """One direction.

    Attributes:
        recall: k -> R@k in [0, 1].
        median_rank: 1-based.
        mean_rank: 1-based.
        num_entries: what recalls are divided by.
        recall_at_50: where the script gives it.
    """

    recall: dict[int, float]
    median_rank: float
    mean_rank: float
    num_entries: int
    recall_at_50: float | None = None

    @property
    def geometric_mean(self) -> float:
        """Of the recalls."""
        return geometric_mean(list(self.recall.values()))


def clip4clip(counts: RankCounts) -> ReferenceMetrics:
    """CLIP4Clip ``compute_metrics`` (metrics.py at 508ffa3de3): each place that ties with the own item is an entry.

    A query whose relevant item ties with m others adds m + 1 entries, its places one after the other, and recalls are
    divided by the number of entries, not of queries (acknowledged in the repository's issue 80). Queries whose own
    similarity is infinite have no entry, because the difference of two infinities is no zero.
    """
    kept = counts.taken(np.isfinite(counts.best))
    first, size = kept.better, kept.tied_irrelevant + kept.tied_relevant
    total = int(size.sum())
    if total == 0:
        raise EvaluationError("compat clip4clip divides by zero here: no query has a finite similarity of its own")
    starts = np.bincount(first, minlength=counts.num_items + 1)
    ends = np.bincount(first + size, minlength=counts.num_items + 1)
    entries = np.cumsum(starts - ends)[:-1]  # at each place
    upto = np.cumsum(entries)
    middle = [int(np.searchsorted(upto, place, side="right")) for place in ((total - 1) // 2, total // 2)]
    return ReferenceMetrics(
        {k: float(entries[:k].sum()) / total for k in RECALL_AT},
        sum(middle) / 2 + 1,
        float((entries * np.arange(len(entries))).sum()) / total + 1,
        total,
    )


def clip4clip_multi_caption(counts: RankCounts) -> ReferenceMetrics:
    """CLIP4Clip ``tensor_text_to_video_metrics``: one place per caption, and ``torch.median``, the lower middle.

    It sorts with an unstable argsort; here the earlier one of tied videos comes first. Captions whose own similarity
    is infinite are left out, as its padding is.
    """
    kept = counts.taken(np.isfinite(counts.best))
    if len(kept.better) == 0:
        raise EvaluationError("compat clip4clip divides by zero here: no query has a finite similarity of its own")
    place = kept.better + kept.tied_before
    return ReferenceMetrics(
        {k: float((place < k).mean()) for k in RECALL_AT},
        float(np.sort(place)[(len(place) - 1) // 2]) + 1,
        float(place.mean()) + 1,
        len(place),
    )


def averaging(counts: RankCounts) -> ReferenceMetrics:
    """collaborative-experts ``t2v_metrics`` and ``v2t_metrics`` with ``break_ties = "averaging"``.

    The place is the mean over all tied items, relevant ones too; that of a two-way tie at the top is 0.5, and
    ``cols == 0`` is then no hit at 1.
    """
    return _from_places(counts.better + (counts.tied_irrelevant + counts.tied_relevant - 1) / 2)


def optimistic(counts: RankCounts) -> ReferenceMetrics:
    """frozen-in-time ``t2v_metrics`` with ``break_ties = "optimistically"``: the first of the tied places."""
    return _from_places(counts.better.astype(np.float64))


def earlier_first(counts: RankCounts, k: int) -> tuple[float, int]:
    """CLIP_benchmark ``recall_at_k > 0`` of ``torch.topk``, and how many queries the order of ties decides.

    ``topk`` promises no order among ties; here the earlier item comes first.
    """
    hit = counts.better + counts.tied_before < k
    open_ = (counts.better < k) & (counts.better + counts.tied_irrelevant >= k)
    return float(hit.mean()), int(open_.sum())


def later_first(counts: RankCounts) -> tuple[ReferenceMetrics, int]:
    """ALBEF, BLIP and singularity ``itm_eval``: ``argsort(score)[::-1]``, the best of several relevant items.

    The sort is unstable; here it is taken as stable, so that reversed the later one of tied items comes first. The
    number is that of the queries which the order of ties decides at 1, 5 or 10.
    """
    hits = [(counts.better < k) & (counts.better + counts.tied_irrelevant >= k) for k in RECALL_AT]
    return _from_places((counts.better + counts.tied_after).astype(np.float64)), int(np.any(hits, axis=0).sum())


def _from_places(place: NDArray[np.float64]) -> ReferenceMetrics:
    recall = {k: float((place < k).mean()) for k in RECALL_AT}
    recall[1] = float((place == 0).mean())
    at_50 = float((place < 50).mean())
    return ReferenceMetrics(recall, float(np.median(place)) + 1, float(place.mean()) + 1, len(place), at_50)
