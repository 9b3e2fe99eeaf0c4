"""Exact nearest neighbours by dot product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError


def top_k(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int, block: int = 8192
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` gallery rows with the highest dot product, for each query.

    Args:
        queries: (Q, D).
        gallery: (N, D); may be memory-mapped, it is read `block` rows at a time.
        k: at least 1; when it exceeds N, all N rows are returned.
        block: gallery rows per matrix product; bounds the memory to about Q * block scores.

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
    queries = np.asarray(queries, dtype=np.float32)
    indices = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(gallery), block):
        part = queries @ np.asarray(gallery[start : start + block], dtype=np.float32).T
        if np.isnan(part).any():
            raise ConfigError(f"a score with the gallery rows {start} to {start + part.shape[1] - 1} is not a number")
        part_indices = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        # Earlier rows stand in front, so a stable sort keeps the lower index first among equals.
        scores = np.concatenate([scores, part], axis=1)
        indices = np.concatenate([indices, part_indices], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return indices, scores


def centred_means(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frame features (N, T, D) to one L2-normalised vector a clip (N, D), for clip-to-clip search.

    The gallery's mean is subtracted first: what all clips share says nothing about which are alike.
    """
    rows = features.mean(axis=1) - features.mean(axis=(0, 1))
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float32)
