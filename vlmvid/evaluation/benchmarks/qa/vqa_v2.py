"""VQA v2 (arXiv 1612.00837): ten answers to each question; an answer is right as far as annotators gave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser, text
from vlmvid.evaluation.answers.vqa_text import (
    EVALAI,
    OFFICIAL,
    PRINCIPLED,
    VqaRules,
    clean_spaces,
    vqa,
    vqa_normal,
)
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.benchmarks.qa.open_answers import (
    compat_outcomes,
    compat_result,
    group_values,
    read_rows_of,
)
from vlmvid.evaluation.scoring.aggregate import AnswerScorer
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, unique_items
from vlmvid.metrics import vqa_accuracy

PUBLISHER = "https://visualqa.org/download.html"
QUESTIONS = AnnotationFile(
    "v2_OpenEnded_mscoco_val2014_questions.json", ("question_id", "image_id", "question"), PUBLISHER
)
ANNOTATIONS = AnnotationFile(
    "v2_mscoco_val2014_annotations.json",
    ("question_id", "image_id", "question_type", "answer_type", "multiple_choice_answer", "answers"),
    PUBLISHER,
)
SPLITS = ("val", "train")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The annotated questions of a split; the test splits have no public annotations.

    `path` is the folder of both files, or the file of annotations with that of the questions beside it.
    """
    split = choose(options, "split", SPLITS)
    name = f"v2_mscoco_{split}2014_annotations.json"
    found = find_file(path, ANNOTATIONS, name)
    questions = find_file(found.parent, QUESTIONS, f"v2_OpenEnded_mscoco_{split}2014_questions.json")
    asked = {str(row["question_id"]): str(row["question"]) for row in read_rows_of(questions, QUESTIONS, "questions")}
    rows = read_rows_of(found, ANNOTATIONS, "annotations")
    unknown = [row["question_id"] for row in rows if str(row["question_id"]) not in asked]
    if unknown:
        raise DatasetError(f"{questions} lacks {len(unknown)} annotated questions, e.g. {unknown[0]}; take one release")
    return unique_items([_item(row, asked[str(row["question_id"])], split, found) for row in rows], found)


def _item(row: Mapping[str, Any], question: str, split: str, path: Path) -> Item:
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(one, dict) and "answer" in one for one in answers):
        raise DatasetError(f"{path}, question {row['question_id']}: answers must be a list of objects with answer")
    number = str(row["image_id"])
    if not number.isdecimal():
        raise DatasetError(
            f"{path}, question {row['question_id']}: image_id must be a whole number, as {PUBLISHER} has it, got "
            f"{row['image_id']!r}"
        )
    image = f"COCO_{split}2014_{int(number):012d}.jpg"
    return Item(
        item_id=str(row["question_id"]),
        video_id=str(row["image_id"]),
        answer=tuple(str(one["answer"]) for one in answers),
        question=question,
        media=(Media(image),),
        groups={"question_type": str(row["question_type"]), "answer_type": str(row["answer_type"])},
        extra={"majority": str(row["multiple_choice_answer"]), "answers": answers},
    )


@lru_cache(maxsize=1 << 18)
def _normal(answers: tuple[str, ...], rules: VqaRules) -> tuple[str, ...]:
    return tuple(vqa_normal(answer, rules) for answer in answers)


def soft_accuracy(parsed: str, item: Item) -> float:
    """The accuracy of a normalised answer among the item's normalised ones."""
    normal = _normal(item.answer, PRINCIPLED)
    return vqa_accuracy(normal.count(parsed), len(normal))


score = AnswerScorer(
    benchmark="vqa_v2",
    parser=vqa,
    score=soft_accuracy,
    about="VQA accuracy: mean over the ten leave-one-out subsets of min(1, matches / 3), every answer normalised",
    constants=("yes", "no", "1"),
    answer_text=lambda item: item.extra["majority"],
)


