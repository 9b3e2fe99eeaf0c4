"""Association tests in embedding spaces: WEAT, SEAT and iEAT, which differ in what is embedded only.

Caliskan et al. (Science 356, 2017), May et al. (arXiv 1903.10561), Steed and Caliskan (arXiv 2010.15052). Targets X
and Y, attributes A and B; ``s(w) = mean_a cos(w, a) - mean_b cos(w, b)``. Across modalities X and Y are embeddings of
clips, A and B of texts. The released scorer is ryansteed/weat at 79d072f6e9 (`weat/test.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Interval

EXACT_UP_TO = 10_000  # partitions; beyond it 9,999 are drawn and the observed one is added
_MAX_DRAWS = 1 << 22  # indices held at once
_TIE_TOLERANCE = 1e-9  # of the sum of absolute associations


@dataclass(frozen=True, slots=True)
class AssociationTest:
    """What an association test gives.

    Attributes:
        effect_size: mean of X minus mean of Y in standard deviations of both, ``ddof=1``; |d| < 2. Above 0, X is
            closer to A than Y is.
        p_value: one-sided, as published: share of partitions of X and Y whose X sums to as much or more.
        p_two_sided: share whose means lie as far apart or farther, in either direction.
        num_partitions: partitions that were looked at, the observed one included.
        exact: whether these are all partitions.
        num_ties: partitions other than the observed that give its sum; they count as as much.
        chance: 2.5 % and 97.5 % quantile of the effect size over the partitions.
    """

    effect_size: float
    p_value: float
    p_two_sided: float
    num_partitions: int
    exact: bool
    num_ties: int
    chance: Interval


def associations(targets: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """``s(w, A, B)`` (N,) of `targets` (N, D) with the attributes `first` (A, D) and `second` (B, D); in [-2, 2].

    Embeddings need no normalisation.

    Raises:
        EvaluationError: other shapes, no row, NaN, or a row of zeros, which has no direction.
    """
    unit = [_unit(name, rows) for name, rows in (("targets", targets), ("A", first), ("B", second))]
    if len({rows.shape[1] for rows in unit}) > 1:
        raise EvaluationError(
            f"targets, A and B have {[rows.shape[1] for rows in unit]} dimensions; expected one number"
        )
    target, a, b = unit
    means: NDArray[np.float64] = (target @ a.T).mean(axis=1) - (target @ b.T).mean(axis=1)
    return means


def effect_size(x: ArrayLike, y: ArrayLike, *, ddof: int = 1) -> float:
    """Cohen's d of the associations of X and Y, over the standard deviation of both together.

    NaN where all associations are equal. The published numbers use ``ddof=1``; 0 gives another number.
    """
    first, second = _values(x), _values(y)
    together = np.concatenate([first, second])
    spread = float(together.std(ddof=ddof))
    return float(first.mean() - second.mean()) / spread if spread > 0 else math.nan


def association_test(x: ArrayLike, y: ArrayLike, *, seed: int) -> AssociationTest:
    """The permutation test of the associations `x` (N,) and `y` (N,) over partitions of both into equal halves.

    All ``C(2N, N)`` partitions up to `EXACT_UP_TO`, else 9,999 seeded ones and the observed one. The released scorer
    draws without a seed and compares sums for exact equality; here sums that differ by rounding only are equal.

    Raises:
        EvaluationError: X and Y differ in number, which the test does not allow, or all associations are equal.
    """
    first, second = _values(x), _values(y)
    if len(first) != len(second):
        raise EvaluationError(
            f"the association test needs as many targets in X as in Y; got {len(first)} and {len(second)}; drop some"
        )
    together, size = np.concatenate([first, second]), len(first)
    spread = float(together.std(ddof=1))
    if not spread > 0:
        raise EvaluationError("all targets have the same association with A and B; there is nothing to test")
    exact = math.comb(2 * size, size) <= EXACT_UP_TO
    total, observed = float(together.sum()), float(first.sum())
    tolerance = _TIE_TOLERANCE * float(np.abs(together).sum())
    blocks = _all_halves(size) if exact else _drawn_halves(size, seed)
    sums = np.concatenate([together[half].sum(axis=1) for half in blocks])
    if not exact:
        sums = np.append(sums, observed)
    differences = (2 * sums - total) / size
    low, high = np.quantile(differences / spread, [0.025, 0.975])
    return AssociationTest(
        effect_size=effect_size(first, second),
        p_value=float((sums >= observed - tolerance).mean()),
        p_two_sided=float((np.abs(2 * sums - total) >= abs(2 * observed - total) - 2 * tolerance).mean()),
        num_partitions=len(sums),
        exact=exact,
        num_ties=int((np.abs(sums - observed) <= tolerance).sum()) - 1,
        chance=(float(low), float(high)),
    )


def effect_interval(x: ArrayLike, y: ArrayLike, *, num_bootstrap: int, seed: int) -> Interval | None:
    """95 % percentile interval of the effect size: targets are resampled within X and within Y.

    None with fewer than two targets in either, or where the effect is undefined on half of the resamples or more.
    """
    first, second = _values(x), _values(y)
    if min(len(first), len(second)) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            effect_size(
                first[rng.integers(0, len(first), len(first))], second[rng.integers(0, len(second), len(second))]
            )
            for _ in range(num_bootstrap)
        ]
    )
    defined = drawn[~np.isnan(drawn)]
    if 2 * len(defined) <= num_bootstrap or bool((defined == defined[0]).all()):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def _all_halves(size: int) -> Iterator[NDArray[np.intp]]:
    yield np.array(list(itertools.combinations(range(2 * size), size)), dtype=np.intp)


def _drawn_halves(size: int, seed: int) -> Iterator[NDArray[np.intp]]:
    rng = np.random.default_rng(seed)
    step = max(1, _MAX_DRAWS // (2 * size))
    for start in range(0, EXACT_UP_TO - 1, step):
        rows = min(step, EXACT_UP_TO - 1 - start)
        yield rng.permuted(np.tile(np.arange(2 * size), (rows, 1)), axis=1)[:, :size]


def _unit(name: str, rows: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0 or not np.isfinite(values).all():
        raise EvaluationError(f"{name} must be finite embeddings of shape (N, D) with N >= 1; got shape {values.shape}")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise EvaluationError(f"row {int(norms.argmin())} of {name} is all zeros; a cosine with it is not defined")
    unit: NDArray[np.float64] = values / norms
    return unit


def _values(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise EvaluationError(f"expected finite associations of shape (N,) with N >= 1; got shape {array.shape}")
    return array
