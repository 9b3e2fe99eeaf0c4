"""Accuracy of questions that are answered by ranking their choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError


def choice_correct(scores: Sequence[ArrayLike], answers: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which questions were answered right.

    Args:
        scores: one array (num_choices,) per question; at least two choices, no NaN.
        answers: index of the right choice of each question.

    Returns:
        bool (N,): the right choice scored strictly above every other one. A tie is wrong, so a model
        that gives every choice the same score is right 0 times, not always.
    """
    if len(scores) != len(answers):
        raise EvaluationError(f"expected one answer for each of {len(scores)} questions, got {len(answers)}")
    correct = np.zeros(len(scores), dtype=np.bool_)
    for row, (score, answer) in enumerate(zip(scores, answers, strict=True)):
        values = np.asarray(score)
        if values.ndim != 1 or len(values) < 2 or np.isnan(values).any():
            raise EvaluationError(f"question {row}: expected two or more scores without NaN, got {values.tolist()}")
        if not 0 <= answer < len(values):
            raise EvaluationError(f"question {row}: answer {answer} is outside its {len(values)} choices")
        correct[row] = bool((np.delete(values, answer) < values[answer]).all())
    return correct


def choice_accuracy(scores: Sequence[ArrayLike], answers: Sequence[int] | NDArray[np.integer[Any]]) -> float:
    """Share of questions in [0, 1] whose right choice ranks strictly first; see `choice_correct`."""
    if len(scores) == 0:
        raise EvaluationError("no question to score")
    return float(choice_correct(scores, answers).mean())


def accuracy_by_group(correct: ArrayLike, groups: Sequence[str] | NDArray[Any]) -> dict[str, tuple[float, int]]:
    """Accuracy and number of questions of each group, in sorted order of the group names."""
    hits, labels = np.asarray(correct), np.asarray(groups)
    if hits.dtype != np.bool_ or hits.ndim != 1 or hits.shape != labels.shape:
        raise EvaluationError(
            f"expected boolean results and one group each; got {hits.dtype} {hits.shape} and {labels.shape}"
        )
    return {str(name): (float(hits[labels == name].mean()), int((labels == name).sum())) for name in np.unique(labels)}
