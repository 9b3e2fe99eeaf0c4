"""Decoding: source files to uint8 frames, for the stage that keeps them and for the encode stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow
from vlmvid.config.schema import RunOptions
from vlmvid.errors import DecodeError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.index import IndexRow, failed_ids, make_index, require_enough, status_counts, write_index
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk, complete_ledger, known_failures
from vlmvid.pipeline.sources import SourceRow
from vlmvid.types import FrameBatch
from vlmvid.video.options import ClipJob, DecodeLimits

if TYPE_CHECKING:
    from vlmvid.video.isolation.pool import Outcomes

T = TypeVar("T")
logger = logging.getLogger(__name__)
STAGE = "decode"
MAX_DEFAULT_WORKERS = 16
# The option that sets the limit which a clip hit, by reason code.
LIMITS = {
    "timeout": "decode_timeout_seconds",
    "memory_limit": "decode_memory_mb",
    "frame_too_large": "max_frame_pixels",
}


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to decode: clips with neither stored frames nor a known permanent failure."""
    context = open_context(request)
    keys = {row.clip.video_id: clip_key(context, row) for row in read_rows(context)}
    done = context.store.clips(STAGE).rows(keys.values())
    failed = known_failures(context, STAGE, keys.values())
    todo = first_of_each({video_id: key for video_id, key in keys.items() if key not in done and key not in failed})
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Decode the clips of one shard and store their frames; a broken clip is a ledger row."""
    context = open_context(request)
    by_id = {row.clip.video_id: row for row in read_rows(context)}
    rows = [by_id[video_id] for video_id in job.video_ids]
    good: list[SourceRow] = []
    bad: list[tuple[SourceRow, DecodeError]] = []
    arrays: dict[str, NDArray[np.generic]] = {}
    with closing(decode_rows(context, rows)) as outcomes:
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, FrameBatch):
                _put(arrays, len(rows), len(good), outcome)
                good.append(row)
            else:
                bad.append((row, outcome))
            context.progress.advance(STAGE)
    shard = ""
    if good:
        keys = [clip_key(context, row) for row in good]
        shard = context.store.clips(STAGE).write(keys, {name: array[: len(good)] for name, array in arrays.items()})
    record_outcomes(context, good, bad, shard=shard)
    context.store.events.emit("shard.written", stage=STAGE, shard=job.index, ok=len(good), failed=len(bad))
    return ShardReport(ok=len(good), failed=len(bad))


def finish(request: RunRequest) -> ArtifactRef:
    """Write the index of all clips; raises StageError when too many failed."""
    context = open_context(request)
    keys = [(row.clip.video_id, clip_key(context, row)) for row in read_rows(context)]
    rows = context.store.clips(STAGE).rows(key for _, key in keys)
    index = make_index(keys, rows, context.store.ledger(STAGE).rows())
    complete_ledger(context, STAGE, index)
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    warn_of_failures(index)
    return context.publish(
        "decode",
        "frames",
        lambda folder: write_index(index, folder),
        counts=status_counts(index),
        failed=failed_ids(index),
    )


def clip_key(context: RunContext, row: SourceRow) -> str:
    """The key of a row's frames."""
    return context.keys.decode_key(row.source_sha256, row.clip.start_seconds, row.clip.end_seconds)


def first_of_each(keys: dict[str, str]) -> list[str]:
    """The video_ids of `keys` in order, one per key: the same content under two names is worked on once."""
    first: dict[str, str] = {}
    for video_id, key in keys.items():
        first.setdefault(key, video_id)
    return list(first.values())


def decode_rows(context: RunContext, rows: Sequence[SourceRow]) -> Generator[FrameBatch | DecodeError]:
    """The frames of each row, or why there are none, in the order of `rows`; later rows are decoded ahead."""
    if rows:
        with closing(unchecked_outcomes(context, rows)) as outcomes:
            yield from checked_outcomes(context, rows, outcomes)


def unchecked_outcomes(context: RunContext, rows: Iterable[SourceRow]) -> Outcomes[FrameBatch | DecodeError]:
    """What the pool of this process makes of the rows, for `checked_outcomes`; any thread may close it."""
    from vlmvid.video.isolation.pool import shared_pool

    options = context.recipe.options
    pool = shared_pool(context.recipe.decode, decode_limits(options), num_workers(options))
    return pool.decode(clip_jobs(context, rows))


