"""The decode stage: source files to uint8 frames, shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow
from vlmvid.errors import DecodeError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.index import failed_ids, make_index, require_enough, status_counts, write_index
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk, known_failures
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import FrameBatch

logger = logging.getLogger(__name__)
STAGE = "decode"


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to decode: clips with neither a result nor a known permanent failure."""
    context = open_context(request)
    rows = read_rows(context)
    keys = {row.clip.video_id: _key(context, row) for row in rows}
    done = context.store.clips(STAGE).rows(keys.values())
    failed = known_failures(context, STAGE, keys.values())
    seen: set[str] = set()
    todo = []
    for video_id, key in keys.items():
        if key not in done and key not in failed and key not in seen:
            seen.add(key)  # the same content under two names is decoded once
            todo.append(video_id)
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Decode the clips of one shard and store their frames; a broken clip is a ledger row."""
    context = open_context(request)
    by_id = {row.clip.video_id: row for row in read_rows(context)}
    ledger = context.store.ledger(STAGE)
    attempts: dict[str, int] | None = None  # read only when a clip fails: the ledger holds every clip
    good: list[tuple[str, str, FrameBatch]] = []
    bad: list[LedgerRow] = []
    for video_id in job.video_ids:
        row = by_id[video_id]
        key = _key(context, row)
        outcome = _decode(context, row)
        if isinstance(outcome, FrameBatch):
            good.append((video_id, key, outcome))
        else:
            status = "failed_transient" if outcome.transient else "failed_permanent"
            if attempts is None:
                attempts = {known: entry.attempts for known, entry in ledger.rows().items()}
            bad.append(
                LedgerRow.model_validate(
                    {
                        "key": key,
                        "video_id": video_id,
                        "stage": STAGE,
                        "status": status,
                        "reason_code": outcome.reason_code,
                        "message": str(outcome),
                        "attempts": attempts.get(key, 0) + 1,
                    }
                )
            )
        context.progress.advance(STAGE)
    shard = _write(context, good)
    ledger.record(
        [LedgerRow(key=key, video_id=video_id, stage=STAGE, status="ok", shard=shard) for video_id, key, _ in good]
        + bad
    )
    context.store.events.emit("shard.written", stage=STAGE, shard=job.index, ok=len(good), failed=len(bad))
    return ShardReport(ok=len(good), failed=len(bad))


def finish(request: RunRequest) -> ArtifactRef:
    """Write the index of all clips; raises StageError when too many failed."""
    context = open_context(request)
    keys = [(row.clip.video_id, _key(context, row)) for row in read_rows(context)]
    rows = context.store.clips(STAGE).rows(key for _, key in keys)
    index = make_index(keys, rows, context.store.ledger(STAGE).rows())
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    for row in index:
        if row.status != "ok":
            logger.warning("decode: %s: %s (%s)", row.video_id, row.message, row.reason_code)
    return context.publish(
        "decode",
        "frames",
        lambda folder: write_index(index, folder),
        counts=status_counts(index),
        failed=failed_ids(index),
    )


def _key(context: RunContext, row: SourceRow) -> str:
    return context.keys.decode_key(row.source_sha256, row.clip.start_seconds, row.clip.end_seconds)


def _decode(context: RunContext, row: SourceRow) -> FrameBatch | DecodeError:
    from vlmvid.video.clip_decoder import decode_clip
    from vlmvid.video.options import ClipJob

    outcome: FrameBatch | DecodeError
    try:
        job = ClipJob(row.path, row.clip.start_seconds, row.clip.end_seconds, identity=row.source_sha256)
        outcome = decode_clip(job, context.recipe.decode)
    except DecodeError as error:
        outcome = error
    except OSError as error:
        outcome = DecodeError(f"{row.path} could not be read: {error}", reason_code="io_error", transient=True)
    # Frames, and failures, are filed under the content that ingest saw: another content is another clip.
    if context.sources.digest(Path(row.path)) != row.source_sha256:
        return DecodeError(
            f"{row.path} changed since it was ingested; run again to take its new content",
            reason_code="changed_during_run",
            transient=True,
        )
    return outcome


def _write(context: RunContext, good: Sequence[tuple[str, str, FrameBatch]]) -> str:
    if not good:
        return ""
    arrays: dict[str, NDArray[np.generic]] = {
        "frames": np.stack([batch.frames for _, _, batch in good]),
        "pts_seconds": np.stack([batch.pts_seconds for _, _, batch in good]),
    }
    return context.store.clips(STAGE).write([key for _, key, _ in good], arrays)
