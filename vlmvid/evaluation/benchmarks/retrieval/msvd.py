"""MSVD (ACL 2011): 670 test videos with about 40 captions each, as CLIP4Clip has them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.retrieval.reading import caption_items, listed, named
from vlmvid.evaluation.benchmarks.retrieval.scoring import Dataset, retrieval_benchmark
from vlmvid.evaluation.scoring.base import AnnotationFile, Item
from vlmvid.evaluation.scoring.reading import choose, find_file

PUBLISHER = "https://github.com/ArrowLuo/CLIP4Clip (releases, msvd_data.zip)"
CAPTIONS = AnnotationFile("raw-captions.pkl", ("video_id: [[word, ...], ...]",), PUBLISHER)
SPLITS = ("test", "val", "train")


class _Plain(pickle.Unpickler):
    """Takes texts, numbers and containers only: a pickle that names any class or function is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """All captions of a split, words joined by blanks; ids are ``VIDEO_0``, ``VIDEO_1``, ..."""
    split = choose(options, "split", SPLITS)
    file = find_file(path, CAPTIONS)
    videos = listed(file.parent, AnnotationFile(f"{split}_list.txt", ("video_id",), PUBLISHER))
    try:
        document = _Plain(io.BytesIO(file.read_bytes())).load()
        captions = {str(name): [" ".join(words) for words in texts] for name, texts in document.items()}
    except Exception as error:  # an unpickler raises whatever the bytes make it raise
        raise DatasetError(
            f"{file} cannot be read: {error}; expected a pickled dict of video_id to lists of words, without classes, "
            f"as {PUBLISHER} has it"
        ) from error
    return caption_items(named(videos, captions, file), file)


BENCHMARK = retrieval_benchmark(
    Dataset(
        "msvd",
        "MSVD text-video retrieval",
        "MSVD, ACL 2011",
        (CAPTIONS,),
        read,
        {"split": "test (default, 670 videos), val (100) or train (1,200)"},
        defaults={"split": SPLITS[0]},
    )
)
