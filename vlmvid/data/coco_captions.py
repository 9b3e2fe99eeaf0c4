"""COCO captions: pictures with five captions each, every picture a clip of one frame.

Reads the authors' JSON (``images`` with ``id`` and ``file_name``, ``annotations`` with ``image_id`` and ``caption``) of
2017 or, with other options, of 2014.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from vlmvid.config.base import Config
from vlmvid.config.load import validation_message
from vlmvid.data.annotated import AnnotatedDataset
from vlmvid.data.base import Defect
from vlmvid.data.tables import read_annotations
from vlmvid.errors import DatasetError
from vlmvid.types import Clip, Split
from vlmvid.video.paths import printable


class CocoCaptionsOptions(Config):
    """`root`; everything else is relative to it. None = the file is not read.

    `val_split` says what the authors' validation pictures are here: their test captions are not public.
    """

    root: str
    train: str | None = "annotations/captions_train2017.json"
    train_images: str = "train2017"
    val: str | None = "annotations/captions_val2017.json"
    val_images: str = "val2017"
    val_split: Literal["val", "test"] = "val"


class CocoCaptionsDataset(AnnotatedDataset):
    """Pictures in the order of the files, captions in theirs: one clip per picture, ``FOLDER/NAME``.

    One without a caption that can be used is a defect: ``missing_caption`` or ``broken_caption`` (half of a surrogate
    pair, which is no UTF-8).
    """

    options_class = CocoCaptionsOptions
    options: CocoCaptionsOptions

    def annotation_files(self) -> tuple[str | None, ...]:
        """Training and validation."""
        return self.options.train, self.options.val

    def read(self) -> tuple[list[Clip], list[Defect]]:
        """Clips, and what could not become one, split after split."""
        options = self.options
        clips: list[Clip] = []
        defects: list[Defect] = []
        parts: tuple[tuple[str | None, str, Split], ...] = (
            (options.train, options.train_images, "train"),
            (options.val, options.val_images, options.val_split),
        )
        for name, folder, split in parts:
            if name is not None:
                self._read_part(self._root / name, folder, split, (clips, defects))
        return clips, defects

    def _read_part(self, path: Path, folder: str, split: Split, found: tuple[list[Clip], list[Defect]]) -> None:
        values = read_annotations(path, dict)
        try:
            names = {int(image["id"]): str(image["file_name"]) for image in values["images"]}
            captions: dict[int, list[str]] = {image: [] for image in names}
            for row, annotation in enumerate(values["annotations"], start=1):
                image = int(annotation["image_id"])
                if image not in captions:
                    raise DatasetError(
                        f"{path}, annotation {row}: image_id {image} is not among its images; download it again"
                    )
                captions[image].append(" ".join(str(annotation["caption"]).split()))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(
                f"{path} is not COCO's: {error!r}; expected images with id and file_name, and annotations with "
                "image_id and caption"
            ) from error
        for image, name in names.items():
            video_id, place = f"{folder}/{name}", self._root / folder / name
            texts = tuple(dict.fromkeys(text for text in captions[image] if text))
            if not texts:
                words = f"{path} has no caption for image {image} ({name})"
                found[1].append(Defect(video_id, str(place), "missing_caption", words))
                continue
            try:
                found[0].append(Clip(video_id=video_id, path=str(place), split=split, captions=texts))
            except ValidationError as error:
                words = validation_message(error, Clip, source=f"{path}, image {image}")
                found[1].append(Defect(printable(video_id), printable(place), "broken_caption", words))
