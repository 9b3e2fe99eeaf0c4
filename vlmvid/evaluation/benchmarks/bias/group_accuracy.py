"""Worst group and gap on the user's own labels: a label to predict, a group, and perhaps a pair for each clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.answers.choice import chosen, is_right, is_tied
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.bias.shared import (
    MIN_GROUP,
    OWN,
    counted_outcomes,
    group_metrics,
    group_words,
    read_rows,
    slugs_of,
    whole_number,
)
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import unique_items
from vlmvid.metrics.bias_groups import pair_comparisons, pair_results

FILE = AnnotationFile("groups.*", ("video_id", "group", "label"), OWN)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per clip; its choices are all labels of the file, sorted. A column ``pair_id`` joins parallel clips."""
    rows = read_rows(path, FILE)
    labels = tuple(sorted({row["label"] for row in rows}))
    for row in rows:
        if not row["group"] or not row["label"]:
            raise DatasetError(f"{path}, {row['video_id']}: group and label must not be empty; leave the row out")
    items = [
        Item(
            item_id=row["video_id"],
            video_id=row["video_id"],
            answer=labels.index(row["label"]),
            choices=labels,
            media=(Media(row["video_id"]),),
            extra={"group": row["group"], "pair_id": row.get("pair_id", "")},
        )
        for row in rows
    ]
    return unique_items(items, path)


def _label(raw: Any, item: Item) -> Any:
    """A label as it is spelled, else as `choice` reads it: labels such as 1 or A would be taken for an index."""
    return item.choices.index(raw) if isinstance(raw, str) and raw in item.choices else chosen(raw, item)


_answers = AnswerScorer(
    benchmark="group_accuracy",
    parser=Parser("label-1", _label),
    score=is_right,
    about="accuracy on your own labels",
    constants=lambda items: range(len(items[0].choices)),
    answer_text=lambda item: item.choices[item.answer],
    chance=lambda item: 1 / len(item.choices),
    ties=is_tied,
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy, worst group, gap and every group; with pair ids the mean paired difference and its permutation p."""
    result = _answers(items, predictions, settings)
    outcomes = outcomes_of(items, predictions, _answers.parser, is_right, is_tied)
    counted = counted_outcomes(outcomes, predictions, settings)
    metrics = group_metrics("accuracy", counted, lambda item: str(item.extra["group"]), settings)
    labels = [str(outcome.item.extra["group"]) for outcome in counted]
    pairs = [outcome.item.extra["pair_id"] or None for outcome in counted]
    if any(pairs):
        compared = pair_comparisons(
            [outcome.score for outcome in counted],
            labels,
            pairs,
            seed=settings.seed,
            num_bootstrap=settings.num_bootstrap,
        )
        metrics += pair_results("accuracy", compared, slugs_of(labels))
    words = group_words(labels, whole_number(settings.options, "min_group", 10))
    groups = {item.item_id: str(item.extra["group"]) for item in items}
    return replace(
        result,
        metrics=(*result.metrics, *labelled(metrics, settings)),
        protocol=f"{result.protocol}; {words}",
        samples=[{**row, "group": groups[str(row["item_id"])]} for row in result.samples],
    )


BENCHMARK = Benchmark(
    name="group_accuracy",
    title="Accuracy by group on your own labels",
    kind="classification",
    source="worst group and gap of the survey arXiv 2405.17247, section 4.2",
    files=(FILE,),
    read=read,
    score=score,
    options={"min_group": MIN_GROUP},
)
