"""Items of retrieval: one text with its correct videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, Media
from vlmvid.evaluation.scoring.reading import find_file, read_text, unique_items


def text_item(text_id: str, text: str | None, video_ids: Sequence[str], end_seconds: float | None = None) -> Item:
    """A query: its answer is all correct videos, the first of which is its cluster; the gallery is all of them.

    Args:
        text_id: its id.
        text: what it says, the only one of its `choices`; None = unknown, and it has none.
        video_ids: the correct videos.
        end_seconds: how much of a video is shown; None = all of it.
    """
    videos = tuple(dict.fromkeys(video_ids))
    return Item(
        item_id=text_id,
        video_id=videos[0],
        answer=videos,
        choices=() if text is None else (text,),
        media=tuple(Media(name, end_seconds=end_seconds) for name in videos),
    )


def caption_items(captions: Mapping[str, Sequence[str]], source: Path) -> list[Item]:
    """One query for each caption, called ``VIDEO_0``, ``VIDEO_1``, ... in the order of the file.

    Raises DatasetError for a video without captions, which would have no query.
    """
    bare = [name for name, texts in captions.items() if not texts]
    if bare:
        raise DatasetError(
            f"{source}: {len(bare)} videos have no caption, e.g. {bare[0]}; leave them out of the split or get the "
            "file again"
        )
    items = [
        text_item(f"{name}_{number}", text, [name])
        for name, texts in captions.items()
        for number, text in enumerate(texts)
    ]
    return unique_items(items, source)


def paragraph_items(
    sentences: Mapping[str, Sequence[str]], source: Path, end_seconds: float | None = None
) -> list[Item]:
    """One query for each video, all its sentences joined by blanks; it has the name of the video.

    Of a video the part before `end_seconds` is shown. Raises DatasetError for a video without sentences.
    """
    bare = [name for name, texts in sentences.items() if not texts]
    if bare:
        raise DatasetError(f"{source}: {len(bare)} videos have no sentence, e.g. {bare[0]}; get the file again")
    items = [text_item(name, " ".join(texts), [name], end_seconds) for name, texts in sentences.items()]
    return unique_items(items, source)


def listed(path: Path, file: AnnotationFile) -> list[str]:
    """The ids in a list file, one per line."""
    ids = [line.strip() for line in read_text(find_file(path, file), file).splitlines() if line.strip()]
    if not ids:
        raise DatasetError(f"{path} names no video; get it again from {file.publisher}")
    return ids


def named(wanted: Iterable[str], captions: Mapping[str, Sequence[str]], source: Path) -> dict[str, Sequence[str]]:
    """The captions of the `wanted` videos, in their order; raises DatasetError where the file has none of a video."""
    names = list(dict.fromkeys(wanted))
    missing = [name for name in names if name not in captions]
    if missing:
        raise DatasetError(
            f"{source} has no caption of {len(missing)} videos of the split, e.g. {missing[0]}; take files of one "
            "release"
        )
    return {name: captions[name] for name in names}
