"""Video questions, answered by ranking the choices against the clip."""

from __future__ import annotations

import numpy as np

from vlmvid.config.schema import EvaluateConfig
from vlmvid.evaluation.base import (
    EvaluationData,
    Sample,
    TaskResult,
    attributes_json,
    choice_scores,
    choice_texts,
    clustering,
    clusters_of,
    group_by,
    missing_input,
    with_clusters,
)
from vlmvid.evaluation.vlm_priors import AnswerCounts
from vlmvid.metrics import chance_result, choice_correct, mean_result
from vlmvid.types import MetricResult, Question

_KINDS = ("mcq", "yes_no")
_NEEDED = "questions of task 'vqa' and kind 'mcq' or 'yes_no', with at least two choices"


def run(data: EvaluationData, config: EvaluateConfig) -> TaskResult:
    """Accuracy per kind of question, with the majority answer and guessing as baselines.

    The choice whose statement (else ``"{question} {choice}"``) is nearest to the clip is the answer;
    a tie with the right choice is wrong. The majority baseline gives the most frequent answer to questions of the same
    text, counted on the evaluated questions themselves, as `vlm_vqa` does: an oracle.
    """
    questions = [(row, q) for row, clip in enumerate(data.clips) for q in clip.questions if q.task == "vqa"]
    asked = [(row, question) for row, question in questions if question.kind in _KINDS and len(question.choices) > 1]
    if not asked:
        raise missing_input("vqa", _NEEDED)
    samples = with_clusters(_samples(data, asked), data.clips, config)
    by_kind = group_by(samples, lambda sample: str(sample["kind"]))
    metrics: list[MetricResult] = []
    for kind in _KINDS:
        if kind in by_kind:
            metrics += _metrics(f"{kind}_accuracy", by_kind[kind], config)
    num_stated = sum(bool(question.statements) for _, question in asked)
    protocol = (
        f"VQA by ranking on split {config.split!r}: {len(asked)} questions, {num_stated} through their statements and "
        f"the others as question + choice; {len(questions) - len(asked)} open or single-choice questions left out; "
        "ties wrong; majority = the most frequent answer to the evaluated questions of that text, among the choices: "
        f"an oracle, right wherever a text stands once; intervals clustered {clustering(config)}"
    )
    return TaskResult("vqa", protocol, tuple(metrics), samples)


def _samples(data: EvaluationData, asked: list[tuple[int, Question]]) -> list[Sample]:
    scores = choice_scores(data, asked)
    answers = [question.choices.index(question.answer) for _, question in asked]
    correct = choice_correct(scores, answers)
    counts = AnswerCounts(question for _, question in asked)
    samples: list[Sample] = []
    for (row, question), score, answer, hit in zip(asked, scores, answers, correct, strict=True):
        best = int(score.argmax())
        samples.append(
            {
                "video_id": data.clips[row].video_id,
                "question_id": question.question_id,
                "kind": question.kind,
                "question": question.question,
                "answer": question.answer,
                "predicted": question.choices[best],
                "correct": bool(hit),
                "tied": bool((np.delete(score, answer) == score[answer]).any()),
                "answer_score": float(score[answer]),
                "best_score": float(score[best]),
                "best_text": choice_texts(question)[best],
                "majority_correct": counts.is_right(question),
                "num_choices": len(question.choices),
                "attributes": attributes_json(question.attributes),
            }
        )
    return samples


def _metrics(name: str, samples: list[Sample], config: EvaluateConfig) -> list[MetricResult]:
    clusters = clusters_of(samples)
    chances = 1 / np.array([sample["num_choices"] for sample in samples], dtype=np.float64)
    correct, majority = (
        np.array([sample[name] for sample in samples], dtype=np.bool_) for name in ("correct", "majority_correct")
    )
    seed, num_bootstrap = config.seed, config.num_bootstrap
    return [
        mean_result(name, correct, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
        chance_result(name, chances),
        mean_result(f"{name}/majority", majority, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
    ]
