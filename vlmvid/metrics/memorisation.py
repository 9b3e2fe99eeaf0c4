"""The deja-vu test of memorisation (arXiv 2402.02103): what a caption recalls of its training picture."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError

_BLOCK_ENTRIES = 1 << 23  # similarities held at once: 64 MiB of float64


def nearest_public(captions: ArrayLike, public: ArrayLike, k: int) -> NDArray[np.intp]:
    """Rows (N, k) of the public pictures nearest to each caption, nearest first; equal ones in row order.

    Args:
        captions: (N, D) L2-normalised embeddings of training captions.
        public: (M, D) L2-normalised embeddings of pictures that neither model was trained on.
        k: at most M.

    Raises:
        EvaluationError: other shapes, values that are not finite, or k outside [1, M].
    """
    queries, gallery = np.asarray(captions, dtype=np.float64), np.asarray(public, dtype=np.float64)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise EvaluationError(f"expected embeddings (N, D) and (M, D), got {queries.shape} and {gallery.shape}")
    if not (np.isfinite(queries).all() and np.isfinite(gallery).all()):
        raise EvaluationError("embeddings hold NaN or infinite values; embed these samples again")
    if not 1 <= k <= len(gallery):
        raise EvaluationError(f"k={k} must lie in [1, {len(gallery)}], the number of public pictures")
    step = max(1, _BLOCK_ENTRIES // len(gallery))
    found = np.empty((len(queries), k), dtype=np.intp)
    for start in range(0, len(queries), step):
        # Rounded, so that two equal rows tie although BLAS adds in another order at the edges of its tiles.
        scores = (queries[start : start + step] @ gallery.T).astype(np.float32)
        found[start : start + step] = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return found


def object_precision_recall(
    recalled: Sequence[AbstractSet[str]], shown: Sequence[AbstractSet[str]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall (N,) of recalled objects against those of the training picture; 0 for an empty set."""
    if len(recalled) != len(shown):
        raise EvaluationError(f"expected as many recalled as shown sets, got {len(recalled)} and {len(shown)}")
    hits = np.array([len(set(found) & set(truth)) for found, truth in zip(recalled, shown, strict=True)], float)
    return _share(hits, [len(found) for found in recalled]), _share(hits, [len(truth) for truth in shown])


def population_gaps(target: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """For each sample (N,) 1 where the target model is higher, -1 where it is lower, 0 where both are equal.

    Its mean is the population gap (PPG for precision, PRG for recall): the share of training samples that the target
    model recalls better than a model that was not trained on them, minus the share that it recalls worse. 0 without
    memorisation, 1 at most.
    """
    first, second = np.asarray(target, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise EvaluationError(f"expected one value for each sample, got {first.shape} and {second.shape}")
    gaps: NDArray[np.float64] = np.sign(first - second)
    return gaps


def histogram_auc(recall: ArrayLike) -> float:
    """Area under the share of samples whose recall exceeds x, as the released script sums it.

    From a histogram of 100 bins between the smallest and the largest recall (facebookresearch/VLMDejaVu at
    45bb66489b). The area itself is the mean recall, which needs no bins.
    """
    values = np.asarray(recall, dtype=np.float64)
    counts, edges = np.histogram(values, 100)
    shares = np.cumsum((counts / len(values))[::-1])[::-1]
    heights, places = np.concatenate([[1.0], shares, [0.0]]), np.concatenate([[0.0], edges, [1.0]])
    return float((heights * np.diff(places)).sum())


def _share(hits: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    totals = np.array(sizes, dtype=np.float64)
    return np.divide(hits, totals, out=np.zeros_like(hits), where=totals > 0)