def leave_one_out(answer: str, given: Sequence[Mapping[str, Any]], normal: Sequence[str]) -> float:
    """The accuracy as the references compute it: the others are the objects that *differ* from the one left out.

    `normal` holds the texts that stand in the objects by then. Objects without an ``answer_id`` that are equal leave
    together.
    """
    objects = [{**one, "answer": text} for one, text in zip(given, normal, strict=True)]
    total = 0.0
    for left_out in objects:
        matches = sum(one["answer"] == answer for one in objects if one != left_out)
        total += min(1.0, matches / 3)
    return total / len(objects)


def official_accuracy(parsed: str, item: Item) -> float:
    """VQA's vqaEval.py: where all ten answers are the same text nothing is normalised, so that Yes is not yes."""
    raw = tuple(clean_spaces(answer) for answer in item.answer)
    if len(set(raw)) > 1:
        return leave_one_out(vqa_normal(parsed, OFFICIAL), item.extra["answers"], _normal(raw, OFFICIAL))
    return leave_one_out(clean_spaces(parsed), item.extra["answers"], raw)


def lmms_eval_accuracy(parsed: str, item: Item) -> float:
    """lmms-eval's vqav2: always normalised, with EvalAI's rule for commas."""
    return leave_one_out(vqa_normal(parsed, EVALAI), item.extra["answers"], _normal(item.answer, EVALAI))


def _raw(raw: Any, item: Item) -> str:
    return text.parse(raw, item) or ""


def score_as_official(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """GT-Vision-Lab/VQA at a013f0043c; normalisation and its slips as `vlmvid.evaluation.answers.vqa_text` says.

    Raises EvaluationError where it stops: the questions answered are not exactly those annotated.
    """
    extra = predictions.extra(item.item_id for item in items)
    if extra:
        raise EvaluationError(f"VQA's loadRes stops at answers to unknown questions; {len(extra)} are, e.g. {extra[0]}")
    about = "VQA's vqaEval.py: where all ten answers are the same text nothing is normalised, else both sides"
    return _compat(_Script("vqa", about, official_accuracy, _official_lines), items, predictions)


def score_as_lmms_eval(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """lmms-eval's vqav2_val at 75571cfe0f, whose one number is the mean."""
    about = "lmms-eval's vqav2: always normalised, EvalAI's rule for commas"
    return _compat(_Script("lmms-eval", about, lmms_eval_accuracy, _lmms_eval_line), items, predictions)


class _Script(NamedTuple):
    compat: str
    about: str
    accuracy: Callable[[str, Item], float]
    lines: Callable[[Mapping[str, float]], str]


def _compat(script: _Script, items: Sequence[Item], predictions: Predictions) -> TaskResult:
    parser = Parser("text", _raw)
    stop = f"the script behind {script.compat} needs every answer"
    outcomes = compat_outcomes(items, predictions, parser, script.accuracy, stop=stop)
    values = group_values(outcomes)
    names = {"accuracy": "overall"}
    for group in ("question_type", "answer_type"):
        for value in sorted({item.groups[group] for item in items}):
            names[f"accuracy_{group}_{metric_slug(value)}"] = f"{group}:{value}"
    printed = script.lines({shown: values[name][0] for name, shown in names.items()})
    return compat_result("vqa_v2", script.compat, outcomes, values, printed=printed, about=script.about)


def _official_lines(values: Mapping[str, float]) -> str:
    def block(group: str) -> str:
        return "\n".join(
            f"{name.partition(':')[2]} : {round(100 * value, 2):.02f}"
            for name, value in values.items()
            if name.startswith(f"{group}:")
        )

    return (
        f"Overall Accuracy is: {round(100 * values['overall'], 2):.02f}\n\n"
        f"Per Question Type Accuracy is the following:\n{block('question_type')}\n\n\n"
        f"Per Answer Type Accuracy is the following:\n{block('answer_type')}\n\n"
    )


def _lmms_eval_line(values: Mapping[str, float]) -> str:
    return f"exact_match: {values['overall']:.4f}"


BENCHMARK = Benchmark(
    name="vqa_v2",
    title="VQA v2 (val)",
    kind="open",
    source="arXiv 1612.00837",
    files=(ANNOTATIONS, QUESTIONS),
    read=read,
    score=score,
    compat={"vqa": score_as_official, "lmms-eval": score_as_lmms_eval},
    options={"split": "val (default) or train"},
)
