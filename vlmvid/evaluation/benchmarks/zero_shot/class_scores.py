"""What the benchmarks of classification share: their items, and accuracy over a fixed set of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.label import RankedScores, is_undecided, label, ranked
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.prompts import TEMPLATES_OPTION, read_templates
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, labelled, most_frequent
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Media, Scorer, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import read_text
from vlmvid.metrics.classification import mean_per_class_result
from vlmvid.metrics.rates import rate_result
from vlmvid.metrics.stats import chance_result
from vlmvid.types import MetricResult

OPTIONS = {"templates": TEMPLATES_OPTION}
_TOP = 5


def class_item(
    item_id: str, video_id: str, media: Media, answer: int, classes: tuple[str, ...], shown: tuple[str, ...]
) -> Item:
    """One sample: `answer` is the index of its class, `classes` names all of them, `shown` are templates of prompts."""
    return Item(item_id, video_id, answer, choices=classes, media=(media,), extra={"templates": shown})


def templates(options: Mapping[str, str], default: str) -> tuple[str, ...]:
    """The templates that the options ask for."""
    return read_templates(options.get("templates", default))


def read_classes(path: Path, file: AnnotationFile) -> tuple[str, ...]:
    """Names of classes, one per line; raises DatasetError for none or one that occurs twice."""
    names = [line.strip() for line in read_text(path, file).splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"{path} names no class; expected one name per line")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{path} names {', '.join(twice[:3])} more than once; every class needs a name of its own")
    return tuple(names)


def index_of(name: str, places: Mapping[str, int], where: str) -> int:
    """The index of a class name; raises DatasetError for one that is not among them."""
    if name not in places:
        raise DatasetError(f"{where}: the label {name!r} is none of the {len(set(places.values()))} classes")
    return places[name]


def class_scorer(benchmark: str) -> Scorer:
    """The principled scorer of `benchmark`: accuracy, the mean over classes, and top 5 where scores were given.

    Ties are wrong. ``accuracy/constant`` and ``accuracy/majority`` are the same here: the most frequent class.
    """

    def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
        if settings.blind is not None:
            settings = replace(settings, blind=_prepared(items, settings.blind))
        prepared = _prepared(items, predictions)
        result = answers(items, prepared, settings)
        counted = counted_samples(items, result, settings)
        more = class_metrics(counted, prepared, settings)
        protocol = f"{result.protocol}; {len(items[0].choices)} classes, {_shared(items[0].choices)} share a name"
        return replace(result, protocol=protocol, metrics=(*result.metrics, *labelled(more, settings)))

    answers = AnswerScorer(
        benchmark=benchmark,
        parser=label,
        score=lambda parsed, item: float(parsed == item.answer),
        about="one class for each sample, a tie is wrong",
        constants=lambda items: [most_frequent([item.answer for item in items])],
        answer_text=lambda item: item.answer,
        chance=lambda item: 1 / len(item.choices),
        ties=is_undecided,
    )
    return score


def _prepared(items: Sequence[Item], predictions: Predictions) -> Predictions:
    values = dict(predictions.values)
    for item in items:
        value = values.get(item.item_id)
        if isinstance(value, dict) and "answer" in value:
            values[item.item_id] = {**value, "answer": ranked(value["answer"], item)}
        elif value is not None:
            values[item.item_id] = ranked(value, item)
    return Predictions(values, predictions.source)


def counted_samples(
    items: Sequence[Item], result: TaskResult, settings: ScoreSettings
) -> list[tuple[Item, Mapping[str, Any]]]:
    """The items that count with their rows of the sample log."""
    rows = zip(items, result.samples, strict=True)
    return [(item, row) for item, row in rows if settings.missing != "skip" or row["status"] != "missing"]


def class_metrics(
    counted: Sequence[tuple[Item, Mapping[str, Any]]], predictions: Predictions, settings: ScoreSettings
) -> list[MetricResult]:
    """``mean_per_class_accuracy``, and ``top5_accuracy`` with its chance where every parsed answer is scores."""
    options: dict[str, Any] = {"num_bootstrap": settings.num_bootstrap, "seed": settings.seed}
    options["clusters"] = [item.video_id for item, _ in counted]
    correct, classes = [row["score"] for _, row in counted], [item.answer for item, _ in counted]
    metrics = [mean_per_class_result("mean_per_class_accuracy", correct, classes, **options)]
    answers = [_answer(predictions.values[item.item_id]) for item, row in counted if row["status"] == "parsed"]
    scored = bool(answers) and all(isinstance(answer, RankedScores) for answer in answers)
    if scored and all(len(item.choices) > _TOP for item, _ in counted):
        places = iter(answers)
        hits = [row["status"] == "parsed" and next(places).place < _TOP for _, row in counted]
        metrics.append(rate_result(f"top{_TOP}_accuracy", np.array(hits), **options))
        metrics.append(chance_result(f"top{_TOP}_accuracy", [_TOP / len(item.choices) for item, _ in counted]))
    return metrics


def _answer(value: Any) -> Any:
    return value["answer"] if isinstance(value, dict) else value


def _shared(classes: tuple[str, ...]) -> int:
    return sum(classes.count(name) > 1 for name in set(classes)) if len(set(classes)) < len(classes) else 0
