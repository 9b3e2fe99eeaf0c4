"""MSVD captions (ACL 2011): 1,200, 100 and 670 videos with about 40 captions each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS, items_of
from vlmvid.evaluation.benchmarks.captioning.scores import OPTIONS, CaptionScorer, coco_caption
from vlmvid.evaluation.benchmarks.retrieval.msvd import CAPTIONS, PUBLISHER, SPLITS
from vlmvid.evaluation.benchmarks.retrieval.msvd import read as read_texts
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item
from vlmvid.evaluation.scoring.reading import choose


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per video of the split's list, with all of its captions; the files are those of the retrieval task."""
    captions: dict[str, list[str]] = {}
    split = choose(options, "split", SPLITS)
    for text in read_texts(path, {"split": split}):
        captions.setdefault(text.video_id, []).extend(text.choices)
    return items_of(captions, path, suffix=".avi", split=split)


BENCHMARK = Benchmark(
    name="msvd_caption",
    title="MSVD captions (670 test videos)",
    kind="caption",
    source="ACL 2011, Chen and Dolan",
    files=(CAPTIONS, AnnotationFile("test_list.txt", ("video_id",), PUBLISHER)),
    read=read,
    score=CaptionScorer("msvd_caption", "MSVD captions, all references of a video"),
    compat={"coco-caption": coco_caption("msvd_caption")},
    options={**OPTIONS, "split": "test (default), val or train, by the lists of the authors' archive"},
    prediction_keys=PREDICTION_KEYS,
)
