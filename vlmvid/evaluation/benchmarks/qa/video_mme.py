"""Video-MME: four options on short, medium and long videos (arXiv 2405.21075; the repository at 06c2315b89)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.benchmarks.qa.open_answers import checked_rows
from vlmvid.evaluation.benchmarks.qa.video_mme_scripts import SCRIPTS
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.choices import OPTIONS, ChoiceScorer
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, read_text, unique_items

_PUBLISHER = (
    "https://github.com/MME-Benchmarks/Video-MME (evaluation) and https://huggingface.co/datasets/lmms-lab/Video-MME"
)
_VIDEO = ("video_id", "duration", "domain", "sub_category")
_QUESTION = ("question_id", "task_type", "question", "options", "answer")
FILE = AnnotationFile("output_test_template.json", (*_VIDEO, "questions"), _PUBLISHER)
_SHARD = re.compile(r"test-(?P<number>\d{5})-of-(?P<count>\d{5})\.parquet")
ROWS = AnnotationFile("test-*.parquet", (*_VIDEO, *_QUESTION), _PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The questions in the authors' result template or in the published table (Parquet, or its rows as JSON).

    Of a table in several files (``test-00000-of-00002.parquet``) all are read, also where `path` is one of them.
    """
    files = _tables(path) or [find_file(path, FILE)]
    items = []
    for found, (video, row) in ((file, pair) for file in files for pair in _rows(file)):
        letter = str(row["answer"]).strip()
        if not isinstance(row["options"], list):
            raise DatasetError(f"{found}, {row['question_id']}: options must be a list, got {row['options']!r:.60}")
        choices = tuple(str(option) for option in row["options"])
        if letter not in tuple("ABCDEFGH"[: len(choices)]):
            raise DatasetError(
                f"{found}, {row['question_id']}: the answer is {letter!r}; it has {len(choices)} options"
            )
        items.append(
            Item(
                item_id=str(row["question_id"]),
                video_id=str(video["video_id"]),
                answer=ord(letter) - ord("A"),
                question=str(row["question"]),
                choices=tuple(re.sub(r"^\s*[A-H][.)]\s*", "", option) for option in choices),
                media=(Media(str(video.get("videoID") or video["video_id"])),),
                groups={
                    **{name: str(video[name]) for name in ("duration", "domain", "sub_category")},
                    "task_type": str(row["task_type"]),
                },
            )
        )
    return unique_items(items, files[0])


def _tables(path: Path) -> list[Path]:
    """The files of the published table in the folder `path`, or with the file `path`; [] where there are none.

    Of several folders that hold some the nearest counts. Raises DatasetError unless all files of one table are there.
    """
    if path.is_file():
        if not _SHARD.fullmatch(path.name):
            return []
        tables = sorted(path.parent.glob(ROWS.name))
    else:
        tables = sorted(path.rglob(ROWS.name), key=lambda place: (len(place.parts), str(place)))
        tables = [table for table in tables if table.parent == tables[0].parent]
    if len(tables) < 2 and not any(_SHARD.fullmatch(table.name) for table in tables):
        return tables
    parts = [_SHARD.fullmatch(table.name) for table in tables]
    counts = {int(part["count"]) if part else None for part in parts}
    count = counts.pop() if len(counts) == 1 else None
    if count is None:
        raise DatasetError(
            f"{tables[0].parent} holds files of more than one table: {', '.join(table.name for table in tables)}; keep "
            f"those of one, as {_PUBLISHER} has it"
        )
    there = {int(part["number"]) for part in parts if part}
    missing = [f"test-{number:05d}-of-{count:05d}.parquet" for number in range(count) if number not in there]
    if missing:
        raise DatasetError(
            f"{tables[0].parent} holds {len(tables)} of the {count} files of the table; it lacks "
            f"{', '.join(missing[:3])}; get all from {_PUBLISHER}"
        )
    return tables


def _rows(path: Path) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(video, question) of either form; a row of the published table is both."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        document = pq.read_table(path).to_pylist()
    else:
        document = _loads(read_text(path, FILE), path)
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    for number, video in enumerate(document, start=1):
        nested = isinstance(video, dict) and "questions" in video
        checked_rows([video], FILE if nested else ROWS, path, f"entry {number}, video")
        questions = video["questions"] if nested else [video]
        asked = AnnotationFile(path.name, _QUESTION, _PUBLISHER)
        pairs += [(video, row) for row in checked_rows(questions, asked, path, f"entry {number}, question")]
    return pairs


def _loads(text: str, path: Path) -> list[Any]:
    """A JSON list; the authors' template has a comma after the last entry of its objects, which JSON forbids."""
    for candidate in (text, re.sub(r",(\s*[}\]])", r"\1", text)):
        try:
            document = json.loads(candidate)
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            continue
        if isinstance(document, list):
            return document
        problem = f"holds a JSON {type(document).__name__}; expected a list of videos"
        break
    raise DatasetError(f"{path}: {problem}; the form is that of {FILE.name} at {_PUBLISHER}")


def read_results(path: Path, items: Sequence[Item]) -> Predictions:
    """The responses in the authors' result template, or predictions by question_id in any other form."""
    if path.suffix.lower() == ".json" and path.is_file():
        text = path.read_text(encoding="utf-8-sig")
        if re.search(r'"questions"\s*:', text):
            return _responses(_load_results(text, path), path)
    return read_predictions(
        path, ("question_id", "id", "item_id"), ("response", "prediction", "pred", "answer", "scores")
    )


def _load_results(text: str, path: Path) -> list[Any]:
    try:
        return _loads(text, path)
    except DatasetError as error:
        raise EvaluationError(str(error)) from error


def _responses(document: Sequence[Any], path: Path) -> Predictions:
    pairs = []
    for number, video in enumerate(document, start=1):
        for row in video.get("questions", []) if isinstance(video, dict) else []:
            if not isinstance(row, dict) or "question_id" not in row:
                raise EvaluationError(f"{path}, entry {number}: expected a question with question_id, got {row!r:.80}")
            if "response" in row:
                pairs.append((str(row["question_id"]), row["response"]))
    if not pairs:
        raise EvaluationError(f"{path} holds no response; each question needs a key response, as {FILE.name} has it")
    return from_pairs(pairs, str(path))


BENCHMARK = Benchmark(
    name="video_mme",
    title="Video-MME",
    kind="choice",
    source="arXiv 2405.21075",
    files=(FILE, ROWS),
    read=read,
    score=ChoiceScorer("video_mme", "accuracy over questions, by duration, domain, sub-category and task"),
    compat=SCRIPTS,
    text_compat=tuple(SCRIPTS),
    options={
        "durations": "compat video-mme: durations that are scored, separated by commas; default short,medium,long",
        "skip_missing": "compat video-mme: true = fewer than 300 videos of a duration do not stop it",
        **OPTIONS,
    },
    read_predictions=read_results,
)
