"""Scorers of questions with options: the principled one, its circular form, and released scripts.

An item's `answer` is the index of the right option. A prediction is a list of scores, an index, a letter or a text; see
`vlmvid.evaluation.answers.choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlmvid.errors import ConfigError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.choice import choice, is_right, is_tied
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, count_result, labelled, sample
from vlmvid.evaluation.scoring.base import Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.circular import score_circular
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose
from vlmvid.types import MetricResult

OPTIONS = {"circular": "true: a prediction is a list of responses, one for each rotation of the options"}


def is_circular(options: Mapping[str, str]) -> bool:
    """Whether every item was asked once for each rotation of its options."""
    return choose(options, "circular", ("false", "true")) == "true"


@dataclass(frozen=True)
class ChoiceScorer:
    """The principled scorer of a benchmark with options; it is called as a `Scorer`.

    Tied, unparsed and missing answers are wrong. Another option with the very text of the right one is right.

    Attributes:
        benchmark: its name.
        about: the protocol in a clause.
        parser: response -> index of an option, or several for tied scores.
        macro: names of groups whose unweighted mean is reported too.
    """

    benchmark: str
    about: str = "accuracy of the chosen option"
    parser: Parser = choice
    macro: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The result, over rotations where the option ``circular`` says so."""
        if is_circular(settings.options):
            return score_circular(self.answers, items, predictions, settings)
        return self.answers(items, predictions, settings)

    @property
    def answers(self) -> AnswerScorer:
        """The scorer of single responses."""
        return AnswerScorer(
            benchmark=self.benchmark,
            parser=self.parser,
            score=is_right,
            about=self.about,
            constants=lambda items: range(max(len(item.choices) for item in items)),
            answer_text=lambda item: item.answer,
            chance=chance,
            ties=is_tied,
            macro=self.macro,
        )


def chance(item: Item) -> float:
    """The probability that a guessed option is right."""
    right = item.choices[item.answer]
    return item.choices.count(right) / len(item.choices)


@dataclass(frozen=True, slots=True)
class Rating:
    """What a script makes of one response.

    Attributes:
        parsed: what it reads in it; None = nothing.
        score: 1 or 0; None = it leaves the item out of its denominator.
    """

    parsed: Any
    score: float | None


@dataclass(frozen=True)
class Script:
    """A released script, bug for bug; it is called as a `Scorer`.

    Attributes:
        benchmark: its name.
        name: of the compat mode.
        protocol: what the script does, with its bugs.
        rate: (response, item) -> rating; the response is None for a missing one that is rated.
        printed: what it prints, from the outcomes that it counts; it raises ZeroDivisionError where the script does.
        groups: the breakdowns of an item, as the script has them.
        average: of these groups the one whose unweighted mean is the script's number; "" = the mean over items.
        missing: what it makes of a missing prediction: it stops, does not see the item, or rates None.
        reads_text: whether it stops at a response that is not text; null is allowed where not all are needed.
    """

    benchmark: str
    name: str
    protocol: str
    rate: Callable[[Any, Item], Rating]
    printed: Callable[[Sequence[Outcome]], str]
    groups: Callable[[Item], Mapping[str, str]] = lambda item: item.groups
    average: str = ""
    missing: Literal["stop", "unseen", "rate"] = "stop"
    reads_text: bool = True

    def __call__(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        """The script's numbers; raises EvaluationError where the script stops."""
        if settings.options.get("circular", "false") != "false":
            raise ConfigError(f"compat {self.name} has no rotations; leave out circular, or leave out compat")
        asked = self._asked(items, predictions, settings)
        outcomes, counted = [], []
        for item in items:
            raw = predictions.values.get(item.item_id)
            rated = item.item_id in asked or self.missing == "rate"
            rating = self.rate(raw, item) if rated else Rating(None, None)
            status = "missing" if item.item_id not in asked else "unparsed" if rating.parsed is None else "parsed"
            outcomes.append(Outcome(item, status, raw, rating.parsed, rating.score or 0.0))
            if rating.score is not None and not (status == "missing" and settings.missing == "skip"):
                counted.append(outcomes[-1])
        try:
            printed = self.printed(counted)
        except ZeroDivisionError:
            raise EvaluationError(
                f"{self.name}'s script divides by zero on these answers: one of its groups has none; score them "
                "without compat"
            ) from None
        return TaskResult(
            task=self.benchmark,
            protocol=f"{self.protocol}; {len(counted)} of {len(items)} items counted",
            metrics=labelled(self._metrics(outcomes, counted), settings),
            samples=[sample(outcome) for outcome in outcomes],
            compat=self.name,
            printed=printed,
        )

    def _asked(self, items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> set[str]:
        missing = set(predictions.missing(item.item_id for item in items))
        if len(missing) == len(items):
            raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} items")
        if missing and self.missing == "stop" and settings.missing != "skip":
            raise EvaluationError(
                f"{self.name}'s script needs an answer to every question; {len(missing)} of {len(items)} are missing, "
                f"e.g. {', '.join(sorted(missing)[:3])}"
            )
        asked = {item.item_id for item in items} - missing
        for name in sorted(asked) if self.reads_text else ():
            raw = predictions.values[name]
            if not isinstance(raw, str) and (raw is not None or self.missing == "stop"):
                raise EvaluationError(
                    f"{self.name}'s script takes text; the answer to {name} is {type(raw).__name__} {raw!r:.60}"
                )
        return asked

    def _metrics(self, outcomes: Sequence[Outcome], counted: Sequence[Outcome]) -> list[MetricResult]:
        main = MetricResult(name="accuracy", value=share(counted), num_samples=len(counted))
        metrics = []
        for group, by_value in by_group(counted, self.groups).items():
            named = {f"accuracy_{metric_slug(group)}_{metric_slug(value)}": rows for value, rows in by_value.items()}
            metrics += [MetricResult(name=k, value=share(rows), num_samples=len(rows)) for k, rows in named.items()]
            if group == self.average:
                values = [share(rows) for rows in named.values()]
                main = replace(main, value=sum(values) / len(values))
        parsed = sum(outcome.status == "parsed" for outcome in outcomes)
        numbers = {"n_total": len(outcomes), "n_scored": len(counted), "n_parsed": parsed}
        return [main, *metrics, *(count_result(name, value, len(outcomes)) for name, value in numbers.items())]


def scripts(*released: Script) -> dict[str, Scorer]:
    """Compat modes by name."""
    return {script.name: script for script in released}


def share(outcomes: Sequence[Outcome]) -> float:
    """The share of right answers; 0 for none, as most scripts print it."""
    return sum(outcome.score for outcome in outcomes) / len(outcomes) if outcomes else 0.0


def percent(outcomes: Sequence[Outcome]) -> float:
    """The same in percent, divided last: `share` times 100 can differ in the last bit, and so when printed."""
    return 100 * sum(outcome.score for outcome in outcomes) / len(outcomes) if outcomes else 0.0


def by_group(
    outcomes: Sequence[Outcome], groups: Callable[[Item], Mapping[str, str]] = lambda item: item.groups
) -> dict[str, dict[str, list[Outcome]]]:
    """Outcomes by group and value, in the order of their first appearance."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for outcome in outcomes:
        for group, value in groups(outcome.item).items():
            found.setdefault(group, {}).setdefault(value, []).append(outcome)
    return found


def letter_rating(letter: str | None, item: Item) -> Rating:
    """The rating of a script that reads a letter and counts every item."""
    return Rating(letter or None, float(bool(letter) and letter == letter_of(item)))


def letter_of(item: Item) -> str:
    """The letter of the right option."""
    return chr(ord("A") + item.answer)
