"""VidHalluc, multiple-choice questions on actions with one or several right options (arXiv 2412.03735)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.benchmarks.hallucination.common import Mode, is_right, modes
from vlmvid.evaluation.benchmarks.hallucination.vid_halluc_files import PUBLISHER, SOURCE, entry, given, read_file
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import unique_items

FILE = AnnotationFile("ach_mcq.json", ("Question", "Choices", "Correct Answer"), PUBLISHER)
LETTERS = "ABCD"
_LISTED = re.compile(r"(?:^|[\n,;])\s*\(?([A-D])[.):]")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per clip; ids are ``KEY_CLIP``, answers the right letters in order, e.g. ``AC``."""
    found, document = read_file(path, FILE)
    items = []
    for key, clips in document.items():
        if not isinstance(clips, dict):
            raise DatasetError(f"{found}, {key}: expected an object of clips, got {clips!r:.60}")
        for clip, value in clips.items():
            row = entry(found, FILE, value, f"{key}, {clip}")
            if not isinstance(row["Choices"], dict):
                raise DatasetError(f"{found}, {key}, {clip}: expected choices by letter, got {row['Choices']!r:.60}")
            answer = "".join(sorted(set(re.findall("[A-D]", str(row["Correct Answer"]).upper()))))
            if not answer or not set(answer) <= set(row["Choices"]):
                raise DatasetError(
                    f"{found}, {key}, {clip}: the answer {row['Correct Answer']!r} is none of {sorted(row['Choices'])}"
                )
            items.append(
                Item(
                    item_id=f"{key}_{clip}",
                    video_id=str(key),
                    answer=answer,
                    question=str(row["Question"]),
                    choices=tuple(str(row["Choices"][letter]) for letter in sorted(row["Choices"])),
                    media=(Media(f"ACH/{clip}.mp4"),),
                )
            )
    return unique_items(items, found)


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's file, the annotations with ``Model Answer``, or any file that joins by id."""
    document = read_document(path)
    clips_of = document.values() if isinstance(document, dict) else ()
    if not clips_of or not all(
        isinstance(clips, dict) and any(isinstance(row, dict) for row in clips.values()) for clips in clips_of
    ):
        return read_predictions(path)
    pairs = [
        (f"{key}_{clip}", row.get("Model Answer", ""))
        for key, clips in document.items()
        for clip, row in clips.items()
        if isinstance(row, dict)
    ]
    return from_pairs(pairs, str(path))


def _letters(raw: Any, item: Item) -> str | None:
    """The letters that are all there is, or that open a line or follow a comma; else the options that are quoted."""
    if isinstance(raw, list | tuple):
        raw = " ".join(map(str, raw))
    if not isinstance(raw, str):
        return None
    words = [
        word for word in re.findall(r"\w+", raw) if word.lower() not in ("and", "answer", "answers", "option", "is")
    ]
    known = set(LETTERS[: len(item.choices)])
    if words and all(set(word) <= known for word in words):
        return "".join(sorted(set("".join(words))))
    found = set(_LISTED.findall(raw)) & known
    if not found:
        text = raw.lower()
        found = {letter for letter, choice in zip(LETTERS, item.choices, strict=False) if choice.lower() in text}
    return "".join(sorted(found)) or None


_answers = AnswerScorer(
    benchmark="vid_halluc_mcq",
    parser=Parser("letters-1", _letters),
    score=is_right,
    about="VidHalluc, multiple choice: exactly the right letters",
    constants=tuple(LETTERS),
    answer_text=lambda item: item.answer,
    chance=lambda item: 1 / (2 ** len(item.choices) - 1),
)


def _as_letters(raw: Any, item: Item) -> str:
    """Every lone capital A to D, so that an article is the option A; without one the first option that is quoted."""
    found = set(re.findall(r"\b[A-D]\b", str(raw)))
    if not found:
        text = str(raw).lower()
        quoted = [letter for letter, choice in zip(LETTERS, item.choices, strict=False) if choice.lower() in text]
        found = set(quoted[:1])
    return "".join(sorted(found))


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    rows = given(outcomes)
    right = int(sum(row.score for row in rows))
    value = right / len(rows)
    return {"accuracy": value}, f"{right} {len(rows)}\nAccuracy: {value:.4f}"


BENCHMARK = Benchmark(
    name="vid_halluc_mcq",
    title="VidHalluc (ACH, multiple choice)",
    kind="other",
    source=SOURCE,
    files=(FILE,),
    read=read,
    score=_answers,
    compat=modes(
        "vid_halluc_mcq",
        Mode(
            name="vid-halluc",
            parser=Parser("vid-halluc-mcq", _as_letters),
            protocol="VidHalluc's eval_mcq.py: all lone capitals A to D of the response, 'A man' too; without one "
            "the first option whose text occurs; clips that are not in the file of answers are left out",
            measure=_as_released,
            needs_all=False,
        ),
    ),
    read_predictions=read_answers,
)
