"""MMVP: questions on pairs of pictures that CLIP takes for alike (arXiv 2401.06209; tsb0601/MMVP at 7635005)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.choices import ChoiceScorer
from vlmvid.evaluation.scoring.matrix import compat_result
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_table, unique_items
from vlmvid.evaluation.scoring.units import UnitScorer

FILE = AnnotationFile(
    "Questions.csv",
    ("Index", "Question", "Options", "Correct Answer"),
    "https://huggingface.co/datasets/MMVP/MMVP (300 questions, pictures in 'MMVP Images')",
)
_OPTION = re.compile(r"\(([a-z])\)", re.IGNORECASE)
# Answers swapped in the authors' file (tsb0601/MMVP issue 30); lmms-lab-eval/MMVP has them right.
_SWAPPED = {99, 100, 279, 280}
_LMMS_PATTERNS = (
    r"^\s*\(?([AB])\)?\.?\s*$",
    r"^\s*\(?([AB])\)?[\.\s]",
    r"answer\s+is\s+\(?([AB])\)?",
    r"option\s+\(?([AB])\)?",
    r"\(?([AB])\)?(?:\s|$)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions; ids are the indices from 1, questions 1 and 2 are a pair, 3 and 4 the next.

    With the option ``answers=corrected`` the four answers that the authors' file has swapped are turned around.

    Raises:
        DatasetError: options or an answer that are not written ``(a) ... (b) ...``.
    """
    found = find_file(path, FILE)
    corrected = choose(options, "answers", ("published", "corrected")) == "corrected"
    return unique_items([_item(found, row, corrected) for row in read_table(found, FILE, delimiter=",")], found)


def _item(path: Path, row: Mapping[str, str], corrected: bool) -> Item:
    if not row["Index"].strip().isdigit():
        raise DatasetError(f"{path}: Index {row['Index']!r}; expected a number from 1")
    index = int(row["Index"])
    parts = _OPTION.split(row["Options"])
    letters, texts = [part.lower() for part in parts[1::2]], [part.strip() for part in parts[2::2]]
    answer = row["Correct Answer"].strip().strip("()").lower()
    if len(letters) < 2 or answer not in letters or parts[0].strip():
        raise DatasetError(
            f"{path}, Index {index}: answer {row['Correct Answer']!r} to {row['Options']!r}; expected one of options "
            "written (a) ... (b) ..."
        )
    place = letters.index(answer)
    return Item(
        item_id=str(index),
        video_id=str((index + 1) // 2),  # the two pictures of a pair are no independent samples
        answer=1 - place if corrected and index in _SWAPPED else place,
        question=row["Question"].strip(),
        choices=tuple(texts),
        media=(Media(f"MMVP Images/{index}.jpg"),),
        units={"pair": str((index + 1) // 2)},
    )


score = UnitScorer(
    ChoiceScorer("mmvp", "MMVP: a pair is right when both its questions are").answers, {"pair": "pair_accuracy"}
)


def score_as_lmms_eval(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """lmms-eval's letters and pairs (75571cfe0f, tasks/mmvp/utils.py); its data have ``answers=corrected``.

    The bugs: the patterns take the first ``a`` or ``b`` that ends a word for the answer (``a cat`` is A, ``club`` is
    B), pairs that lack a prediction are left out, and so are missing predictions.

    Raises:
        EvaluationError: no prediction, or one that is no text.
    """
    right = {}
    for item in items:
        if item.item_id in predictions.values:
            response = predictions.values[item.item_id]
            if not isinstance(response, str):
                raise EvaluationError(f"lmms-eval scores texts; {item.item_id} has {response!r:.80}")
            right[int(item.item_id)] = lmms_letter(response) == "AB"[item.answer]
    if not right:
        raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} questions")
    whole = [index for index in right if index % 2 and index + 1 in right]
    pairs = sum(right[index] and right[index + 1] for index in whole)
    accuracy = sum(right.values()) / len(right)
    pair_accuracy = pairs / len(whole) if whole else 0.0
    return compat_result(
        score(items, predictions, settings),
        "lmms_eval",
        "lmms-eval's mmvp: letters by pattern, pairs without both predictions left out",
        {"pair_accuracy": (pair_accuracy, len(whole)), "accuracy": (accuracy, len(right))},
        f"MMVP Accuracy: {accuracy:.4f} ({sum(right.values())}/{len(right)})\n"
        f"MMVP Pair Accuracy: {pair_accuracy:.4f} ({pairs}/{len(whole)})",
    )


def lmms_letter(response: str) -> str:
    """``A``, ``B`` or an empty text, as lmms-eval reads a response."""
    text = response.strip()
    for pattern in _LMMS_PATTERNS:
        match = re.search(pattern, text, flags=re.IGNORECASE)
        if match:
            return match.group(1).upper()
    return text[:1].upper() if text[:1].upper() in ("A", "B") else ""


BENCHMARK = Benchmark(
    name="mmvp",
    title="MMVP",
    kind="choice",
    source="arXiv 2401.06209",
    files=(FILE,),
    read=read,
    score=score,
    compat={"lmms_eval": score_as_lmms_eval},
    text_compat=("lmms_eval",),
    options={"answers": "published (default), or corrected: four answers that the authors' file has swapped"},
    prediction_keys=(("question_id", "Index", "id"), ("response", "prediction", "answer")),
)
