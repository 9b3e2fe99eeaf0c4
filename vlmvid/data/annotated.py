"""Datasets that are a folder of media with the annotation files of their publisher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmvid.data.base import Dataset, Defect, require_unique_ids
from vlmvid.data.files import find_root
from vlmvid.types import Clip


class AnnotatedDataset(Dataset):
    """What such datasets share: the option `root`, to which names of files are relative, and files that are read once.

    Media and annotation files are sources; a medium that is not there fails at ingest.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._root = find_root(options.root, None)

    @abstractmethod
    def annotation_files(self) -> Sequence[str | None]:
        """The annotation files that the options name; None = not read."""

    @abstractmethod
    def read(self) -> tuple[list[Clip], list[Defect]]:
        """Clips and defects in the order of the files; raises DatasetError for files of another layout."""

    def source_name(self, clip: Clip) -> str:
        """What a clip's medium is called among the sources."""
        return clip.video_id

    def key_config(self) -> dict[str, Any]:
        """All options but the place."""
        values: dict[str, Any] = self.options.model_dump(mode="json", exclude={"root"})
        return values

    def is_index(self, path: Path) -> bool:
        """Whether `path` is one of the annotation files."""
        return path in self._annotations.values()

    def source_files(self) -> dict[str, Path]:
        """The annotation files and the medium of every clip."""
        return self._annotations | {self.source_name(clip): Path(clip.path) for clip in self._read[0]}

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """Those of `read`."""
        return list(self._read[0]), list(self._read[1])

    @property
    def _annotations(self) -> dict[str, Path]:
        return {name: self._root / name for name in self.annotation_files() if name is not None}

    @cached_property
    def _read(self) -> tuple[list[Clip], list[Defect]]:
        clips, defects = self.read()
        require_unique_ids(clips)
        return clips, defects
