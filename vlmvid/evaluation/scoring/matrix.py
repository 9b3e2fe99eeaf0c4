"""Scorers of similarities: M x T matrices with a right assignment, and captions of which one is right.

In a matrix item ``answer`` holds, for each of the M media, the place of its own caption among the T, or -1. Equal
scores are wrong, so that a model that scores all alike gets 0, and are counted in ``ties``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.matrix import caption, row
from vlmvid.evaluation.answers.matrix import matrix as matrix_parser
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.scoring.aggregate import (
    AnswerScorer,
    Outcome,
    aggregate,
    counts,
    coverage,
    labelled,
    outcomes_of,
    sample,
)
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import chance_result
from vlmvid.metrics.composition import GroupScores, first_best_scores, group_chance, group_scores
from vlmvid.types import MetricResult

PARTS = ("group_score", "text_score", "image_score")
_COUNTS = ("n_total", "n_scored", "n_parsed", "ties")


@dataclass(frozen=True)
class MatrixScorer:
    """The principled scorer of M x T matrices; it is called as a `Scorer`.

    ``group_score``, ``text_score`` and ``image_score`` as in `vlmvid.metrics.composition.group_scores`, each with its
    chance. Of an item with one caption the text score is always right, of one with one medium the image score.

    Attributes:
        benchmark: name of the benchmark.
        about: the protocol in a clause.
        parts: which of `PARTS` are reported, under which name; the first is the main one.
        macro: names of groups whose unweighted mean is reported too.
    """

    benchmark: str
    about: str
    parts: Mapping[str, str] = field(default_factory=lambda: {part: part for part in PARTS})
    macro: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The result; `score` in the samples is the main part."""
        parts, outcomes = judged_outcomes(items, predictions)
        kept = [settings.missing != "skip" or outcome.status != "missing" for outcome in outcomes]
        if not any(kept):
            raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} items")
        metrics: list[MetricResult] = []
        for part in self.parts:
            metrics += self._part(part, parts[part], outcomes, kept, settings)
        counted = [outcome for outcome, keep in zip(outcomes, kept, strict=True) if keep]
        metrics += counts(outcomes, counted)
        rows = zip(outcomes, range(len(outcomes)), strict=True)
        return TaskResult(
            task=self.benchmark,
            protocol=f"{self.about}; equal scores are wrong; parser {matrix_parser.name}; "
            f"{coverage(items, predictions, outcomes, settings)}",
            metrics=labelled(metrics, settings),
            samples=[self._sample(outcome, parts, index) for outcome, index in rows],
        )

    def _part(
        self, part: str, right: NDArray[np.bool_], outcomes: list[Outcome], kept: list[bool], settings: ScoreSettings
    ) -> list[MetricResult]:
        name = self.parts[part]
        scorer = AnswerScorer(self.benchmark, matrix_parser, _zero, self.about, metric=name, macro=self.macro)
        scored = [replace(outcome, score=float(ok)) for outcome, ok in zip(outcomes, right, strict=True)]
        counted = [outcome for outcome, keep in zip(scored, kept, strict=True) if keep]
        metrics = [m for m in aggregate(scorer, scored, counted, settings) if m.name not in _COUNTS]
        items = [outcome.item for outcome in counted]
        metrics.append(chance_result(name, [chance_of(item)[part] for item in items]))
        metrics.append(scorer.result(f"{name}/constant", _constant(part, items), items, settings))
        if settings.blind is not None:
            blind = judged_outcomes(items, settings.blind)[0][part]
            skip = settings.missing == "skip"
            given = np.array([not skip or item.item_id in settings.blind.values for item in items])
            if given.any():
                asked = [item for item, is_given in zip(items, given, strict=True) if is_given]
                metrics.append(scorer.result(f"{name}/blind", blind[given].astype(np.float64), asked, settings))
        return metrics

    def _sample(self, outcome: Outcome, parts: Mapping[str, NDArray[np.bool_]], index: int) -> Sample:
        whole = sample(replace(outcome, score=float(parts[next(iter(self.parts))][index])))
        return {**whole, **{name: float(parts[part][index]) for part, name in self.parts.items()}}


def judged_outcomes(
    items: Sequence[Item], predictions: Predictions
) -> tuple[dict[str, NDArray[np.bool_]], list[Outcome]]:
    """Which items are right in each of `PARTS`, (N,) bool, and what became of their predictions."""
    outcomes = outcomes_of(items, predictions, matrix_parser, _zero)
    parts = {part: np.zeros(len(items), dtype=np.bool_) for part in PARTS}
    ties = np.zeros(len(items), dtype=np.bool_)
    for rows, found in by_shape(outcomes):
        for part, values in zip(PARTS, (found.group, found.text, found.image), strict=True):
            parts[part][rows] = values
        ties[rows] = found.ties
    return parts, [replace(outcome, tied=bool(tied)) for outcome, tied in zip(outcomes, ties, strict=True)]


