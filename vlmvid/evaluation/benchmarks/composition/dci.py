"""DCI: which caption belongs to which part of a picture (arXiv 2312.08578; facebookresearch/DCI at 8326c97).

Crop-caption matching on the summaries that fit an encoder's context: a part among all captions of its own picture, so
that knowing the picture does not help, or its caption against a generated negative. The authors match within batches of
eight neighbours of their loader; that depends on the batch and is not reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media
from vlmvid.evaluation.scoring.matrix import caption_scorer
from vlmvid.evaluation.scoring.reading import choose, find_file, read_json, require_columns, unique_items
from vlmvid.evaluation.scoring.shapes import in_shape

_PUBLISHER = "https://github.com/facebookresearch/DCI (dci.tar.gz; dataset/.../scripts/download.py)"
SPLITS = AnnotationFile("splits.json", ("train", "valid", "test"), _PUBLISHER)
PICTURE = AnnotationFile("complete/*.json", ("image", "mask_data", "summaries", "negatives"), _PUBLISHER)
_SMALLEST = 224  # pixels; the authors leave out smaller parts


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The parts of a split's pictures, ids ``PICTURE_KEY``; the part to cut out is ``extra["box"]``.

    The box is (left, top, right, bottom) in pixels, None for the whole picture; the authors widen it by 15 % of its
    size on each side, within the picture. Parts below 224 x 224 and pictures without summaries or negatives are left
    out, as they do.

    Raises:
        DatasetError: another shape, or no picture with at least two parts.
    """
    split = choose(options, "split", ("test", "valid", "train"))
    task = choose(options, "task", ("captions", "negatives"))
    found = find_file(path, SPLITS)
    splits = read_json(found, dict, SPLITS)
    require_columns(found, SPLITS, splits, "the object")
    items: list[Item] = []
    if not isinstance(splits[split], list):
        raise DatasetError(f"{found}, {split}: expected a list of files, got {splits[split]!r:.60}")
    for name in splits[split]:
        place = found.parent / "complete" / Path(str(name)).name
        document = read_json(place, dict, PICTURE)
        if not document.get("summaries") or not document.get("negatives"):
            continue
        require_columns(place, PICTURE, document, "the object")
        with in_shape(str(place), PICTURE):
            items += _items(place, document, task)
    return unique_items(items, found)


def _items(path: Path, document: Mapping[str, Any], task: str) -> list[Item]:
    parts = {"base": None, **_boxes(path, document)}
    captions = {key: _first(document["summaries"].get(key)) for key in parts}
    known = {key: caption for key, caption in captions.items() if caption}
    unique = tuple(dict.fromkeys(known.values()))
    items = []
    for key, caption in known.items():
        if task == "negatives":
            negative = _first((document["negatives"].get(key) or {}).get("swaps"))
            choices: tuple[str, ...] = (caption, negative) if negative else ()
        else:
            choices = unique
        if len(choices) > 1:
            items.append(
                Item(
                    item_id=f"{path.stem}_{key}",
                    video_id=str(document["image"]),
                    answer=choices.index(caption),
                    choices=choices,
                    media=(Media(str(document["image"])),),
                    groups={"part": "picture" if key == "base" else "crop"},
                    extra={"box": parts[key]},
                )
            )
    return items


def _boxes(path: Path, document: Mapping[str, Any]) -> dict[str, tuple[int, int, int, int] | None]:
    """Key of the summaries -> bounds of each part that is large enough."""
    boxes: dict[str, tuple[int, int, int, int] | None] = {}
    for name, mask in document["mask_data"].items():
        try:
            corners = [mask["bounds"][corner][axis] for corner in ("topLeft", "bottomRight") for axis in ("x", "y")]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{path}, mask {name}: no bounds with topLeft and bottomRight, each with x and y; get it again from "
                f"{_PUBLISHER}"
            ) from error
        left, top, right, bottom = (int(corner) for corner in corners)
        if right - left >= _SMALLEST and bottom - top >= _SMALLEST:
            # The authors' code names a part's summary m-KEY-sc, their page KEY.
            long = f"m-{name}-sc"
            boxes[long if long in document["summaries"] else str(name)] = (left, top, right, bottom)
    return boxes


def _first(texts: Any) -> str:
    """A text, or the first of several; empty where there is none."""
    if isinstance(texts, list):
        texts = texts[0] if texts else ""
    return str(texts or "").strip()


score = caption_scorer("dci", "DCI: a part's own caption above the others", macro=("part",))

BENCHMARK = Benchmark(
    name="dci",
    title="Densely Captioned Images, crop-caption matching",
    kind="choice",
    source="arXiv 2312.08578",
    files=(SPLITS, PICTURE),
    read=read,
    score=score,
    options={
        "split": "test (default), valid or train",
        "task": "captions (default: among all captions of the picture) or negatives (against a swapped one)",
    },
)
