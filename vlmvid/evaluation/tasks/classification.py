"""Zero-shot classification: which value of an attribute does a clip have, judged by prompts alone?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import EvaluationData, Sample, TaskResult, attribute_label, missing_input
from vlmvid.evaluation.cosines import similarity
from vlmvid.evaluation.prompts import TEMPLATES, class_embeddings
from vlmvid.metrics.classification import label_places, mean_per_class_result
from vlmvid.metrics.stats import chance_result, mean_result
from vlmvid.types import MetricResult

_TOP = 5


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """Accuracy, mean over classes and, with more than five classes, top 5; a tie is wrong.

    Classes are the values that occur among the clips of the split. Each is the mean of its embedded prompts, as CLIP
    does it for ImageNet. ``/majority`` is the most frequent class for every clip.
    """
    options = config.classification
    values = [attribute_label(clip, options.attribute) for clip in data.clips]
    rows = [row for row, value in enumerate(values) if value is not None]
    labels = [str(values[row]) for row in rows]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise missing_input(
            "classification", f"clips with at least two values of the attribute {options.attribute!r} (found {classes})"
        )
    names = [options.names.get(value, value.replace("_", " ")) for value in classes]
    if len(set(names)) < len(names):
        raise EvaluationError(f"evaluate.classification.names gives two classes one name: {names}")
    places = {value: place for place, value in enumerate(classes)}
    truth = np.array([places[value] for value in labels])
    templates = options.templates or TEMPLATES["action"]
    embeds = class_embeddings(names, templates, data.embed_texts)
    scores = similarity(data.video_embeds[rows], embeds)
    place = label_places(scores, truth)
    ties = int(((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())
    samples: list[Sample] = [
        {
            "video_id": data.clips[row].video_id,
            "label": labels[index],
            "predicted": classes[int(scores[index].argmax())],
            "place": int(place[index]) + 1,
            "correct": bool(place[index] == 0),
            "score": float(scores[index, truth[index]]),
        }
        for index, row in enumerate(rows)
    ]
    protocol = (
        f"zero-shot classification by {options.attribute!r} on split {config.split!r}: {len(rows)} clips, "
        f"{len(classes)} classes, {len(templates)} prompts each, averaged; {ties} clips with tied best classes, ties "
        f"wrong; {len(data.clips) - len(rows)} clips without the attribute left out"
    )
    return TaskResult("classification", protocol, tuple(_metrics(place, truth, len(classes), config)), samples)


def _metrics(
    place: NDArray[np.intp], truth: NDArray[np.intp], num_classes: int, config: EvaluateConfig
) -> list[MetricResult]:
    seed, num_bootstrap = config.seed, config.num_bootstrap
    majority = truth == np.bincount(truth).argmax()
    metrics = [
        mean_result("accuracy", place == 0, seed=seed, num_bootstrap=num_bootstrap),
        chance_result("accuracy", np.full(len(truth), 1 / num_classes)),
        mean_result("accuracy/majority", majority, seed=seed, num_bootstrap=num_bootstrap),
        mean_per_class_result("mean_per_class_accuracy", place == 0, truth, num_bootstrap=num_bootstrap, seed=seed),
    ]
    if num_classes > _TOP:
        hits = place < _TOP
        metrics.append(mean_result(f"top{_TOP}_accuracy", hits, seed=seed, num_bootstrap=num_bootstrap))
        metrics.append(chance_result(f"top{_TOP}_accuracy", np.full(len(truth), _TOP / num_classes)))
    return metrics
