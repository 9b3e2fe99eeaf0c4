"""Exact nearest neighbours by dot product."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# Q queries, N gallery rows, n of them in a block, D values of each
QUERIES_TOGETHER = 1024
_RESCORED_TOGETHER = 4096
_ROWS_OF_ONE_QUERY = 16384
_UNIT_ROUNDOFF, _HALF_ROUNDOFF = 2.0**-24, 2.0**-11  # of float32 and float16
_LARGEST_PRODUCT = 2.0**14  # far from what float16 cannot hold


def top_k(
    queries: NDArray[np.float32],
    gallery: NDArray[np.floating[Any]],
    k: int,
    block: int = 2048,
    *,
    rows: NDArray[np.int64] | None = None,
    max_norm: float | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` gallery rows with the highest dot product, for each query.

    A score is the dot product in float64, rounded to float32, and does not depend on `block` or on the rows beside.
    Scores in float32 say which rows can be among the best, with the bound of their rounding error; only those are
    scored again.

    Args:
        queries: (Q, D).
        gallery: (N, D), float16 or float32; may be memory-mapped, it is read `block` rows at a time.
        k: at least 1; when it exceeds N, all N rows are returned.
        block: gallery rows per matrix product; bounds the memory, with 1,024 queries at a time.
        rows: ascending row numbers, to search among these alone; None = all.
        max_norm: the largest length of a gallery row, where it is known; None measures it.

    Returns:
        indices int64 (Q, min(k, N)) and scores float32 of the same shape, best first; of equal
        scores the lower index comes first.

    Raises:
        ConfigError: shapes that do not fit, `k` or `block` below 1, or a score that is not a number.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ConfigError(f"expected queries (Q, D) and gallery (N, D); got {queries.shape} and {gallery.shape}")
    if k < 1 or block < 1:
        raise ConfigError(f"k and block must be at least 1; got k={k}, block={block}")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    k = min(k, len(gallery) if rows is None else len(rows))
    found = []
    for start in range(0, len(queries) if k else 0, QUERIES_TOGETHER):
        some = queries[start : start + QUERIES_TOGETHER]
        best = _Best(some, k)
        _multiply(lambda: _products(some, gallery, block, max_norm), _Rows(gallery, rows), best)  # noqa: B023
        places = best.places if rows is None else rows[best.places]
        found.append((places.reshape(-1, k), best.scores.reshape(-1, k)))
    if not found:
        return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    return np.concatenate([some for some, _ in found]), np.concatenate([some for _, some in found])


def _multiply(make: Callable[[], _Products], rows: _Rows, best: _Best) -> None:
    """Show `best` all rows, block by block; several threads take them in turn where there is enough for each."""
    first = make()
    starts = iter(range(0, len(rows), first.block))

    def work(products: _Products) -> None:
        for start in starts:  # which a range can tell several threads
            part = rows.read(start, start + products.block)
            best.add(start, part, products.scores(part), products.margin(part))

    num_threads = min(first.threads, len(rows) // first.block)
    if num_threads < 2:
        work(first)
        return
    crew = _crew(first.threads)
    for done in [crew.submit(work, first if not number else make()) for number in range(num_threads)]:
        done.result()


@cache
def _crew(num_threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes alone: they wait for one another once in a search, not in every block."""
    import torch

    together = Barrier(num_threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        together.wait()

    crew = ThreadPoolExecutor(num_threads, thread_name_prefix="search", initializer=begin)
    for _ in range(num_threads):
        crew.submit(int)
    together.wait()
    torch.set_num_threads(num_threads)  # how many the threads of others begin with
    return crew


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crew.cache_clear)  # threads do not come along


