"""VATEX (arXiv 1904.03493): ten captions a clip in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import caption_items, listed, named
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json

PUBLISHER = "https://eric-xw.github.io/vatex-website/download.html"
FILE = AnnotationFile("vatex_validation_v1.0.json", ("videoID", "enCap", "chCap"), PUBLISHER)
SPLITS = {"val": FILE.name, "test": "vatex_public_test_english_v1.1.json", "train": "vatex_training_v1.0.json"}
CAPTIONS = {"en": "enCap", "zh": "chCap"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """All captions of a file's videos, or of those that a list names; ids are ``VIDEO_0``, ``VIDEO_1``, ...

    The retrieval split of the literature (half of the 3,000 validation videos) is not the authors': its list is named
    by the option `list`, and the protocol says it.
    """
    column = CAPTIONS[choose(options, "language", tuple(CAPTIONS))]
    file = find_file(path, FILE, SPLITS[choose(options, "split", tuple(SPLITS))])
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(read_json(file, list, FILE), start=1):
        if not isinstance(row, dict) or "videoID" not in row or not isinstance(row.get(column), list):
            raise DatasetError(f"{file}, entry {number}: expected videoID and a list {column}, got {row!r:.80}")
        captions[str(row["videoID"])] = [str(text) for text in row[column]]
    if "list" in options:
        names = listed(file.parent, AnnotationFile(options["list"], ("videoID",), "the paper whose split it is"))
        return caption_items(named(names, captions, file), file)
    return caption_items(captions, file)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "vatex",
        "VATEX text-video retrieval",
        "arXiv 1904.03493",
        (FILE,),
        read,
        {
            "split": "val (default, 3,000 videos), test (public, English) or train",
            "language": "en (default) or zh",
            "list": "a text file beside the JSON with the ids of the videos that count, e.g. val_list_split2.txt",
        },
        defaults={"split": "val", "language": "en", "list": "none, all videos"},
    )
)
