"""PathVQA: questions about pathology pictures (arXiv 2003.10286; UCSD-AI4H/PathVQA at dd51804251)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.base import Parser, text
from vlmvid.evaluation.answers.open_text import plain
from vlmvid.evaluation.answers.yes_no import yes_no
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.llava_med import released_exact_match, released_f1, score_as_llava_med
from vlmvid.evaluation.benchmarks.qa.open_answers import compat_outcomes, compat_result
from vlmvid.evaluation.judges import JUDGE_OPTIONS, judge_from_options, judged
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome, labelled, outcomes_of
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, require_columns, unique_items
from vlmvid.metrics import token_overlap
from vlmvid.types import MetricResult

FILE = AnnotationFile(
    "QA_pairs_vb.json", ("Image_ID", "Questions", "Answers"), "https://github.com/UCSD-AI4H/PathVQA (data)"
)
LLAVA_MED = AnnotationFile(
    "test.json", ("id", "image", "conversations", "answer_type"), "https://github.com/microsoft/LLaVA-Med (v1.0.0)"
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of the authors' ``QA_pairs_*.json``, or of LLaVA-Med's ``test.json``.

    Ids are those of LLaVA-Med's file; the authors' has none, there they are ``IMAGE_NUMBER`` in the order of the file.
    A question whose answer is yes or no is closed, the others are open.
    """
    place = path / LLAVA_MED.name if (path / LLAVA_MED.name).is_file() else path
    found = find_file(place, FILE, "QA_pairs_*.json")
    rows = read_json(found, list, FILE)
    seen: Counter[str] = Counter()
    items = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        if "Image_ID" in row or "id" not in row:
            require_columns(found, FILE, row, f"entry {number}")
            image = str(row["Image_ID"])
            items.append(_item(f"{image}_{seen[image]}", image, str(row["Questions"]), str(row["Answers"]), None))
            seen[image] += 1
        else:
            items.append(_llava_med_item(row, f"{found}, entry {number}"))
    return unique_items(items, found)


def _llava_med_item(row: Mapping[str, Any], where: str) -> Item:
    turns = row.get("conversations", row.get("conversatons"))  # misspelt in some of their files
    try:
        question, answer = str(turns[0]["value"]), str(turns[1]["value"])
        kind, image = str(row["answer_type"]), str(row["image"])
    except (KeyError, IndexError, TypeError) as error:
        raise DatasetError(
            f"{where}: expected image, answer_type and conversations with a question and an answer, as "
            f"{LLAVA_MED.publisher} has them; it has {', '.join(row)}"
        ) from error
    return _item(str(row["id"]), image, question.replace("<image>", "").strip(), answer, kind == "CLOSED")


def _item(item_id: str, image: str, question: str, answer: str, closed: bool | None) -> Item:
    if closed is None:
        closed = plain(answer) in ("yes", "no")
    return Item(
        item_id=item_id,
        video_id=image,
        answer=answer,
        question=question,
        media=(Media(image),),
        groups={"answer_type": "closed" if closed else "open"},
    )


def words(answer: str) -> tuple[str, ...]:
    """Words of letters and digits, in lower case."""
    return tuple(re.findall(r"\w+", answer.lower()))


def _parse(raw: Any, item: Item) -> str | None:
    found: str | None = text.parse(raw, item)
    if item.groups["answer_type"] == "closed":
        said: str | None = yes_no.parse(raw, item)
        return said if said is not None or found is None else " ".join(words(found)) or None
    return None if found is None else " ".join(words(found)) or None


_answers = AnswerScorer(
    benchmark="path_vqa",
    parser=Parser("path-vqa-1", _parse),
    score=lambda parsed, item: float(parsed == " ".join(words(item.answer))),
    about="PathVQA: exact match of the words; a closed question's answer is the yes or no in it",
    constants=("yes", "no"),
    answer_text=lambda item: item.answer,
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Exact match, and word F1, precision and recall of the open questions."""
    result = _answers(items, predictions, settings)
    outcomes = outcomes_of(items, predictions, _answers.parser, _answers.score)
    rows = [
        row
        for row in outcomes
        if row.item.groups["answer_type"] == "open" and (settings.missing != "skip" or row.status != "missing")
    ]
    metrics: list[MetricResult] = []
    if rows:
        overlaps = [token_overlap((row.parsed or "").split(), words(row.item.answer)) for row in rows]
        named = {name: [getattr(one, name) for one in overlaps] for name in ("f1", "precision", "recall")}
        asked = [row.item for row in rows]
        metrics = [_answers.result(f"token_{name}_open", values, asked, settings) for name, values in named.items()]
    result = replace(result, metrics=(*result.metrics, *labelled(metrics, settings)))
    judge = judge_from_options(settings.options)
    return result if judge is None else judged(result, items, settings, judge)


def _letters(answer: str) -> list[str]:
    return re.sub("[^a-zA-Z ]", "", answer).lower().split()


def score_as_released(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """PathVQA's evaluation_script.py, its functions averaged over the questions: it has no main program of its own.

    Digits are dropped before words are compared. Its "exact match" is no exact match: see `released_exact_match`; a
    repeated right word raises its recall. For an answer without letters it gives a warning in place of a number,
    which counts 0 here. Its BLEU, which skips orders without a match and takes lengths in characters,
    is not reproduced.
    """
    parser = Parser("text", lambda raw, item: text.parse(raw, item) or "")
    rows = compat_outcomes(
        items,
        predictions,
        parser,
        lambda said, item: released_exact_match(_letters(said), _letters(item.answer)),
        stop="the script needs every answer",
    )
    f1 = [released_f1(_letters(row.parsed), _letters(row.item.answer))[0] for row in rows]
    values = {"accuracy": (_mean(rows), len(rows)), "token_f1": (sum(f1) / len(f1), len(f1))}
    return compat_result(
        "path_vqa",
        "pathvqa",
        rows,
        values,
        printed="\n".join(
            f"{name}: {values[key][0]}" for name, key in (("exactmatch", "accuracy"), ("f1", "token_f1"))
        ),
        about="PathVQA's evaluation_script.py: letters only; exact match = distinct reference words over answer words",
    )


def _mean(rows: Sequence[Outcome]) -> float:
    if not rows:
        raise EvaluationError("there is no question to score")
    return sum(row.score for row in rows) / len(rows)


BENCHMARK = Benchmark(
    name="path_vqa",
    title="PathVQA",
    kind="open",
    source="arXiv 2003.10286",
    files=(FILE, LLAVA_MED),
    read=read,
    score=score,
    compat={"pathvqa": score_as_released, "llava-med": score_as_llava_med},
    options={
        "candidates": 'for compat llava-med: its file {"0": [answers]} to choose from, for the open accuracy',
        **JUDGE_OPTIONS,
    },
    prediction_keys=(("question_id", "id", "item_id"), ("text", "prediction", "response", "answer")),
)
