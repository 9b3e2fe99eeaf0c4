"""Text-to-video and video-to-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, group_by, missing_input, similarity_blocks
from vlmvid.metrics import chance_result, count_ties, mean_result, random_hit_probability, ranks, statistic_result
from vlmvid.types import MetricResult

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class _Direction:
    """Ranks of one direction; `clusters` (video_ids) and `num_relevant` are per query, `best` is the first place."""

    prefix: str
    rank: NDArray[np.float64]
    clusters: list[str]
    num_relevant: list[int]
    num_items: int
    num_tied: int
    best: NDArray[np.intp]


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """R@1, R@5, R@10, MdR and MnR in both directions.

    T2V: every caption is a query, the gallery is every clip of the split. V2T: every clip with
    captions is a query, its rank is that of its best own caption among all captions. Ties count
    against the model.
    """
    owners = [row for row, clip in enumerate(data.clips) for _ in clip.captions]
    captions = [caption for clip in data.clips for caption in clip.captions]
    if not captions:
        raise missing_input("retrieval", "captions")
    embeds = data.text_embeds(captions)
    t2v = _rank("t2v", embeds, data.video_embeds, [[row] for row in owners], [data.clips[o].video_id for o in owners])
    captioned = [row for row, clip in enumerate(data.clips) if clip.captions]
    own = group_by(range(len(captions)), owners.__getitem__)
    video_ids = [data.clips[row].video_id for row in captioned]
    v2t = _rank("v2t", data.video_embeds[captioned], embeds, [own[row] for row in captioned], video_ids)
    shared = len(captions) - len(set(captions))
    protocol = (
        f"retrieval on split {config.split!r}: T2V ranks {len(data.clips)} clips for each of {len(captions)} captions; "
        f"V2T ranks all captions for each of {len(captioned)} clips by its best own caption; ties count against the "
        f"model; {shared} captions repeat an earlier text, and a caption's only relevant clip is its own all the same; "
        "no re-ranking; intervals clustered by video"
    )
    metrics = (*_metrics(t2v, config), *_metrics(v2t, config))
    return TaskResult("retrieval", protocol, metrics, _samples(data, captions, owners, t2v, v2t))


def _rank(
    prefix: str,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    relevant: Sequence[Sequence[int]],
    clusters: list[str],
) -> _Direction:
    rank = np.empty(len(queries))
    best = np.empty(len(queries), dtype=np.intp)
    num_tied = 0
    for rows, scores in similarity_blocks(queries, gallery):
        rank[rows] = ranks(scores, relevant[rows])
        num_tied += count_ties(scores, relevant[rows])
        best[rows] = scores.argmax(axis=1)
    return _Direction(prefix, rank, clusters, [len(items) for items in relevant], len(gallery), num_tied, best)


def _metrics(side: _Direction, config: EvaluateConfig) -> list[MetricResult]:
    seed, num_bootstrap = config.seed, config.num_bootstrap
    metrics: list[MetricResult] = []
    for k in RECALL_AT:
        name = f"{side.prefix}_r_at_{k}"
        hits = side.rank <= k
        metrics.append(mean_result(name, hits, clusters=side.clusters, seed=seed, num_bootstrap=num_bootstrap))
        by_count = {count: random_hit_probability(count, side.num_items, k) for count in set(side.num_relevant)}
        metrics.append(chance_result(name, [by_count[count] for count in side.num_relevant]))
    metrics.append(
        statistic_result(
            f"{side.prefix}_median_rank",
            side.rank,
            lambda values: float(np.median(values)),
            clusters=side.clusters,
            seed=seed,
            num_bootstrap=num_bootstrap,
            higher_is_better=False,
        )
    )
    metrics.append(
        mean_result(
            f"{side.prefix}_mean_rank",
            side.rank,
            clusters=side.clusters,
            seed=seed,
            num_bootstrap=num_bootstrap,
            higher_is_better=False,
        )
    )
    metrics.append(
        MetricResult(
            name=f"{side.prefix}_num_tied",
            value=float(side.num_tied),
            num_samples=len(side.rank),
            higher_is_better=False,
        )
    )
    return metrics


def _samples(
    data: EvaluationData, captions: list[str], owners: list[int], t2v: _Direction, v2t: _Direction
) -> list[Sample]:
    samples: list[Sample] = []
    for query, caption in enumerate(captions):
        samples.append(
            {
                "direction": "t2v",
                "video_id": data.clips[owners[query]].video_id,
                "caption": caption,
                "rank": float(t2v.rank[query]),
                "top_video_id": data.clips[int(t2v.best[query])].video_id,
                "top_caption": None,
            }
        )
    for query, video_id in enumerate(v2t.clusters):
        top = int(v2t.best[query])
        samples.append(
            {
                "direction": "v2t",
                "video_id": video_id,
                "caption": None,
                "rank": float(v2t.rank[query]),
                "top_video_id": data.clips[owners[top]].video_id,
                "top_caption": captions[top],
            }
        )
    return samples
