"""Candidate captions by the similarity of an aligned model: CLIPScore, RefCLIPScore, EMScore's coarse part.

The fine part of EMScore matches words with frames. A model of two encoders gives one embedding for a clip and one for a
text, so it cannot be computed here; `vlmvid.metrics.clip_score` has it for whoever holds embeddings of both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, clusters_by_clip, missing_input
from vlmvid.evaluation.cosines import pair_similarity, similarity, similarity_blocks
from vlmvid.metrics import mean_result
from vlmvid.metrics.clip_score import PREFIX, clip_score, ref_clip_score
from vlmvid.types import MetricResult

ATTRIBUTE = "candidate_caption"


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """The scores of the captions in the attribute `candidate_caption` of the manifest's clips."""
    candidates = {clip.video_id: clip.attributes[ATTRIBUTE] for clip in data.clips if ATTRIBUTE in clip.attributes}
    if not candidates:
        raise missing_input("clip_score", f"the attribute {ATTRIBUTE!r}, a caption to be scored, in its clips")
    return score_candidates(data, candidates, config)


def score_candidates(data: EvaluationData, candidates: Mapping[str, object], config: EvaluateConfig) -> TaskResult:
    """The scores of captions from anywhere, e.g. a file of results: video_id -> caption.

    `clip_score` is 2.5 max(cos, 0) of the clip with "A photo depicts " and the caption, `emscore_coarse` the plain
    cosine without the prefix, `ref_clip_score` takes the clip's own captions as references. ``/other_clip`` is the same
    for a caption and every other clip, what a caption gets that says nothing of its clip; ``/references`` that of the
    clips' own captions. An empty caption, and a clip without one, scores 0.

    Raises:
        EvaluationError: no candidate belongs to a clip of the split, or one is no text.
    """
    wrong = [name for name, text in candidates.items() if not isinstance(text, str)]
    if wrong:
        raise EvaluationError(f"{len(wrong)} candidate captions are no text, e.g. that of {wrong[0]!r}; give texts")
    texts = [str(candidates.get(clip.video_id, "")).strip() for clip in data.clips]
    given = np.array([bool(text) for text in texts])
    if not given.any():
        raise EvaluationError(
            f"no candidate caption belongs to one of the {len(data.clips)} clips; they join by video_id"
        )
    prefixed = data.text_embeds([PREFIX + text for text in texts])
    plain = data.text_embeds([text or PREFIX for text in texts])
    scores = np.where(given, clip_score(pair_similarity(data.video_embeds, prefixed)), 0.0)
    coarse = np.where(given, pair_similarity(data.video_embeds, plain).astype(np.float64), 0.0)
    metrics = [_mean("clip_score", scores, data, config), _mean("emscore_coarse", coarse, data, config)]
    metrics += _baselines(data, prefixed, given, config)
    captioned = np.array([bool(clip.captions) for clip in data.clips])
    with_references = _with_references(data, prefixed, scores) if captioned.any() else None
    if with_references is not None:
        kept = np.flatnonzero(captioned)
        metrics.append(_mean("ref_clip_score", with_references[kept], data, config, kept))
    unknown = len(set(candidates) - {clip.video_id for clip in data.clips})
    protocol = (
        f"CLIPScore on split {config.split!r} by the evaluated model, not CLIP ViT-B/32: only numbers of one model can "
        f"be compared; {int(given.sum())} of {len(texts)} clips have a candidate caption, the others score 0; "
        f"{unknown} candidates belong to no clip; prefix {PREFIX.strip()!r}; EMScore without its fine part, which "
        "needs embeddings of frames and words; intervals over clips"
    )
    return TaskResult("clip_score", protocol, tuple(metrics), _samples(data, texts, scores, coarse, with_references))


def _baselines(
    data: EvaluationData, prefixed: NDArray[np.float32], given: NDArray[np.bool_], config: EvaluateConfig
) -> list[MetricResult]:
    metrics = []
    rows = np.flatnonzero(given)
    if len(data.clips) > 1:
        others = np.zeros(len(rows))
        for block, cosines in similarity_blocks(prefixed[rows], data.video_embeds):
            values = clip_score(cosines)
            own = values[np.arange(len(values)), rows[block]]
            others[block] = (values.sum(axis=1) - own) / (len(data.clips) - 1)
        metrics.append(_mean("clip_score/other_clip", others, data, config, rows))
    owners = [row for row, clip in enumerate(data.clips) for _ in clip.captions]
    if owners:
        embeds = data.text_embeds([PREFIX + text for clip in data.clips for text in clip.captions])
        own_scores = clip_score(pair_similarity(data.video_embeds[owners], embeds))
        metrics.append(_mean("clip_score/references", own_scores, data, config, np.array(owners)))
    return metrics


def _with_references(
    data: EvaluationData, prefixed: NDArray[np.float32], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """RefCLIPScore (N,); 0 for clips without captions."""
    best = np.zeros(len(data.clips))
    for row, clip in enumerate(data.clips):
        if clip.captions:
            references = data.text_embeds([PREFIX + text for text in clip.captions])
            best[row] = similarity(prefixed[row : row + 1], references).max()
    return ref_clip_score(scores, best)


def _mean(
    name: str,
    values: NDArray[np.float64],
    data: EvaluationData,
    config: EvaluateConfig,
    rows: NDArray[np.intp] | None = None,
) -> MetricResult:
    kept = range(len(data.clips)) if rows is None else rows.tolist()
    clusters = clusters_by_clip(data.clips, config)
    return mean_result(
        name,
        values,
        clusters=[clusters[data.clips[row].video_id] for row in kept],
        seed=config.seed,
        num_bootstrap=config.num_bootstrap,
    )


def _samples(
    data: EvaluationData,
    texts: list[str],
    scores: NDArray[np.float64],
    coarse: NDArray[np.float64],
    with_references: NDArray[np.float64] | None,
) -> list[Sample]:
    return [
        {
            "video_id": clip.video_id,
            "candidate": text or None,
            "clip_score": float(scores[row]),
            "emscore_coarse": float(coarse[row]),
            "ref_clip_score": None if with_references is None or not clip.captions else float(with_references[row]),
        }
        for row, (clip, text) in enumerate(zip(data.clips, texts, strict=True))
    ]
