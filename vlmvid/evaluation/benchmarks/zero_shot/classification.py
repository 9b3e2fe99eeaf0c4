"""Classification of one's own samples: a table of ids and labels, and the names of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import MissingDataError
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import (
    OPTIONS,
    class_item,
    class_scorer,
    index_of,
    read_classes,
    templates,
)
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import find_file, read_json_lines, read_table, unique_items

PUBLISHER = "your own labels, see docs/benchmarks/zero_shot.md"
FILE = AnnotationFile("labels.csv", ("id", "label"), PUBLISHER)
CLASSES = AnnotationFile("classes.txt", ("one class name per line",), PUBLISHER)
LABEL_OPTIONS = {**OPTIONS, "classes": "the file of class names, if it is not classes.txt beside the labels"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """``labels.csv``, or ``labels.jsonl``, with `id`, `label` and, where samples share a video, `video_id`.

    A label is the name of a class, or its place from 0 in the file of class names. Without such a file the classes
    are the labels that occur, sorted.
    """
    found = labels_file(path)
    rows = read_json_lines(found, FILE) if found.suffix == ".jsonl" else read_table(found, FILE)
    classes = _classes(found, rows, options)
    places = {str(place): place for place in range(len(classes))} | {name: place for place, name in enumerate(classes)}
    shown = templates(options, "image")
    return unique_items(
        [
            class_item(
                str(row["id"]),
                str(row.get("video_id") or row["id"]),
                Media(str(row["id"])),
                index_of(str(row["label"]), places, f"{found}, id {row['id']}"),
                classes,
                shown,
            )
            for row in rows
        ],
        found,
    )


def labels_file(path: Path) -> Path:
    """The table of labels in a folder, or `path` itself where it is a file."""
    lines = path / "labels.jsonl"
    return lines if lines.is_file() else find_file(path, FILE)


def _classes(found: Path, rows: list[Any], options: Mapping[str, str]) -> tuple[str, ...]:
    wanted = options.get("classes")
    place = found.parent / (wanted or CLASSES.name)
    if wanted and not place.is_file():
        raise MissingDataError(f"there is no {place}; the option classes names a file with {CLASSES.columns[0]}")
    if place.is_file():
        return read_classes(place, CLASSES)
    return tuple(sorted({str(row["label"]) for row in rows}))


BENCHMARK = Benchmark(
    name="classification",
    title="zero-shot classification of labelled samples",
    kind="classification",
    source="CLIP, arXiv 2103.00020",
    files=(FILE, CLASSES),
    read=read,
    score=class_scorer("classification"),
    options=LABEL_OPTIONS,
)