def by_shape(outcomes: Sequence[Outcome]) -> list[tuple[list[int], GroupScores]]:
    """The parsed outcomes' scores, judged together where their matrices have one shape: (rows, scores)."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, outcome in enumerate(outcomes):
        if outcome.status == "parsed":
            shapes.setdefault((len(outcome.item.media), len(outcome.item.choices)), []).append(index)
    return [
        (
            rows,
            group_scores(
                np.array([outcomes[index].parsed for index in rows]),
                np.array([outcomes[index].item.answer for index in rows]),
            ),
        )
        for rows in shapes.values()
    ]


def chance_of(item: Item) -> dict[str, float]:
    """The expected score of guessing in each of `PARTS`."""
    matched = sum(place >= 0 for place in item.answer)
    text, image, group = group_chance(len(item.media), len(item.choices), matched)
    return dict(zip(PARTS, (group, text, image), strict=True))


def caption_scorer(benchmark: str, about: str, macro: tuple[str, ...] = (), metric: str = "accuracy") -> AnswerScorer:
    """The principled scorer of captions of which one is right.

    A prediction is one score for each of ``item.choices``, in their order, or the text of the chosen caption. A letter
    or a place is no answer: these files keep the right caption at one place, which a model that always names it would
    get right.
    """
    return AnswerScorer(
        benchmark=benchmark,
        parser=caption,
        score=lambda parsed, item: float(parsed == item.answer),
        about=f"{about}; equal scores are wrong",
        metric=metric,
        constants=_equal_scores,
        chance=lambda item: 1 / len(item.choices),
        ties=tied_with_answer,
        macro=macro,
    )


def tied_with_answer(raw: Any, item: Item) -> bool:
    """Whether the right caption shares the highest score."""
    scores = row(raw, len(item.choices))
    return scores is not None and scores[item.answer] == max(scores) and scores.count(max(scores)) > 1


def _equal_scores(items: Sequence[Item]) -> list[list[float]]:
    sizes = {len(item.choices) for item in items}
    return [[0.0] * sizes.pop()] if len(sizes) == 1 else []


def _zero(parsed: Any, item: Item) -> float:
    return 0.0


def _constant(part: str, items: Sequence[Item]) -> NDArray[np.float64]:
    """Equal scores: right only where there is nothing to tell apart."""
    alone = {"group_score": (1, 1), "text_score": (None, 1), "image_score": (1, None)}[part]
    return np.array(
        [float(alone[0] in (None, len(item.media)) and alone[1] in (None, len(item.choices))) for item in items]
    )


# --- compat ---------------------------------------------------------------------------------------------------------


def score_arrays(items: Sequence[Item], predictions: Predictions, script: str) -> list[NDArray[np.float64]]:
    """The (M, T) scores of each item, for a script that computes them itself and so has them all.

    Raises:
        EvaluationError: an item without a prediction, or one that is not M x T finite numbers.
    """
    missing = predictions.missing(item.item_id for item in items)
    if missing:
        raise EvaluationError(f"{script} scores every item; {len(missing)} have no prediction, e.g. {missing[:3]}")
    arrays = []
    for item in items:
        parsed = matrix_parser.parse(predictions.values[item.item_id], item)
        if parsed is None:
            raise EvaluationError(
                f"{script} needs {len(item.media)} x {len(item.choices)} finite scores for each item; "
                f"{item.item_id} has {predictions.values[item.item_id]!r:.80}"
            )
        arrays.append(np.array(parsed))
    return arrays


def compat_result(
    base: TaskResult, compat: str, protocol: str, values: Mapping[str, tuple[float, int]], printed: str
) -> TaskResult:
    """What a reference scorer gives: `values` are (value, number of samples), without intervals as it has none."""
    metrics = tuple(MetricResult(name=name, value=value, num_samples=n) for name, (value, n) in values.items())
    return replace(base, compat=compat, protocol=protocol, metrics=metrics, printed=printed)


def float32_mean(right: NDArray[np.bool_]) -> float:
    """The mean as torch gives it for float32."""
    return float(np.float32(right.sum()) / np.float32(len(right)))


def clip_benchmark(principled: Scorer) -> Scorer:
    """The scorer of CLIP_benchmark for matrices whose i-th picture belongs to the i-th caption.

    The bug: argmax takes the first of equal scores, so ties favour low indices (`first_best_scores`).
    """

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        found = first_best_scores(np.array(score_arrays(items, predictions, "CLIP_benchmark")))
        parts = zip(PARTS, (found.group, found.text, found.image), strict=True)
        values = {part: (float32_mean(right), len(items)) for part, right in parts}
        group, text, image = (values[part][0] for part in PARTS)
        return compat_result(
            principled(items, predictions, settings),
            "clip_benchmark",
            "CLIP_benchmark's image_caption_selection: argmax, the first of equal scores is the best",
            values,
            str({"image_acc": image, "text_acc": text, "acc": group}),
        )

    return score
