"""MSR-VTT captions (CVPR 2016), full split: 6,513, 497 and 2,990 videos with about 20 captions each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS, items_of
from vlmvid.evaluation.benchmarks.captioning.scores import OPTIONS, CaptionScorer, coco_caption
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json

PUBLISHER = "https://github.com/ArrowLuo/CLIP4Clip (releases, msrvtt_data.zip)"
TEST = AnnotationFile("test_videodatainfo.json", ("videos", "sentences"), "http://ms-multimedia-challenge.com")
ALL = AnnotationFile("MSRVTT_data.json", ("videos", "sentences"), PUBLISHER)
# The official split is by number; "validate" is the word in the files.
NUMBERS = {"test": range(7010, 10000), "validate": range(6513, 7010), "train": range(6513)}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per video of the split that has sentences in the file, with all of its captions."""
    split = choose(options, "split", tuple(NUMBERS))
    files = [file for file in (TEST, ALL) if path.is_dir() and any(path.rglob(file.name))]
    if split != "test":
        files = [file for file in files if file is ALL]
    found = find_file(path, files[0] if files else (TEST if split == "test" else ALL))
    document = read_json(found, dict, ALL)
    try:
        captions = {str(row["video_id"]): list[str]() for row in document["videos"] if _number(row) in NUMBERS[split]}
        for row in document["sentences"]:
            if row["video_id"] in captions:
                captions[row["video_id"]].append(str(row["caption"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{found}: {error!r}; expected videos with 'video_id' such as video7010, and sentences with 'video_id' and "
            f"'caption', as {PUBLISHER} has it"
        ) from error
    return items_of(captions, found, suffix=".mp4", split=split)


def _number(row: Mapping[str, Any]) -> int:
    return int(str(row["video_id"]).removeprefix("video"))


BENCHMARK = Benchmark(
    name="msrvtt_caption",
    title="MSR-VTT captions (full split, 2,990 videos)",
    kind="caption",
    source="CVPR 2016, Xu et al.",
    files=(TEST, ALL),
    read=read,
    score=CaptionScorer("msrvtt_caption", "MSR-VTT captions, all references of a video"),
    compat={"coco-caption": coco_caption("msrvtt_caption")},
    options={**OPTIONS, "split": "test (default), validate or train, by the numbers of the official split"},
    prediction_keys=PREDICTION_KEYS,
)
