"""VidHalluc, binary questions on actions: a question is right when it is for all of its clips (arXiv 2412.03735)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.benchmarks.hallucination.common import Mode, YesNoScorer, modes, values_by, yes_no_answers
from vlmvid.evaluation.benchmarks.hallucination.vid_halluc_files import PUBLISHER, SOURCE, entry, read_file
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import unique_items

FILE = AnnotationFile("ach_binaryqa.json", ("q", "a"), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per question and clip; ids are ``KEY_QUESTION_CLIP``, questions from 0."""
    found, document = read_file(path, FILE)
    items = []
    for key, questions in document.items():
        if not isinstance(questions, list):
            raise DatasetError(f"{found}, {key}: expected a list of questions, got {questions!r:.60}")
        for place, row in enumerate(questions):
            answers = entry(found, FILE, row, f"{key}, question {place}")["a"]
            if not isinstance(answers, dict):
                raise DatasetError(f"{found}, {key}, question {place}: expected answers by clip, got {answers!r:.60}")
            for clip, answer in answers.items():
                word = str(answer).strip().rstrip(".").lower()
                if word not in ("yes", "no"):
                    raise DatasetError(f"{found}, {key}, question {place}, {clip}: {answer!r} is neither Yes nor No")
                items.append(
                    Item(
                        item_id=f"{key}_{place}_{clip}",
                        video_id=str(key),
                        answer=word,
                        question=str(row["q"]),
                        choices=("yes", "no"),
                        media=(Media(f"ACH/{clip}.mp4"),),
                        units={"question": f"{key}_{place}"},
                    )
                )
    return unique_items(items, found)


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's file of answers, which looks like the annotations, or any file that joins by id."""
    document = read_document(path)
    lists = document.values() if isinstance(document, dict) else ()
    if not lists or not all(isinstance(rows, list) and any(isinstance(row, dict) for row in rows) for rows in lists):
        return read_predictions(path)
    pairs = []
    for key, questions in document.items():
        for place, row in enumerate(questions):
            answers = row.get("a", {}) if isinstance(row, dict) else None
            if not isinstance(answers, dict):
                raise EvaluationError(f"{path}, {key}, question {place}: expected answers by clip, got {row!r:.60}")
            pairs += [(f"{key}_{place}_{clip}", answer) for clip, answer in answers.items()]
    return from_pairs(pairs, str(path))


_answers = yes_no_answers(
    "vid_halluc_bqa",
    about="VidHalluc, binary questions: question_accuracy = a question right for all of its clips",
)


def _first_part(raw: Any, item: Item) -> str:
    """The text before the first full stop and the first comma, in lower case."""
    return str(raw).strip().split(".")[0].split(",")[0].strip().lower()


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    questions = values_by(outcomes, lambda item: item.units["question"])
    asked = [rows for rows in questions.values() if any(row.status != "missing" for row in rows)]
    right = sum(all(row.score == 1 for row in rows) for rows in asked)
    value = right / len(asked)
    return {"question_accuracy": value}, f"{right} {len(asked)}\nAccuracy: {value:.4f}"


BENCHMARK = Benchmark(
    name="vid_halluc_bqa",
    title="VidHalluc (ACH, binary questions)",
    kind="yes_no",
    source=SOURCE,
    files=(FILE,),
    read=read,
    score=YesNoScorer(_answers, main="question_accuracy"),
    compat=modes(
        "vid_halluc_bqa",
        Mode(
            name="vid-halluc",
            parser=Parser("vid-halluc-bqa", _first_part),
            protocol="VidHalluc's eval_bqa.py: a question without any answer is left out, one that lacks the answer "
            "to a clip is wrong",
            measure=_as_released,
            needs_all=False,
        ),
    ),
    read_predictions=read_answers,
)
