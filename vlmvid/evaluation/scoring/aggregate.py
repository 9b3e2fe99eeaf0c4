"""Items and predictions to a result: parse, score, aggregate, with baselines beside every number.

An aggregate has these metrics, the main one first:

- ``accuracy`` (or the benchmark's own name): the mean over all items; unparsed and missing ones count 0.
- ``accuracy/parsed``: over the parsed answers only; ``accuracy/chance``: guessing among the choices, with its range.
- ``accuracy/constant``: the best of the constant answers, scored as the model is; ``accuracy/majority``: always the
  most frequent answer of the items; ``accuracy/blind``: the predictions made without the video.
- ``accuracy_GROUP_VALUE`` for each group and value, ``UNIT_accuracy`` for each unit: all its items right.
- ``n_total``, ``n_scored``, ``n_parsed``, ``ties``.
- where predictions carry confidences, coverage at risk and effective reliability (`vlmvid.metrics.selective`).

Where missing predictions are skipped every name ends in ``[missing=skip]``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.base import Sample, TaskResult, metric_slug
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import chance_result, rate_result, selective_results
from vlmvid.types import MetricResult

Score = Callable[[Any, Item], float]
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item with what became of its prediction.

    `score` is 0 (or the scorer's `worst`) unless `status` is ``parsed``; `confidence` is that of a prediction
    ``{"answer": ..., "confidence": ...}``.
    """

    item: Item
    status: str  # parsed | unparsed | missing
    raw: Any = None
    parsed: Any = None
    score: float = 0.0
    tied: bool = False
    confidence: float | None = None


@dataclass(frozen=True)
class AnswerScorer:
    """The principled scorer of benchmarks whose items are answered one by one; it is called as a `Scorer`.

    Attributes:
        benchmark: name of the benchmark.
        parser: response -> answer.
        score: (answer, item) -> a number, in [0, 1] unless `is_rate` is False.
        about: the protocol in a clause: what is compared, and how.
        metric: name of the main metric.
        is_rate: whether scores lie in [0, 1]; intervals are those of rates then.
        higher_is_better: False for errors.
        constants: the responses of constant models, e.g. ``("yes", "no")``; a function of the items where they depend
            on them. Empty = no such baseline.
        answer_text: an item's answer as the response that would be right, for the majority baseline; None = no such
            baseline.
        chance: an item's expected score under guessing; None = no such baseline.
        ties: (raw, item) -> whether the best answer is tied with another; only scored choices can be.
        macro: names of groups whose unweighted mean is reported too, as ``accuracy_GROUP_macro``.
        worst: the score of an item without a parsed answer; None = 0, which for an error would be the best.
    """

    benchmark: str
    parser: Parser
    score: Score
    about: str
    metric: str = "accuracy"
    is_rate: bool = True
    higher_is_better: bool = True
    constants: Callable[[Sequence[Item]], Sequence[Any]] | Sequence[Any] = ()
    answer_text: Callable[[Item], Any] | None = None
    chance: Callable[[Item], float] | None = None
    ties: Callable[[Any, Item], bool] | None = None
    macro: tuple[str, ...] = ()
    worst: Callable[[Item], float] | None = None

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The result, principled whatever ``settings.compat`` says."""
        outcomes = outcomes_of(items, predictions, self.parser, self.score, self.ties, self.worst)
        counted = [o for o in outcomes if o.status != "missing"] if settings.missing == "skip" else outcomes
        if not counted:
            raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} items")
        metrics = aggregate(self, outcomes, counted, settings)
        metrics += self._baselines([o.item for o in counted], settings)
        metrics += selective(counted, settings) if self.is_rate else []
        return TaskResult(
            task=self.benchmark,
            protocol=f"{self.about}; parser {self.parser.name}; {coverage(items, predictions, outcomes, settings)}",
            metrics=labelled(metrics, settings),
            samples=[sample(outcome) for outcome in outcomes],
        )

    def _baselines(self, items: Sequence[Item], settings: ScoreSettings) -> list[MetricResult]:
        metrics = []
        if self.chance is not None:
            chances = [self.chance(item) for item in items]
            metrics.append(chance_result(self.metric, chances, higher_is_better=self.higher_is_better))
        constants = self.constants(items) if callable(self.constants) else self.constants
        runs = [self.constant_scores(items, constant) for constant in constants]
        if runs:
            best = max(runs, key=np.mean) if self.higher_is_better else min(runs, key=np.mean)
            metrics.append(self.result(f"{self.metric}/constant", best, items, settings))
        if self.answer_text is not None:
            majority = most_frequent([self.answer_text(item) for item in items])
            metrics.append(
                self.result(f"{self.metric}/majority", self.constant_scores(items, majority), items, settings)
            )
        if settings.blind is not None:
            blind = outcomes_of(items, settings.blind, self.parser, self.score, self.ties, self.worst)
            if settings.missing == "skip":
                blind = [outcome for outcome in blind if outcome.status != "missing"]
            if blind:
                asked = [outcome.item for outcome in blind]
                metrics.append(self.result(f"{self.metric}/blind", [o.score for o in blind], asked, settings))
        return metrics

    def _worst(self, item: Item) -> float:
        return 0.0 if self.worst is None else self.worst(item)

    def constant_scores(self, items: Sequence[Item], response: Any) -> NDArray[np.float64]:
        """The score of each item when every response is `response`."""
        scores = np.zeros(len(items))
        for row, item in enumerate(items):
            parsed = self.parser.parse(response, item)
            scores[row] = self._worst(item) if parsed is None else self.score(parsed, item)
        return scores

    def result(
        self, name: str, scores: Sequence[float] | NDArray[np.float64], items: Sequence[Item], settings: ScoreSettings
    ) -> MetricResult:
        """The mean of one score per item with its clustered error and interval."""
        return rate_result(
            name,
            scores,
            clusters=cluster_codes(items),
            bounded=self.is_rate,
            seed=settings.seed,
            num_bootstrap=settings.num_bootstrap,
            higher_is_better=self.higher_is_better,
        )


def cluster_codes(items: Sequence[Item]) -> list[int]:
    """A number for each item's video, in the order of their names: what numpy sorts faster than the names."""
    names = [item.video_id for item in items]
    code = {name: number for number, name in enumerate(sorted(set(names)))}
    return [code[name] for name in names]