class _Rows:
    """The rows to search: all of a gallery, or those of given numbers, ascending."""

    def __init__(self, gallery: NDArray[np.floating[Any]], numbers: NDArray[np.int64] | None) -> None:
        self._gallery = gallery
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._gallery) if self._numbers is None else len(self._numbers)

    def read(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """The rows at places from `start` to before `stop`, as they are stored; neighbours as they lie."""
        if self._numbers is None:
            return self._gallery[start:stop]
        numbers = self._numbers[start:stop]
        low, high = int(numbers[0]), int(numbers[-1])
        return self._gallery[low : high + 1] if high - low + 1 == len(numbers) else self._gallery[numbers]


class _Best:
    """The best rows so far, flat: by query, then best first.

    Attributes:
        places: int64, of rows among those that are searched.
        scores: float32.
    """

    def __init__(self, queries: NDArray[np.float32], k: int) -> None:
        self._queries = queries.astype(np.float64)
        self._k = k
        self._worst = np.full(len(queries), -np.inf, np.float32)  # of the best k, once there are so many
        self._query = np.empty(0, np.int64)
        self._adding = Lock()
        self.places = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    def add(
        self,
        first: int,
        values: NDArray[np.floating[Any]],
        scores: NDArray[np.float32],
        margin: NDArray[np.float64],
    ) -> None:
        """Take in a block; several threads may.

        Args:
            first: the place of its first row.
            values: the rows (n, D).
            scores: their products with the queries (Q, n), roughly.
            margin: how far these may be from the true ones, (Q,).
        """
        with np.errstate(invalid="ignore", over="ignore"):
            # NaN is not below anything, so it is kept here and found below.
            query, place = np.nonzero(~(scores < self._limit(scores, margin)[:, None]))
        if not len(query):
            return
        exact = self._exact(query, values, place)
        if np.isnan(exact).any():
            raise ConfigError(f"a score with the gallery rows {first} to {first + len(values) - 1} is not a number")
        with self._adding:
            query = np.concatenate([self._query, query])
            places = np.concatenate([self.places, first + place])
            scores = np.concatenate([self.scores, exact])
            order = np.lexsort((places, -scores, query))
            query = query[order]
            rank = np.arange(len(query)) - np.searchsorted(query, query)
            kept = rank < self._k
            self._query, self.places, self.scores = query[kept], places[order][kept], scores[order][kept]
            last = rank[kept] == self._k - 1
            worst = self._worst.copy()  # others may be reading it
            worst[self._query[last]] = self.scores[last]
            self._worst = worst

    def _limit(self, scores: NDArray[np.float32], margin: NDArray[np.float64]) -> NDArray[np.float32]:
        """Below which of `scores` a row of this block is none of the best k, for each query: (Q,)."""
        worst = self._worst
        limit = _below(worst - margin)
        if scores.shape[1] > self._k and np.isneginf(worst).any():
            # At least k rows of this block are as good as its k-th best, within the error of either.
            kth = np.partition(scores, scores.shape[1] - self._k, axis=1)[:, scores.shape[1] - self._k]
            limit = np.maximum(limit, _below(kth - 2 * margin))
        return limit

    def _exact(
        self, query: NDArray[np.int64], values: NDArray[np.floating[Any]], place: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(query), _RESCORED_TOGETHER):
            some = slice(start, start + _RESCORED_TOGETHER)
            # Each row is summed by itself, so that equal rows get equal scores wherever they stand.
            parts.append((self._queries[query[some]] * values[place[some]]).sum(axis=1).astype(np.float32))
        return np.concatenate(parts)


def _below(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _longest(rows: NDArray[np.floating[Any]]) -> float:
    values = np.asarray(rows, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.sqrt(np.einsum("nd,nd->n", values, values).max()))


class _Products:
    """Products of blocks of rows with the queries, in float32.

    Attributes:
        block: rows that are read together.
        threads: how many may work at once, each with products of its own.
    """

    threads = 1

    def __init__(self, queries: NDArray[np.float32], block: int, max_norm: float | None) -> None:
        self.block = block
        self._queries = queries
        self._norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        self._max_norm = max_norm

    def scores(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Of rows (n, D): (Q, n)."""
        with np.errstate(invalid="ignore", over="ignore"):
            return self._queries @ np.asarray(rows, dtype=np.float32).T

    def margin(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """How far these scores may be from the true ones, in whatever order they are summed: (Q,)."""
        longest = _longest(rows) if self._max_norm is None else self._max_norm
        found: NDArray[np.float64] = 1.01 * (rows.shape[1] + 4) * _UNIT_ROUNDOFF * self._norms * longest
        return found


class _HalfProducts(_Products):
    """The same of float16 rows, which torch widens several times as fast as numpy.

    It multiplies too: threads of two libraries would wait for one another.
    """

    def __init__(self, queries: NDArray[np.float32], block: int, max_norm: float | None) -> None:
        import torch

        super().__init__(queries, block, max_norm)
        self._torch = torch
        self.threads = torch.get_num_threads()
        self._given = torch.from_numpy(queries)
        self._wide = torch.empty((block, queries.shape[1]), dtype=torch.float32)

    def scores(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Of rows (n, D): (Q, n)."""
        values = self._wide[: len(rows)].copy_(self._tensor(rows))
        found: NDArray[np.float32] = self._torch.mm(self._given, values.T).numpy()
        return found

    def _tensor(self, rows: NDArray[np.floating[Any]]) -> Tensor:
        # torch warns of memory that may not be written, though it only reads it.
        return self._torch.from_numpy(rows if rows.flags.writeable else rows.copy())


class _OneHalfProduct(_HalfProducts):
    """The same for one query, without widening: torch reads float16 and sums in float32.

    Query and scores are rounded to float16; the margin is as much wider.
    """

    def __init__(self, queries: NDArray[np.float32], max_norm: float) -> None:
        super().__init__(queries, 0, max_norm)
        self.block = _ROWS_OF_ONE_QUERY
        self._given = self._given[0].half()
        rounded = queries[0] - self._given.numpy().astype(np.float64)
        largest = self._norms[0] * max_norm
        self._more = float(np.linalg.norm(rounded)) * max_norm + 1.01 * _HALF_ROUNDOFF * largest + _UNIT_ROUNDOFF

    def scores(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Of rows (n, D): (1, n)."""
        found: NDArray[np.float32] = self._torch.mv(self._tensor(rows), self._given).float().numpy()
        return found[None]

    def margin(self, rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """See `_Products`."""
        found: NDArray[np.float64] = super().margin(rows) + self._more
        return found


def _products(
    queries: NDArray[np.float32], gallery: NDArray[np.floating[Any]], block: int, max_norm: float | None
) -> _Products:
    """The fastest way to multiply this gallery."""
    if gallery.dtype != np.float16:
        return _Products(queries, block, max_norm)
    if len(queries) == 1 and max_norm is not None and np.linalg.norm(queries) * max_norm <= _LARGEST_PRODUCT:
        if _sums_halves_in_float32(gallery.shape[1]):
            return _OneHalfProduct(queries, max_norm)
    return _HalfProducts(queries, block, max_norm)


@cache
def _sums_halves_in_float32(width: int) -> bool:
    """Whether torch sums products of float16 in float32 on this processor, which only its kernels know."""
    import torch

    values = np.random.default_rng(0).uniform(0.5, 1.0, (64, width)) / np.sqrt(width)
    rows = values.astype(np.float16)
    found = torch.mv(torch.from_numpy(rows), torch.from_numpy(rows[0])).float().numpy()
    exact = (rows.astype(np.float64) * rows[0].astype(np.float64)).sum(axis=1)
    return bool((np.abs(found - exact) <= 1.01 * _HALF_ROUNDOFF * exact + width * _UNIT_ROUNDOFF).all())


def centred_means(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frame features (N, T, D) to one L2-normalised vector a clip (N, D), for clip-to-clip search.

    The gallery's mean is subtracted first: what all clips share says nothing about which are alike.
    """
    rows = features.mean(axis=1) - features.mean(axis=(0, 1))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)
