"""Kinetics 400, 600 and 700: human actions (arXiv 1705.06950)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import (
    OPTIONS,
    class_item,
    class_scorer,
    index_of,
    read_classes,
    templates,
)
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import choose, find_file, read_table, unique_items

FILE = AnnotationFile(
    "val.csv",
    ("label", "youtube_id", "time_start", "time_end", "split"),
    "https://github.com/cvdfoundation/kinetics-dataset (annotations)",
)
CLASSES = AnnotationFile(
    "a file of class names", ("one class name per line",), "your own list, in the order of the classes"
)
_FILES = ("val", "test", "validate", "train")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The clips of one file; ids are ``YOUTUBE_ID_START_END`` with six digits each, as clips are named on disk.

    Classes are the labels of the file, sorted, which is the usual numbering; a file that lacks classes needs the
    option `classes`. Many clips are gone from YouTube: the protocol says how many were read.
    """
    split = choose(options, "split", _FILES)
    found = find_file(path, FILE, f"{split}.csv")
    rows = read_table(found, FILE)
    wanted = options.get("classes")
    classes = read_classes(Path(wanted), CLASSES) if wanted else tuple(sorted({row["label"] for row in rows}))
    places = {name: place for place, name in enumerate(classes)}
    shown = templates(options, "action")
    items = []
    for number, row in enumerate(rows, start=2):
        where = f"{found}, line {number}"
        name = f"{row['youtube_id']}_{_seconds(row['time_start'], where):06d}_{_seconds(row['time_end'], where):06d}"
        answer = index_of(row["label"], places, where)
        items.append(class_item(name, row["youtube_id"], Media(name), answer, classes, shown))
    return unique_items(items, found)


def _seconds(text: str, where: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise DatasetError(f"{where}: {text!r} is no time in seconds") from None


BENCHMARK = Benchmark(
    name="kinetics",
    title="Kinetics-400/600/700 (val)",
    kind="classification",
    source="arXiv 1705.06950",
    files=(FILE,),
    read=read,
    score=class_scorer("kinetics"),
    options={**OPTIONS, "split": " or ".join(_FILES), "classes": "a file of all class names in their order"},
)
