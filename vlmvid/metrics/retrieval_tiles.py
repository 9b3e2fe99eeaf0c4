"""Places of the relevant items in both directions, from one pass over tiles of the similarities.

Per query three counts decide every rank and recall: items better than its best relevant one, irrelevant items that
tie with it, relevant items that tie with it. They are summed over tiles; no matrix and no mask of Q x G entries is
made. Where a source is off by its slack, an item within the slack of the best relevant one is compared again exactly,
so that the counts are those of exact similarities whatever the size of the tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.retrieval_counts import BothCounts, RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import Index, Scores, Tile

TILE = 1024
_DENSE = 64  # with more than 1/64 of a tile to compare again, one float64 product is cheaper than pairs
_WORSE, _TIED, _BETTER = 0, 1, 2
_Mask = NDArray[np.bool_]
_Counts = NDArray[np.int64]


class _Side:
    """Counts of the queries along one axis, tile by tile."""

    def __init__(self, scores: Scores, axis: int, relevance: Relevance, values: Tile, position: Index | None) -> None:
        self.axis, self.scores, self.relevance, self.position = axis, scores, relevance, position
        size = scores.shape[axis]
        self.num_relevant = relevance.per_query
        self.best = np.full(size, np.nan)
        starts = np.flatnonzero(np.diff(relevance.queries, prepend=-1))
        self.best[relevance.queries[starts]] = np.maximum.reduceat(values, starts)
        tied = values == self.best[relevance.queries]
        self.tied_relevant = np.bincount(relevance.queries[tied], minlength=size)
        places = self._place(relevance.items[tied])
        self.first = np.full(size, scores.shape[1 - axis], dtype=np.intp)
        self.last = np.full(size, -1, dtype=np.intp)
        np.minimum.at(self.first, relevance.queries[tied], places)
        np.maximum.at(self.last, relevance.queries[tied], places)
        self.slack = scores.slack(axis)
        # NaN, where there is no relevant item, compares as False with everything.
        self.high, self.low = self.best.astype(values.dtype), self.best.astype(values.dtype)
        if not scores.exact:
            up, down = np.array([np.inf, -np.inf], dtype=values.dtype)
            self.high = np.nextafter((self.best + self.slack).astype(values.dtype), up)
            self.low = np.nextafter((self.best - self.slack).astype(values.dtype), down)
        self.better, self.tied, self.before, self.after = (np.zeros(size, dtype=np.int64) for _ in range(4))

    def _place(self, items: Index) -> Index:
        return items if self.position is None else self.position[items]

    def add(self, tile: Tile, rows: slice, columns: slice, spare: list[_Mask]) -> tuple[_Mask, Index, Index, Any]:
        """Count a tile; also returns what is better for sure, and the near (queries, items) with their verdicts."""
        mine = (rows, columns)[self.axis]
        above, reach = (mask[: tile.size].reshape(tile.shape) for mask in spare)
        np.greater(tile, _along(self.high[mine], self.axis), out=above)
        np.greater_equal(tile, _along(self.low[mine], self.axis), out=reach)
        num_above = _count(above, self.axis)
        self.better[mine] += num_above
        close = np.flatnonzero(_count(reach, self.axis) > num_above)
        queries, items = self._near(above, reach, close, rows, columns)
        verdict = self._verdict(queries, items, rows, columns)
        self.better += np.bincount(queries[verdict == _BETTER], minlength=len(self.better))
        tied = verdict == _TIED
        if tied.any():
            queries_tied, places = queries[tied], self._place(items[tied])
            for counts, kept in (
                (self.tied, slice(None)),
                (self.before, places < self.first[queries_tied]),
                (self.after, places > self.last[queries_tied]),
            ):
                counts += np.bincount(queries_tied[kept], minlength=len(counts))
        return above, queries, items, verdict

    def _near(self, above: _Mask, reach: _Mask, close: Index, rows: slice, columns: slice) -> tuple[Index, Index]:
        """Irrelevant items that are within the slack of the best relevant one, with their queries."""
        if len(close) == 0:
            return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        if self.axis == 0:
            some, items = np.nonzero(reach[close] & ~above[close])
            queries, items = close[some] + rows.start, items + columns.start
        else:
            items, some = np.nonzero(reach[:, close] & ~above[:, close])
            queries, items = close[some] + columns.start, items + rows.start
        kept = ~self.relevance.holds(queries, items)
        return queries[kept], items[kept]

    def _verdict(self, queries: Index, items: Index, rows: slice, columns: slice) -> NDArray[np.int8]:
        verdict = np.full(len(queries), _TIED, dtype=np.int8)
        if self.scores.exact or len(queries) == 0:
            return verdict
        best = self.best[queries].astype(np.float32)
        open_ = np.arange(len(queries))
        if len(queries) * _DENSE > (rows.stop - rows.start) * (columns.stop - columns.start):
            values, bound = self.scores.sharp_tile(rows, columns)
            at_rows, at_columns = (queries, items) if self.axis == 0 else (items, queries)
            picked = values[at_rows - rows.start, at_columns - columns.start]
            # A float32 stands for what lies between the middles to its neighbours.
            wide = best.astype(np.float64)
            upper = (wide + np.nextafter(best, np.float32(np.inf))) / 2
            lower = (wide + np.nextafter(best, np.float32(-np.inf))) / 2
            verdict[picked > upper + bound] = _BETTER
            verdict[picked < lower - bound] = _WORSE
            open_ = np.flatnonzero((np.abs(picked - upper) <= bound) | (np.abs(picked - lower) <= bound))
        at_rows, at_columns = (queries, items) if self.axis == 0 else (items, queries)
        exact = self.scores.pairs(at_rows[open_], at_columns[open_])
        verdict[open_] = np.where(exact > best[open_], _BETTER, np.where(exact == best[open_], _TIED, _WORSE))
        return verdict

    def counts(self, top: Index | None) -> RankCounts:
        return RankCounts(
            self.better,
            self.tied,
            self.tied_relevant,
            self.before,
            self.after,
            self.num_relevant,
            self.best,
            self.scores.shape[1 - self.axis],
            top,
        )


class _Groups:
    """Counts of groups of rows for queries along the columns; no group is cut by a tile."""

    def __init__(self, owners: Index, num_columns: int) -> None:
        self.owners = owners
        self.num_groups = len(np.unique(owners))
        self.better, self.tied = np.zeros(num_columns, dtype=np.int64), np.zeros(num_columns, dtype=np.int64)

    def add(self, rows: slice, columns: slice, found: tuple[_Mask, Index, Index, NDArray[np.int8]]) -> None:
        above, queries, texts, verdict = found
        owners = self.owners[rows]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        by_group = np.empty((len(starts), above.shape[1]), dtype=np.uint8)
        ends = np.append(starts[1:], len(owners))
        for row, (start, stop) in enumerate(zip(starts, ends, strict=True)):  # faster than one reduceat
            np.bitwise_or.reduce(above[start:stop].view(np.uint8), axis=0, out=by_group[row])
        group = np.searchsorted(starts, texts - rows.start, side="right") - 1
        column = queries - columns.start
        by_group[group[verdict == _BETTER], column[verdict == _BETTER]] = 1
        self.better[columns] += by_group.sum(axis=0, dtype=np.int64)
        tied = (verdict == _TIED) & (by_group[group, column] == 0)
        pairs = np.unique(group[tied] * by_group.shape[1] + column[tied])
        self.tied[columns] += np.bincount(pairs % by_group.shape[1], minlength=by_group.shape[1])


class _Top:
    """The item with the highest similarity, per query along one axis; of equal ones always the same."""

    def __init__(self, side: _Side) -> None:
        self.side = side
        self.value = np.full(len(side.best), -np.inf)
        self.item = np.zeros(len(side.best), dtype=np.intp)

    def add(self, tile: Tile, rows: slice, columns: slice) -> None:
        side = self.side
        axis, (mine, other) = side.axis, (rows, columns)[:: 1 - 2 * side.axis]
        highest = tile.max(axis=1 - axis)
        slack = side.slack[mine]
        rivals = np.flatnonzero(highest >= self.value[mine] - slack)
        if len(rivals) == 0:
            return
        part = tile[rivals] if axis == 0 else tile[:, rivals].T
        if side.scores.exact:
            local, queries = part.argmax(axis=1), rivals
            values: NDArray[Any] = part[np.arange(len(rivals)), local]
        else:
            some, local = np.nonzero(part >= (highest - 2 * slack)[rivals, None])
            queries = rivals[some]
            values = self._exact(queries, local, rows, columns, part.size)
        items, queries = local + other.start, queries + mine.start
        order = np.lexsort((side._place(items), -values, queries))
        queries, items, values = queries[order], items[order], values[order]
        first = np.flatnonzero(np.diff(queries, prepend=-1))
        queries, items, values = queries[first], items[first], values[first]
        held, wins = self.value[queries], values > self.value[queries]
        wins |= (values == held) & (side._place(items) < side._place(self.item[queries]))
        self.value[queries[wins]], self.item[queries[wins]] = values[wins], items[wins]

    def _exact(self, queries: Index, items: Index, rows: slice, columns: slice, size: int) -> Tile:
        at_rows, at_columns = (queries, items) if self.side.axis == 0 else (items, queries)
        if len(queries) * _DENSE > size:
            values, _ = self.side.scores.sharp_tile(rows, columns)
            return values[at_rows, at_columns].astype(np.float32)
        return self.side.scores.pairs(at_rows + rows.start, at_columns + columns.start)


def count_rows(scores: Scores, relevance: Relevance, *, tile: int = TILE) -> RankCounts:
    """The counts of the rows alone.

    Args:
        scores: (Q, G).
        relevance: pairs of (row, column).
        tile: largest number of rows and of columns of a tile.

    Raises:
        EvaluationError: NaN among the similarities.
    """
    return count_levels(scores, [relevance], tile=tile)[0]


def count_levels(scores: Scores, wanted: Sequence[Relevance], *, tile: int = TILE) -> list[RankCounts]:
    """`count_rows` for several relevant items of the same rows, from one pass over the tiles."""
    sides = [_Side(scores, 0, pairs, scores.pairs(pairs.queries, pairs.items), None) for pairs in wanted]
    _walk(scores, sides, None, _edges(scores.shape[0], tile), tile)
    return [side.counts(None) for side in sides]


def count_both(scores: Scores, relevance: Relevance, *, tile: int = TILE, top: bool = False) -> BothCounts:
    """Both directions of texts (rows, T) and videos (columns, V), from one pass over the tiles.

    Args:
        scores: (T, V).
        relevance: pairs of (text, video).
        tile: largest number of rows and of columns of a tile; more rows only where one video has more texts.
        top: also find the best item of every query.

    Raises:
        EvaluationError: NaN among the similarities, or shapes that do not fit.
    """
    if scores.shape != (relevance.num_queries, relevance.num_items):
        raise EvaluationError(
            f"similarities {scores.shape} do not fit relevant pairs among "
            f"{relevance.num_queries} x {relevance.num_items}"
        )
    order, owners = _by_owner(relevance)
    if order is not None:
        place = np.empty(len(order), dtype=np.intp)
        place[order] = np.arange(len(order))
        relevance = Relevance.of(place[relevance.queries], relevance.items, *scores.shape)
        scores = scores.taken(order)
    values = scores.pairs(relevance.queries, relevance.items)
    text_side = _Side(scores, 0, relevance, values, None)
    flipped = relevance.transposed()
    video_side = _Side(scores, 1, flipped, scores.pairs(flipped.items, flipped.queries), order)
    alone = owners is not None and len(np.unique(owners)) == len(owners)  # one text each: groups are texts
    owners = None if alone else owners
    groups = None if owners is None else _Groups(owners, scores.shape[1])
    edges = _edges(scores.shape[0], tile, owners)
    tops = [_Top(text_side), _Top(video_side)] if top else []
    num_infinite = _walk(scores, [text_side, video_side], groups, edges, tile, tops)
    items: list[Index | None] = [found.item for found in tops] or [None, None]
    if order is not None and items[1] is not None:
        items[1] = order[items[1]]
    t2v, v2t = text_side.counts(items[0]), video_side.counts(items[1])
    if order is not None:
        t2v = t2v.taken(place)
    by_group = v2t if alone else None if groups is None else _group_counts(groups, v2t)
    return BothCounts(t2v, v2t, by_group, num_infinite)


def _group_counts(groups: _Groups, v2t: RankCounts) -> RankCounts:
    own = (v2t.num_relevant > 0).astype(np.int64)
    return replace(
        v2t,
        better=groups.better,
        tied_irrelevant=groups.tied,
        tied_relevant=own,
        num_relevant=own,
        num_items=groups.num_groups,
        top=None,
    )


def _by_owner(relevance: Relevance) -> tuple[Index | None, Index | None]:
    """(order of the texts by their video, None when those of one video lie together; the video of each, in that order).

    The video of a text without any is a number of its own; with several videos for a text there are no owners.
    """
    if bool((relevance.per_query > 1).any()):
        return None, None
    owners = relevance.num_items + np.arange(relevance.num_queries)
    owners[relevance.queries] = relevance.items
    if bool((np.diff(owners) >= 0).all()) or len(np.unique(owners)) == len(owners):
        return None, owners
    order = np.argsort(owners, kind="stable")
    return order, owners[order]


def _edges(size: int, tile: int, owners: Index | None = None) -> list[slice]:
    """Row slices of at most `tile` rows that keep rows of one owner together."""
    if tile < 1:
        raise EvaluationError(f"tile must be at least 1, got {tile}")
    if owners is None:
        return [slice(start, min(start + tile, size)) for start in range(0, size, tile)]
    ends = np.append(np.flatnonzero(np.diff(owners)) + 1, size)
    found, start = [], 0
    while start < size:
        fits = int(np.searchsorted(ends, start + tile, side="right")) - 1
        stop = int(ends[fits]) if fits >= 0 and ends[fits] > start else int(ends[np.searchsorted(ends, start + 1)])
        found.append(slice(start, stop))
        start = stop
    return found


def _walk(
    scores: Scores, sides: list[_Side], groups: _Groups | None, edges: list[slice], tile: int, tops: Sequence[_Top] = ()
) -> int:
    width = min(tile, scores.shape[1])
    spare = [np.empty(max(rows.stop - rows.start for rows in edges) * width, dtype=np.bool_) for _ in range(2)]
    num_infinite = num_nan = 0
    where = ""
    for rows, columns in _tiles(edges, scores.shape[1], width):
        part = scores.tile(rows, columns)
        with np.errstate(invalid="ignore", over="ignore"):
            suspect = scores.exact and not np.isfinite(part.sum(dtype=part.dtype))
        if suspect:
            missing = np.isnan(part)
            num_infinite += int(np.isinf(part).sum())
            if missing.any():
                num_nan += int(missing.sum())
                row, column = np.argwhere(missing)[0]
                where = where or f"row {rows.start + row}, column {columns.start + column}"
        for side in sides:
            found = side.add(part, rows, columns, spare)
            if groups is not None and side.axis == 1:
                groups.add(rows, columns, found)
        for top in tops:
            top.add(part, rows, columns)
    if num_nan:
        raise EvaluationError(
            f"{num_nan} similarities are NaN, first in {where}; check the embeddings that made them. A reference "
            "scorer may drop such queries without a word, which no mode here reproduces"
        )
    return num_infinite


def _tiles(edges: list[slice], num_columns: int, width: int) -> Iterator[tuple[slice, slice]]:
    for rows in edges:
        for start in range(0, num_columns, width):
            yield rows, slice(start, min(start + width, num_columns))


def _along(values: Tile, axis: int) -> Tile:
    return values[:, None] if axis == 0 else values[None, :]


def _count(mask: _Mask, axis: int) -> _Counts:
    """True entries per row (axis 0) or column (axis 1); several times faster than ``count_nonzero(axis=...)``."""
    if axis == 0:
        bits = np.packbits(mask, axis=1)
        words = bits.view(np.uint64) if bits.shape[1] % 8 == 0 else bits
        return np.asarray(np.bitwise_count(words).sum(axis=1, dtype=np.int64))
    counts = np.zeros(mask.shape[1], dtype=np.int64)
    for start in range(0, len(mask), 255):  # what a byte can count
        counts += np.add.reduce(mask[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return counts