def outcomes_of(
    items: Sequence[Item],
    predictions: Predictions,
    parser: Parser,
    score: Score,
    ties: Callable[[Any, Item], bool] | None = None,
    worst: Callable[[Item], float] | None = None,
) -> list[Outcome]:
    """What became of each item's prediction, in the order of the items."""
    outcomes = []
    for item in items:
        if item.item_id not in predictions.values:
            outcomes.append(Outcome(item, "missing", score=worst(item) if worst else 0.0))
            continue
        raw, confidence = _with_confidence(predictions.values[item.item_id], item, predictions)
        parsed = parser.parse(raw, item)
        if parsed is None:
            outcomes.append(Outcome(item, "unparsed", raw, score=worst(item) if worst else 0.0))
            continue
        tied = ties is not None and ties(raw, item)
        outcomes.append(Outcome(item, "parsed", raw, parsed, score(parsed, item), tied, confidence))
    return outcomes


def _with_confidence(value: Any, item: Item, predictions: Predictions) -> tuple[Any, float | None]:
    """The answer of a prediction and its confidence, if it is an object that has both."""
    if not isinstance(value, dict) or not {"answer", "confidence"} <= value.keys():
        return value, None
    confidence = value["confidence"]
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not math.isfinite(confidence):
        raise EvaluationError(f"{predictions.source}, {item.item_id}: confidence must be a number, got {confidence!r}")
    return value["answer"], float(confidence)


def selective(counted: Sequence[Outcome], settings: ScoreSettings) -> list[MetricResult]:
    """The metrics of `vlmvid.metrics.selective`, if any prediction has a confidence; one without was not answered."""
    if all(row.confidence is None for row in counted):
        return []
    return selective_results(
        [row.score for row in counted],
        [-math.inf if row.confidence is None else row.confidence for row in counted],
        clusters=[row.item.video_id for row in counted],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )


def aggregate(
    scorer: AnswerScorer, outcomes: Sequence[Outcome], counted: Sequence[Outcome], settings: ScoreSettings
) -> list[MetricResult]:
    """The metrics of the model itself: all, parsed, by group, by unit, counts."""

    def mean(name: str, rows: Sequence[Outcome]) -> MetricResult:
        return scorer.result(name, [row.score for row in rows], [row.item for row in rows], settings)

    name = scorer.metric
    metrics = [mean(name, counted)]
    parsed = [row for row in counted if row.status == "parsed"]
    if parsed:
        metrics.append(mean(f"{name}/parsed", parsed))
    for group, by_value in grouped(counted).items():
        values = [mean(f"{name}_{metric_slug(group)}_{metric_slug(value)}", rows) for value, rows in by_value.items()]
        metrics += values
        if group in scorer.macro:
            metrics.append(
                MetricResult(
                    name=f"{name}_{metric_slug(group)}_macro",
                    value=float(np.mean([value.value for value in values])),
                    num_samples=len(values),
                    higher_is_better=scorer.higher_is_better,
                )
            )
    metrics += unit_results(outcomes, settings)
    return [*metrics, *counts(outcomes, counted)]


