"""Group bias of ranked lists (Geyik et al., arXiv 1905.01989) and gaps between groups.

``Skew_a@k = ln(p_topk(a) / q(a))``: above 0, group a is over-represented in the first k. The
reference share q(a) is the group's share of the whole list (``dataset``, demographic parity),
1 / |groups| (``equal``, equal opportunity), or given. A group that is absent from the first k would
have a skew of minus infinity; the rule ``floor`` takes p := 1/k instead (Berg et al., arXiv
2203.11933; VisoGender), the rule ``zero`` says skew := 0 (SocialCounterfactuals). Logarithms are
natural. A list that holds a part of the gallery only needs given shares: those of the gallery.
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
ZeroCount = Literal["floor", "zero"]
_SHARE_TOLERANCE = 1e-6


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
    zero_count: ZeroCount = "floor",
) -> dict[Any, float]:
    """Signed skew of each group in the first k of `ranked_groups` (N,), best place first.

    A group that `reference` names and the list lacks is there too, with the rule for absent groups.

    Raises:
        EvaluationError: k > N (the list must hold k items), an unknown rule, or reference shares of
            which one is missing or not positive or that do not add up to 1.
    """
    names, codes, shares = _encode(ranked_groups, reference)
    _check_k(k, len(codes))
    counts = np.bincount(codes[:k], minlength=len(names))
    return dict(zip(names, skews_of_counts(counts, k, shares, zero_count).tolist(), strict=True))


def skews_of_counts(
    counts: NDArray[np.intp], k: int, shares: NDArray[np.float64], zero_count: ZeroCount
) -> NDArray[np.float64]:
    """Skews (..., G) of groups that occur `counts` (..., G) times in the first k, against `shares` (G,)."""
    if zero_count not in ("floor", "zero"):
        raise EvaluationError(f"unknown rule for absent groups {zero_count!r}; known: floor, zero")
    skews: NDArray[np.float64] = np.log(np.maximum(counts, 1) / k / shares)
    if zero_count == "zero":
        skews[counts == 0] = 0.0
    return skews


def max_skew_at_k(
    ranked_groups: Groups,
    k: int,
    *,
    reference: Reference = "dataset",
    zero_count: ZeroCount = "floor",
) -> float:
    """MaxSkew@k: the largest skew of any group. 0 means that the first k mirror the reference."""
    return max(skew_at_k(ranked_groups, k, reference=reference, zero_count=zero_count).values())


def min_skew_at_k(
    ranked_groups: Groups,
    k: int,
    *,
    reference: Reference = "dataset",
    zero_count: ZeroCount = "floor",
) -> float:
    """MinSkew@k: the smallest skew of any group: how far the least represented one lies below its share."""
    return min(skew_at_k(ranked_groups, k, reference=reference, zero_count=zero_count).values())


def bias_at_k(ranked_groups: Groups, k: int, *, first: Any, second: Any) -> float:
    """Bias@k of one query (Wang et al., arXiv 2109.05433): ``(n_first - n_second) / (n_first + n_second)``.

    In [-1, 1]; other labels (the paper's neutral pictures) do not count, and a top k without either group has 0. Over
    queries signed values cancel: report the mean of absolute values beside their mean.

    Raises:
        EvaluationError: k > N, or `first` equals `second`.
    """
    labels = np.asarray(ranked_groups)
    _check_k(k, len(labels))
    if first == second:
        raise EvaluationError(f"Bias@k compares two groups; both are {first!r}")
    num_first, num_second = int((labels[:k] == first).sum()), int((labels[:k] == second).sum())
    return (num_first - num_second) / max(1, num_first + num_second)


def ndkl(ranked_groups: Groups, *, reference: Reference = "dataset", k: int | None = None) -> float:
    """NDKL: discounted divergence of every prefix of the ranking from the reference shares.

    ``(1/Z) sum_i KL(D_top-i || q) / log2(i + 1)``, ``Z = sum_i 1 / log2(i + 1)``, over the first k
    places (None = all). Lower is better; 0 is out of reach, because a prefix of one item holds one
    group only.
    """
    _, codes, shares = _encode(ranked_groups, reference)
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


def group_gap(values: ArrayLike, groups: Groups, *, min_group: int = 1) -> GroupGap:
    """Means of `values` (N,) by group, and the distance from the best to the worst group.

    Groups of fewer than `min_group` samples have a mean, but are never the worst or the best: the mean of a few
    samples is extreme by chance.

    Raises:
        EvaluationError: fewer than two groups of `min_group` samples, or values that are not finite.
    """
    samples = np.asarray(values, dtype=np.float64)
    names, codes, _ = _encode(groups, "dataset")
    if samples.shape != codes.shape or not np.isfinite(samples).all():
        raise EvaluationError(f"expected one finite value for each of {len(codes)} group labels, got {samples.shape}")
    sizes = np.bincount(codes)
    eligible = np.flatnonzero(sizes >= min_group)
    if len(eligible) < 2:
        raise EvaluationError(
            f"a gap needs at least two groups of {min_group} samples or more; got "
            f"{dict(zip(names, sizes.tolist(), strict=True))}"
        )
    means = np.bincount(codes, weights=samples) / sizes
    ranked = means[eligible]
    return GroupGap(
        gap=float(ranked.max() - ranked.min()),
        worst_group=names[int(eligible[ranked.argmin()])],
        best_group=names[int(eligible[ranked.argmax()])],
        means=dict(zip(names, means.tolist(), strict=True)),
        num_samples=dict(zip(names, sizes.tolist(), strict=True)),
    )


def reference_shares(groups: Groups, reference: Reference) -> dict[Any, float]:
    """The reference share of every group of `groups` (N,), the whole gallery; raises as `skew_at_k` does."""
    names, _, shares = _encode(groups, reference)
    return dict(zip(names, shares.tolist(), strict=True))


def _encode(groups: Groups, reference: Reference) -> tuple[list[Any], NDArray[np.intp], NDArray[np.float64]]:
    """Names of the groups, sorted, the code of each label, and the reference share of each group."""
    labels = np.asarray(groups)
    if labels.ndim != 1 or len(labels) == 0:
        raise EvaluationError(f"expected group labels of shape (N,) with N >= 1, got shape {labels.shape}")
    found, codes = np.unique(labels, return_inverse=True)
    names = found.tolist()
    if isinstance(reference, str):
        known = {"dataset": np.bincount(codes) / len(codes), "equal": np.full(len(names), 1 / len(names))}
        if reference not in known:
            raise EvaluationError(f"unknown reference {reference!r}; known: {', '.join(known)}, or a mapping")
        return names, codes, known[reference]
    missing = [name for name in [*names, *reference] if not reference.get(name, 0) > 0]
    if missing:
        raise EvaluationError(f"the reference needs a share above 0 for every group; missing: {missing}")
    if abs(sum(reference.values()) - 1) > _SHARE_TOLERANCE:
        raise EvaluationError(
            f"the reference shares add up to {sum(reference.values())}; expected 1: {dict(reference)}"
        )
    every = sorted(reference)
    place = {name: code for code, name in enumerate(every)}
    codes = np.array([place[name] for name in names], dtype=np.intp)[codes]
    return every, codes, np.array([reference[name] for name in every], dtype=np.float64)


def _check_k(k: int, num_items: int) -> None:
    if not 1 <= k <= num_items:
        raise EvaluationError(f"k must lie in 1..{num_items}, the number of ranked items; got {k}")
