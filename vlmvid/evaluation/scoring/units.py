"""Sets of items that are right only when all their items are: pairs of questions, all questions of a video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of, unit_rate, units_of
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import chance_result
from vlmvid.types import MetricResult

Units = list[list[Outcome]]


@dataclass(frozen=True)
class UnitScorer:
    """A scorer of answers whose main metric counts units; it is called as a `Scorer`.

    A unit with a missing or unparsed answer is wrong. Where missing predictions are skipped, a unit that lacks one is
    left out. Each metric has its chance, the best constant answer and the blind baseline beside it.

    Attributes:
        answers: scores the items one by one; its metrics follow those of the units.
        metrics: kind of unit (a key of ``Item.units``) -> name of its metric; the first is the main one.
        groups: names of groups by which units are broken down too; a unit belongs to those of its first item.
    """

    answers: AnswerScorer
    metrics: Mapping[str, str]
    groups: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The result, principled whatever ``settings.compat`` says."""
        result = self.answers(items, predictions, settings)
        outcomes = self._outcomes(items, predictions)
        metrics: list[MetricResult] = []
        for kind, name in self.metrics.items():
            metrics += self._of_kind(kind, name, outcomes, settings)
        found = labelled(metrics, settings)
        own = {metric.name for metric in found} | {f"{kind}_accuracy" for kind in self.metrics}
        rest = [metric for metric in result.metrics if metric.name.split("[")[0] not in own]
        return replace(result, metrics=(*found, *(metric for metric in rest if metric.name not in own)))

    def _outcomes(self, items: Sequence[Item], predictions: Predictions) -> list[Outcome]:
        scorer = self.answers
        return outcomes_of(items, predictions, scorer.parser, scorer.score, scorer.ties)

    def _of_kind(self, kind: str, name: str, outcomes: list[Outcome], settings: ScoreSettings) -> list[MetricResult]:
        units = units_of(outcomes, kind, settings)
        if not units:
            return []
        metrics = [unit_rate(name, units, settings)]
        for group in self.groups:
            values = sorted({unit[0].item.groups[group] for unit in units if group in unit[0].item.groups})
            for value in values:
                own = [unit for unit in units if unit[0].item.groups.get(group) == value]
                metrics.append(unit_rate(f"{name}_{metric_slug(group)}_{metric_slug(value)}", own, settings))
        return metrics + self._baselines(kind, name, units, settings)

    def _baselines(self, kind: str, name: str, units: Units, settings: ScoreSettings) -> list[MetricResult]:
        items = [row.item for unit in units for row in unit]
        metrics = []
        if self.answers.chance is not None:
            guess = self.answers.chance
            metrics.append(chance_result(name, [math.prod(guess(row.item) for row in unit) for unit in units]))
        responses = self.answers.constants
        runs = [
            units_of(self._outcomes(items, Predictions({item.item_id: response for item in items})), kind, settings)
            for response in (responses(items) if callable(responses) else responses)
        ]
        if runs:
            best = max(runs, key=lambda run: np.mean([_right(unit) for unit in run]))
            metrics.append(unit_rate(f"{name}/constant", best, settings))
        if settings.blind is not None:
            blind = units_of(self._outcomes(items, settings.blind), kind, settings)
            metrics.append(unit_rate(f"{name}/blind", blind, settings))
        return metrics


def _right(unit: Sequence[Outcome]) -> bool:
    return all(row.score == 1 for row in unit)
