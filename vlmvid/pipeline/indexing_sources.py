"""What goes into a video index: a folder of videos, a manifest, or the stored features of an encode artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vlmvid.artifacts import Manifest, Store, hash_json
from vlmvid.artifacts.files import MissingResult, read_json
from vlmvid.artifacts.store import MANIFEST_FILE
from vlmvid.config import Recipe
from vlmvid.config.base import Config
from vlmvid.config.schema import DataConfig
from vlmvid.data.files import VIDEO_SUFFIXES, list_videos
from vlmvid.errors import ArtifactError, ConfigError, DecodeError, VlmvidError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.encode import read_features, read_patches, read_times
from vlmvid.pipeline.index import IndexRow, read_index
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.sources import Sources
from vlmvid.types import Clip


class ClipToEmbed(Config):
    """One clip as a shard's task needs it; `place` is its row in an encode artifact's index, else -1."""

    key: str
    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None
    source_sha256: str
    place: int = -1


@dataclass(frozen=True)
class Listed:
    """One clip of a source, with the key of what the model makes of it; or without, and why."""

    clip: Clip
    source_sha256: str
    key: str = ""
    place: int = -1
    error: DecodeError | None = None

    @property
    def to_embed(self) -> ClipToEmbed:
        """What a task needs of it."""
        return ClipToEmbed(
            key=self.key,
            video_id=self.clip.video_id,
            path=self.clip.path,
            start_seconds=self.clip.start_seconds,
            end_seconds=self.clip.end_seconds,
            source_sha256=self.source_sha256,
            place=self.place,
        )


def list_clips(videos: str, store: Store, salt: Sequence[str]) -> list[Listed]:
    """The clips of a source in a stable order; no video is opened, but hashed if it was not before.

    `salt` is what decides an embedding besides the clip: it enters the keys.

    Raises:
        ConfigError: `videos` is neither a folder with videos nor a file.
        DatasetError: it is a manifest, and a wrong one.
        ArtifactError: it is an artifact whose recipe or files are gone, or of another stage than encode.
    """
    artifact = stored_artifact(videos)
    if artifact is not None:
        return list(_of_artifact(artifact, salt))
    return list(_of_videos(Path(videos), store, salt))


def stored_artifact(videos: str) -> Path | None:
    """The folder of an encode artifact at `videos`; None where it is none. Raises ArtifactError for another stage's."""
    folder = Path(videos)
    try:
        manifest = Manifest.model_validate(read_json(folder / MANIFEST_FILE))
    except (MissingResult, ValidationError):
        return None
    if manifest.stage != "encode":
        raise ArtifactError(
            f"{folder} is an artifact of the stage {manifest.stage!r}; give the folder that `vlmvid encode` prints, a "
            "folder of videos, or a manifest"
        )
    return folder


def artifact_recipe(folder: Path) -> Recipe:
    """The recipe that made an encode artifact; raises ArtifactError when none makes it from today's files and code."""
    return _context_of(folder, (folder / MANIFEST_FILE).stat().st_mtime_ns).recipe


def artifact_features(folder: Path) -> dict[str, Any]:
    """What decides the features of an encode artifact, as `StageKeys.features_config`; raises as `artifact_recipe`."""
    return _context_of(folder, (folder / MANIFEST_FILE).stat().st_mtime_ns).keys.features_config()


def artifact_values(folder: Path, places: Sequence[int], reads: str) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """The stored features (n, S, C), or patch tokens (n, S, P, C), of these rows of an encode artifact's index.

    And when each of the S was shown, (n, S) in seconds from the clip's start, where the recipe keeps that.
    """
    context = _context_of(folder, (folder / MANIFEST_FILE).stat().st_mtime_ns)
    index = read_index(folder)
    rows = [index[place] for place in places]
    values = read_patches(context, rows) if reads == "tokens" else read_features(context, rows)
    return values, read_times(context, rows) if context.recipe.encode.keep_times else None


def _of_videos(videos: Path, store: Store, salt: Sequence[str]) -> Iterator[Listed]:
    sources = Sources(_data_config(videos), store)
    clips, defects = sources.dataset.clips(store.home)
    for defect in defects:
        clip = Clip(video_id=defect.video_id, path=defect.path)
        yield Listed(clip, "", error=DecodeError(defect.message, reason_code=defect.reason_code))
    for clip in clips:
        error = sources.refusal(Path(clip.path))
        if error is not None:
            yield Listed(clip, "", error=error)
            continue
        digest = sources.digest(Path(clip.path))
        yield Listed(clip, digest, embedding_key(salt, digest, clip))


def embedding_key(salt: Sequence[str], source_sha256: str, clip: Clip) -> str:
    """The key of what the model makes of a clip of a file of that content; `salt` as `list_clips`."""
    return hash_json([*salt, source_sha256, clip.start_seconds, clip.end_seconds])


def _data_config(videos: Path) -> DataConfig:
    if videos.is_dir():
        names, unlisted = list_videos(videos)
        if not names and not unlisted:
            raise ConfigError(
                f"the folder {videos} holds no video (looked for {', '.join(VIDEO_SUFFIXES)}); give another folder, a "
                "manifest, or an encode artifact"
            )
        return DataConfig(name="folder", options={"root": str(videos)})
    if videos.is_file():
        return DataConfig(name="manifest", options={"path": str(videos)})
    raise ConfigError(
        f"{videos} is neither a folder nor a file; give a folder of videos, a manifest (JSON Lines or Parquet), or the "
        "folder that `vlmvid encode` prints"
    )


def _of_artifact(folder: Path, salt: Sequence[str]) -> Iterator[Listed]:
    context = _context_of(folder, (folder / MANIFEST_FILE).stat().st_mtime_ns)
    rows = {row.clip.video_id: row for row in read_rows(context)}
    for place, row in enumerate(read_index(folder)):
        source = rows.get(row.video_id)
        if source is None:
            raise ArtifactError(
                f"the encode artifact {folder} names {row.video_id!r}, which its recipe's dataset does not have; run "
                "`vlmvid encode` again and give the folder it prints"
            )
        clip = source.clip.model_copy(update={"path": source.path})
        if row.status != "ok":
            yield Listed(clip, source.source_sha256, error=DecodeError(row.message, reason_code=row.reason_code))
        else:
            yield Listed(clip, source.source_sha256, _key_of_row(row, salt), place)


def _key_of_row(row: IndexRow, salt: Sequence[str]) -> str:
    return hash_json([*salt, "stored", row.key, row.tokens_key])


@lru_cache(maxsize=2)
def _context_of(folder: Path, mtime_ns: int) -> RunContext:
    """The recipe and store of an encode artifact, found as its home has them.

    Raises ArtifactError when no recipe makes it from today's files and code.
    """
    home = folder.parents[2]
    manifest = Manifest.model_validate(read_json(folder / MANIFEST_FILE))
    for path in sorted((home / "recipes").glob("*.yaml")):
        context = open_context(RunRequest(recipe=str(path), home=str(home)))
        try:
            fits = context.recipe.name == manifest.recipe and context.keys.key("encode") == folder.name
        except VlmvidError:  # an old variant of the recipe whose files are gone
            continue
        if fits:
            return context
    raise ArtifactError(
        f"no recipe in {home} makes the encode artifact {folder.name} from today's files and code; "
        "run `vlmvid encode` again and give the folder it prints"
    )
