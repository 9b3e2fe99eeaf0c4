"""POPE: is an object in the picture or not (arXiv 2305.10355; RUCAIBox/POPE at 3df3ba1b11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.answers.yes_no import pope as pope_parser
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document
from vlmvid.evaluation.scoring.reading import read_json_lines, unique_items
from vlmvid.metrics import f1_result, yes_no_scores
from vlmvid.types import MetricResult

SPLITS = ("random", "popular", "adversarial")
FILE = AnnotationFile(
    "coco_pope_*.json", ("question_id", "image", "text", "label"), "https://github.com/RUCAIBox/POPE (output/coco)"
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of one split's file, or of the three splits in a folder; ids are ``SPLIT_QUESTION``."""
    files = {_split_of(path): path} if path.is_file() else {}
    for split in SPLITS if not files else ():
        found = sorted(path.glob(f"*_pope_{split}.json"))
        if found:
            files[split] = found[0]
    if not files:
        files = {SPLITS[0]: path / f"coco_pope_{SPLITS[0]}.json"}  # not there either: the reader's message says all
    items = [_item(split, row) for split, file in files.items() for row in read_json_lines(file, FILE)]
    return unique_items(items, path)


def _split_of(path: Path) -> str:
    return next((split for split in SPLITS if split in path.stem), path.stem)


def _item(split: str, row: Mapping[str, object]) -> Item:
    image = str(row["image"])
    return Item(
        item_id=f"{split}_{row['question_id']}",
        video_id=image,
        answer=str(row["label"]).strip().lower(),
        question=str(row["text"]),
        choices=("yes", "no"),
        media=(Media(image),),
        groups={"negatives": split},
    )


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """POPE's own answer file: one ``{"question", "answer"}`` per line, in the order of the questions.

    A file, or a folder with one file for each split that was read. A line with `question_id` joins by that id.
    Raises EvaluationError for another number of lines, or a question that is not the one asked there.
    """
    splits = dict.fromkeys(item.groups["negatives"] for item in items)
    files = (
        {next(iter(splits)): path} if path.is_file() and len(splits) == 1 else {s: _of_split(path, s) for s in splits}
    )
    pairs: list[tuple[str, object]] = []
    for split, file in files.items():
        asked = [item for item in items if item.groups["negatives"] == split]
        rows = read_document(file)
        if isinstance(rows, dict):
            pairs += [(str(key), value) for key, value in rows.items()]
        elif all(isinstance(row, dict) and "question_id" in row for row in rows):
            pairs += [(f"{split}_{row['question_id']}", row.get("answer")) for row in rows]
        else:
            pairs += _in_order(file, rows, asked)
    return from_pairs(pairs, str(path))


def _of_split(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob(f"*{split}*"))
    if len(found) != 1:
        raise EvaluationError(f"{path} holds {len(found)} files for the split {split!r}; expected one named *{split}*")
    return found[0]


def _in_order(file: Path, rows: Sequence[object], asked: Sequence[Item]) -> list[tuple[str, object]]:
    if len(rows) != len(asked):
        raise EvaluationError(
            f"{file} has {len(rows)} answers for {len(asked)} questions; without question_id they are joined in order, "
            "so none may be missing"
        )
    pairs = []
    for number, (row, item) in enumerate(zip(rows, asked, strict=True), start=1):
        if not isinstance(row, dict) or "answer" not in row:
            raise EvaluationError(
                f"{file}, line {number}: expected an object with question and answer, got {row!r:.80}"
            )
        if row.get("question", item.question) != item.question:
            raise EvaluationError(
                f"{file}, line {number}: answers {row['question']!r}, but the question there is {item.question!r}; "
                "keep the order of the questions or give question_id"
            )
        pairs.append((item.item_id, row["answer"]))
    return pairs


_answers = AnswerScorer(
    benchmark="pope",
    parser=yes_no,
    score=lambda parsed, item: float(parsed == item.answer),
    about="POPE: yes or no, pooled over the splits that were read and for each of them",
    constants=("yes", "no"),
    answer_text=lambda item: item.answer,
    chance=lambda item: 0.5,
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy, and F1, precision, recall and yes ratio for all items and each split.

    An answer that cannot be parsed is wrong: it counts as the opposite of the label in precision and recall.
    """
    result = _answers(items, predictions, settings)
    outcomes = outcomes_of(items, predictions, yes_no, _answers.score)
    if settings.missing == "skip":
        outcomes = [outcome for outcome in outcomes if outcome.status != "missing"]
    metrics = _yes_no_metrics("", outcomes)
    for split in dict.fromkeys(item.groups["negatives"] for item in items):
        metrics += _yes_no_metrics(f"_negatives_{split}", [o for o in outcomes if o.item.groups["negatives"] == split])
    return replace(result, metrics=(*result.metrics, *labelled(metrics, settings)))


def _yes_no_metrics(suffix: str, outcomes: Sequence[Outcome]) -> list[MetricResult]:
    if not outcomes:
        return []
    label = np.array([outcome.item.answer == "yes" for outcome in outcomes])
    predicted = np.where(
        [outcome.status == "parsed" for outcome in outcomes], [o.parsed == "yes" for o in outcomes], ~label
    )
    scores = yes_no_scores(predicted, label)
    parsed_yes = np.array([outcome.parsed == "yes" for outcome in outcomes])
    clusters = [outcome.item.video_id for outcome in outcomes]
    values = {"precision": scores.precision, "recall": scores.recall}
    return [
        f1_result(f"f1{suffix}", predicted, label, clusters=clusters),
        *(MetricResult(name=f"{name}{suffix}", value=value, num_samples=len(label)) for name, value in values.items()),
        MetricResult(name=f"yes_ratio{suffix}", value=float(parsed_yes.mean()), num_samples=len(label)),
    ]


def score_as_pope(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """POPE's evaluate.py: everything that is not a no is a yes, also an empty answer.

    Raises EvaluationError where the script stops: an item without an answer, or a ratio without a denominator.
    """
    missing = predictions.missing(item.item_id for item in items)
    if missing:
        raise EvaluationError(f"POPE's script joins by order and needs every answer; {len(missing)} are missing")
    outcomes = outcomes_of(items, predictions, pope_parser, _answers.score)
    predicted = np.array([outcome.parsed == "yes" for outcome in outcomes])
    scores = yes_no_scores(predicted, np.array([item.answer == "yes" for item in items]))
    if np.isnan(scores.precision) or np.isnan(scores.recall) or np.isnan(scores.f1):
        raise EvaluationError("POPE's script divides by zero here: nothing was answered yes, or no label is yes")
    values = {
        "accuracy": scores.accuracy,
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "yes_ratio": scores.yes_ratio,
    }
    printed = "Accuracy: {accuracy}\nPrecision: {precision}\nRecall: {recall}\nF1 score: {f1}\nYes ratio: {yes_ratio}"
    base = _answers(items, predictions, settings)
    return replace(
        base,
        protocol="POPE's evaluate.py: no if the text before the first full stop has the word No, not or no, else yes",
        metrics=tuple(MetricResult(name=name, value=value, num_samples=len(items)) for name, value in values.items()),
        compat="pope",
        printed=printed.format(**values),
    )


BENCHMARK = Benchmark(
    name="pope",
    title="POPE (random, popular, adversarial)",
    kind="yes_no",
    source="arXiv 2305.10355",
    files=(FILE,),
    read=read,
    score=score,
    compat={"pope": score_as_pope},
    read_predictions=read_answers,
)
