"""Linear centred kernel alignment: how similar two representations of the same things are, up to rotation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError


def linear_cka(first: ArrayLike, second: ArrayLike, *, debiased: bool) -> float:
    """Linear CKA of `first` (N, D) and `second` (N, E): ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))``, K = X X^T.

    ``debiased=False`` is CKA of Kornblith et al. (arXiv 1905.00414), in [0, 1]. It is far above 0 for unrelated
    features when N is not much larger than D and E. ``debiased=True`` takes the unbiased estimate of HSIC (Song et
    al. 2012, eq. 5; Nguyen et al., arXiv 2010.15327): around 0 for unrelated features, at most 1, sometimes negative.
    No N x N matrix is made: memory is O(N (D + E) + D E).

    Returns:
        The score; NaN where a representation has no spread, so that it is not defined.

    Raises:
        EvaluationError: other numbers of rows, values that are not finite, or too few rows (2; 4 when debiased).
    """
    x, y = _centred(first, "first"), _centred(second, "second")
    fewest = 4 if debiased else 2
    if len(x) != len(y) or len(x) < fewest:
        raise EvaluationError(
            f"linear_cka compares the same N >= {fewest} things: got {len(x)} and {len(y)} rows of features"
        )
    hsic = _unbiased_hsic if debiased else _hsic
    scale = hsic(x, x) * hsic(y, y)
    return float(hsic(x, y) / np.sqrt(scale)) if scale > 0 else float("nan")


def _centred(features: ArrayLike, name: str) -> NDArray[np.float64]:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
        raise EvaluationError(f"{name} must be finite features of shape (N, D) with N, D >= 1, got {rows.shape}")
    rows = rows - rows.mean(axis=0)
    # The score does not depend on the scale; this keeps fourth powers of large or small features in range.
    largest = np.abs(rows).max()
    scaled: NDArray[np.float64] = rows / largest if largest > 0 else rows
    return scaled


def _cross(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """``||X^T Y||_F^2``, which is the sum of the entries of K * L, over whichever product is smaller."""
    if len(x) < min(x.shape[1], y.shape[1]):
        return float(((x @ x.T) * (y @ y.T)).sum())
    return float(np.square(x.T @ y).sum())


def _hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return _cross(x, y)  # the factor 1 / (N - 1)^2 cancels in CKA


def _unbiased_hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """HSIC_1 of linear kernels without their diagonals, up to the factor 1 / (N (N - 3)).

    With centred rows the row sums of the kernels are minus their diagonals, which is all that is left of them.
    """
    n = len(x)
    own_x, own_y = (x**2).sum(axis=1), (y**2).sum(axis=1)
    trace = _cross(x, y) - float(own_x @ own_y)
    sums_x, sums_y = -own_x, -own_y
    total = float(sums_x.sum() * sums_y.sum()) / ((n - 1) * (n - 2))
    return trace + total - 2 / (n - 2) * float(sums_x @ sums_y)
