"""ActivityNet Captions (arXiv 1705.00754): paragraph retrieval on val_1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import named, paragraph_items
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json

PUBLISHER = "https://cs.stanford.edu/people/ranjaykrishna/densevid (captions.zip)"
FILE = AnnotationFile("val_1.json", ("sentences", "timestamps", "duration"), PUBLISHER)
SPLITS = ("val_1", "val_2", "train")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One text per video: its sentences joined by blanks; ids are the keys of the file, ``v_`` included.

    Beside ``val_1.json`` a list ``val_ids.json``, as CLIP4Clip has it, chooses the videos; without one all count.
    """
    split = choose(options, "split", SPLITS)
    file = find_file(path, FILE, f"{split}.json")
    sentences: dict[str, list[str]] = {}
    for name, row in read_json(file, dict, FILE).items():
        if not isinstance(row, dict) or not isinstance(row.get("sentences"), list):
            raise DatasetError(f"{file}, {name}: expected an object with a list of sentences, got {row!r:.80}")
        sentences[str(name)] = [str(text) for text in row["sentences"]]
    chosen = file.parent / ("train_ids.json" if split == "train" else "val_ids.json")
    if chosen.is_file() and split != "val_2":
        names = [str(name) for name in read_json(chosen, list, FILE)]
        return paragraph_items(named(names, sentences, file), file)
    return paragraph_items(sentences, file)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "activitynet_captions",
        "ActivityNet Captions paragraph-video retrieval",
        "arXiv 1705.00754",
        (FILE,),
        read,
        {"split": "val_1 (default, 4,917 videos), val_2 (4,885) or train (10,009)"},
        defaults={"split": "val_1"},
    )
)
