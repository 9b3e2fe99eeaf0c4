"""What the yes-no benchmarks share: metrics beside accuracy, and how a released script is reproduced."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, Score, grouped, labelled, outcomes_of, sample
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics import f1_result, macro_rate_result, rate_result, yes_no_scores
from vlmvid.types import MetricResult

Measure = Callable[[Sequence[Outcome]], tuple[dict[str, float], str]]
LOWER_IS_BETTER = (
    "chair",
    "hal",
    "cog",
    "false_yes",
    "false_positive",
    "yes_difference",
    "no_difference",
    "halluc_score",
)
_OPPOSITE = {"yes": "no", "no": "yes"}


def is_right(parsed: object, item: Item) -> float:
    """1 where the parsed answer is the item's, else 0."""
    return float(parsed == item.answer)


def yes_no_answers(
    benchmark: str, about: str, *, parser: Parser = yes_no, score: Score = is_right, macro: tuple[str, ...] = ()
) -> AnswerScorer:
    """The scorer of single answers, yes or no, with the baselines of both constants, the majority and guessing."""
    return AnswerScorer(
        benchmark=benchmark,
        parser=parser,
        score=score,
        about=about,
        constants=("yes", "no"),
        answer_text=lambda item: item.answer,
        chance=lambda item: 0.5,
        macro=macro,
    )


