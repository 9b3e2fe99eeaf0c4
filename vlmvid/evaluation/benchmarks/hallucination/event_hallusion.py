"""EventHallusion: events that did not happen, or that nobody expects (arXiv 2409.16597).

Script and data: Stevetich/EventHallusion at 7396e04366.

All 114 answers of the split ``entire`` and all 102 of ``misleading`` are No, all 193 of ``interleave`` are Yes: a
constant no has 52.8 % of all answers right, so the balanced accuracy comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers import yes_no as parsers
from vlmvid.evaluation.benchmarks.hallucination.common import (
    Mode,
    YesNoScorer,
    mean_score,
    modes,
    values_by,
    yes_no_answers,
)
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, require_columns, unique_items

SPLITS = ("interleave", "entire", "misleading")
FILE = AnnotationFile(
    "entire_questions.json",
    ("id", "questions"),
    "https://github.com/Stevetich/EventHallusion (questions/SPLIT_questions.json)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions of the three splits, or of one split's file; ids are ``VIDEO_QUESTION``, questions from 0."""
    if path.is_file():
        return unique_items(_split(path.stem.removesuffix("_questions"), path), path)
    files = {split: find_file(path, FILE, f"{split}_questions.json") for split in SPLITS}
    return unique_items([item for split, file in files.items() for item in _split(split, file)], path)


def _split(split: str, path: Path) -> list[Item]:
    items = []
    for number, row in enumerate(read_json(path, list, FILE), start=1):
        require_columns(path, FILE, row if isinstance(row, dict) else {}, f"entry {number}")
        if not isinstance(row["questions"], list):
            raise DatasetError(f"{path}, entry {number}: expected a list of questions, got {row['questions']!r:.60}")
        for place, asked in enumerate(row["questions"]):
            if not isinstance(asked, dict):
                raise DatasetError(f"{path}, entry {number}, question {place}: expected an object, got {asked!r:.60}")
            answer = str(asked.get("answer")).strip().rstrip(".").lower()
            if answer not in ("yes", "no"):
                raise DatasetError(f"{path}, {row['id']}: the answer {asked.get('answer')!r} is neither Yes. nor No.")
            items.append(
                Item(
                    item_id=f"{row['id']}_{place}",
                    video_id=str(row["id"]),
                    answer=answer,
                    question=str(asked.get("question", "")),
                    choices=("yes", "no"),
                    media=(Media(f"{split}/{row['id']}.mp4"),),
                    groups={"split": split},
                    extra={"category": row.get("category")},
                )
            )
    return items


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """The script's input ``{SPLIT: {VIDEO: {"qa": [{"question", "answer", "prediction"}]}}}``, or a file with ids."""
    document = read_document(path)
    if not isinstance(document, dict) or not set(document) <= set(SPLITS):
        return read_predictions(path)
    pairs = []
    for split, videos in document.items():
        for video, entry in videos.items() if isinstance(videos, dict) else ():
            answers = entry.get("qa") if isinstance(entry, dict) else None
            if not isinstance(answers, list):
                raise EvaluationError(f"{path}, {split}, {video}: expected an object with a list qa, got {entry!r:.80}")
            if not all(isinstance(answer, dict) for answer in answers):
                raise EvaluationError(f"{path}, {split}, {video}: qa must hold objects, got {answers!r:.80}")
            pairs += [(f"{video}_{place}", answer.get("prediction")) for place, answer in enumerate(answers)]
    return from_pairs(pairs, str(path))


_answers = yes_no_answers(
    "event_hallusion",
    about="EventHallusion, yes-no questions; every split has one answer only, so balanced_accuracy comes first; "
    "descriptions, which a language model judges, are not scored",
)


def _as_released(outcomes: Sequence[Outcome]) -> tuple[dict[str, float], str]:
    lines, values = [], {}
    for split, rows in values_by(outcomes, lambda item: item.groups["split"]).items():
        right = int(sum(row.score for row in rows))
        values[f"accuracy_split_{split}"] = right / len(rows)
        lines.append(f"{split} ques: {len(rows)}, qs correct: {right}, qs acc: {right / len(rows)}")
    right = int(sum(row.score for row in outcomes))
    unmatched = sum(row.status == "unparsed" for row in outcomes) / len(outcomes)
    lines.append(f"overall: ques: {len(outcomes)}, qs correct: {right}, qs acc: {right / len(outcomes)}")
    lines.append(f"Not matching rate: ques: {unmatched}")
    return {"accuracy": mean_score(outcomes), **values, "unparsed": unmatched}, "\n".join(lines)


BENCHMARK = Benchmark(
    name="event_hallusion",
    title="EventHallusion (entire, interleave, misleading; yes-no questions)",
    kind="yes_no",
    source="arXiv 2409.16597",
    files=(FILE,),
    read=read,
    score=YesNoScorer(_answers, main="balanced_accuracy"),
    compat=modes(
        "event_hallusion",
        Mode(
            name="event-hallusion",
            parser=parsers.starts_with,
            protocol="EventHallusion's eval.py: a response that starts with yes or no (Nobody is a no), pooled over "
            "the splits; its lines about judged descriptions are not printed",
            measure=_as_released,
            is_text=False,
        ),
    ),
    read_predictions=read_answers,
)