def grouped(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[Outcome]]]:
    """Outcomes by group and value, both sorted by name."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        for group, value in outcome.item.groups.items():
            found.setdefault(group, {}).setdefault(value, []).append(outcome)
    return {group: dict(sorted(values.items())) for group, values in sorted(found.items())}


def units_of(outcomes: Sequence[Outcome], kind: str, settings: ScoreSettings) -> list[list[Outcome]]:
    """The outcomes of each unit of `kind`, in order of first appearance.

    Where missing predictions are skipped, a unit that lacks one is left out: the rest says nothing about the whole.
    """
    units: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if kind in outcome.item.units:
            units.setdefault(outcome.item.units[kind], []).append(outcome)
    skip = settings.missing == "skip"
    return [rows for rows in units.values() if not (skip and any(row.status == "missing" for row in rows))]


def unit_results(outcomes: Sequence[Outcome], settings: ScoreSettings) -> list[MetricResult]:
    """``UNIT_accuracy`` for each kind of unit: the share of units whose items are all right (score 1)."""
    kinds = sorted({kind for outcome in outcomes for kind in outcome.item.units})
    found = {kind: units_of(outcomes, kind, settings) for kind in kinds}
    return [unit_rate(f"{kind}_accuracy", units, settings) for kind, units in found.items() if units]


def unit_rate(name: str, units: Sequence[Sequence[Outcome]], settings: ScoreSettings) -> MetricResult:
    """The share of units whose items are all right."""
    return rate_result(
        name,
        [float(all(row.score == 1 for row in rows)) for rows in units],
        clusters=[rows[0].item.video_id for rows in units],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )


def counts(outcomes: Sequence[Outcome], counted: Sequence[Outcome]) -> list[MetricResult]:
    """How many items there are, were scored, and could be parsed; how many were tied."""
    numbers = {
        "n_total": len(outcomes),
        "n_scored": len(counted),
        "n_parsed": sum(row.status == "parsed" for row in counted),
        "ties": sum(row.tied for row in counted),
    }
    return [count_result(name, value, len(outcomes), name != "ties") for name, value in numbers.items()]


def count_result(name: str, value: int, num_samples: int, higher_is_better: bool = True) -> MetricResult:
    """A count as a metric."""
    return MetricResult(name=name, value=float(value), num_samples=num_samples, higher_is_better=higher_is_better)


def most_frequent(answers: Sequence[Any]) -> Any:
    """The most frequent answer; of equally frequent ones the first in sorted order of their texts."""
    return min(Counter(answers).items(), key=lambda pair: (-pair[1], str(pair[0])))[0]


def coverage(
    items: Sequence[Item], predictions: Predictions, outcomes: Sequence[Outcome], settings: ScoreSettings
) -> str:
    """What of the predictions could be used, in words: the end of every protocol."""
    ids = [item.item_id for item in items]
    missing, extra = predictions.missing(ids), predictions.extra(ids)
    unparsed = sum(outcome.status == "unparsed" for outcome in outcomes)
    rule = "left out" if settings.missing == "skip" else "counted as wrong"
    words = [f"{len(items)} items in {len({item.video_id for item in items})} clusters, errors clustered by video"]
    if missing:
        words.append(f"{len(missing)} without a prediction ({_some(missing)}), {rule}")
    if extra:
        words.append(f"{len(extra)} predictions for unknown ids ({_some(extra)}) ignored")
    rate = f" ({unparsed / max(1, len(items)):.1%}), counted as wrong" if unparsed else ""
    words.append(f"{unparsed} unparsed{rate}")
    return "; ".join(words)


def labelled(metrics: Sequence[MetricResult], settings: ScoreSettings) -> tuple[MetricResult, ...]:
    """`metrics` with what changes their meaning in their names."""
    if settings.missing != "skip":
        return tuple(metrics)
    return tuple(replace(metric, name=f"{metric.name}[missing=skip]") for metric in metrics)


def sample(outcome: Outcome) -> Sample:
    """The row of the sample log; every scorer's rows have `item_id`, `video_id`, `status` and `score`."""
    item = outcome.item
    row: Sample = {
        "item_id": item.item_id,
        "video_id": item.video_id,
        "status": outcome.status,
        "raw": _cell(outcome.raw),
        "parsed": _cell(outcome.parsed),
        "answer": _cell(item.answer),
        "score": float(outcome.score),
        "tied": outcome.tied,
    }
    if outcome.confidence is not None:
        row["confidence"] = outcome.confidence
    for name, value in item.groups.items():
        row[f"group_{name}"] = value
    for name, value in item.units.items():
        row[f"unit_{name}"] = value
    return row


def _cell(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else str(value)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
