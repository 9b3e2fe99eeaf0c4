"""Group bias: who stands in the top K of each query, and for whom retrieval works less well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import (
    EvaluationData,
    Sample,
    TaskResult,
    attribute_label,
    metric_slug,
    missing_input,
    similarity,
    similarity_blocks,
)
from vlmvid.metrics import (
    count_cut_ties,
    group_gap,
    mean_result,
    ndkl,
    newcombe_interval,
    rank_order,
    ranks,
    skew_at_k,
)
from vlmvid.types import Clip, MetricResult

_GAP = "t2v_r_at_1"


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """MaxSkew@K, NDKL and signed skew of `bias.queries`, and the group gap of T2V R@1.

    Each query ranks the clips that carry the group attribute; ties keep the order of the clips. Skew
    is taken against the groups' shares of these clips, an absent group counts as 1 / K. Values are
    means over queries, and their intervals resample queries: they speak about other queries on the
    same clips. Whether a value differs from that of an indifferent ranking is read from ``/chance``:
    mean and central 95 % range when the group labels are permuted over the clips, which keeps the
    queries' overlap. MaxSkew, NDKL and the gap are above 0 by chance alone, so only what exceeds
    that range is bias. MaxSkew cannot show a lean towards a majority, whose skew ends at
    ``-ln(share)``; with two groups the signed skews are reported too, and 0 is their best value.
    """
    attribute, k = config.bias.group_attribute, config.bias.k
    labels = [attribute_label(clip, attribute) for clip in data.clips]
    rows = [row for row, label in enumerate(labels) if label is not None]
    groups = np.array([labels[row] for row in rows])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise missing_input("bias", f"clips with the attribute {attribute!r} in at least two groups (found {names})")
    if len({metric_slug(name) for name in names}) < len(names):
        raise EvaluationError(f"groups {names} are not distinct as metric names; rename them")
    if not config.bias.queries:
        raise EvaluationError("task 'bias' needs evaluate.bias.queries: the texts whose rankings are examined")
    if k > len(rows):
        raise EvaluationError(f"evaluate.bias.k={k} exceeds the {len(rows)} ranked clips; choose a smaller k")
    queries = list(dict.fromkeys(config.bias.queries))
    scores = similarity(data.text_embeds(queries), data.video_embeds[rows])
    orders = np.stack([rank_order(row_scores) for row_scores in scores])
    gap_metrics, gap_samples = _retrieval_gap(data, rows, groups, config)
    metrics = (*_ranking_metrics(orders, groups, config), *gap_metrics)
    samples = _ranking_samples([data.clips[row] for row in rows], groups, queries, scores, k) + gap_samples
    num_cut = sum(count_cut_ties(row_scores, k) > 0 for row_scores in scores)
    shares = ", ".join(f"{name} {np.mean(groups == name):.3f}" for name in names)
    protocol = (
        f"group bias by {attribute!r} on split {config.split!r}: {len(queries)} queries rank {len(rows)} clips "
        f"({shares}), {len(data.clips) - len(rows)} clips without the attribute left out; skew against these shares, "
        f"an absent group counts as 1/{k}; {num_cut} queries with ties across place {k}, stable order; intervals over "
        f"queries, chance from permuted labels; gap = best minus worst group's T2V R@1 of first captions among all "
        f"{len(data.clips)} clips, worst group {_worst(gap_samples)}"
    )
    return TaskResult("bias", protocol, metrics, samples)


def _ranking_metrics(orders: NDArray[np.intp], groups: NDArray[np.str_], config: EvaluateConfig) -> list[MetricResult]:
    k = config.bias.k
    names, codes = np.unique(groups, return_inverse=True)
    columns = [f"max_skew_at_{k}", "ndkl"]
    if len(names) == 2:
        # With two groups one sign tells the story; with more, MaxSkew and the sample log do.
        columns += [f"skew_{metric_slug(name)}_at_{k}" for name in names]
    measured = _measure(codes[orders], k)
    rng = np.random.default_rng(config.seed)
    permuted = np.stack([_measure(rng.permutation(codes)[orders], k).mean(axis=0) for _ in range(config.num_bootstrap)])
    metrics: list[MetricResult] = []
    for column, name in enumerate(columns):
        metrics += [
            mean_result(
                name,
                measured[:, column],
                seed=config.seed,
                num_bootstrap=config.num_bootstrap,
                higher_is_better=False,
            ),
            _permutation_result(name, permuted[:, column], len(orders)),
        ]
    return metrics


def _measure(rankings: NDArray[np.intp], k: int) -> NDArray[np.float64]:
    """MaxSkew@k, NDKL and each group's skew (columns) of each ranking of group codes (rows)."""
    rows = []
    for ranking in rankings:
        skews = list(skew_at_k(ranking, k).values())
        rows.append([max(skews), ndkl(ranking), *skews])
    return np.array(rows)


