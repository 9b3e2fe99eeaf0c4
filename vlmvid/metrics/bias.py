"""Group bias of ranked lists (Geyik et al., arXiv 1905.01989) and gaps between groups.

``Skew_a@k = ln(p_topk(a) / q(a))``: above 0, group a is over-represented in the first k. The
reference share q(a) is the group's share of the whole list (``dataset``, demographic parity),
1 / |groups| (``equal``, equal opportunity), or given. A group that is absent from the first k would
have a skew of minus infinity; the rule ``floor`` takes p := 1/k instead (Berg et al., arXiv
2203.11933; VisoGender), the rule ``zero`` says skew := 0 (SocialCounterfactuals). Logarithms are
natural.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError

Groups = Sequence[str] | Sequence[int] | NDArray[Any]
Reference = Literal["dataset", "equal"] | Mapping[Any, float]


@dataclass(frozen=True, slots=True)
class GroupGap:
    """Best minus worst group mean.

    Attributes:
        gap: largest minus smallest group mean.
        worst_group: the group with the smallest mean; of equals the first in sorted order.
        best_group: the group with the largest mean; of equals the first in sorted order.
        means: mean of each group.
        num_samples: samples of each group.
    """

    gap: float
    worst_group: Hashable
    best_group: Hashable
    means: dict[Any, float]
    num_samples: dict[Any, int]


def rank_order(scores: ArrayLike) -> NDArray[np.intp]:
    """Indices of `scores` (N,) from high to low; equal scores keep their order (stable)."""
    values = np.asarray(scores)
    if values.ndim != 1 or np.isnan(values).any():
        raise EvaluationError(f"expected scores of shape (N,) without NaN, got shape {values.shape}")
    return np.argsort(-values, kind="stable")


def count_cut_ties(scores: ArrayLike, k: int) -> int:
    """Items outside the first k whose score equals the k-th: the stable order alone left them out."""
    values = np.asarray(scores)
    order = rank_order(values)
    _check_k(k, len(order))
    return int((values[order[k:]] == values[order[k - 1]]).sum())


def skew_at_k(
    ranked_groups: Groups,
    k: int,
    *,
    reference: Reference = "dataset",
    zero_count: Literal["floor", "zero"] = "floor",
) -> dict[Any, float]:
    """Signed skew of each group in the first k of `ranked_groups` (N,), best place first.

    Raises:
        EvaluationError: k > N (the list must hold k items), an unknown rule, or a reference share
            that is missing or not positive.
    """
    names, codes = _encode(ranked_groups)
    _check_k(k, len(codes))
    if zero_count not in ("floor", "zero"):
        raise EvaluationError(f"unknown rule for absent groups {zero_count!r}; known: floor, zero")
    shares = _shares(names, codes, reference)
    counts = np.bincount(codes[:k], minlength=len(names))
    skews = np.log(np.maximum(counts, 1) / k / shares)
    if zero_count == "zero":
        skews[counts == 0] = 0.0
    return dict(zip(names.tolist(), skews.tolist(), strict=True))


def max_skew_at_k(
    ranked_groups: Groups,
    k: int,
    *,
    reference: Reference = "dataset",
    zero_count: Literal["floor", "zero"] = "floor",
) -> float:
    """MaxSkew@k: the largest skew of any group. 0 means that the first k mirror the reference."""
    return max(skew_at_k(ranked_groups, k, reference=reference, zero_count=zero_count).values())


def ndkl(ranked_groups: Groups, *, reference: Reference = "dataset", k: int | None = None) -> float:
    """NDKL: discounted divergence of every prefix of the ranking from the reference shares.

    ``(1/Z) sum_i KL(D_top-i || q) / log2(i + 1)``, ``Z = sum_i 1 / log2(i + 1)``, over the first k
    places (None = all). Lower is better; 0 is out of reach, because a prefix of one item holds one
    group only.
    """
    names, codes = _encode(ranked_groups)
    shares = _shares(names, codes, reference)
    length = len(codes) if k is None else k
    _check_k(length, len(codes))
    places = np.arange(1, length + 1)
    divergence = np.zeros(length)
    for group, share in enumerate(shares):
        prefix_share = np.cumsum(codes[:length] == group) / places
        # 0 ln 0 = 0: an absent group adds nothing.
        ratio = np.where(prefix_share > 0, prefix_share / share, 1.0)
        divergence += prefix_share * np.log(ratio)
    discount = 1 / np.log2(places + 1)
    return float((divergence * discount).sum() / discount.sum())


def group_gap(values: ArrayLike, groups: Groups) -> GroupGap:
    """Means of `values` (N,) by group, and the distance from the best to the worst group.

    Raises:
        EvaluationError: fewer than two groups, or values that are not finite.
    """
    samples = np.asarray(values, dtype=np.float64)
    names, codes = _encode(groups)
    if samples.shape != codes.shape or not np.isfinite(samples).all():
        raise EvaluationError(f"expected one finite value for each of {len(codes)} group labels, got {samples.shape}")
    if len(names) < 2:
        raise EvaluationError(f"a gap needs at least two groups; got only {names.tolist()}")
    sizes = np.bincount(codes)
    means = np.bincount(codes, weights=samples) / sizes
    labels = names.tolist()
    return GroupGap(
        gap=float(means.max() - means.min()),
        worst_group=labels[int(means.argmin())],
        best_group=labels[int(means.argmax())],
        means=dict(zip(labels, means.tolist(), strict=True)),
        num_samples=dict(zip(labels, sizes.tolist(), strict=True)),
    )


def _encode(groups: Groups) -> tuple[NDArray[Any], NDArray[np.intp]]:
    labels = np.asarray(groups)
    if labels.ndim != 1 or len(labels) == 0:
        raise EvaluationError(f"expected group labels of shape (N,) with N >= 1, got shape {labels.shape}")
    names, codes = np.unique(labels, return_inverse=True)
    return names, codes


def _shares(names: NDArray[Any], codes: NDArray[np.intp], reference: Reference) -> NDArray[np.float64]:
    if isinstance(reference, str):
        known = {"dataset": np.bincount(codes) / len(codes), "equal": np.full(len(names), 1 / len(names))}
        if reference not in known:
            raise EvaluationError(f"unknown reference {reference!r}; known: {', '.join(known)}, or a mapping")
        return known[reference]
    missing = [name for name in names.tolist() if not reference.get(name, 0) > 0]
    if missing:
        raise EvaluationError(f"the reference needs a share above 0 for every group; missing: {missing}")
    return np.array([reference[name] for name in names.tolist()], dtype=np.float64)


def _check_k(k: int, num_items: int) -> None:
    if not 1 <= k <= num_items:
        raise EvaluationError(f"k must lie in 1..{num_items}, the number of ranked items; got {k}")
