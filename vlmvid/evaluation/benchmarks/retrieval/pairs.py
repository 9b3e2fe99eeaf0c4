"""Retrieval on anyone's own data: a JSON Lines file of which text belongs to which video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import MissingDataError
from vlmvid.evaluation.benchmarks.retrieval.joined import GALLERIES
from vlmvid.evaluation.benchmarks.retrieval.reading import text_item
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import find_file, read_json_lines, unique_items

FILE = AnnotationFile("pairs.jsonl", ("text_id", "video_id"), "you")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One ``{"text_id", "video_id"}`` per line; several lines with one text_id are several correct videos.

    A `text` may stand beside them; a model that embeds texts needs it. An item without one has no `choices`.
    """
    if not path.is_file() and not (path / FILE.name).is_file():
        raise MissingDataError(
            f"there is no {FILE.name} at {path}; write one line for each pair that belongs together, "
            f'{{"text_id": ..., "video_id": ...}}, as only {FILE.publisher} can'
        )
    found = find_file(path, FILE)
    videos: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for row in read_json_lines(found, FILE):
        name = str(row["text_id"])
        videos.setdefault(name, []).append(str(row["video_id"]))
        if row.get("text"):
            texts.setdefault(name, str(row["text"]))
    return unique_items([text_item(name, texts.get(name), names) for name, names in videos.items()], found)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "retrieval",
        "text-video retrieval on your own pairs",
        "your own data",
        (FILE,),
        read,
        {},
        GALLERIES[1],
    )
)
