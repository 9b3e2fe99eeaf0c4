"""Reference captions as COCO's evaluation and others publish them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmvid.errors import DatasetError
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Media
from vlmvid.evaluation.scoring.reading import unique_items

PREDICTION_KEYS = (
    ("image_id", "video_id", "videoID", "item_id", "id"),
    ("caption", "prediction", "pred", "response", "answer", "output"),
)
_SHOWN = 5


def items_of(
    captions: Mapping[str, Sequence[str]],
    source: Path,
    *,
    media: Mapping[str, str] | None = None,
    suffix: str = "",
    split: str = "",
) -> list[Item]:
    """One item per id, whose answer is the tuple of its reference captions.

    Args:
        captions: id -> captions.
        source: the file, for messages.
        media: id -> name of its file; None = the id itself.
        suffix: added to the id for the name of its file.
        split: what was read of the files, for the protocol.

    Raises:
        DatasetError: no item at all, items without a reference caption, or one that is no text; the message names them.
    """
    for name, texts in captions.items():
        for text in texts:
            if not isinstance(text, str):
                raise DatasetError(f"{source}, {name}: a reference caption must be a text, got {text!r:.60}")
    bare = [name for name, texts in captions.items() if not any(text.strip() for text in texts)]
    if bare:
        raise DatasetError(
            f"{source}: {len(bare)} of {len(captions)} items have no reference caption: {', '.join(bare[:_SHOWN])}"
            f"{', ...' if len(bare) > _SHOWN else ''}; a caption cannot be scored without one: add references or leave "
            "these items out of the file"
        )
    items = [
        Item(
            item_id=name,
            video_id=name,
            answer=tuple(texts),
            question="",
            media=(Media(media[name] if media is not None else f"{name}{suffix}"),),
            extra={"split": split} if split else {},
        )
        for name, texts in captions.items()
    ]
    return unique_items(items, source)


def coco_captions(document: Mapping[str, Any], source: Path, file: AnnotationFile) -> dict[str, list[str]]:
    """id -> captions of a COCO annotation file, for all of its ``images``; raises DatasetError for another shape."""
    images, annotations = _rows(document, "images", source, file), _rows(document, "annotations", source, file)
    captions: dict[str, list[str]] = {str(_field(image, "id", source, file)): [] for image in images}
    for row in annotations:
        image_id = str(_field(row, "image_id", source, file))
        if image_id not in captions:
            raise DatasetError(
                f"{source}: an annotation belongs to image {image_id}, which 'images' does not list; {file.publisher} "
                "has both"
            )
        captions[image_id].append(_field(row, "caption", source, file))
    return captions


def coco_items(document: Mapping[str, Any], source: Path, file: AnnotationFile, split: str = "") -> list[Item]:
    """The items of a COCO annotation file; raises DatasetError as `coco_captions` and `items_of` do."""
    captions = coco_captions(document, source, file)
    media = {str(image["id"]): str(image.get("file_name", image["id"])) for image in document["images"]}
    return items_of(captions, source, media=media, split=split)


def _rows(document: Mapping[str, Any], key: str, source: Path, file: AnnotationFile) -> list[Any]:
    rows = document.get(key)
    if not isinstance(rows, list):
        raise DatasetError(
            f"{source} has no list {key!r}; it has {', '.join(map(str, document)) or 'nothing'}; expected the keys "
            f"{', '.join(file.columns)}, as {file.publisher} has it"
        )
    return rows


def _field(row: Any, key: str, source: Path, file: AnnotationFile) -> Any:
    if not isinstance(row, dict) or key not in row:
        raise DatasetError(f"{source}: an entry without {key!r}: {row!r:.80}; see {file.publisher}")
    return row[key]
