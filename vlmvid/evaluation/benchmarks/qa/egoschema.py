"""EgoSchema: five options on three-minute egocentric videos (arXiv 2308.09126; egoschema/EgoSchema at 505c787)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.choice import chosen
from vlmvid.evaluation.answers.choice_lmms import egoschema_letter
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.qa.open_answers import read_rows
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.choices import OPTIONS, ChoiceScorer, Rating, Script, letter_rating, scripts, share
from vlmvid.evaluation.scoring.predictions import Predictions, read_predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, unique_items

_PUBLISHER = "https://github.com/egoschema/EgoSchema"
_CHOICES = tuple(f"option {number}" for number in range(5))
QUESTIONS = AnnotationFile("questions.json", ("q_uid", "question", *_CHOICES), _PUBLISHER)
ANSWERS = AnnotationFile("subset_answers.json", ("q_uid", "0 to 4"), _PUBLISHER)
SPLITS = ("subset", "full")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The 500 questions whose answers are public, or all; `path` is the folder of both files.

    With ``split=full`` the answers come from the file of the option ``answers``; without it items have none, and can be
    answered but not scored: see `submission`.
    """
    split = choose(options, "split", SPLITS)
    folder = path.parent if path.is_file() else path
    questions = find_file(folder, QUESTIONS)
    labels: Mapping[str, Any] = {}
    if split == "subset":
        labels = read_json(find_file(folder, ANSWERS), dict, ANSWERS)
    elif options.get("answers"):
        labels = read_json(Path(options["answers"]), dict, ANSWERS)
    rows = {}
    for row in read_rows(questions, QUESTIONS):
        rows[str(row["q_uid"])] = row
    unknown = [uid for uid in labels if uid not in rows]
    if unknown:
        raise DatasetError(f"{questions} lacks {len(unknown)} questions that have answers, e.g. {unknown[0]}")
    asked = labels if labels else rows
    return unique_items([_item(rows[uid], labels.get(uid)) for uid in asked], questions)


def _item(row: Mapping[str, Any], answer: Any) -> Item:
    uid = str(row["q_uid"])
    if answer is not None and answer not in range(5):
        raise DatasetError(f"{ANSWERS.name}, {uid}: the answer is {answer!r}; expected 0 to 4")
    return Item(
        item_id=uid,
        video_id=uid,
        answer=answer,
        question=str(row["question"]),
        choices=tuple(str(row[name]) for name in _CHOICES),
        media=(Media(uid),),
    )


def read_submission(path: Path, items: Sequence[Item]) -> Predictions:
    """``{q_uid: 0-4}``, Kaggle's CSV with q_uid and answer (digits are indices), or any other predictions by id."""
    predictions = read_predictions(path, ("q_uid", "id", "item_id", "video_idx"))
    values = {
        uid: int(value) if isinstance(value, str) and value.strip() in ("0", "1", "2", "3", "4") else value
        for uid, value in predictions.values.items()
    }
    return Predictions(values, predictions.source)


def submission(items: Sequence[Item], predictions: Predictions) -> dict[str, int]:
    """The object ``{q_uid: 0-4}`` for the validation server; -1 for what is missing, unclear or tied."""
    found = {item.item_id: chosen(predictions.values.get(item.item_id), item) for item in items}
    return {uid: option if isinstance(option, int) else -1 for uid, option in found.items()}


_scorer = ChoiceScorer("egoschema", "accuracy over the questions whose answers are known")


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy, with the number of questions in the protocol: subset and full set are different numbers."""
    return _scorer(_labelled(items), predictions, settings)


def _labelled(items: Sequence[Item]) -> Sequence[Item]:
    if any(item.answer is None for item in items):
        raise EvaluationError(
            "the answers of EgoSchema's full set are private: give answers=FILE with {q_uid: 0-4}, score split=subset, "
            f"or send the predictions to the validation server named at {_PUBLISHER}"
        )
    return items


def _rate_lmms(raw: Any, item: Item) -> Rating:
    _labelled([item])
    shown = [f"{chr(ord('A') + number)}. {text}" for number, text in enumerate(item.choices)]
    return letter_rating(egoschema_letter(str(raw), shown), item)


BENCHMARK = Benchmark(
    name="egoschema",
    title="EgoSchema (subset of 500; full set)",
    kind="choice",
    source="arXiv 2308.09126",
    files=(QUESTIONS, ANSWERS),
    read=read,
    score=score,
    compat=scripts(
        Script(
            benchmark="egoschema",
            name="lmms-eval",
            protocol="lmms-eval egoschema_subset: of all letters in brackets, before a space or before a full stop, "
            "each at its last place, the first; where it draws a random option, without a seed, the answer is wrong "
            "here and unparsed",
            rate=_rate_lmms,
            printed=lambda counted: f"egoschema_subset score {share(counted)}",
        ),
    ),
    text_compat=("lmms-eval",),
    options={
        "split": "subset (default) or full",
        "answers": "with split=full: a JSON file {q_uid: 0-4} of the private answers",
        **OPTIONS,
    },
    read_predictions=read_submission,
)
