"""COCO captions (arXiv 1504.00325): Karpathy's test and val splits of 5,000 images, or the official file of 2014."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS, coco_items, items_of
from vlmvid.evaluation.benchmarks.captioning.scores import OPTIONS, CaptionScorer, coco_caption, vlmevalkit
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json

KARPATHY = AnnotationFile(
    "dataset_coco.json",
    ("images", "split", "cocoid", "filename", "sentences"),
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",
)
OFFICIAL = AnnotationFile(
    "captions_val2014.json", ("images", "annotations"), "https://cocodataset.org/#download (2014 annotations)"
)
SPLITS = ("karpathy_test", "karpathy_val", "val2014")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per image; its id is COCO's image id.

    The split ``val2014`` is the official file with all of its images; a file given by name decides between the two.
    """
    split = choose(options, "split", SPLITS)
    if path.is_file() and "split" not in options:
        document = read_json(path, dict, OFFICIAL)
        if "annotations" in document:
            return coco_items(document, path, OFFICIAL, f"all images of {path.name}")
    if split == "val2014":
        found = find_file(path, OFFICIAL)
        return coco_items(read_json(found, dict, OFFICIAL), found, OFFICIAL, f"{split}, all images of {found.name}")
    if any(path.rglob(OFFICIAL.name)) and not any(path.rglob(KARPATHY.name)):
        raise MissingDataError(
            f"there is no {KARPATHY.name} in {path}, which the split {split} has ({KARPATHY.publisher}), and that is "
            f"{'asked for' if 'split' in options else 'the default'}; {OFFICIAL.name} is read with -o split=val2014"
        )
    found = find_file(path, KARPATHY)
    return _karpathy(read_json(found, dict, KARPATHY), found, split.removeprefix("karpathy_"))


def _karpathy(document: Mapping[str, Any], source: Path, split: str) -> list[Item]:
    try:
        rows = [row for row in document["images"] if row["split"] == split]
        captions = {str(row["cocoid"]): [sentence["raw"] for sentence in row["sentences"]] for row in rows}
        media = {str(row["cocoid"]): str(row["filename"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"{source}: {error!r}; expected {', '.join(KARPATHY.columns)} and sentences with 'raw', as "
            f"{KARPATHY.publisher} has it"
        ) from error
    return items_of(captions, source, media=media, split=f"karpathy_{split}")


BENCHMARK = Benchmark(
    name="coco_caption",
    title="COCO captions",
    kind="caption",
    source="arXiv 1504.00325",
    files=(KARPATHY, OFFICIAL),
    read=read,
    score=CaptionScorer("coco_caption", "COCO captions, five references per image"),
    compat={"coco-caption": coco_caption("coco_caption"), "vlmevalkit": vlmevalkit("coco_caption")},
    options={
        **OPTIONS,
        "split": f"{SPLITS[0]} (default), {SPLITS[1]}, or {SPLITS[2]}: every image of the official file",
    },
    prediction_keys=PREDICTION_KEYS,
)
