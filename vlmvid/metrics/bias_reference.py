"""Ranking bias as released scorers compute it, bug for bug; `vlmvid.metrics.bias` holds the right numbers.

- oxai/debias-vision-lang at f481bded55, `measuring_bias.py`: with scores that tie at the cut more than top_n items are
  counted and the count is still divided by top_n; MaxSkew starts at 0 and so never falls below it.
- oxai/visogender at 51ef6c7e87, `src/metrics.py`: what `skew_at_k` (floor), `ndkl` and `bias_at_k` give, so it has no
  function here.
- IntelLabs/multimodal_cognitive_ai at d1f2acc, `SocialCounterfactuals/evaluation/train.py`: an absent group has skew 0;
  "NDKL" weighs log(p/q) by q instead of p; Bias@K looks at whether the *index* of an item is 0, not at its group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError


def debias_vision_lang(scores: ArrayLike, labels: Sequence[int], top_n: int | float = 1.0) -> dict[str, float]:
    """``maxskew_eq_opp``, ``maxskew_dem_par``, ``ndkl_eq_opp`` and ``ndkl_dem_par`` of one query.

    Args:
        scores: (N,).
        labels: (N,), group codes 0..G-1, as the script needs them.
        top_n: a number of items, or a float as a share of them, rounded up; the script's default 1.0 is the whole
            set, where MaxSkew against its own shares is 0 by construction.
    """
    values, codes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    cut = math.ceil(len(values) * top_n) if isinstance(top_n, float) else top_n
    if len(values) != len(codes) or len(values) == 0 or np.isnan(values).any() or cut < 1:
        raise EvaluationError(f"expected N >= 1 scores without NaN, N labels and top_n >= 1; got {len(values)}, {cut}")
    counts = np.bincount(codes)
    if (counts == 0).any():
        raise EvaluationError(f"the script needs the labels 0..G-1; {int((counts == 0).argmax())} does not occur")
    order = np.argsort(-values, kind="stable")
    kept = codes[order[values[order] >= values[order[min(cut, len(order)) - 1]]]]
    shares = {"eq_opp": np.full(len(counts), 1 / len(counts)), "dem_par": counts / len(codes)}
    top = np.maximum(np.bincount(kept, minlength=len(counts)), 1) / cut
    places = np.arange(1, len(kept) + 1)
    prefix = np.stack([np.cumsum(kept == group) for group in range(len(counts))], axis=1) / places[:, None]
    discount = 1 / np.log2(places + 1)
    total = float((1 / np.log2(np.arange(1, cut + 1) + 1)).sum())
    found = {f"maxskew_{name}": max(0.0, float(np.log(top / share).max())) for name, share in shares.items()}
    for name, share in shares.items():
        divergence = (prefix * np.log(np.where(prefix > 0, prefix / share, 1.0))).sum(axis=1)
        found[f"ndkl_{name}"] = float(divergence @ discount) / total
    return found


def social_counterfactuals(ranked: Sequence[int], k: int) -> dict[str, float]:
    """``max_skew``, ``min_skew`` and ``ndkl`` of one query as SocialCounterfactuals has them.

    Args:
        ranked: (N,), group codes 0..G-1 of the whole list, best first. The script's own order among ties is that of
            ``torch.topk``, which is not defined.
        k: the cut; NDKL looks at the first k prefixes.
    """
    codes = np.asarray(ranked)
    if not 1 <= k <= len(codes):
        raise EvaluationError(f"k must lie in 1..{len(codes)}, the number of ranked items; got {k}")
    counts = np.bincount(codes)
    shares = counts / len(codes)
    places = np.arange(1, k + 1)
    prefix = np.stack([np.cumsum(codes[:k] == group) for group in range(len(counts))], axis=1)
    skews = _zeroed(prefix / places[:, None], shares)
    discount = 1 / np.log2(places + 1)
    return {
        "max_skew": float(skews[-1].max()),
        "min_skew": float(skews[-1].min()),
        "ndkl": float((skews @ shares) @ discount / discount.sum()),
    }


def social_counterfactuals_bias_at_k(order: Sequence[int], k: int) -> float:
    """The script's Bias@K of one query: the first k indices of `order` count as men where the index is 0."""
    men = sum(int(index == 0) for index in order[:k])
    return (men - (k - men)) / k


def _zeroed(prefix: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / q) (k, G) where p > 0, else 0; a group without any item has 0 too."""
    defined = (prefix > 0) & (shares > 0)
    ratio = np.divide(prefix, shares, out=np.ones_like(prefix), where=defined)
    return np.where(defined, np.log(ratio), 0.0)
