"""Exact nearest neighbours by dot product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError

# Q queries, N gallery rows, n of them in a block, D values of each
QUERIES_TOGETHER = 1024
_RESCORED_TOGETHER = 4096
_UNIT_ROUNDOFF = 2.0**-24  # of float32


def top_k(
    queries: NDArray[np.float32],
    gallery: NDArray[np.floating[Any]],
    k: int,
    block: int = 8192,
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
        best = _Best(queries[start : start + QUERIES_TOGETHER], k, max_norm)
        for numbers, values in _blocks(gallery, rows, block):
            best.add(numbers, values)
        found.append((best.rows.reshape(-1, k), best.scores.reshape(-1, k)))
    if not found:
        return np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    return np.concatenate([some for some, _ in found]), np.concatenate([some for _, some in found])


class _Best:
    """The best rows so far, flat: by query, then best first.

    Attributes:
        rows: int64, row numbers.
        scores: float32.
    """

    def __init__(self, queries: NDArray[np.float32], k: int, max_norm: float | None) -> None:
        self._queries = queries
        self._wide = queries.astype(np.float64)
        self._norms = np.linalg.norm(self._wide, axis=1)
        self._k = k
        self._max_norm = max_norm
        self._worst = np.full(len(queries), -np.inf, np.float32)  # of the best k, once there are so many
        self._query = np.empty(0, np.int64)
        self.rows = np.empty(0, np.int64)
        self.scores = np.empty(0, np.float32)

    def add(self, numbers: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Take in a block: row numbers (n,), higher than those before, and their values (n, D)."""
        with np.errstate(invalid="ignore", over="ignore"):
            scores = self._queries @ values.T
            query, place = np.nonzero(~(scores < self._limit(scores, values)[:, None]))  # NaN is kept, and found below
        if not len(query):
            return
        exact = self._exact(query, values, place)
        if np.isnan(exact).any():
            raise ConfigError(f"a score with the gallery rows {numbers[0]} to {numbers[-1]} is not a number")
        query = np.concatenate([self._query, query])
        rows = np.concatenate([self.rows, numbers[place]])
        merged = np.concatenate([self.scores, exact])
        order = np.lexsort((rows, -merged, query))
        query = query[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = rank < self._k
        self._query, self.rows, self.scores = query[kept], rows[order][kept], merged[order][kept]
        last = rank[kept] == self._k - 1
        self._worst[self._query[last]] = self.scores[last]

    def _limit(self, scores: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Below which score in float32 a row of this block is none of the best k, for each query: (Q,)."""
        # How far a dot product in float32, in whatever order it is summed, may be from the true one.
        longest = _longest(values) if self._max_norm is None else self._max_norm
        margin = 1.01 * (values.shape[1] + 4) * _UNIT_ROUNDOFF * self._norms * longest
        limit = _below(self._worst - margin)
        if len(values) > self._k and np.isneginf(self._worst).any():
            # At least k rows of this block are as good as its k-th best, within the error of either.
            kth = np.partition(scores, len(values) - self._k, axis=1)[:, len(values) - self._k]
            limit = np.maximum(limit, _below(kth - 2 * margin))
        return limit

    def _exact(
        self, query: NDArray[np.int64], values: NDArray[np.float32], place: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(query), _RESCORED_TOGETHER):
            some = slice(start, start + _RESCORED_TOGETHER)
            # Each row is summed by itself, so that equal rows get equal scores wherever they stand.
            parts.append((self._wide[query[some]] * values[place[some]]).sum(axis=1).astype(np.float32))
        return np.concatenate(parts)


def _below(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))


def _longest(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", values, values).max()))


def _blocks(
    gallery: NDArray[np.floating[Any]], rows: NDArray[np.int64] | None, block: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Row numbers and values, float32, of `block` rows after the other; the memory of the values is used again."""
    wide = _Widener(block, gallery.shape[1]) if gallery.dtype == np.float16 else None
    for start in range(0, len(gallery) if rows is None else len(rows), block):
        if rows is None:
            part = gallery[start : start + block]
            numbers = np.arange(start, start + len(part))
        else:
            numbers = rows[start : start + block]
            first, last = int(numbers[0]), int(numbers[-1])
            # Neighbours are read as they lie.
            part = gallery[first : last + 1] if last - first + 1 == len(numbers) else gallery[numbers]
        yield numbers, np.asarray(part, dtype=np.float32) if wide is None else wide(part)


class _Widener:
    """float16 to float32; torch does it several times as fast as numpy."""

    def __init__(self, num_rows: int, width: int) -> None:
        import torch

        self._torch = torch
        self._buffer = torch.empty((num_rows, width), dtype=torch.float32)

    def __call__(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        # torch warns of memory that may not be written, though it only reads it.
        source = self._torch.from_numpy(values if values.flags.writeable else values.copy())
        wide: NDArray[np.float32] = self._buffer[: len(values)].copy_(source).numpy()
        return wide


def centred_means(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frame features (N, T, D) to one L2-normalised vector a clip (N, D), for clip-to-clip search.

    The gallery's mean is subtracted first: what all clips share says nothing about which are alike.
    """
    rows = features.mean(axis=1) - features.mean(axis=(0, 1))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)
