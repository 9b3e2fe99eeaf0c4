"""Minimal distractors: which attributes of a scene the embedding carries."""

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
    group_by,
    metric_slug,
    missing_input,
)
from vlmvid.evaluation.cosines import similarity
from vlmvid.metrics import chance_result, mean_result, ranks
from vlmvid.types import MetricResult

_NEEDED = (
    "clips with a caption and the attributes 'base_id' (the scene) and 'differs_in' ('' for the scene's base clip, "
    "else the one attribute that a variant changes), with the base clip and at least one variant of a scene"
)


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """R@1 per attribute against clips that differ from the scene's base clip in it alone.

    A group is the base clip of a scene and its variants in one attribute. The first caption of each
    clip of the group is a query, the clips of the group are its gallery, and ties are wrong. Beside
    each number stands what guessing gives: the mean of 1 / gallery size, and the range of a
    guesser's score at that number of queries.
    """
    rows = [row for row, clip in enumerate(data.clips) if _tagged(data, row) and clip.captions]
    scenes = group_by(rows, lambda row: str(data.clips[row].attributes["base_id"]))
    texts = data.text_embeds([data.clips[row].captions[0] for row in rows]) if rows else np.empty((0, 0), np.float32)
    caption_embed = {row: texts[index] for index, row in enumerate(rows)}
    samples: list[Sample] = []
    num_without_base = 0
    for base_id, members in scenes.items():
        by_attribute = group_by(members, lambda row: str(data.clips[row].attributes["differs_in"]))
        base = by_attribute.pop("", [])
        if len(base) > 1:
            names = [data.clips[row].video_id for row in base]
            raise EvaluationError(f"base_id {base_id!r} has {len(base)} clips with an empty 'differs_in': {names}")
        num_without_base += not base
        for attribute, variants in by_attribute.items() if base else ():
            gallery = [*base, *variants]
            samples += _score_group(data, gallery, caption_embed, (base_id, attribute))
    if not samples:
        raise missing_input("attributes", _NEEDED)
    metrics: list[MetricResult] = []
    for attribute, group in sorted(group_by(samples, lambda sample: str(sample["attribute"])).items()):
        metrics += _metrics(f"{metric_slug(attribute)}_r_at_1", group, config)
    num_same = sum(bool(sample["caption_repeats"]) for sample in samples)
    protocol = (
        f"minimal distractors on split {config.split!r}: {len({str(s['base_id']) for s in samples})} scenes, the first "
        "caption of each clip against its scene's base clip and variants in one attribute, ties wrong; "
        f"{num_without_base} scenes left out because their base clip is missing; {num_same} queries whose caption "
        "another clip of the group shares; intervals clustered by scene; chance = 1 / gallery size"
    )
    return TaskResult("attributes", protocol, tuple(metrics), samples)


def _tagged(data: EvaluationData, row: int) -> bool:
    clip = data.clips[row]
    return attribute_label(clip, "base_id") is not None and "differs_in" in clip.attributes


def _score_group(
    data: EvaluationData,
    gallery: list[int],
    caption_embed: dict[int, NDArray[np.float32]],
    key: tuple[str, str],
) -> list[Sample]:
    scores = similarity(np.stack([caption_embed[row] for row in gallery]), data.video_embeds[gallery])
    rank = ranks(scores, np.arange(len(gallery)))
    captions = [data.clips[row].captions[0] for row in gallery]
    return [
        {
            "video_id": data.clips[row].video_id,
            "base_id": key[0],
            "attribute": key[1],
            "caption": captions[place],
            "caption_repeats": captions.count(captions[place]) > 1,
            "gallery_size": len(gallery),
            "rank": float(rank[place]),
            "top_video_id": data.clips[gallery[int(scores[place].argmax())]].video_id,
        }
        for place, row in enumerate(gallery)
    ]


def _metrics(name: str, samples: list[Sample], config: EvaluateConfig) -> list[MetricResult]:
    hits = np.array([sample["rank"] == 1 for sample in samples])
    clusters = [str(sample["base_id"]) for sample in samples]
    sizes = np.array([sample["gallery_size"] for sample in samples], dtype=np.float64)
    return [
        mean_result(name, hits, clusters=clusters, seed=config.seed, num_bootstrap=config.num_bootstrap),
        chance_result(name, 1 / sizes),
    ]
