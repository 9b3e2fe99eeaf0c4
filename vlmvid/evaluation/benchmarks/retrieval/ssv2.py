"""Something-Something v2 as retrieval (arXiv 2206.03428): labels, or templates with several correct videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import text_item
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, unique_items

FILE = AnnotationFile(
    "ssv2_ret_label_val_small.json", ("video", "caption"), "https://github.com/jayleicn/singularity (DATA.md)"
)
KINDS = ("label", "template")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One text per entry, called by its number from 0; every file of the entry is a correct video.

    The files' key is ``video``, or ``image`` in some releases; one name may stand without a list.
    """
    kind = choose(options, "captions", KINDS)
    file = find_file(path, FILE, f"ssv2_ret_{kind}_val_small.json")
    rows = read_json(file, list, FILE)
    return unique_items([_item(number, row, file) for number, row in enumerate(rows)], file)


def _item(number: int, row: Any, path: Path) -> Item:
    videos = row.get("video", row.get("image")) if isinstance(row, dict) else None
    videos = [videos] if isinstance(videos, str) else videos
    if not videos or not isinstance(videos, list) or "caption" not in row:
        raise DatasetError(f"{path}, entry {number + 1}: expected video (a list of files) and caption, got {row!r:.80}")
    return text_item(str(number), str(row["caption"]), [str(name) for name in videos])


BENCHMARK = retrieval_benchmark(
    Dataset(
        "ssv2",
        "SSv2 text-video retrieval",
        "arXiv 2206.03428",
        (FILE,),
        read,
        {"captions": "label (default): one video per text; template: several correct videos per text"},
        defaults={"captions": KINDS[0]},
    )
)
