"""Object hallucination: yes-no probes of present and absent objects, after POPE (arXiv 2305.10355)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.base import (
    EvaluationData,
    Sample,
    TaskResult,
    choice_scores,
    group_by,
    metric_slug,
    missing_input,
)
from vlmvid.metrics import chance_result, f1_result, mean_result
from vlmvid.types import MetricResult, Question

_KIND_ORDER = ("random", "popular", "adversarial")
_NEEDED = (
    "questions of task 'hallucination' and kind 'yes_no' with choices 'yes' and 'no' and the attribute 'negatives' "
    "('random', 'popular' or 'adversarial')"
)


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """POPE's scores per kind of negative, and the hallucination rate over all kinds.

    The answer is yes when the yes statement is strictly nearer to the clip than the no statement and
    no when it is strictly farther; a tie is the wrong answer. `false_yes_rate` is the share of absent
    objects that were affirmed. Precision is None when nothing was answered yes, recall when no
    question has the answer yes.
    """
    asked = [(row, q) for row, clip in enumerate(data.clips) for q in clip.questions if q.task == "hallucination"]
    if not asked:
        raise missing_input("hallucination", _NEEDED)
    for row, question in asked:
        _check(data.clips[row].video_id, question)
    samples = _samples(data, asked)
    metrics: list[MetricResult] = []
    absent = [sample for sample in samples if not sample["label_yes"]]
    if absent:
        metrics += [_rate("false_yes_rate", "predicted_yes", absent, config, higher_is_better=False)]
        metrics += [chance_result("false_yes_rate", np.full(len(absent), 0.5), higher_is_better=False)]
    by_kind = group_by(samples, lambda sample: str(sample["negatives"]))
    for kind in sorted(by_kind, key=lambda name: (name not in _KIND_ORDER, _order(name), name)):
        metrics += _kind_metrics(metric_slug(kind), by_kind[kind], config)
    num_tied = sum(bool(sample["tied"]) for sample in samples)
    protocol = (
        f"POPE-style object probing on split {config.split!r}: {len(samples)} yes-no questions, "
        f"{len(samples) - len(absent)} of present and {len(absent)} of absent objects, answered by the nearer "
        f"statement; {num_tied} ties counted as the wrong answer; false_yes_rate = absent objects affirmed; "
        "intervals clustered by video"
    )
    return TaskResult("hallucination", protocol, tuple(metrics), samples)


def _check(video_id: str, question: Question) -> None:
    if question.kind != "yes_no" or sorted(question.choices) != ["no", "yes"] or "negatives" not in question.attributes:
        raise EvaluationError(
            f"question {question.question_id!r} of clip {video_id!r} has kind {question.kind!r}, choices "
            f"{question.choices} and attributes {question.attributes}; task 'hallucination' needs {_NEEDED}"
        )


def _order(kind: str) -> int:
    return _KIND_ORDER.index(kind) if kind in _KIND_ORDER else len(_KIND_ORDER)


def _samples(data: EvaluationData, asked: list[tuple[int, Question]]) -> list[Sample]:
    samples: list[Sample] = []
    for (row, question), score in zip(asked, choice_scores(data, asked), strict=True):
        yes, no = float(score[question.choices.index("yes")]), float(score[question.choices.index("no")])
        label_yes = question.answer == "yes"
        samples.append(
            {
                "video_id": data.clips[row].video_id,
                "question_id": question.question_id,
                "negatives": str(question.attributes["negatives"]),
                "object": str(question.attributes["object"]) if "object" in question.attributes else None,
                "question": question.question,
                "label_yes": label_yes,
                "predicted_yes": yes > no if yes != no else not label_yes,
                "tied": yes == no,
                "yes_score": yes,
                "no_score": no,
            }
        )
    return samples


def _kind_metrics(prefix: str, samples: list[Sample], config: EvaluateConfig) -> list[MetricResult]:
    label, predicted = _column(samples, "label_yes"), _column(samples, "predicted_yes")
    clusters = np.array([str(sample["video_id"]) for sample in samples])
    correct = [{**sample, "correct": sample["label_yes"] == sample["predicted_yes"]} for sample in samples]
    answered_yes = [sample for sample in samples if sample["predicted_yes"]]
    present = [sample for sample in samples if sample["label_yes"]]
    absent = [sample for sample in samples if not sample["label_yes"]]
    return [
        _rate(f"{prefix}_accuracy", "correct", correct, config),
        chance_result(f"{prefix}_accuracy", np.full(len(samples), 0.5)),
        _rate(f"{prefix}_precision", "label_yes", answered_yes, config),
        _rate(f"{prefix}_recall", "predicted_yes", present, config),
        f1_result(f"{prefix}_f1", predicted, label, clusters=clusters),
        _rate(f"{prefix}_yes_ratio", "predicted_yes", samples, config),
        _rate(f"{prefix}_false_yes_rate", "predicted_yes", absent, config, higher_is_better=False),
    ]


def _rate(
    name: str, column: str, samples: list[Sample], config: EvaluateConfig, *, higher_is_better: bool = True
) -> MetricResult:
    """Share of `samples` with a true `column`; NaN with num_samples=0 when there are none."""
    if not samples:
        return MetricResult(name=name, value=math.nan, num_samples=0, higher_is_better=higher_is_better)
    return mean_result(
        name,
        _column(samples, column),
        clusters=[str(sample["video_id"]) for sample in samples],
        seed=config.seed,
        num_bootstrap=config.num_bootstrap,
        higher_is_better=higher_is_better,
    )


def _column(samples: list[Sample], column: str) -> NDArray[np.bool_]:
    return np.array([sample[column] for sample in samples], dtype=np.bool_)
