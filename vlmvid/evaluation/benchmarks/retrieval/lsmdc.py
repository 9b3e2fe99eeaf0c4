"""LSMDC (arXiv 1605.03705): 1,000 clips of films with one sentence each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import text_item
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_text, unique_items

COLUMNS = ("CLIP_ID", "START_ALIGNED", "END_ALIGNED", "START_EXTRACTED", "END_EXTRACTED", "SENTENCE")
FILE = AnnotationFile(
    "LSMDC16_challenge_1000_publictect.csv", COLUMNS, "https://sites.google.com/site/describingmovies"
)
SPLITS = {"test": FILE.name, "val": "LSMDC16_annos_val.csv", "train": "LSMDC16_annos_training.csv"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One text per line; its id is the clip's, with ``#2``, ``#3``, ... where a clip comes again.

    The tables are separated by tabs and have no header; the name ``publictect`` is the authors'.
    """
    file = find_file(path, FILE, SPLITS[choose(options, "split", tuple(SPLITS))])
    seen: dict[str, int] = {}
    items = []
    # Not a reader of CSV: a quotation mark in a sentence is only a character.
    for number, line in enumerate(read_text(file, FILE).splitlines(), start=1):
        if not line.strip():
            continue
        cells = line.strip().split("\t")
        if len(cells) != len(COLUMNS):
            raise DatasetError(
                f"{file}, line {number}: {len(cells)} columns separated by tabs; expected {', '.join(COLUMNS)}"
            )
        clip = cells[0]
        seen[clip] = seen.get(clip, 0) + 1
        items.append(text_item(clip if seen[clip] == 1 else f"{clip}#{seen[clip]}", cells[-1], [clip]))
    return unique_items(items, file)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "lsmdc",
        "LSMDC text-video retrieval",
        "arXiv 1605.03705",
        (FILE,),
        read,
        {"split": "test (default, 1,000 clips), val or train"},
        defaults={"split": "test"},
    )
)
