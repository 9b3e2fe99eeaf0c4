"""VidHalluc, the order of two actions: A, B, AB or BA (arXiv 2412.03735)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.benchmarks.hallucination.common import Mode, is_right, modes
from vlmvid.evaluation.benchmarks.hallucination.vid_halluc_files import PUBLISHER, SOURCE, entry, given, read_file
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import unique_items

FILE = AnnotationFile("tsh.json", ("video", "Question", "Correct Answer"), PUBLISHER)
ORDERS = ("A", "B", "AB", "BA")
_ACTION = r"(action [ab]|[ab][\.\)])"


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per video; ids are the file's keys."""
    found, document = read_file(path, FILE)
    items = []
    for key, value in document.items():
        row = entry(found, FILE, value, str(key))
        items.append(
            Item(
                item_id=str(key),
                video_id=str(row["video"]),
                answer=str(row["Correct Answer"]),
                question=str(row["Question"]),
                choices=ORDERS,
                media=(Media(f"TSH/{row['video']}.mp4"),),
            )
        )
    return unique_items(items, found)


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's file, the annotations with ``Model Answer``, or any file that joins by id."""
    document = read_document(path)
    rows = document.values() if isinstance(document, dict) else ()
    if not rows or not all(isinstance(row, dict) and "answer" not in row for row in rows):
        return read_predictions(path)
    return from_pairs([(str(key), row.get("Model Answer", "")) for key, row in document.items()], str(path))


def _order(raw: Any, item: Item) -> str | None:
    """The letters if they are all there is; else the actions in the order of their mention, or after an *after*."""
    if not isinstance(raw, str):
        return None
    letters = "".join(re.findall(r"\w+", raw)).upper()
    if letters in ORDERS:
        return letters
    text = raw.lower()
    found = list(re.finditer(r"\baction ([ab])\b", text))
    named = list(dict.fromkeys(match.group(1).upper() for match in found))
    if len(named) < 2 or "not clear" in text or "no clear" in text:
        return named[0] if len(named) == 1 else None
    second = next(match for match in found if match.group(1).upper() == named[1])
    is_reversed = re.search(r"\bafter\b", text[found[0].end() : second.start()]) is not None
    return "".join(reversed(named) if is_reversed else named)


_answers = AnswerScorer(
    benchmark="vid_halluc_tsh",
    parser=Parser("order-1", _order),
    score=is_right,
    about="VidHalluc, order of actions: A, B, AB or BA",
    constants=ORDERS,
    answer_text=lambda item: item.answer,
    chance=lambda item: 0.25,
)


def _as_script(raw: Any, item: Item) -> str:
    """eval_tsh.py's reading, in which ``[^before]`` excludes letters and a listed ``a.`` gives a full stop."""
    text = str(raw).lower()
    if text.upper() in ORDERS:
        return text.upper()
    named = [letter for letter in "ab" if f"action {letter}" in text]
    if "not clear" in text or "no clear" in text or not named:
        return "None"
    if len(named) == 1:
        return named[0].upper()
    word = next((word for word in ("before", "then", "after") if word in text), None)
    match = re.search(rf"{_ACTION}[^{word}]+{word}[^action]*?{_ACTION}", text) if word else None
    if match:
        pair = match.group(1)[-1].upper(), match.group(2)[-1].upper()
        return "".join(reversed(pair) if word == "after" else pair)
    return "".join(found.group(1)[-1].upper() for found in re.finditer(_ACTION, text))


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    rows = given(outcomes)
    value = sum(row.score for row in rows) / len(rows)
    return {"accuracy": value}, f"Accuracy: {value:.2%}"


BENCHMARK = Benchmark(
    name="vid_halluc_tsh",
    title="VidHalluc (TSH, order of two actions)",
    kind="other",
    source=SOURCE,
    files=(FILE,),
    read=read,
    score=_answers,
    compat=modes(
        "vid_halluc_tsh",
        Mode(
            name="vid-halluc",
            parser=Parser("vid-halluc-tsh", _as_script),
            protocol="VidHalluc's eval_tsh.py: the letters alone, or the order read from before, then and after with "
            "its character classes; videos that are not in the file of answers are left out",
            measure=_as_released,
            needs_all=False,
        ),
    ),
    read_predictions=read_answers,
)
