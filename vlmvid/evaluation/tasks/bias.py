"""Group bias: who stands in the top K of each query, and for whom retrieval works less well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, attribute_label, metric_slug, missing_input
from vlmvid.evaluation.cosines import similarity, similarity_blocks
from vlmvid.metrics import count_cut_ties, rank_order, ranks
from vlmvid.metrics.bias import group_gap
from vlmvid.metrics.bias_groups import GapSpec, gap_results, pair_comparisons, pair_results, ranked_groups
from vlmvid.metrics.bias_ranking import RankingSpec, ranking_results
from vlmvid.types import Clip, MetricResult

_GAP = "t2v_r_at_1"


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """MaxSkew@K, NDKL, signed skew and counts of `bias.queries`, and the group gap of T2V R@1.

    Each query ranks the clips that carry the group attribute; ties keep the order of the clips. Skew
    is taken against the groups' shares of these clips, an absent group counts as 1 / K. Values are
    means over queries, and their intervals resample queries: they speak about other queries on the
    same clips. Whether a value differs from that of an indifferent ranking is read from ``/chance``:
    mean and central 95 % range when the group labels are permuted over the clips, which keeps the
    queries' overlap. MaxSkew, NDKL and the gap are above 0 by chance alone, so only what exceeds
    that range is bias. MaxSkew cannot show a lean towards a majority, whose skew ends at
    ``-ln(share)``; the signed skews do, and 0 is their best value.

    Groups of fewer than `bias.min_group` clips have a skew and an R@1, and are neither the most skewed nor the worst or
    best one; what compares groups is left out where fewer than two are large enough. Clips that share the value of
    `bias.pair_attribute` and differ in the group are compared by their similarity to the queries and by R@1.
    """
    attribute, k = config.bias.group_attribute, config.bias.k
    labels = [attribute_label(clip, attribute) for clip in data.clips]
    rows = [row for row, label in enumerate(labels) if label is not None]
    groups = np.array([labels[row] for row in rows])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise missing_input("bias", f"clips with the attribute {attribute!r} in at least two groups (found {names})")
    slugs = {name: metric_slug(name) for name in names}
    if len(set(slugs.values())) < len(names):
        raise EvaluationError(f"groups {names} are not distinct as metric names; rename them")
    if not config.bias.queries:
        raise EvaluationError("task 'bias' needs evaluate.bias.queries: the texts whose rankings are examined")
    if k > len(rows):
        raise EvaluationError(f"evaluate.bias.k={k} exceeds the {len(rows)} ranked clips; choose a smaller k")
    queries = list(dict.fromkeys(config.bias.queries))
    scores = similarity(data.text_embeds(queries), data.video_embeds[rows])
    orders = np.stack([rank_order(row_scores) for row_scores in scores])
    spec = RankingSpec(
        k=k,
        eligible=ranked_groups(groups, config.bias.min_group),
        num_bootstrap=config.num_bootstrap,
        seed=config.seed,
    )
    metrics, _ = ranking_results(orders, groups, list(slugs.values()), spec)
    hits = _first_caption_hits(data, rows)
    gap_metrics, gap_samples = _retrieval_gap(data, hits, groups, slugs, config)
    metrics += gap_metrics + _paired(data, scores, hits, groups, slugs, config)
    samples = _ranking_samples([data.clips[row] for row in rows], groups, queries, scores, k) + gap_samples
    num_cut = sum(count_cut_ties(row_scores, k) > 0 for row_scores in scores)
    shares = ", ".join(f"{name} {np.mean(groups == name):.3f}" for name in names)
    small = sorted(set(names) - set(spec.eligible or ()))
    few = f"; fewer than {config.bias.min_group} clips, reported and not ranked: {', '.join(small)}" if small else ""
    protocol = (
        f"group bias by {attribute!r} on split {config.split!r}: {len(queries)} queries rank {len(rows)} clips "
        f"({shares}), {len(data.clips) - len(rows)} clips without the attribute left out; skew against these shares, "
        f"an absent group counts as 1/{k}; {num_cut} queries with ties across place {k}, stable order; intervals over "
        f"queries, chance from permuted labels; gap = best minus worst group's T2V R@1 of first captions among all "
        f"{len(data.clips)} clips, worst group {_worst(gap_samples, config.bias.min_group)}{few}"
    )
    return TaskResult("bias", protocol, tuple(metrics), samples)


@dataclass(frozen=True, eq=False)
class _Hits:
    """T2V ranks of the first captions.

    Attributes:
        rows: of the clips that carry the group attribute and have captions.
        places: their places among all clips with the attribute.
        rank: float64 (C,), 1 is the first.
    """

    rows: list[int]
    places: list[int]
    rank: NDArray[np.float64]


def _first_caption_hits(data: EvaluationData, rows: list[int]) -> _Hits:
    places = [place for place, row in enumerate(rows) if data.clips[row].captions]
    targets = [rows[place] for place in places]
    if not targets:
        return _Hits([], [], np.empty(0))
    texts = data.text_embeds([data.clips[row].captions[0] for row in targets])
    found = [ranks(scores, targets[block]) for block, scores in similarity_blocks(texts, data.video_embeds)]
    return _Hits(targets, places, np.concatenate(found).astype(np.float64))


def _retrieval_gap(
    data: EvaluationData,
    hits: _Hits,
    groups: NDArray[np.str_],
    slugs: dict[str, str],
    config: EvaluateConfig,
) -> tuple[list[MetricResult], list[Sample]]:
    """R@1 of first captions by group; nothing unless two groups have captions."""
    labels = groups[hits.places]
    if len(set(labels.tolist())) < 2:
        return [], []
    spec = GapSpec(config.bias.min_group, config.num_bootstrap, config.seed)
    metrics = gap_results(_GAP, hits.rank == 1, labels, slugs, spec)
    samples = [
        _sample("retrieval", data.clips[row].video_id, str(label), query=data.clips[row].captions[0], rank=float(place))
        for row, label, place in zip(hits.rows, labels, hits.rank, strict=True)
    ]
    return metrics, samples


def _paired(
    data: EvaluationData,
    scores: NDArray[np.float32],
    hits: _Hits,
    groups: NDArray[np.str_],
    slugs: dict[str, str],
    config: EvaluateConfig,
) -> list[MetricResult]:
    """Differences within pairs: mean similarity to the queries, and R@1 where both clips have captions."""
    attribute = config.bias.pair_attribute
    if attribute is None:
        return []
    rows = [row for row, clip in enumerate(data.clips) if attribute_label(clip, config.bias.group_attribute)]
    pairs = [attribute_label(data.clips[row], attribute) for row in rows]
    if not any(pairs):
        raise missing_input("bias", f"clips with the attribute {attribute!r}, which evaluate.bias.pair_attribute names")
    seeded = {"seed": config.seed, "num_bootstrap": config.num_bootstrap}
    metrics = pair_results(
        "similarity", pair_comparisons(scores.mean(axis=0, dtype=np.float64), groups, pairs, **seeded), slugs
    )
    captioned = [pairs[place] for place in hits.places]
    joined: dict[str, set[str]] = {}
    for pair, label in zip(captioned, groups[hits.places].tolist(), strict=True):
        if pair:
            joined.setdefault(pair, set()).add(label)
    if any(len(labels) > 1 for labels in joined.values()):
        found = pair_comparisons(hits.rank == 1, groups[hits.places], captioned, **seeded)
        metrics += pair_results(_GAP, found, slugs)
    return metrics


def _worst(gap_samples: list[Sample], min_group: int) -> str:
    labels = [str(sample["group"]) for sample in gap_samples]
    if len(ranked_groups(labels, min_group)) < 2:
        return f"not measured (fewer than two groups of {min_group} clips with captions)"
    gap = group_gap([sample["rank"] == 1 for sample in gap_samples], labels, min_group=min_group)
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
