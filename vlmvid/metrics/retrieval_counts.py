"""Which items are relevant, and the counts that decide where they stand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.retrieval_scores import Index


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which item is relevant to which query: `queries` and `items`, int (P,), sorted and without repetition."""

    queries: Index
    items: Index
    num_queries: int
    num_items: int

    @classmethod
    def of(cls, queries: ArrayLike, items: ArrayLike, num_queries: int, num_items: int) -> Relevance:
        """From pairs in any order; raises EvaluationError for none, or an index outside."""
        columns = []
        for name, values, size in (("query", queries, num_queries), ("item", items, num_items)):
            index = np.asarray(values)
            if index.ndim != 1 or len(index) == 0 or not np.issubdtype(index.dtype, np.integer):
                raise EvaluationError(f"expected at least one relevant pair, as integers, got {index.shape} of {name}")
            if index.min() < 0 or index.max() >= size:
                raise EvaluationError(f"relevant {name} must lie in 0..{size - 1}, got {index.min()}..{index.max()}")
            columns.append(index.astype(np.intp))
        keys = np.unique(columns[0] * num_items + columns[1])
        return cls(keys // num_items, keys % num_items, num_queries, num_items)

    @property
    def per_query(self) -> NDArray[np.int64]:
        """Number of relevant items of each query (Q,)."""
        return np.bincount(self.queries, minlength=self.num_queries)

    def transposed(self) -> Relevance:
        """The same pairs, seen from the items."""
        return Relevance.of(self.items, self.queries, self.num_items, self.num_queries)

    def holds(self, queries: Index, items: Index) -> NDArray[np.bool_]:
        """Whether each pair (N,) is one of the relevant ones."""
        keys = self.queries * self.num_items + self.items
        asked = queries * self.num_items + items
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        return np.asarray(keys[place] == asked)


@dataclass(frozen=True, eq=False)
class RankCounts:
    """What decides the rank of each query's best-placed relevant item; arrays of shape (Q,).

    Attributes:
        better: items with a higher similarity than the best relevant one.
        tied_irrelevant: irrelevant items with exactly that similarity.
        tied_relevant: relevant items with it, at least 1.
        tied_before: those of the tied irrelevant ones that come before the first tied relevant one in the gallery.
        tied_after: those after the last one.
        num_relevant: relevant items; 0 = not a query, and the other counts say nothing.
        best: similarity of the best relevant item, NaN where there is none.
        num_items: size of the gallery.
        top: the item with the highest similarity, where asked for.
    """

    better: NDArray[np.int64]
    tied_irrelevant: NDArray[np.int64]
    tied_relevant: NDArray[np.int64]
    tied_before: NDArray[np.int64]
    tied_after: NDArray[np.int64]
    num_relevant: NDArray[np.int64]
    best: NDArray[np.float64]
    num_items: int
    top: Index | None = None

    def taken(self, rows: Index | NDArray[np.bool_]) -> RankCounts:
        """The counts of some queries."""
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        part: dict[str, Any] = {name: v[rows] if isinstance(v, np.ndarray) else v for name, v in arrays.items()}
        return RankCounts(**part)

    @property
    def num_tied(self) -> int:
        """Queries whose best relevant item ties with an irrelevant one."""
        return int((self.tied_irrelevant[self.num_relevant > 0] > 0).sum())


@dataclass(frozen=True, eq=False)
class BothCounts:
    """Both directions of a matrix (T texts, V videos).

    Attributes:
        t2v: per text (T,), the gallery is all videos.
        v2t: per video (V,), the gallery is all texts.
        v2t_groups: per video, the gallery is the sets of texts of one video, each with its best text; None where a
            text belongs to several videos.
        num_infinite: infinite similarities.
    """

    t2v: RankCounts
    v2t: RankCounts
    v2t_groups: RankCounts | None
    num_infinite: int
