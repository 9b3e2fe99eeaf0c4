"""Circular scoring of questions with options: each is asked once for every rotation of its options.

A model that prefers a position is right in one rotation and wrong in the others (the CircularEval of MMBench, arXiv
2307.06281, which shifts the options in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import chance_result, rate_result
from vlmvid.types import MetricResult

METRIC = "circular_accuracy"


@dataclass(frozen=True, slots=True)
class _Everywhere:
    """The same response in every rotation, for constant models."""

    response: Any


def rotations(item: Item) -> list[Item]:
    """The items to ask a model: rotation r shows ``choices[r:] + choices[:r]`` under the id ``ID@r``."""
    count = len(item.choices)
    return [
        replace(
            item,
            item_id=f"{item.item_id}@{shift}",
            choices=item.choices[shift:] + item.choices[:shift],
            answer=(item.answer - shift) % count,
        )
        for shift in range(count)
    ]


def gathered(items: Sequence[Item], predictions: Predictions) -> Predictions:
    """`predictions` with those of ``ID@r`` as one list for each item; a rotation without one is None."""
    values = dict(predictions.values)
    for item in items:
        ids = [f"{item.item_id}@{shift}" for shift in range(len(item.choices))]
        if item.item_id not in values and any(name in values for name in ids):
            values[item.item_id] = [values.pop(name, None) for name in ids]
    return Predictions(values, predictions.source)


def score_circular(
    answers: AnswerScorer, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings
) -> TaskResult:
    """The result of predictions that are lists of responses, one for each rotation (or single ones under ``ID@r``).

    ``circular_accuracy``: right in every rotation; ``accuracy``: the mean over rotations; ``position_share_a`` ...: the
    share of read responses that choose that position, with ``/chance``, what no preference gives;
    ``position_following``: the share of items that are answered with the same position in every rotation.

    Args:
        answers: the scorer of single responses.
        items: as in the benchmark, not rotated.
        predictions: lists with one response for each option.
        settings: of the score.

    Raises:
        EvaluationError: no prediction at all, or none is such a list.
    """
    known = gathered(items, predictions)
    asked = [item for item in items if item.item_id in known.values]
    if asked and not any(_responses(known.values[item.item_id], item) for item in asked):
        example = asked[0]
        raise EvaluationError(
            f"{predictions.source}: with circular=true a prediction is a list of responses, one for each of the item's "
            f"rotations ({len(example.choices)} for {example.item_id}), got {known.values[example.item_id]!r:.60}"
        )
    scorer = _circular_scorer(answers)
    blind = None if settings.blind is None else gathered(items, settings.blind)
    result = scorer(items, known, replace(settings, blind=blind))
    outcomes = outcomes_of(items, known, scorer.parser, scorer.score)
    counted = [o for o in outcomes if o.status != "missing"] if settings.missing == "skip" else outcomes
    extra = [*_mean_accuracy(answers, counted, settings), *_positions(counted, settings)]
    return replace(result, metrics=(*result.metrics, *labelled(extra, settings)))


def _circular_scorer(answers: AnswerScorer) -> AnswerScorer:
    inner, chance = answers.parser, answers.chance

    def parse(raw: Any, item: Item) -> tuple[int | None, ...] | None:
        responses = _responses(raw, item)
        if responses is None:
            return None
        count = len(item.choices)
        found = [inner.parse(said, turned) for said, turned in zip(responses, rotations(item), strict=True)]
        options = tuple((p + r) % count if isinstance(p, int) else None for r, p in enumerate(found))
        return None if all(option is None for option in options) else options

    def tied(raw: Any, item: Item) -> bool:
        pairs = zip(_responses(raw, item) or [], rotations(item), strict=False)
        return answers.ties is not None and any(answers.ties(said, turned) for said, turned in pairs)

    constants = answers.constants
    return replace(
        answers,
        metric=METRIC,
        parser=Parser(f"{inner.name} in each rotation", parse),
        score=lambda parsed, item: float(all(_right(answers, parsed, item))),
        about=f"{answers.about}; each item asked once for every rotation of its options, right if all are",
        constants=lambda items: [_Everywhere(c) for c in (constants(items) if callable(constants) else constants)],
        answer_text=None,
        chance=None if chance is None else (lambda item: chance(item) ** len(item.choices)),
        ties=tied,
    )


def _responses(raw: Any, item: Item) -> list[Any] | None:
    if isinstance(raw, _Everywhere):
        return [raw.response] * len(item.choices)
    return list(raw) if isinstance(raw, list | tuple) and len(raw) == len(item.choices) else None


def _right(answers: AnswerScorer, parsed: Sequence[int | None], item: Item) -> list[bool]:
    return [option is not None and answers.score(option, item) == 1 for option in parsed]


def _mean_accuracy(answers: AnswerScorer, counted: Sequence[Outcome], settings: ScoreSettings) -> list[MetricResult]:
    items = [row.item for row in counted]
    means = [sum(_right(answers, row.parsed or (), row.item)) / len(row.item.choices) for row in counted]
    metrics = [answers.result("accuracy", means, items, settings)]
    if answers.chance is not None:
        metrics.append(chance_result("accuracy", [answers.chance(item) for item in items]))
    return metrics


def _positions(counted: Sequence[Outcome], settings: ScoreSettings) -> list[MetricResult]:
    """Where the chosen options stood."""
    stood = [
        (
            row.item,
            [
                (option - shift) % len(row.item.choices)
                for shift, option in enumerate(row.parsed or ())
                if option is not None
            ],
        )
        for row in counted
    ]
    clusters = [item.video_id for item, places in stood for _ in places]
    everywhere = [place for _, places in stood for place in places]
    counts = [len(item.choices) for item, places in stood for _ in places]
    metrics = []
    for place in range(max(counts, default=0)):
        name = f"position_share_{ascii_lowercase[place] if place < len(ascii_lowercase) else place + 1}"
        flags = [found == place for found in everywhere]
        metrics.append(
            rate_result(name, flags, clusters=clusters, seed=settings.seed, num_bootstrap=settings.num_bootstrap)
        )
        expected = sum(1 / count for count in counts if place < count) / len(counts)
        metrics.append(MetricResult(name=f"{name}/chance", value=expected, num_samples=len(counts)))
    several = [(item, places) for item, places in stood if len(item.choices) > 1]
    if several:
        follows = [len(places) == len(item.choices) and len(set(places)) == 1 for item, places in several]
        metrics.append(
            rate_result(
                "position_following",
                follows,
                clusters=[item.video_id for item, _ in several],
                seed=settings.seed,
                num_bootstrap=settings.num_bootstrap,
                higher_is_better=False,
            )
        )
    return metrics
