"""Ranked lists as three released scorers measure them; which bugs those have, `vlmvid.metrics.bias_reference` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.metrics.bias import bias_at_k, max_skew_at_k, min_skew_at_k, ndkl, rank_order
from vlmvid.metrics.bias_reference import debias_vision_lang, social_counterfactuals, social_counterfactuals_bias_at_k
from vlmvid.types import MetricResult

Given = tuple[Sequence[str], NDArray[np.float64] | None]


@dataclass(frozen=True)
class Rankings:
    """Ranked lists over one gallery.

    Attributes:
        queries: their names.
        orders: for each query indices of the gallery, best first.
        scores: for each query the scores of the clips that have a group, or None where only ids were given.
        given: for each query ids and scores as they were read.
        groups: group of each clip of the gallery.
        ids: its id.
        num_unknown: ranked clips without a group.
    """

    queries: list[str]
    orders: list[NDArray[np.intp]]
    scores: list[NDArray[np.float64] | None]
    given: Mapping[str, Given] = field(repr=False)
    groups: list[str]
    ids: list[str]
    num_unknown: int


Compat = Callable[[Rankings, int, tuple[str, str] | None], TaskResult]


def _complete(rankings: Rankings) -> list[NDArray[np.float64]]:
    """Scores (N,) of the gallery for each query, falling ones for ids alone; raises unless all clips are ranked."""
    found = []
    place = {name: index for index, name in enumerate(rankings.ids)}
    for query in rankings.queries:
        ids, scores = rankings.given[query]
        values = np.arange(len(ids), 0, -1, dtype=np.float64) if scores is None else scores
        kept = {place[name]: value for name, value in zip(ids, values.tolist(), strict=True) if name in place}
        if len(kept) < len(place):
            raise EvaluationError(f"{query!r} ranks {len(kept)} of {len(place)} clips; the reference scripts rank all")
        found.append(np.array([kept[index] for index in range(len(place))]))
    return found


def _codes(rankings: Rankings) -> NDArray[np.intp]:
    return np.unique(np.array(rankings.groups), return_inverse=True)[1]


def _result(
    name: str, rankings: Rankings, rows: list[dict[str, float]], printed: Callable[[Mapping[str, float]], str]
) -> TaskResult:
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    samples: list[Sample] = [
        {"item_id": query, "video_id": "", "status": "parsed", "score": next(iter(row.values()))}
        for query, row in zip(rankings.queries, rows, strict=True)
    ]
    metrics = tuple(
        MetricResult(name=key, value=value, num_samples=len(rows), higher_is_better=False)
        for key, value in means.items()
    )
    return TaskResult("ranking_bias", f"ranking bias as {name} computes it", metrics, samples, name, printed(means))


def as_debias_vision_lang(rankings: Rankings, k: int, compared: tuple[str, str] | None) -> TaskResult:
    """`compute_skew_metrics` and `normalized_discounted_KL` with ``top_n=k``; ties at the cut are all counted."""
    codes = _codes(rankings).tolist()
    rows = []
    for scores in _complete(rankings):
        found = debias_vision_lang(scores, codes, k)
        rows.append(
            {
                f"max_skew_at_{k}[zero=floor]": found["maxskew_dem_par"],
                f"ndkl_at_{k}": found["ndkl_dem_par"],
                f"max_skew_at_{k}[reference=equal,zero=floor]": found["maxskew_eq_opp"],
                f"ndkl_at_{k}[reference=equal]": found["ndkl_eq_opp"],
            }
        )

    def printed(means: Mapping[str, float]) -> str:
        skew, kl, skew_equal, kl_equal = means.values()
        nested = {
            "maxskew": {"eq_opp": skew_equal, "dem_par": skew},
            "ndkl": {"eq_opp": kl_equal, "dem_par": kl},
        }
        return str(nested)

    return _result("debias-vision-lang", rankings, rows, printed)


def as_visogender(rankings: Rankings, k: int, compared: tuple[str, str] | None) -> TaskResult:
    """`calculate_retrieval_bias`: file order on ties, NDKL over the whole list, Bias@k with its sign only."""
    groups = np.array(rankings.groups)
    rows = []
    for scores in _complete(rankings):
        ranked = groups[rank_order(scores)]
        row = {
            f"max_skew_at_{k}[zero=floor]": max_skew_at_k(ranked, k),
            f"min_skew_at_{k}[zero=floor]": min_skew_at_k(ranked, k),
            "ndkl": ndkl(ranked),
        }
        if compared is not None:
            row[f"bias_at_{k}"] = bias_at_k(ranked, k, first=compared[0], second=compared[1])
        rows.append(row)
    return _result("visogender", rankings, rows, lambda means: "\n".join(f"{k}: {v}" for k, v in means.items()))


def as_social_counterfactuals(rankings: Rankings, k: int, compared: tuple[str, str] | None) -> TaskResult:
    """`evaluate_skew`, `evaluate_ndkl` and `evaluate_biask`; ties in file order, where the script leaves them open."""
    codes = _codes(rankings)
    rows = []
    for scores in _complete(rankings):
        order = rank_order(scores)
        found = social_counterfactuals(codes[order].tolist(), k)
        rows.append(
            {
                f"max_skew_at_{k}[zero=zero]": found["max_skew"],
                f"min_skew_at_{k}[zero=zero]": found["min_skew"],
                f"ndkl_at_{k}": found["ndkl"],
                f"bias_at_{k}": social_counterfactuals_bias_at_k(order.tolist(), k),
            }
        )

    def printed(means: Mapping[str, float]) -> str:
        top, low, _, _ = means.values()
        return f"Final Score of the task: { ({f'MaxSkew@{k}': top, f'MinSkew@{k}': low}) }"

    return _result("socialcounterfactuals", rankings, rows, printed)


COMPAT: Mapping[str, Compat] = {
    "debias-vision-lang": as_debias_vision_lang,
    "visogender": as_visogender,
    "socialcounterfactuals": as_social_counterfactuals,
}
