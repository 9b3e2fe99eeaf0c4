"""Temporal probe: does the embedding know in which order things happened?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, attribute_label, group_by, missing_input
from vlmvid.evaluation.cosines import pair_similarity
from vlmvid.metrics import chance_result, mean_result
from vlmvid.types import MetricResult

_NEEDED = (
    "pairs of captioned clips that share the attribute 'pair_id' and show the same things in another order, "
    "each with its own order in its first caption"
)


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """Accuracy of the own order's caption against the other clip's, and what shuffling frames changes.

    An embedding that ignores order gives both clips of a pair the same similarities: it is right on
    exactly one of the two, an accuracy of exactly 0.5 and a group score (both right) of exactly 0.
    Ties are wrong. With shuffled embeddings the accuracy is measured again on shuffled frames;
    `temporal_gain` is the difference, and `shuffle_change_max` the largest change of a clip's
    similarity with either caption, 0 up to rounding for an embedding without order.
    """
    pairs, num_incomplete = _pairs(data)
    if not pairs:
        raise missing_input("temporal", _NEEDED)
    rows = [row for pair in pairs for row in pair]
    texts = data.text_embeds([data.clips[row].captions[0] for row in rows])
    other = np.arange(len(rows)) ^ 1  # pairs are neighbours, so flipping the last bit swaps the two
    normal = _scores(data.video_embeds[rows], texts, other)
    shuffled = None
    if data.shuffled_video_embeds is not None:
        shuffled = _scores(data.shuffled_video_embeds[rows], texts, other)
    samples = _samples(data, rows, normal, shuffled)
    num_same = sum(data.clips[first].captions[0] == data.clips[second].captions[0] for first, second in pairs)
    protocol = (
        f"temporal pairs on split {config.split!r}: {len(pairs)} pairs, each clip's first caption against that of its "
        f"counterpart, ties wrong; {num_same} pairs whose captions are equal; {num_incomplete} clips left out because "
        "their counterpart or their caption is missing; intervals clustered by pair"
    )
    return TaskResult("temporal", protocol, tuple(_metrics(samples, normal, shuffled, config)), samples)


def _pairs(data: EvaluationData) -> tuple[list[tuple[int, int]], int]:
    tagged = [row for row, clip in enumerate(data.clips) if attribute_label(clip, "pair_id")]
    pairs: list[tuple[int, int]] = []
    num_incomplete = 0
    for pair_id, rows in group_by(tagged, lambda row: str(data.clips[row].attributes["pair_id"])).items():
        if len(rows) > 2:
            names = [data.clips[row].video_id for row in rows]
            raise EvaluationError(f"pair_id {pair_id!r} belongs to {len(rows)} clips, e.g. {names[:3]}; expected two")
        captioned = [row for row in rows if data.clips[row].captions]
        if len(captioned) == 2:
            pairs.append((captioned[0], captioned[1]))
        else:
            num_incomplete += len(rows)
    return pairs, num_incomplete


def _scores(videos: NDArray[np.float32], texts: NDArray[np.float32], other: NDArray[np.intp]) -> NDArray[np.float32]:
    """Similarity of each clip with its own and with its counterpart's caption, (N, 2)."""
    return np.stack([pair_similarity(videos, texts), pair_similarity(videos, texts[other])], axis=1)


def _samples(
    data: EvaluationData, rows: list[int], normal: NDArray[np.float32], shuffled: NDArray[np.float32] | None
) -> list[Sample]:
    samples: list[Sample] = []
    for index, row in enumerate(rows):
        clip = data.clips[row]
        samples.append(
            {
                "video_id": clip.video_id,
                "pair_id": str(clip.attributes["pair_id"]),
                "own_caption": clip.captions[0],
                "own_score": float(normal[index, 0]),
                "other_score": float(normal[index, 1]),
                "correct": bool(normal[index, 0] > normal[index, 1]),
                "shuffled_own_score": None if shuffled is None else float(shuffled[index, 0]),
                "shuffled_other_score": None if shuffled is None else float(shuffled[index, 1]),
            }
        )
    return samples


def _metrics(
    samples: list[Sample],
    normal: NDArray[np.float32],
    shuffled: NDArray[np.float32] | None,
    config: EvaluateConfig,
) -> list[MetricResult]:
    seed, num_bootstrap = config.seed, config.num_bootstrap
    clusters = [str(sample["pair_id"]) for sample in samples]
    correct = normal[:, 0] > normal[:, 1]
    both = np.logical_and(correct[0::2], correct[1::2])
    name, group_name = "temporal_pair_accuracy", "temporal_pair_group_score"
    metrics = [
        mean_result(name, correct, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
        chance_result(name, np.full(len(correct), 0.5)),
        mean_result(group_name, both, seed=seed, num_bootstrap=num_bootstrap),
        chance_result(group_name, np.full(len(both), 0.25)),
    ]
    if shuffled is None:
        return metrics
    shuffled_correct = shuffled[:, 0] > shuffled[:, 1]
    gain = correct.astype(np.float64) - shuffled_correct
    change = np.abs(normal.astype(np.float64) - shuffled).max(axis=1)
    return [
        *metrics,
        mean_result(f"{name}_shuffled", shuffled_correct, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
        mean_result("temporal_gain", gain, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
        MetricResult(
            name="shuffle_change_max", value=float(change.max()), num_samples=len(change), higher_is_better=False
        ),
    ]
