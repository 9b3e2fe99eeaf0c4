"""ActivityNet-QA (arXiv 1906.02467; MILVLG/activitynet-qa at 2cf80aeb4e): 32,000 / 18,000 / 8,000 questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import as_is
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import (
    SPLIT_OPTION,
    SPLITS,
    compat_outcomes,
    compat_result,
    exact_scorer,
    mean_of,
    read_rows,
)
from vlmvid.evaluation.judges import JUDGE_OPTIONS
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, unique_items

TYPES = ("motion", "spatial", "temporal", "yes_no", "color", "object", "location", "number", "other")
FIRST_FREE = 3
PUBLISHER = "https://github.com/MILVLG/activitynet-qa (dataset)"
QUESTIONS = AnnotationFile("test_q.json", ("video_name", "question", "question_id"), PUBLISHER)
ANSWERS = AnnotationFile("test_a.json", ("answer", "type", "question_id"), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of ``SPLIT_q.json`` with the answers of ``SPLIT_a.json``, in the order of the answers.

    `path` is their folder, or the file of questions. Types 3 to 8 are the set ``free``.
    """
    split = choose(options, "split", SPLITS)
    questions = {str(row["question_id"]): row for row in read_rows(path, QUESTIONS, f"{split}_q.json")}
    folder = path.parent if path.is_file() else path
    name = path.name.replace("_q.json", "_a.json") if path.is_file() else f"{split}_a.json"
    rows = read_rows(folder, ANSWERS, name)
    return unique_items([_item(row, questions, folder / name) for row in rows], folder)


def _item(row: Mapping[str, Any], questions: Mapping[str, Mapping[str, Any]], path: Path) -> Item:
    question_id, number = str(row["question_id"]), row["type"]
    asked = questions.get(question_id)
    if asked is None:
        raise DatasetError(f"{path}: an answer to {question_id!r}, which the file of questions does not have")
    if number not in range(len(TYPES)):
        raise DatasetError(f"{path}, {question_id}: type {number!r} is none of 0 to {len(TYPES) - 1}")
    video = str(asked["video_name"])
    return Item(
        item_id=question_id,
        video_id=video,
        answer=str(row["answer"]),
        question=str(asked["question"]),
        media=(Media(f"v_{video}"),),
        groups={"type": TYPES[number], **({"set": "free"} if number >= FIRST_FREE else {})},
    )


def score_as_released(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """MILVLG's evaluation/eval.py: answers compared as they are, missing ones wrong.

    Its accuracy of the Free questions divides by the counts of the types from the fourth on *in the order in which
    they first occur in the file*, not of the types 3 to 8: on the test split 4,021 instead of 5,600, so that Free comes
    out 1.39 times too high (val: 8,399 instead of 12,600, 1.50 times). The other numbers are right.

    Raises EvaluationError where the script stops: a prediction for an unknown question, or a type without questions.
    """
    extra = predictions.extra(item.item_id for item in items)
    if extra:
        raise EvaluationError(f"eval.py stops at a question it does not know: {len(extra)} are, e.g. {extra[0]}")
    outcomes = compat_outcomes(items, predictions, as_is, lambda raw, item: float(raw == item.answer), stop="")
    by_type = {name: [row for row in outcomes if row.item.groups["type"] == name] for name in TYPES}
    empty = [name for name, rows in by_type.items() if not rows]
    if empty:
        raise EvaluationError(f"eval.py divides by the number of questions of each type; there is none of {empty[0]}")
    in_file_order = list(Counter(item.groups["type"] for item in items).values())
    free = sum(row.score for name in TYPES[FIRST_FREE:] for row in by_type[name])
    divisor = sum(in_file_order[FIRST_FREE:])
    values = {"accuracy": mean_of(outcomes), "accuracy_set_free": (free / divisor, divisor)}
    values |= {f"accuracy_type_{name}": mean_of(rows) for name, rows in by_type.items()}
    printed = (
        "Accuracy (per question type):\n"
        "\tMotion: {accuracy_type_motion:.04f}\n\tSpatial Relation: {accuracy_type_spatial:.04f}\n"
        "\tTemporal Relation: {accuracy_type_temporal:.04f}\n\tFree: {accuracy_set_free:.04f}\n"
        "\tAll: {accuracy:.04f}\n"
        "Accuracy of the Free type questions(per answer type):\n"
        "\tYes/No: {accuracy_type_yes_no:.04f}\n\tColor: {accuracy_type_color:.04f}\n"
        "\tObject: {accuracy_type_object:.04f}\n\tLocation: {accuracy_type_location:.04f}\n"
        "\tNumber: {accuracy_type_number:.04f}\n\tOther: {accuracy_type_other:.04f}"
    )
    return compat_result(
        "activitynet_qa",
        "activitynet-qa",
        outcomes,
        values,
        printed=printed.format(**{name: value for name, (value, _) in values.items()}),
        about="MILVLG's evaluation/eval.py: equal as they are; Free divided by the types in the file's order",
    )


BENCHMARK = Benchmark(
    name="activitynet_qa",
    title="ActivityNet-QA",
    kind="open",
    source="arXiv 1906.02467",
    files=(QUESTIONS, ANSWERS),
    read=read,
    score=exact_scorer(
        "activitynet_qa",
        "ActivityNet-QA: exact match in lower case; free = types 3 to 8, yes-no among them",
        constants=("yes", "no"),
    ),
    compat={"activitynet-qa": score_as_released},
    options={**SPLIT_OPTION, **JUDGE_OPTIONS},
)
