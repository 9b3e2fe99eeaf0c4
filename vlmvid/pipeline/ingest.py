"""The ingest stage: the dataset's clips with the digests of their files; generated videos are made."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from vlmvid.artifacts import ArtifactRef, LedgerRow, hash_json
from vlmvid.artifacts.files import canonical_json, write_bytes, write_json
from vlmvid.artifacts.ledger import append_line, read_lines
from vlmvid.config.schema import StageName
from vlmvid.data.base import Defect
from vlmvid.data.caption_augment import with_more_captions
from vlmvid.errors import DecodeError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.index import IndexRow, failed_ids, require_enough, status_counts
from vlmvid.pipeline.request import RunRequest
from vlmvid.pipeline.sources import CLIPS_FILE, SOURCES_FILE, SourceRow, Sources
from vlmvid.pipeline.sources import read_rows as read_artifact_rows
from vlmvid.types import Clip

logger = logging.getLogger(__name__)
STAGE = "ingest"
MADE_FILE = "made.jsonl"


def compute(request: RunRequest) -> ArtifactRef:
    """List the clips, make the generated ones that are missing, digest every file.

    An item that cannot become a clip is a ledger row; too many of them raise StageError.
    """
    context = open_context(request)
    broken = _materialise(context)
    clips, defects = context.sources.dataset.clips(context.sources.folder)
    augmentation = context.recipe.data.augment_captions
    if augmentation is not None:
        clips = [with_more_captions(clip, augmentation) for clip in clips]
    rows: list[SourceRow] = []
    for clip in clips:
        path = context.sources.folder / clip.path  # an absolute clip.path stays as it is
        error = broken.get(clip.path) or context.sources.refusal(path)
        if error is not None:
            defects.append(Defect(clip.video_id, str(path), error.reason_code, str(error)))
        else:
            rows.append(SourceRow(clip=clip, path=str(path), source_sha256=context.sources.digest(path)))
    leaking = context.sources.dataset.leaking([(row.clip, row.source_sha256) for row in rows])
    rows = [row for row in rows if row.clip.video_id not in leaking]
    index = _record(context, rows, defects)
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    lines = "".join(row.model_dump_json() + "\n" for row in rows)

    def write(folder: Path) -> None:
        write_bytes(folder / CLIPS_FILE, lines.encode())
        write_json(folder / SOURCES_FILE, context.sources.digests)

    ref = context.publish("ingest", "clips", write, counts=status_counts(index), failed=failed_ids(index))
    context.log_dataset("ingest", len(rows), "ingest")
    return ref


def read_rows(context: RunContext, stage: StageName | None = None) -> list[SourceRow]:
    """The clips of the recipe with their files, in manifest order: those that curation kept, if it curates.

    `stage` asks for the clips of ``ingest`` or ``curate`` instead.
    """
    stage = stage or context.keys.rows_stage
    rows = _stored_rows(context, stage)
    if stage == "ingest":
        return list(rows)
    # Where the files lie enters no key: after the dataset's folder has moved only ingest runs again.
    ingested = {row.clip.video_id: row for row in _stored_rows(context, "ingest")}
    return [ingested[row.clip.video_id].model_copy(update={"clip": row.clip}) for row in rows]


def read_clips(context: RunContext) -> list[Clip]:
    """The clips of `read_rows`, without their files."""
    return [row.clip for row in read_rows(context)]


def _stored_rows(context: RunContext, stage: StageName) -> tuple[SourceRow, ...]:
    folder = context.folder(stage)
    return _rows_of(folder, (folder / CLIPS_FILE).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _rows_of(artifact: Path, mtime_ns: int) -> tuple[SourceRow, ...]:
    return tuple(read_artifact_rows(artifact))


def _materialise(context: RunContext) -> dict[str, DecodeError]:
    """Make the generated files that are missing or damaged; returns those that cannot be made."""
    sources = context.sources
    names = sources.dataset.generated_files()
    made_log = sources.folder / MADE_FILE
    made = {row["name"]: row for row in read_lines(made_log)}
    todo = [name for name in names if not _is_made(sources, name, made.get(name))]
    broken: dict[str, DecodeError] = {}
    context.progress.begin(STAGE, len(todo), "video")
    for name in todo:
        try:
            sources.dataset.materialise(name, sources.folder)
        except DecodeError as error:
            broken[name] = error
        else:
            row = {"name": name, "source": sources.source_of(name), "sha256": sources.digest(sources.folder / name)}
            append_line(made_log, canonical_json(row))
        context.progress.advance(STAGE)
    if todo:
        context.store.events.emit("videos.made", made=len(todo) - len(broken), broken=len(broken))
    return broken


def _is_made(sources: Sources, name: str, row: dict[str, str] | None) -> bool:
    """Whether a generated file is there, whole, and made from the source as it is now."""
    if row is None or row["source"] != sources.source_of(name):
        return False
    return sources.digest(sources.folder / name) == row["sha256"]


def _record(context: RunContext, rows: list[SourceRow], defects: list[Defect]) -> list[IndexRow]:
    index = [IndexRow(video_id=row.clip.video_id, key=row.source_sha256, status="ok") for row in rows]
    for defect in defects:
        logger.warning("ingest: %s: %s (%s)", defect.video_id, defect.message, defect.reason_code)
        index.append(
            IndexRow(
                video_id=defect.video_id,
                key=hash_json([defect.video_id, defect.path]),
                status="failed_permanent",
                reason_code=defect.reason_code,
                message=defect.message,
            )
        )
    context.store.ledger(STAGE).record_changes(
        LedgerRow.model_validate(
            {
                "key": hash_json([row.video_id, row.key]),
                "video_id": row.video_id,
                "stage": STAGE,
                "status": row.status,
                "reason_code": row.reason_code,
                "message": row.message,
            }
        )
        for row in index
    )
    return index
