"""Something-Something v2: what a hand does to something (arXiv 1706.04261)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import OPTIONS, class_item, class_scorer, index_of, templates
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.reading import find_file, read_json, require_columns, unique_items

PUBLISHER = "https://www.qualcomm.com/developer/software/something-something-v-2-dataset (labels)"
FILE = AnnotationFile("something-something-v2-validation.json", ("id", "template"), PUBLISHER)
CLASSES = AnnotationFile("something-something-v2-labels.json", ("CLASS: NUMBER",), PUBLISHER)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The clips of the validation file; the class is its template without brackets, as the file of labels has it."""
    found = find_file(path, FILE)
    listed = find_file(found.parent, CLASSES)
    places = _places(listed)
    classes = tuple(sorted(places, key=places.__getitem__))
    shown = templates(options, "sentence")
    items = []
    for number, row in enumerate(read_json(found, list, FILE), start=1):
        where = f"{found}, entry {number}"
        if not isinstance(row, dict):
            raise DatasetError(f"{where}: expected an object, got {type(row).__name__}")
        require_columns(found, FILE, row, f"entry {number}")
        name = str(row["template"]).replace("[", "").replace("]", "")
        answer = index_of(name, places, where)
        clip = str(row["id"])
        items.append(class_item(clip, clip, Media(f"{clip}.webm"), answer, classes, shown))
    return unique_items(items, found)


def _places(path: Path) -> dict[str, int]:
    """Index of each class; the file holds numbers as texts."""
    listed = read_json(path, dict, CLASSES)
    try:
        places = {str(name): int(number) for name, number in listed.items()}
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: expected a number for each class: {error}") from error
    if sorted(places.values()) != list(range(len(places))):
        raise DatasetError(f"{path}: the numbers of its {len(places)} classes are not 0 to {len(places) - 1}")
    return places


BENCHMARK = Benchmark(
    name="ssv2_labels",
    title="Something-Something v2 (validation)",
    kind="classification",
    source="arXiv 1706.04261",
    files=(FILE, CLASSES),
    read=read,
    score=class_scorer("ssv2_labels"),
    options=OPTIONS,
)
