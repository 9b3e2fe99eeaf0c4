"""What the benchmarks with open answers share: reading, exact match, compat results, the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.open_text import plain, short_answer
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.judges import judge_from_options, judged
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, grouped, labelled, outcomes_of, sample
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns
from vlmvid.metrics import rate_result
from vlmvid.types import MetricResult

SPLITS = ("test", "val", "train")
SPLIT_OPTION = {"split": "test (default), val or train"}
VOCABULARY_OPTION = {
    "vocabulary": "N: report the share of answers outside the N most frequent answers of train_qa.json, which must lie "
    "beside the questions (Xu et al. 2017 train with 1000, Just-Ask with 4000)"
}
Value = tuple[float, int]
_TYPES = ("what", "who", "where", "when", "how")


def read_rows(path: Path, file: AnnotationFile, name: str | None = None) -> list[dict[str, Any]]:
    """The objects of a JSON list with every column of `file`; raises DatasetError or MissingDataError."""
    found = find_file(path, file, name)
    return checked_rows(read_json(found, list, file), file, found)


def read_rows_of(path: Path, file: AnnotationFile, key: str) -> list[dict[str, Any]]:
    """The objects under `key` of the JSON object in `path`, checked as `read_rows` does."""
    rows = read_json(path, dict, file).get(key)
    if not isinstance(rows, list):
        raise DatasetError(f"{path}: expected a list under {key!r}, as {file.publisher} has it, got {rows!r:.60}")
    return checked_rows(rows, file, path)


def checked_rows(rows: Any, file: AnnotationFile, found: Path, where: str = "entry") -> list[dict[str, Any]]:
    """`rows` if they are a list of objects with every column of `file`; raises DatasetError, which names the entry."""
    if not isinstance(rows, list):
        raise DatasetError(f"{found}, {where}: expected a list, as {file.publisher} has it, got {rows!r:.60}")
    columns = set(file.columns)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DatasetError(
                f"{found}, {where} {number}: expected an object with {', '.join(file.columns)}, got {row!r:.60}"
            )
        if not columns <= row.keys():
            require_columns(found, file, row, f"{where} {number}")
    return rows


def read_split(path: Path, options: Mapping[str, str], file: AnnotationFile) -> list[dict[str, Any]]:
    """`read_rows` of ``SPLIT_qa.json``, or of the file that `path` is."""
    return read_rows(path, file, f"{choose(options, 'split', SPLITS)}_qa.json")


def vocabulary(path: Path, options: Mapping[str, str], file: AnnotationFile) -> frozenset[str] | None:
    """The most frequent answers of the training questions beside `path`; None without the option.

    Of equally frequent ones the first in the file counts, as `collections.Counter.most_common` has it.
    """
    if "vocabulary" not in options:
        return None
    size = options["vocabulary"]
    if not size.isdigit() or int(size) == 0:
        raise ConfigError(f"option vocabulary={size!r} must be a positive whole number, e.g. 4000")
    folder = path.parent if path.is_file() else path
    rows = read_rows(folder, file, "train_qa.json")
    return frozenset(answer for answer, _ in Counter(str(row["answer"]) for row in rows).most_common(int(size)))


def vocabulary_group(answer: str, known: frozenset[str] | None) -> dict[str, str]:
    """The breakdown by whether a classifier with the answers `known` could be right."""
    return {} if known is None else {"vocabulary": "in" if answer in known else "out"}


def question_type(question: str) -> str:
    """Just-Ask's type of a question: color if that word is in it, else its first word (antoyang/just-ask, preproc)."""
    if "color" in question:
        return "color"
    first = question.split(" ", 1)[0]
    return first if first in _TYPES else "other"


def exact_match(parsed: str, item: Item) -> float:
    """Whether the answer is the item's one, both in `plain` form."""
    return float(parsed == plain(item.answer))


def exact_scorer(benchmark: str, about: str, constants: tuple[str, ...] = (), macro: tuple[str, ...] = ()) -> Scorer:
    """Exact match of short answers, the judge and the vocabulary's share beside it where they are asked for."""
    return with_extras(
        AnswerScorer(
            benchmark=benchmark,
            parser=short_answer,
            score=exact_match,
            about=about,
            constants=constants,
            answer_text=lambda item: item.answer,
            macro=macro,
        )
    )


def with_extras(scorer: Scorer) -> Scorer:
    """`scorer` with the metrics of a judge and the share of out-of-vocabulary answers, each if there is one."""

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        result = scorer(items, predictions, settings)
        if items and "vocabulary" in items[0].groups:
            outside = [item.groups["vocabulary"] == "out" for item in items]
            share = rate_result(
                "out_of_vocabulary_share",
                outside,
                clusters=[item.video_id for item in items],
                seed=settings.seed,
                num_bootstrap=settings.num_bootstrap,
                higher_is_better=False,
            )
            result = replace(result, metrics=(*result.metrics, *labelled([share], settings)))
        judge = judge_from_options(settings.options)
        return result if judge is None else judged(result, items, settings, judge)

    return score


def group_values(outcomes: Sequence[Outcome], metric: str = "accuracy") -> dict[str, Value]:
    """The mean score and number of samples: of all under `metric`, and of each group as the aggregate names it."""
    found = {metric: mean_of(outcomes)}
    for group, by_value in grouped(outcomes).items():
        for value, rows in by_value.items():
            found[f"{metric}_{metric_slug(group)}_{metric_slug(value)}"] = mean_of(rows)
    return found


def mean_of(outcomes: Sequence[Outcome]) -> Value:
    """Mean score and number of samples."""
    return sum(row.score for row in outcomes) / len(outcomes), len(outcomes)


def compat_outcomes(
    items: Sequence[Item], predictions: Predictions, parser: Parser, score: Callable[[Any, Item], float], *, stop: str
) -> list[Outcome]:
    """Outcomes under a reference's rules; raises EvaluationError where it stops at a missing answer: `stop` says so."""
    missing = predictions.missing(item.item_id for item in items)
    if missing and stop:
        raise EvaluationError(f"{stop}; {len(missing)} answers are missing, e.g. {', '.join(missing[:3])}")
    return outcomes_of(items, predictions, parser, score)


def compat_result(
    benchmark: str,
    compat: str,
    outcomes: Sequence[Outcome],
    values: Mapping[str, Value],
    *,
    printed: str,
    about: str,
) -> TaskResult:
    """A result with a reference's numbers, in its own order, without intervals: the reference has none."""
    return TaskResult(
        task=benchmark,
        protocol=about,
        metrics=tuple(MetricResult(name=name, value=value, num_samples=n) for name, (value, n) in values.items()),
        samples=[sample(outcome) for outcome in outcomes],
        compat=compat,
        printed=printed,
    )