def _permutation_result(name: str, replicates: NDArray[np.float64], num_samples: int) -> MetricResult:
    low, high = np.quantile(replicates, [0.025, 0.975])
    return MetricResult(
        name=f"{name}/chance",
        value=float(replicates.mean()),
        num_samples=num_samples,
        ci_low=float(low),
        ci_high=float(high),
        higher_is_better=False,
    )


def _retrieval_gap(
    data: EvaluationData, rows: list[int], groups: NDArray[np.str_], config: EvaluateConfig
) -> tuple[list[MetricResult], list[Sample]]:
    """R@1 of first captions by group; nothing unless two groups have captions."""
    captioned = [place for place, row in enumerate(rows) if data.clips[row].captions]
    labels = groups[captioned]
    if len(set(labels.tolist())) < 2:
        return [], []
    targets = [rows[place] for place in captioned]
    texts = data.text_embeds([data.clips[row].captions[0] for row in targets])
    rank = np.concatenate(
        [ranks(scores, targets[block]) for block, scores in similarity_blocks(texts, data.video_embeds)]
    )
    hits = rank == 1
    gap = group_gap(hits, labels)
    (best, num_best), (worst, num_worst) = (
        (gap.means[name], gap.num_samples[name]) for name in (gap.best_group, gap.worst_group)
    )
    low, high = newcombe_interval((best * num_best, num_best), (worst * num_worst, num_worst))
    rng = np.random.default_rng(config.seed)
    permuted = np.array([group_gap(hits, rng.permutation(labels)).gap for _ in range(config.num_bootstrap)])
    by_group = {name: hits[labels == name] for name in gap.means}
    metrics = [
        MetricResult(
            name=f"group_gap_{_GAP}",
            value=gap.gap,
            num_samples=len(hits),
            ci_low=max(0.0, low),
            ci_high=high,
            higher_is_better=False,
        ),
        _permutation_result(f"group_gap_{_GAP}", permuted, len(hits)),
        _proportion(f"worst_group_{_GAP}", by_group[gap.worst_group], config),
        *(_proportion(f"group_{metric_slug(name)}_{_GAP}", values, config) for name, values in by_group.items()),
    ]
    samples = [
        _sample("retrieval", data.clips[row].video_id, str(label), query=data.clips[row].captions[0], rank=float(place))
        for row, label, place in zip(targets, labels, rank, strict=True)
    ]
    return metrics, samples


def _proportion(name: str, hits: NDArray[np.bool_], config: EvaluateConfig) -> MetricResult:
    return mean_result(name, hits, seed=config.seed, num_bootstrap=config.num_bootstrap)


def _worst(gap_samples: list[Sample]) -> str:
    if not gap_samples:
        return "not measured (fewer than two groups with captions)"
    gap = group_gap([sample["rank"] == 1 for sample in gap_samples], [str(sample["group"]) for sample in gap_samples])
    return repr(gap.worst_group)


def _ranking_samples(
    clips: list[Clip], groups: NDArray[np.str_], queries: list[str], scores: NDArray[np.float32], k: int
) -> list[Sample]:
    """The first k clips of each query."""
    return [
        _sample(
            "ranking",
            clips[place].video_id,
            str(groups[place]),
            query=query,
            rank=float(position + 1),
            score=float(row_scores[place]),
        )
        for query, row_scores in zip(queries, scores, strict=True)
        for position, place in enumerate(rank_order(row_scores)[:k])
    ]


def _sample(kind: str, video_id: str, group: str, *, query: str, rank: float, score: float | None = None) -> Sample:
    return {"kind": kind, "video_id": video_id, "group": group, "query": query, "rank": rank, "score": score}