@dataclass(frozen=True)
class YesNoScorer:
    """The principled scorer of a benchmark with the answers yes and no.

    Attributes:
        answers: scores each answer.
        positive: the answer that precision, recall and F1 are about.
        by: names of groups for whose values all metrics are repeated.
        main: name of the metric that comes first.
    """

    answers: AnswerScorer
    positive: str = "yes"
    by: tuple[str, ...] = ()
    main: str = "accuracy"

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The result; an answer that is missing or cannot be parsed counts as the opposite of the label."""
        result = self.answers(items, predictions, settings)
        outcomes = counted(outcomes_of(items, predictions, self.answers.parser, self.answers.score), settings)
        metrics = yes_no_metrics(outcomes, settings, positive=self.positive)
        for group, by_value in grouped(outcomes).items():
            for value, rows in by_value.items() if group in self.by else ():
                suffix = f"_{metric_slug(group)}_{metric_slug(value)}"
                metrics += yes_no_metrics(rows, settings, positive=self.positive, suffix=suffix)
        metrics += self._always([outcome.item for outcome in outcomes], settings)
        return first_metric(replace(result, metrics=(*result.metrics, *labelled(metrics, settings))), self.main)

    def _always(self, items: Sequence[Item], settings: ScoreSettings) -> list[MetricResult]:
        label = np.array([item.answer == self.positive for item in items])
        answers = self.answers
        metrics = [
            answers.result(f"accuracy/always_{word}", answers.constant_scores(items, word), items, settings)
            for word in ("yes", "no")
        ]
        always = yes_no_scores(np.ones(len(items), dtype=bool), label).f1
        return [*metrics, MetricResult(name=f"f1/always_{self.positive}", value=always, num_samples=len(items))]


def counted(outcomes: Sequence[Outcome], settings: ScoreSettings) -> list[Outcome]:
    """The outcomes that count: all, or those with a prediction."""
    return [outcome for outcome in outcomes if settings.missing != "skip" or outcome.status != "missing"]


def first_metric(result: TaskResult, name: str) -> TaskResult:
    """`result` with the metric `name` in front."""
    ordered = sorted(result.metrics, key=lambda metric: metric.name.partition("[")[0] != name)
    return replace(result, metrics=tuple(ordered))


def yes_no_metrics(
    outcomes: Sequence[Outcome], settings: ScoreSettings, *, positive: str = "yes", suffix: str = ""
) -> list[MetricResult]:
    """Balanced accuracy, F1, precision and recall of `positive`, yes ratio, yes bias and false-yes share.

    Precision is NaN when nothing was answered `positive`, and so on: see `vlmvid.metrics.yes_no_scores`.
    """
    label = np.array([outcome.item.answer == positive for outcome in outcomes])
    answered = [o.parsed if o.parsed in _OPPOSITE else _OPPOSITE[o.item.answer] for o in outcomes]
    predicted = np.array([answer == positive for answer in answered])
    clusters = [outcome.item.video_id for outcome in outcomes]
    said_yes = np.array([outcome.parsed == "yes" for outcome in outcomes])
    scores = yes_no_scores(predicted, label)
    # Bias is about yes, whichever of the answers is the positive class.
    yes = yes_no_scores(np.array([answer == "yes" for answer in answered]), label if positive == "yes" else ~label)
    seed, num_bootstrap = settings.seed, settings.num_bootstrap
    metrics = []
    if label.any() and not label.all():
        strata = [outcome.item.answer for outcome in outcomes]
        correct = [outcome.score for outcome in outcomes]
        name = f"balanced_accuracy{suffix}"
        metrics.append(
            macro_rate_result(name, correct, strata, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap)
        )
    return [
        *metrics,
        f1_result(f"f1{suffix}", predicted, label, clusters=clusters),
        value_of(f"precision{suffix}", scores.precision, len(label)),
        value_of(f"recall{suffix}", scores.recall, len(label)),
        rate_result(f"yes_ratio{suffix}", said_yes, clusters=clusters, seed=seed, num_bootstrap=num_bootstrap),
        value_of(f"yes_bias{suffix}", yes.yes_bias, len(label)),
        value_of(f"false_yes_share{suffix}", yes.false_yes_share, len(label)),
    ]


def value_of(name: str, value: float, num_samples: int) -> MetricResult:
    """A number without an interval."""
    return MetricResult(
        name=name,
        value=value,
        num_samples=num_samples,
        higher_is_better=not name.startswith(LOWER_IS_BETTER),
    )


@dataclass(frozen=True)
class Mode:
    """One released script.

    Attributes:
        name: of the compat mode.
        parser: as the script reads a response.
        protocol: what the script does, with its bugs.
        measure: outcomes in the order of the items -> values by metric name, the main one first, and what the script
            prints; ZeroDivisionError where the script stops with it.
        score: (parsed, item) -> the item's score.
        selects: which items the script scores.
        needs_all: whether the script stops when an answer is missing.
        is_text: whether the script stops at an answer that is not text.
    """

    name: str
    parser: Parser
    protocol: str
    measure: Measure
    score: Score = is_right
    selects: Callable[[Item], bool] = lambda item: True
    needs_all: bool = True
    is_text: bool = True

    def scorer(self, benchmark: str) -> Scorer:
        """The compat scorer of `benchmark`."""
        return lambda items, predictions, settings: self._run(benchmark, items, predictions, settings)

    def _run(
        self, benchmark: str, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings
    ) -> TaskResult:
        chosen = [item for item in items if self.selects(item)]
        missing = predictions.missing(item.item_id for item in chosen)
        if (self.needs_all and missing and settings.missing != "skip") or len(missing) == len(chosen):
            raise EvaluationError(
                f"{self.name}'s script needs an answer to every question; {len(missing)} of {len(chosen)} are missing, "
                f"e.g. {', '.join(missing[:3])}"
            )
        for item in chosen if self.is_text else ():
            raw = predictions.values.get(item.item_id, "")
            if not isinstance(raw, str):
                raise EvaluationError(
                    f"{self.name}'s script takes text; the answer to {item.item_id} is {type(raw).__name__} {raw!r:.60}"
                )
        outcomes = outcomes_of(chosen, predictions, self.parser, self.score)
        rows = [o for o in outcomes if o.status != "missing"] if settings.missing == "skip" else outcomes
        try:
            values, printed = self.measure(rows)
        except ZeroDivisionError:
            raise EvaluationError(
                f"{self.name}'s script divides by zero on these answers; score them without compat"
            ) from None
        metrics = [value_of(name, value, len(rows)) for name, value in values.items()]
        return TaskResult(
            task=benchmark,
            protocol=f"{self.protocol}; parser {self.parser.name}; {len(rows)} of {len(items)} items",
            metrics=labelled(metrics, settings),
            samples=[sample(outcome) for outcome in outcomes],
            compat=self.name,
            printed=printed,
        )


def modes(benchmark: str, *scripts: Mode) -> dict[str, Scorer]:
    """The compat scorers of `benchmark` by name."""
    return {script.name: script.scorer(benchmark) for script in scripts}


def mean_score(outcomes: Iterable[Outcome]) -> float:
    """The mean score; ZeroDivisionError for none."""
    rows = list(outcomes)
    return sum(row.score for row in rows) / len(rows)


def unit_shares(outcomes: Sequence[Outcome], unit: str) -> float:
    """The share of the sets `unit` whose items are all right; items without such a unit are left out."""
    found: dict[str, bool] = {}
    for outcome in outcomes:
        if unit in outcome.item.units:
            name = outcome.item.units[unit]
            found[name] = found.get(name, True) and outcome.score == 1
    return sum(found.values()) / len(found)


def quoted_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as VLMEvalKit writes its score files: comma separated, every cell in quotes."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().rstrip("\n")


def values_by(outcomes: Sequence[Outcome], key: Callable[[Item], str]) -> Mapping[str, list[Outcome]]:
    """Outcomes by a key of their items, in order of first appearance."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(key(outcome.item), []).append(outcome)
    return found
