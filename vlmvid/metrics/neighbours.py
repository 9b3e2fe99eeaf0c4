"""What the nearest neighbours of features say: weighted k-NN classification and agreement of two spaces.

N rows, D channels, k neighbours. Features are L2-normalised here; similarity is the cosine. Equal similarities are
ordered by row, so that results do not depend on the library's sort.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError

Labels = Sequence[str] | Sequence[int] | NDArray[Any]
_BLOCK_ENTRIES = 1 << 23  # similarities held at once: 64 MiB of float64


def knn_predictions(
    gallery: ArrayLike,
    labels: Labels,
    queries: ArrayLike | None = None,
    *,
    k: int,
    temperature: float = 0.07,
) -> NDArray[Any]:
    """The class of each query by weighted k-NN, as DINO scores frozen features (arXiv 2104.14294, section 4.2).

    Each of the k nearest gallery rows votes for its class with ``exp(cosine / temperature)``.

    Args:
        gallery: (N, D), finite, no row of zeros.
        labels: (N,), of the gallery.
        queries: (Q, D); None classifies every gallery row by the others (leave one out).
        k: at most the number of rows that may vote: N, or N - 1 when leaving one out.
        temperature: positive.

    Returns:
        (Q,) labels; of classes with equal votes the first in sorted order.

    Raises:
        EvaluationError: k or temperature out of range, wrong shapes, rows that cannot be normalised.
    """
    rows = normalised_rows(gallery, "gallery")
    names, codes = np.unique(np.asarray(labels), return_inverse=True)
    if codes.shape != (len(rows),):
        raise EvaluationError(f"expected one label for each of {len(rows)} gallery rows, got shape {codes.shape}")
    if not temperature > 0:
        raise EvaluationError(f"temperature must be positive, got {temperature}")
    asked = None if queries is None else normalised_rows(queries, "queries")
    predicted = np.empty(len(rows) if asked is None else len(asked), dtype=np.intp)
    for where, nearest, cosines in _nearest(rows, asked, k):
        # exp(1 / temperature) may overflow for a small temperature; a common factor changes no vote.
        weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
        votes = np.zeros((len(nearest), len(names)))
        np.add.at(votes, (np.arange(len(nearest))[:, None], codes[nearest]), weights)
        predicted[where] = votes.argmax(axis=1)
    answer: NDArray[Any] = names[predicted]
    return answer


def mutual_knn(first: ArrayLike, second: ArrayLike, *, k: int = 10) -> NDArray[np.float64]:
    """How far two representations of the same N things agree on neighbours, per thing, in [0, 1].

    The share of the k nearest neighbours in `first` (N, D) that are among the k nearest in `second` (N, E). Its mean
    is the alignment score of the Platonic Representation Hypothesis (arXiv 2405.07987); by chance it is k / (N - 1).

    Raises:
        EvaluationError: other numbers of rows, or fewer than k + 1.
    """
    left, right = normalised_rows(first, "first"), normalised_rows(second, "second")
    if len(left) != len(right):
        raise EvaluationError(f"mutual_knn compares the same things: got {len(left)} and {len(right)} rows")
    overlap = np.empty(len(left))
    pairs = zip(_nearest(left, None, k), _nearest(right, None, k), strict=True)
    for (where, mine, _), (_, theirs, _) in pairs:
        overlap[where] = [len(np.intersect1d(a, b)) / k for a, b in zip(mine, theirs, strict=True)]
    return overlap


def normalised_rows(features: ArrayLike, name: str) -> NDArray[np.float64]:
    """Rows of length 1, float64; raises EvaluationError for rows that are not finite or all zero."""
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape:
        raise EvaluationError(f"{name} must be features of shape (N, D) with N, D >= 1, got {rows.shape}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} of {len(rows)} rows of {name} are zero, NaN or infinite, first row {bad[0]}; "
            "leave them out, or look for the encoder's fault"
        )
    answer: NDArray[np.float64] = rows / norms
    return answer


def _nearest(
    gallery: NDArray[np.float64], queries: NDArray[np.float64] | None, k: int
) -> Iterator[tuple[slice, NDArray[np.intp], NDArray[np.float64]]]:
    """By blocks of queries: their rows, the k nearest gallery rows (B, k), nearest first, and the cosines (B, k)."""
    most = len(gallery) - (queries is None)
    if not 1 <= k <= most:
        raise EvaluationError(f"k={k} neighbours were asked for, and {most} rows may be one; lower k")
    asked = gallery if queries is None else queries
    if asked.shape[1] != gallery.shape[1]:
        raise EvaluationError(f"queries have {asked.shape[1]} channels, the gallery {gallery.shape[1]}")
    step = max(1, _BLOCK_ENTRIES // len(gallery))
    for start in range(0, len(asked), step):
        where = slice(start, min(start + step, len(asked)))
        cosines = asked[where] @ gallery.T
        if queries is None:
            cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        # BLAS rounds equal rows differently at the edges of its tiles; without this the order of ties is chance.
        cosines = np.round(cosines, 12)
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        yield where, nearest, np.take_along_axis(cosines, nearest, axis=1)