def clip_jobs(context: RunContext, rows: Iterable[SourceRow]) -> list[ClipJob]:
    """The rows as the video package takes them; packet indexes are kept in the store, by content."""
    folder, code = context.store.home / "packet_indexes", context.keys.packet_index_code
    return [
        ClipJob(
            row.path,
            row.clip.start_seconds,
            row.clip.end_seconds,
            identity=row.source_sha256,
            index_path=str(folder / row.source_sha256[:2] / f"{row.source_sha256}-{code}.npz"),
        )
        for row in rows
    ]


def checked_outcomes(
    context: RunContext, rows: Sequence[SourceRow], outcomes: Iterable[T | DecodeError]
) -> Generator[T | DecodeError]:
    """`outcomes` of `rows`, one each, as they may be filed.

    Results and failures belong to the content that ingest saw: for a file that has another one now
    the outcome is a passing failure, and so it is for one that is gone or refused. A clip that hit a
    limit is told which option raises it.
    """
    for row, outcome in zip(rows, outcomes, strict=True):
        if context.sources.digest(Path(row.path)) != row.source_sha256:
            yield _changed(context, row)
        elif isinstance(outcome, DecodeError):
            yield _with_advice(outcome, context.recipe.options)
        else:
            yield outcome


def record_outcomes(
    context: RunContext,
    good: Iterable[SourceRow],
    bad: Sequence[tuple[SourceRow, DecodeError]],
    *,
    shard: str = "",
) -> None:
    """Write the ledger of decoding; `shard` names where the frames are kept, if they are."""
    ledger = context.store.ledger(STAGE)
    ledger.record(
        LedgerRow(key=clip_key(context, row), video_id=row.clip.video_id, stage=STAGE, status="ok", shard=shard)
        for row in good
    )
    ledger.record_failures([(clip_key(context, row), row.clip.video_id, error) for row, error in bad])


def warn_of_failures(index: Iterable[IndexRow], stage: str = STAGE) -> None:
    """One log line per clip that could not be decoded, or for which `stage` has no result."""
    for row in index:
        if row.status != "ok":
            logger.warning("%s: %s: %s (%s)", stage, row.video_id, row.message, row.reason_code)


def num_workers(options: RunOptions) -> int:
    """How many processes decode; 0 is this process."""
    if options.decode_workers is not None:
        return options.decode_workers
    if os.name != "posix":
        return 0  # workers do not run there
    # What a container or a batch system grants, where the system can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_WORKERS)


def decode_limits(options: RunOptions) -> DecodeLimits:
    """What one file may cost before it is given up."""
    return DecodeLimits(
        seconds=options.decode_timeout_seconds,
        memory_bytes=options.decode_memory_mb * 2**20,
        max_frame_pixels=options.max_frame_pixels,
    )


def _changed(context: RunContext, row: SourceRow) -> DecodeError:
    """The passing failure of a file that is not what ingest saw."""
    refusal = context.sources.refusal(Path(row.path))
    if refusal is None:
        words = f"{row.path} changed since it was ingested; run again to take its new content"
    elif refusal.reason_code == "missing_file":
        words = f"{row.path} is gone since it was ingested; put it back, or take it out of the dataset, and run again"
    else:
        words = (
            f"{row.path} was read when it was ingested and is refused now ({refusal.reason_code}): {refusal}; "
            "mend that and run again"
        )
    return DecodeError(words, reason_code="changed_during_run", transient=True)


def _with_advice(error: DecodeError, options: RunOptions) -> DecodeError:
    option = LIMITS.get(error.reason_code)
    if option is None:
        return error
    words = (
        f"{error}; the limit is options.{option}, now {getattr(options, option)}: after raising it run again with "
        "--retry failed"
    )
    return DecodeError(words, reason_code=error.reason_code, transient=error.transient)


def _put(arrays: dict[str, NDArray[np.generic]], num_rows: int, number: int, batch: FrameBatch) -> None:
    """Copy a clip to row `number` of the shard's arrays, so that a shard's frames are in memory once."""
    for name, values in (("frames", batch.frames), ("pts_seconds", batch.pts_seconds)):
        if name not in arrays:
            arrays[name] = np.empty((num_rows, *values.shape), values.dtype)
        arrays[name][number] = values
