"""Clips of a video index that stay in it though their files cannot be read just now."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from vlmvid.artifacts import Store
from vlmvid.errors import ArtifactError
from vlmvid.pipeline.indexing_sources import Listed, embedding_key
from vlmvid.serving.video_index_files import STAGE, IndexDescription, TableRow, read_rows
from vlmvid.types import Clip

logger = logging.getLogger(__name__)


def is_passing(one: Listed) -> bool:
    """Whether what keeps a file, or a folder, from being read may pass: a storage that is away, a closed folder."""
    return one.error is not None and (one.error.transient or one.error.reason_code == "unreadable")


def with_kept_rows(
    store: Store, before: IndexDescription | None, listed: Sequence[Listed], salt: Sequence[str]
) -> list[Listed]:
    """The clips of a source; those that cannot be read just now as the index in the store has them.

    They are the clips whose file gives an error that may pass, and after all others those in folders that cannot be
    listed. `salt` as `vlmvid.pipeline.indexing_sources.list_clips`.
    """
    passing = [one for one in listed if is_passing(one)]
    if before is None or not passing:
        return list(listed)
    try:
        kept = {row.video_id: _kept(row, salt) for row in read_rows(store.home, before)}
    except ArtifactError as error:
        logger.warning("%s: %s", STAGE, error)
        return list(listed)
    known = store.clips(STAGE).rows(one.key for one in kept.values())
    kept = {video_id: one for video_id, one in kept.items() if one.key in known}
    found = [_as_before(one, kept.get(one.clip.video_id)) for one in listed]
    ids, folders = {one.clip.video_id for one in listed}, tuple(f"{one.clip.path}/" for one in passing)
    return found + [one for video_id, one in kept.items() if one.clip.path.startswith(folders) and video_id not in ids]


def _as_before(one: Listed, kept: Listed | None) -> Listed:
    if not is_passing(one) or kept is None or kept.clip.path != one.clip.path:
        return one
    logger.warning("%s: %s: %s; its embedding stays", STAGE, one.clip.video_id, one.error)
    return kept


def _kept(row: TableRow, salt: Sequence[str]) -> Listed:
    clip = Clip(
        video_id=row.video_id,
        path=row.path,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        captions=row.captions,
        attributes=dict(row.attributes),
    )
    return Listed(clip, row.source_sha256, embedding_key(salt, row.source_sha256, clip))
