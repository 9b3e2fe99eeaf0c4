"""TextVQA: questions whose answer is written in the picture (arXiv 1904.08920); VQA accuracy over ten answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.base import Parser, text
from vlmvid.evaluation.answers.vqa_text import TEXTVQA, vqa, vqa_normal
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import compat_outcomes, compat_result, group_values, read_rows_of
from vlmvid.evaluation.benchmarks.qa.vqa_v2 import soft_accuracy
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, most_frequent
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, unique_items
from vlmvid.metrics import vqa_accuracy

FILE = AnnotationFile(
    "TextVQA_0.5.1_val.json", ("question_id", "image_id", "question", "answers"), "https://textvqa.org/dataset"
)
SPLITS = ("val", "train")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions under ``data`` of a split's file; the test split has no public answers."""
    found = find_file(path, FILE, f"TextVQA_0.5.1_{choose(options, 'split', SPLITS)}.json")
    return unique_items([_item(row, found) for row in read_rows_of(found, FILE, "data")], found)


def _item(row: Mapping[str, Any], path: Path) -> Item:
    answers = row["answers"]
    if not isinstance(answers, list) or not answers:
        raise DatasetError(f"{path}, question {row['question_id']}: answers must be a list of texts, got {answers!r}")
    given = tuple(str(answer) for answer in answers)
    return Item(
        item_id=str(row["question_id"]),
        video_id=str(row["image_id"]),
        answer=given,
        question=str(row["question"]),
        media=(Media(f"{row['image_id']}.jpg"),),
        extra={"majority": most_frequent(given)},
    )


score = AnswerScorer(
    benchmark="textvqa",
    parser=vqa,
    score=soft_accuracy,
    about="TextVQA: VQA accuracy over the ten answers, every answer normalised as in VQA",
    constants=("yes", "no", "unanswerable"),
    answer_text=lambda item: item.extra["majority"],
)


def _as_lmms_eval(parsed: str, item: Item) -> float:
    normal = [vqa_normal(answer, TEXTVQA) for answer in item.answer]
    return vqa_accuracy(normal.count(vqa_normal(parsed, TEXTVQA)), len(normal))


def score_as_lmms_eval(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """lmms-eval's textvqa_val at 75571cfe0f, from Pythia's copy for EvalAI.

    It takes commas and question marks away and splits ``'s`` off before it normalises, so that ``1,2`` is ``12``. An
    answer whose normal form is empty can match another empty one.
    """
    parser = Parser("text", lambda raw, item: text.parse(raw, item) or "")
    outcomes = compat_outcomes(items, predictions, parser, _as_lmms_eval, stop="lmms-eval scores what it generated")
    values = group_values(outcomes)
    return compat_result(
        "textvqa",
        "lmms-eval",
        outcomes,
        values,
        printed=f"exact_match: {values['accuracy'][0]:.4f}",
        about="lmms-eval's textvqa: commas and question marks away, 's split off, then EvalAI's normalisation",
    )


BENCHMARK = Benchmark(
    name="textvqa",
    title="TextVQA (val)",
    kind="open",
    source="arXiv 1904.08920",
    files=(FILE,),
    read=read,
    score=score,
    compat={"lmms-eval": score_as_lmms_eval},
    options={"split": "val (default) or train"},
)
