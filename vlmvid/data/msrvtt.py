"""MSR-VTT: 10,000 clips with 20 captions each, in the splits of the literature.

Reads what CLIP4Clip's users have: ``MSRVTT_data.json`` (``videos``, ``sentences``), ``MSRVTT_train.9k.csv`` or
``MSRVTT_train.7k.csv`` (column ``video_id``) and ``MSRVTT_JSFUSION_test.csv`` (the split 1k-A: one sentence for each of
1,000 videos). Without the two lists the split is that of the JSON itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from vlmvid.config.base import Config
from vlmvid.data.annotated import AnnotatedDataset
from vlmvid.data.base import Defect
from vlmvid.data.files import split_of
from vlmvid.data.tables import read_annotations, read_csv, videos_by_stem
from vlmvid.errors import DatasetError
from vlmvid.types import Clip, Split

_OFFICIAL: dict[str, Split] = {"train": "train", "validate": "val", "test": "test"}


class MsrvttOptions(Config):
    """The folder of the videos (searched in full) and the annotation files, whose paths are relative to it.

    `val_fraction` of the training videos become ``val``, chosen by their YouTube video, so that no two clips of one
    video are on both sides. Best epochs are then chosen on those and never on the test split.
    """

    root: str
    annotations: str = "MSRVTT_data.json"
    train_list: str | None = "MSRVTT_train.9k.csv"
    test_list: str | None = "MSRVTT_JSFUSION_test.csv"
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _lists_come_together(self) -> Self:
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError(
                f"train_list={self.train_list!r} and test_list={self.test_list!r}: give both, or null for both, which "
                "takes the split of the JSON"
            )
        return self


class MsrvttDataset(AnnotatedDataset):
    """One clip per video of a split: all its captions, and in 1k-A the one that the list gives.

    A video without any is a defect, ``missing_caption``; one that is not there is listed and fails at ingest.
    """

    options_class = MsrvttOptions
    options: MsrvttOptions

    def key_config(self) -> dict[str, Any]:
        """How validation videos are drawn; the rest is in the annotation files, which are sources."""
        return self.options.model_dump(mode="json", include={"val_fraction", "seed"})

    def annotation_files(self) -> tuple[str | None, ...]:
        """The JSON file and the lists of a split."""
        return self.options.annotations, self.options.train_list, self.options.test_list

    def source_name(self, clip: Clip) -> str:
        """The video's file name."""
        return Path(clip.path).name

    def read(self) -> tuple[list[Clip], list[Defect]]:
        """Clips, and what could not become one, in the order of the lists."""
        path = self._root / self.options.annotations
        values = read_annotations(path, dict)
        try:
            videos = {str(video["video_id"]): video for video in values["videos"]}
            captions: dict[str, list[str]] = {name: [] for name in videos}
            for sentence in values["sentences"]:
                captions.setdefault(str(sentence["video_id"]), []).append(str(sentence["caption"]).strip())
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{path} is not MSR-VTT's: {error!r}; expected videos with video_id, and sentences with video_id and "
                "caption"
            ) from error
        found = videos_by_stem(self._root)
        clips: list[Clip] = []
        defects: list[Defect] = []
        for name, (split, sentence) in self._splits(videos).items():
            texts = [sentence] if sentence else captions.get(name, [])
            texts = [text for text in dict.fromkeys(texts) if text]
            place = found.get(name, self._root / f"{name}.mp4")
            if not texts:
                words = f"{path} has no sentence for {name!r}, which a split names"
                defects.append(Defect(name, str(place), "missing_caption", words))
                continue
            source = youtube_id(videos.get(name, {}), name)
            if split == "train":
                split = split_of(source, self.options.seed, self.options.val_fraction, 0.0)
            clips.append(
                Clip(
                    video_id=name,
                    path=str(place),
                    split=split,
                    captions=tuple(texts),
                    attributes={"source": source},
                )
            )
        return clips, defects

    def _splits(self, videos: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[Split, str]]:
        """Per video its split and, where the list of 1k-A gives one, its caption."""
        if self.options.train_list is None or self.options.test_list is None:
            unknown = sorted({str(video.get("split")) for video in videos.values()} - set(_OFFICIAL))
            if unknown:
                raise DatasetError(
                    f"{self.options.annotations} gives videos the split {unknown[0]!r}; expected "
                    f"{', '.join(_OFFICIAL)}, or name train_list and test_list"
                )
            return {name: (_OFFICIAL[str(video["split"])], "") for name, video in videos.items()}
        test = read_csv(self._root / self.options.test_list, ["video_id", "sentence"])
        train = read_csv(self._root / self.options.train_list, ["video_id"])
        splits: dict[str, tuple[Split, str]] = {row["video_id"]: ("train", "") for row in train}
        both = sorted({row["video_id"] for row in test} & splits.keys())
        if both:
            raise DatasetError(
                f"{len(both)} videos are in {self.options.train_list} and in {self.options.test_list}, e.g. {both[0]}; "
                "take lists that fit together"
            )
        return splits | {row["video_id"]: ("test", row["sentence"].strip()) for row in test}


def youtube_id(video: Mapping[str, Any], name: str) -> str:
    """The YouTube video that a clip was cut from, by its address; `name` when there is none."""
    return str(video.get("url", "")).partition("?v=")[2].partition("&")[0] or name
