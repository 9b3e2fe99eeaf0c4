"""VATEX: ten-second clips of YouTube with ten English and ten Chinese captions each.

Reads the authors' JSON: a list of ``{"videoID": "<id>_000040_000050", "enCap": [..], "chCap": [..]}``. The two numbers
are the clip's window in seconds: a file of that whole name is the clip, a file named by the id alone is the YouTube
video, of which the window is taken. Many videos are gone; each is listed and fails at ingest with its name, so
that a report can say how many are left.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from vlmvid.config.base import Config
from vlmvid.data.annotated import AnnotatedDataset
from vlmvid.data.base import Defect
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


class VatexDataset(AnnotatedDataset):
    """Clips in the order of the files: training, validation, test; those with a caption in the language asked for.

    Defects are ``missing_caption`` and ``empty_window``.
    """

    options_class = VatexOptions
    options: VatexOptions

    @property
    def _files(self) -> dict[Split, str]:
        options = self.options
        test = options.test if options.test_list is None else None
        named: dict[Split, str | None] = {"train": options.train, "val": options.val, "test": test}
        return {split: name for split, name in named.items() if name is not None}

    def annotation_files(self) -> tuple[str | None, ...]:
        """Those of the splits, and the list of test ids."""
        return *self._files.values(), self.options.test_list

    def source_name(self, clip: Clip) -> str:
        """The video's file name: several clips may be of one video."""
        return Path(clip.path).name

    def read(self) -> tuple[list[Clip], list[Defect]]:
        """Clips, and what could not become one, split after split."""
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
