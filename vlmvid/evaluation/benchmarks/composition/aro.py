"""ARO: relations, attributes, word order (arXiv 2210.01936; mertyg/vision-language-models-are-bows at 81fdd20dc5).

COCO_Order and Flickr30k_Order have no file of their captions: ARO shuffles words with spaCy when it loads the Karpathy
split, so their items are read from its test cases, saved as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import DatasetError
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.matrix import caption_scorer, compat_result, score_arrays
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns, unique_items
from vlmvid.evaluation.scoring.shapes import in_shape

_PUBLISHER = "https://github.com/mertyg/vision-language-models-are-bows (dataset_zoo/aro_datasets.py)"
_BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_PAIR = ("image_path", *_BOX, "true_caption", "false_caption")
FILES = {
    "relation": AnnotationFile("visual_genome_relation.json", (*_PAIR, "relation_name"), _PUBLISHER),
    "attribution": AnnotationFile("visual_genome_attribution.json", (*_PAIR, "attributes"), _PUBLISHER),
    "coco_order": AnnotationFile(
        "coco_order.json", ("image", "caption_options"), f"{_PUBLISHER}, COCO_Order.test_cases"
    ),
    "flickr30k_order": AnnotationFile(
        "flickr30k_order.json", ("image", "caption_options"), f"{_PUBLISHER}, Flickr30k_Order.test_cases"
    ),
}
_LEAST = 25  # attribute pairs with fewer items are not reported by ARO


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The items of one subset; ids are their numbers in the file from 0, choices are in ARO's order.

    The true caption is the second of two, or the first of five; the box to cut out is in ``extra["box"]``
    (x, y, width, height in pixels).

    Raises:
        DatasetError: another shape, or an order item without five captions.
    """
    subset = choose(options, "subset", tuple(FILES))
    file = FILES[subset]
    found = find_file(path, file)
    items = []
    for number, row in enumerate(read_json(found, list, file)):
        if not isinstance(row, dict):
            raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
        require_columns(found, file, row, f"entry {number}")
        with in_shape(f"{found}, entry {number}", file):
            items.append(_order(found, number, row) if subset.endswith("order") else _pair(subset, number, row))
    return unique_items(items, found)


def _pair(subset: str, number: int, row: Mapping[str, Any]) -> Item:
    relation = subset == "relation"
    name = str(row["relation_name"]) if relation else "_".join(str(word) for word in row["attributes"][:2])
    return Item(
        item_id=str(number),
        video_id=str(row["image_path"]),
        answer=1,
        choices=(str(row["false_caption"]), str(row["true_caption"])),
        media=(Media(str(row["image_path"])),),
        groups={"relation" if relation else "attributes": name},
        extra={"box": tuple(int(row[side]) for side in _BOX)},
    )


def _order(path: Path, number: int, row: Mapping[str, Any]) -> Item:
    captions = row["caption_options"]
    if not isinstance(captions, list) or len(captions) != 5:
        raise DatasetError(
            f"{path}, entry {number}: expected the true caption and four shuffled ones, got {captions!r:.80}"
        )
    return Item(
        item_id=str(number),
        video_id=str(row["image"]),
        answer=0,
        choices=tuple(str(caption) for caption in captions),
        media=(Media(str(row["image"])),),
    )


score = caption_scorer("aro", "ARO: the true caption above the false ones", macro=("relation", "attributes"))


def score_as_aro(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """ARO's evaluate_scores: argmax over the captions, and their accuracy for each relation or pair of attributes.

    The bugs: argmax takes the first of equal scores. Of COCO_Order and Flickr30k_Order that is the true caption, so a
    model that scores all alike gets 1; of the two others it is the false one, so it gets 0. Attribute pairs with fewer
    than 25 items are left out. ``accuracy`` is the share of right items, which the script keeps for itself; the macro
    is over the groups that it reports. (The authors' notebook drops a list of relations before its macro.)
    """
    arrays = score_arrays(items, predictions, "ARO's evaluate_scores")
    right = np.array([int(array[0].argmax()) == item.answer for array, item in zip(arrays, items, strict=True)])
    values = {"accuracy": (float(right.mean()), len(items))}
    kind = next(iter(items[0].groups), None)
    lines = [f"Precision@1: {right.mean()}"] if kind is None else []
    if kind is not None:
        rates = []
        for name in sorted({item.groups[kind] for item in items}):
            own = right[[item.groups[kind] == name for item in items]]
            if kind == "attributes" and len(own) < _LEAST:
                continue
            rates.append(float(own.mean()))
            values[f"accuracy_{kind}_{metric_slug(name)}"] = (rates[-1], len(own))
            lines.append(f"{name}: Accuracy {own.mean()}, Count {len(own)}")
        if rates:
            values[f"accuracy_{kind}_macro"] = (float(np.mean(rates)), len(rates))
    return compat_result(
        score(items, predictions, settings),
        "aro",
        "ARO's evaluate_scores: argmax, the first of equal scores is the best",
        values,
        "\n".join(lines) or "no group has 25 items",
    )


BENCHMARK = Benchmark(
    name="aro",
    title="ARO",
    kind="choice",
    source="arXiv 2210.01936",
    files=tuple(FILES.values()),
    read=read,
    score=score,
    compat={"aro": score_as_aro},
    options={"subset": f"{', '.join(FILES)}; the first is the default"},
)
