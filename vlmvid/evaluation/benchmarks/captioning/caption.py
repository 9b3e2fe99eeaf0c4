"""Captions of the user's own media: references as COCO's annotation files have them, or ``{id: [captions]}``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.benchmarks.captioning.references import PREDICTION_KEYS, coco_items, items_of
from vlmvid.evaluation.benchmarks.captioning.scores import OPTIONS, CaptionScorer, coco_caption, vlmevalkit
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item
from vlmvid.evaluation.scoring.reading import find_file, read_json

FILE = AnnotationFile(
    "references.json",
    ("images", "annotations"),
    "your own data; the format is that of https://github.com/salaniz/pycocoevalcap (example/captions_val2014.json)",
)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item per image or id.

    ``{"images": [{"id"}], "annotations": [{"image_id", "caption"}]}``, or ``{id: [captions]}``, or ``{id: caption}``.
    """
    found = find_file(path, FILE)
    document = read_json(found, dict, FILE)
    if "annotations" in document:
        return coco_items(document, found, FILE)
    captions: dict[str, list[str]] = {}
    for name, value in document.items():
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DatasetError(f"{found}, id {name!r}: expected a caption or a list of captions, got {value!r:.80}")
        captions[name] = texts
    return items_of(captions, found)


BENCHMARK = Benchmark(
    name="caption",
    title="Captions against your own references",
    kind="caption",
    source="arXiv 1504.00325",
    files=(FILE,),
    read=read,
    score=CaptionScorer("caption", "captions against the references of the file"),
    compat={"coco-caption": coco_caption("caption"), "vlmevalkit": vlmevalkit("caption")},
    options=OPTIONS,
    prediction_keys=PREDICTION_KEYS,
)
