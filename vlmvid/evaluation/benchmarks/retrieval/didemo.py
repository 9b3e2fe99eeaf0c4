"""DiDeMo (arXiv 1708.01641): paragraph retrieval, all descriptions of a video as one text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import listed, named, paragraph_items
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json

PUBLISHER = "https://github.com/LisaAnne/LocalizingMoments (data)"
FILE = AnnotationFile("test_data.json", ("video", "description", "times", "annotation_id"), PUBLISHER)
SPLITS = ("test", "val", "train")
SHOWN_SECONDS = 31.0  # of each video, as paragraph retrieval is evaluated in the literature


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One text per video: its descriptions joined by blanks in the order of the file; ids keep the file's suffix.

    A list ``SPLIT_list.txt`` beside the file, as CLIP4Clip has it, chooses the videos; without one all count. The first
    31 s of a video are shown.
    """
    split = choose(options, "split", SPLITS)
    file = find_file(path, FILE, f"{split}_data.json")
    sentences: dict[str, list[str]] = {}
    for number, row in enumerate(read_json(file, list, FILE), start=1):
        if not isinstance(row, dict) or "video" not in row or "description" not in row:
            raise DatasetError(f"{file}, entry {number}: expected video and description, got {row!r:.80}")
        sentences.setdefault(str(row["video"]), []).append(str(row["description"]))
    if (file.parent / f"{split}_list.txt").is_file():
        names = listed(file.parent, AnnotationFile(f"{split}_list.txt", ("video",), PUBLISHER))
        return paragraph_items(named(names, sentences, file), file, SHOWN_SECONDS)
    return paragraph_items(sentences, file, SHOWN_SECONDS)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "didemo",
        "DiDeMo paragraph-video retrieval",
        "arXiv 1708.01641",
        (FILE,),
        read,
        {"split": "test (default, 1,004 videos), val (1,065) or train (8,392)"},
        defaults={"split": SPLITS[0]},
    )
)
