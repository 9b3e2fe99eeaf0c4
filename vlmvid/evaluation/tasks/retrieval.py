"""Text-to-video and video-to-text retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, missing_input
from vlmvid.evaluation.retrieval_metrics import Direction, Resampling, rank_metrics, recall_metrics
from vlmvid.metrics.retrieval_counts import RankCounts, Relevance
from vlmvid.metrics.retrieval_scores import EmbeddingScores
from vlmvid.metrics.retrieval_tiles import count_both


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
    scores = EmbeddingScores(data.text_embeds(captions), data.video_embeds)
    relevance = Relevance.of(np.arange(len(captions)), owners, len(captions), len(data.clips))
    counts = count_both(scores, relevance, top=True)
    captioned = [row for row, _ in groupby(owners)]
    t2v = Direction("t2v", counts.t2v, [data.clips[owner].video_id for owner in owners])
    v2t = Direction("v2t", counts.v2t.taken(np.array(captioned)), [data.clips[row].video_id for row in captioned])
    shared = len(captions) - len(set(captions))
    protocol = (
        f"retrieval on split {config.split!r}: T2V ranks {len(data.clips)} clips for each of {len(captions)} captions; "
        f"V2T ranks all captions for each of {len(captioned)} clips by its best own caption; ties count against the "
        f"model; {shared} captions repeat an earlier text, and a caption's only relevant clip is its own all the same; "
        "no re-ranking; intervals clustered by video"
    )
    how = Resampling(config.seed, config.num_bootstrap)
    metrics = [metric for side in (t2v, v2t) for metric in (*recall_metrics(side, how), *rank_metrics(side, how))]
    return TaskResult("retrieval", protocol, tuple(metrics), _samples(data, captions, owners, t2v, v2t))


def _samples(
    data: EvaluationData, captions: Sequence[str], owners: Sequence[int], t2v: Direction, v2t: Direction
) -> list[Sample]:
    samples: list[Sample] = []
    t2v_rank, t2v_top = t2v.rank, _top(t2v.counts)
    numbers = [number for clip in data.clips for number in range(len(clip.captions))]
    for query, caption in enumerate(captions):
        video_id = data.clips[owners[query]].video_id
        samples.append(
            {
                "item_id": f"{video_id}#{numbers[query]}",
                "video_id": video_id,
                "status": "parsed",
                "direction": "t2v",
                "caption": caption,
                "rank": float(t2v_rank[query]),
                "score": float(t2v_rank[query] == 1),
                "top_video_id": data.clips[t2v_top[query]].video_id,
                "top_caption": None,
            }
        )
    v2t_rank, v2t_top = v2t.rank, _top(v2t.counts)
    for query, video_id in enumerate(v2t.clusters):
        top = v2t_top[query]
        samples.append(
            {
                "item_id": video_id,
                "video_id": video_id,
                "status": "parsed",
                "direction": "v2t",
                "caption": None,
                "rank": float(v2t_rank[query]),
                "score": float(v2t_rank[query] == 1),
                "top_video_id": data.clips[owners[top]].video_id,
                "top_caption": captions[top],
            }
        )
    return samples


def _top(counts: RankCounts) -> NDArray[np.intp]:
    if counts.top is None:
        raise EvaluationError("the best item of each query was not asked for")
    return counts.top
