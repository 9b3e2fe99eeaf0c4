"""VATEX: ten-second clips of YouTube with ten English and ten Chinese captions each.

Reads the authors' JSON: a list of ``{"videoID": "<id>_000040_000050", "enCap": [..], "chCap": [..]}``. The two numbers
are the clip's window in seconds: a file of that whole name is the clip, a file named by the id alone is the YouTube
video, of which the window is taken. Many videos are gone; each is listed and fails at ingest with its name, so
that a report can say how many are left.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vlmvid.config.base import Config
from vlmvid.data.base import Dataset, Defect, require_unique_ids
from vlmvid.data.files import find_root
from vlmvid.data.tables import read_annotations, read_ids, videos_by_stem
from vlmvid.errors import DatasetError
from vlmvid.types import Clip, Split

_WINDOW = re.compile(r"(.+)_(\d{6})_(\d{6})")
_CAPTIONS = {"en": "enCap", "zh": "chCap"}


class VatexOptions(Config):
    """The folder of the videos (searched in full) and the authors' files, whose paths are relative to it.

    The retrieval split of the literature is not the authors': with `test_list`, the ids of the validation file that it
    names, one per line, are the test split, and the file `test` is not read.
    """

    root: str
    train: str | None = "vatex_training_v1.0.json"
    val: str | None = "vatex_validation_v1.0.json"
    test: str | None = "vatex_public_test_english_v1.1.json"
    test_list: str | None = None
    language: Literal["en", "zh"] = "en"


class VatexDataset(Dataset):
    """Clips in the order of the files: training, validation, test."""

    options_class = VatexOptions
    options: VatexOptions

    def __init__(self, options: VatexOptions) -> None:
        super().__init__(options)
        self._root = find_root(options.root, None)

    def key_config(self) -> dict[str, Any]:
        """The language, and which file is which split."""
        return self.options.model_dump(mode="json", exclude={"root"})

    def is_index(self, path: Path) -> bool:
        """Whether `path` is one of the annotation files."""
        return path in self._annotations.values()

    def source_files(self) -> dict[str, Path]:
        """The annotation files and the video of every clip."""
        return self._annotations | {Path(clip.path).name: Path(clip.path) for clip in self._read[0]}

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """One clip per annotated video with a caption in the language asked for."""
        return list(self._read[0]), list(self._read[1])

    @property
    def _files(self) -> dict[Split, str]:
        options = self.options
        test = options.test if options.test_list is None else None
        named: dict[Split, str | None] = {"train": options.train, "val": options.val, "test": test}
        return {split: name for split, name in named.items() if name is not None}

    @property
    def _annotations(self) -> dict[str, Path]:
        names = [*self._files.values(), *([self.options.test_list] if self.options.test_list else [])]
        return {name: self._root / name for name in names}

    @cached_property
    def _read(self) -> tuple[list[Clip], list[Defect]]:
        videos = videos_by_stem(self._root)
        test_ids = set(read_ids(self._root / self.options.test_list)) if self.options.test_list else set[str]()
        clips: list[Clip] = []
        defects: list[Defect] = []
        for split, name in self._files.items():
            for row, entry in enumerate(read_annotations(self._root / name, list), start=1):
                where = f"{self._root / name}, entry {row}"
                made = self._clip(entry, split, where, videos)
                if isinstance(made, Defect):
                    defects.append(made)
                elif split == "val" and made.video_id in test_ids:
                    test_ids.discard(made.video_id)
                    clips.append(made.model_copy(update={"split": "test"}))
                else:
                    clips.append(made)
        strangers = test_ids - {defect.video_id for defect in defects}
        if strangers:
            raise DatasetError(
                f"{self.options.test_list} names {len(strangers)} ids that {self.options.val} lacks, e.g. "
                f"{min(strangers)}; take the list of this file"
            )
        require_unique_ids(clips)
        return clips, defects

    def _clip(self, entry: Any, split: Split, where: str, videos: dict[str, Path]) -> Clip | Defect:
        try:
            video_id = str(entry["videoID"])
            texts = entry.get(_CAPTIONS[self.options.language]) or []
            captions = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{where} is not VATEX's: {error!r}; expected videoID and {_CAPTIONS[self.options.language]}"
            ) from error
        path = videos.get(video_id)
        start, end = 0.0, None
        match = _WINDOW.fullmatch(video_id)
        if path is None and match is not None and match[1] in videos:
            path, start, end = videos[match[1]], float(match[2]), float(match[3])
        path = path or self._root / f"{video_id}.mp4"
        if end is not None and end <= start:
            words = f"{where}: {video_id!r} names no window: {start} to {end} seconds"
            return Defect(video_id, str(path), "empty_window", words)
        if not captions:
            words = f"{where}: {video_id!r} has no caption in {self.options.language!r}"
            return Defect(video_id, str(path), "missing_caption", words)
        source = match[1] if match is not None else video_id
        return Clip(
            video_id=video_id,
            path=str(path),
            start_seconds=start,
            end_seconds=end,
            split=split,
            captions=captions,
            attributes={"source": source},
        )
