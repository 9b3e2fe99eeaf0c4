"""VATEX captions (arXiv 1904.03493), English: 10 per video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS, items_of
from vlmvid.evaluation.benchmarks.captioning.scores import OPTIONS, CaptionScorer, coco_caption
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns

PUBLISHER = "https://eric-xw.github.io/vatex-website/download.html"
FILES = {
    "public_test": AnnotationFile("vatex_public_test_english_v1.1.json", ("videoID", "enCap"), PUBLISHER),
    "validation": AnnotationFile("vatex_validation_v1.0.json", ("videoID", "enCap"), PUBLISHER),
}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per video; many of the videos are gone, so give the file of those that were captioned and record N."""
    split = choose(options, "split", tuple(FILES))
    file = FILES[split]
    found = find_file(path, file)
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(read_json(found, list, file), start=1):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        require_columns(found, file, row, f"entry {number}")
        if not isinstance(row["enCap"], list):
            raise DatasetError(f"{found}, entry {number}: enCap must be a list of captions, got {row['enCap']!r:.60}")
        if str(row["videoID"]) in captions:
            raise DatasetError(f"{found}, entry {number}: the videoID {row['videoID']} occurs twice")
        captions[str(row["videoID"])] = row["enCap"]
    return items_of(captions, found, suffix=".mp4", split=split)


BENCHMARK = Benchmark(
    name="vatex_caption",
    title="VATEX captions (English, public test)",
    kind="caption",
    source="arXiv 1904.03493",
    files=tuple(FILES.values()),
    read=read,
    score=CaptionScorer("vatex_caption", "VATEX English captions, 10 references per video"),
    compat={"coco-caption": coco_caption("vatex_caption")},
    options={**OPTIONS, "split": "public_test (default) or validation"},
    prediction_keys=PREDICTION_KEYS,
)
