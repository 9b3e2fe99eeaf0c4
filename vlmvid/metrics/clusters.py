"""How well groups of features stand apart, and how far two groupings agree."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.neighbours import Labels

_BLOCK_ENTRIES = 1 << 23  # distances held at once: 64 MiB of float64


def normalised_mutual_information(first: Labels, second: Labels) -> float:
    """NMI of two groupings (N,) of the same things, in [0, 1]: ``2 I(A; B) / (H(A) + H(B))``.

    1 when one is a renaming of the other; also when both are one group. Not corrected for chance: two random
    groupings of few things into many groups are well above 0.
    """
    a, b = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (first, second))
    if a.ndim != 1 or a.shape != b.shape or len(a) == 0:
        raise EvaluationError(f"expected two groupings of the same N >= 1 things, got shapes {a.shape} and {b.shape}")
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1 / len(a))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    entropy = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    if entropy <= 0:  # one group each
        return 1.0
    there = table > 0
    shared = (table[there] * np.log(table[there] / np.outer(rows, columns)[there])).sum()
    return float(min(1.0, max(0.0, 2 * shared / entropy)))


def silhouette(features: ArrayLike, labels: Labels) -> NDArray[np.float64]:
    """Silhouette of each row of `features` (N, D) in its group, in [-1, 1] (Rousseeuw 1987).

    ``(b - a) / max(a, b)`` with a the mean Euclidean distance to the other rows of its own group and b the smallest
    mean distance to another group; 0 for a row that is alone in its group, and where a and b are both 0.

    Raises:
        EvaluationError: fewer than two groups, wrong shapes, or values that are not finite.
    """
    rows = np.asarray(features, dtype=np.float64)
    codes: NDArray[Any] = np.unique(np.asarray(labels), return_inverse=True)[1]
    if rows.ndim != 2 or codes.shape != rows.shape[:1] or not np.isfinite(rows).all():
        raise EvaluationError(f"expected finite features (N, D) and N labels, got {rows.shape} and {codes.shape}")
    sizes = np.bincount(codes)
    if len(sizes) < 2:
        raise EvaluationError(f"a silhouette needs at least two groups, got {len(sizes)}")
    member = np.eye(len(sizes))[codes]
    squares = (rows**2).sum(axis=1)
    values = np.empty(len(rows))
    step = max(1, _BLOCK_ENTRIES // len(rows))
    for start in range(0, len(rows), step):
        some = np.arange(start, min(start + step, len(rows)))
        distances = np.sqrt(np.maximum(squares[some, None] + squares[None] - 2 * rows[some] @ rows.T, 0))
        distances[np.arange(len(some)), some] = 0  # rounding leaves a little
        sums, own = distances @ member, codes[some]
        at = np.arange(len(some))
        inner = sums[at, own] / np.maximum(sizes[own] - 1, 1)
        means = sums / sizes
        means[at, own] = np.inf
        outer = means.min(axis=1)
        largest = np.maximum(inner, outer)
        alone = (sizes[own] == 1) | (largest == 0)
        values[some] = np.where(alone, 0.0, (outer - inner) / np.where(largest == 0, 1, largest))
    return values
