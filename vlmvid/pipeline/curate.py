"""The curate stage: measure every clip once, then keep those that pass the recipe's rules.

Measures are kept under the clip's content, decisions in the stage's artifact: another limit reads
the stored measures and opens no video. A clip that cannot be measured is a failed row of this stage;
it counts against the failure budget here and does not reach decoding.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, LedgerRow, Row, hash_json
from vlmvid.artifacts.files import write_bytes
from vlmvid.config.schema import CurateConfig
from vlmvid.data.curation import Candidate, Verdict, decide
from vlmvid.data.curation_captions import LanguageDetector
from vlmvid.errors import DecodeError, StageError
from vlmvid.pipeline.context import RunContext, open_context
from vlmvid.pipeline.decode import checked_outcomes, clip_jobs, decode_limits, first_of_each, num_workers
from vlmvid.pipeline.index import IndexRow, require_enough, status_counts, write_index
from vlmvid.pipeline.ingest import read_rows
from vlmvid.pipeline.request import RunRequest, ShardJob, ShardReport
from vlmvid.pipeline.sharding import chunk, known_failures
from vlmvid.pipeline.sources import CLIPS_FILE, SourceRow
from vlmvid.video.fingerprint import ClipMeasures, hash_text

logger = logging.getLogger(__name__)
STAGE = "curate"
TABLE_FILE = "curation.parquet"


def plan_shards(request: RunRequest) -> list[ShardJob]:
    """The shards still to measure: clips with neither measures nor a known permanent failure.

    Raises ConfigError for rules that cannot be applied, before anything is measured.
    """
    context = open_context(request)
    assert context.recipe.curate is not None  # the stage exists only with its section
    check_rules(context.recipe.curate)
    rows = {row.clip.video_id: row for row in read_rows(context, "ingest")}
    keys = {video_id: _measure_key(context, row) for video_id, row in rows.items()}
    done = context.store.clips(STAGE).rows(keys.values())
    ledger_keys = {video_id: _ledger_key(video_id, key) for video_id, key in keys.items()}
    failed = known_failures(context, STAGE, ledger_keys.values())
    todo = first_of_each(
        {video_id: key for video_id, key in keys.items() if key not in done and ledger_keys[video_id] not in failed}
    )
    context.progress.begin(STAGE, len(todo), "clip")
    return chunk(STAGE, todo, context.recipe.options.shard_size)


def run_shard(request: RunRequest, job: ShardJob) -> ShardReport:
    """Measure the clips of one shard and store what was found; a broken clip is a ledger row."""
    context = open_context(request)
    all_rows = read_rows(context, "ingest")
    by_id = {row.clip.video_id: row for row in all_rows}
    rows = [by_id[video_id] for video_id in job.video_ids]
    good: list[tuple[str, ClipMeasures]] = []
    bad: dict[str, DecodeError] = {}
    with closing(_measured(context, rows)) as outcomes:
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, ClipMeasures):
                good.append((_measure_key(context, row), outcome))
            else:
                bad[_measure_key(context, row)] = outcome
            context.progress.advance(STAGE)
    if good:
        context.store.clips(STAGE).write([key for key, _ in good], {"measures": _packed([m for _, m in good])})
    if bad:
        _record_failures(context, all_rows, bad)
    context.store.events.emit("shard.written", stage=STAGE, shard=job.index, ok=len(good), failed=len(bad))
    return ShardReport(ok=len(good), failed=len(bad))


def finish(request: RunRequest) -> ArtifactRef:
    """Decide on every clip and publish those that are kept, with a table of all.

    Raises StageError when too many clips failed, or when the rules keep none.
    """
    context = open_context(request)
    config = context.recipe.curate
    assert config is not None  # the stage exists only with its section
    judged = _judged(context, config)
    index = [clip.index_row for clip in judged]
    require_enough(STAGE, index, context.recipe.options.max_failed_fraction)
    _require_some(judged, config)
    _record_decisions(context, judged)
    for row in index:
        if row.status.startswith("failed"):
            logger.warning("curate: %s: %s (%s)", row.video_id, row.message, row.reason_code)
    kept = [clip.kept_row for clip in judged if clip.verdict is not None and clip.verdict.is_kept]
    lines = "".join(row.model_dump_json() + "\n" for row in kept)

    def write(folder: Path) -> None:
        write_bytes(folder / CLIPS_FILE, lines.encode())
        write_index(index, folder)
        _write_table(judged, folder / TABLE_FILE)

    # Filtered clips follow from the key; only failures may come back under the same one.
    failed = [row.video_id for row in index if row.status.startswith("failed")]
    return context.publish("curate", "clips", write, counts=_counts(judged, index), failed=failed)


def check_rules(config: CurateConfig) -> None:
    """Raise ConfigError for rules that cannot be applied."""
    if config.languages:
        LanguageDetector(config.languages)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One clip with what is known of it: measures and a verdict, or the ledger row of its failure."""

    row: SourceRow
    key: str
    measures: ClipMeasures | None
    verdict: Verdict | None
    location: Row
    failure: LedgerRow | None

    @property
    def index_row(self) -> IndexRow:
        if self.verdict is None:
            assert self.failure is not None  # a clip has one or the other
            status, reason, message = self.failure.status, self.failure.reason_code, self.failure.message
        else:
            status = "ok" if self.verdict.is_kept else "filtered"
            reason, message = self.verdict.rule, self.verdict.message
        return IndexRow(
            video_id=self.row.clip.video_id,
            key=self.key,
            status=status,
            reason_code=reason,
            message=message,
            shard=self.location.shard,
            row=self.location.row,
        )

    @property
    def kept_row(self) -> SourceRow:
        """The clip for later stages, without the captions that were dropped."""
        assert self.verdict is not None  # asked only for kept clips
        clip = self.row.clip.model_copy(update={"captions": self.verdict.captions})
        return self.row.model_copy(update={"clip": clip})


def _judged(context: RunContext, config: CurateConfig) -> list[_Judged]:
    """Every clip of the dataset, in manifest order."""
    rows = read_rows(context, "ingest")
    keys = [_measure_key(context, row) for row in rows]
    located = context.store.clips(STAGE).rows(keys)
    stored = context.store.clips(STAGE).gather("measures", list(located.values())) if located else None
    measures = {key: _unpacked(value) for key, value in zip(located, stored, strict=True)} if stored is not None else {}
    candidates = [
        Candidate(video_id=row.clip.video_id, content=key, measures=measures[key], captions=row.clip.captions)
        for row, key in zip(rows, keys, strict=True)
        if key in measures
    ]
    detector = LanguageDetector(config.languages) if config.languages else None
    verdicts = {c.video_id: v for c, v in zip(candidates, decide(candidates, config, detector), strict=True)}
    ledger = context.store.ledger(STAGE).rows() if len(candidates) < len(rows) else {}
    judged = []
    for row, key in zip(rows, keys, strict=True):
        failure = ledger.get(_ledger_key(row.clip.video_id, key))
        if key not in measures and failure is None:
            raise StageError(
                f"clip {row.clip.video_id!r} (key {key}) has neither measures nor a ledger row; run the stage again"
            )
        judged.append(
            _Judged(
                row, key, measures.get(key), verdicts.get(row.clip.video_id), located.get(key, Row("", -1)), failure
            )
        )
    return judged


def _measured(context: RunContext, rows: Sequence[SourceRow]) -> Generator[ClipMeasures | DecodeError]:
    """What was measured of each row, or why nothing was, in the order of `rows`."""
    from vlmvid.video.isolation.pool import shared_pool
    from vlmvid.video.measuring import MeasureJob

    assert context.recipe.curate is not None  # the stage exists only with its section
    num_frames = context.recipe.curate.num_frames
    options = context.recipe.options
    jobs = [MeasureJob(clip=job, num_frames=num_frames) for job in clip_jobs(context, rows)]
    # The same workers decode later.
    pool = shared_pool(context.recipe.decode, decode_limits(options), num_workers(options))
    for outcome in checked_outcomes(context, rows, pool.run(jobs)):
        if isinstance(outcome, DecodeError):
            yield outcome
        else:
            yield ClipMeasures(**{**outcome, "hashes": np.array(outcome["hashes"], np.uint64)})


def _record_failures(context: RunContext, all_rows: Sequence[SourceRow], bad: dict[str, DecodeError]) -> None:
    """A ledger row for every clip whose content could not be measured, under each of its names."""
    keys = [(row.clip.video_id, _measure_key(context, row)) for row in all_rows]
    context.store.ledger(STAGE).record_failures(
        [(_ledger_key(video_id, key), video_id, bad[key]) for video_id, key in keys if key in bad]
    )


def _record_decisions(context: RunContext, judged: Sequence[_Judged]) -> None:
    """A ledger row for every clip that is decided otherwise than before."""
    context.store.ledger(STAGE).record_changes(
        LedgerRow(
            key=_ledger_key(clip.row.clip.video_id, clip.key),
            video_id=clip.row.clip.video_id,
            stage=STAGE,
            status="ok" if clip.verdict.is_kept else "filtered",
            reason_code=clip.verdict.rule,
            message=clip.verdict.message,
            shard=clip.location.shard,
        )
        for clip in judged
        if clip.verdict is not None
    )


def _require_some(judged: Sequence[_Judged], config: CurateConfig) -> None:
    rules = [clip.verdict.rule for clip in judged if clip.verdict is not None]
    if not all(rules):
        return
    counts = ", ".join(f"{number} x {rule}={getattr(config, rule)}" for rule, number in Counter(rules).most_common())
    first = next(clip for clip in judged if clip.verdict is not None)
    assert first.verdict is not None  # just looked for
    raise StageError(
        f"curate: the rules keep none of {len(rules)} clips ({counts}), e.g. {first.row.clip.video_id}: "
        f"{first.verdict.message}. Loosen them under `curate:`; no video is opened again for that"
    )


def _counts(judged: Sequence[_Judged], index: Sequence[IndexRow]) -> dict[str, int]:
    """Clips by status, filtered ones also by rule, and captions that kept clips lost."""
    verdicts = [clip.verdict for clip in judged if clip.verdict is not None]
    rules = Counter(f"filtered/{verdict.rule}" for verdict in verdicts if not verdict.is_kept)
    dropped = sum(len(verdict.dropped) for verdict in verdicts if verdict.is_kept)
    return {**status_counts(index), **dict(sorted(rules.items())), **({"dropped_captions": dropped} if dropped else {})}


def _measure_key(context: RunContext, row: SourceRow) -> str:
    return context.keys.measure_key(row.source_sha256, row.clip.start_seconds, row.clip.end_seconds)


def _ledger_key(video_id: str, measure_key: str) -> str:
    """One row per name and content: of two names for the same content one is kept, the other a duplicate."""
    return hash_json([video_id, measure_key])


def _packed(measures: Sequence[ClipMeasures]) -> NDArray[np.void]:
    """Measures as one structured array (N,), a field per attribute."""
    dtype = np.dtype([*_NUMBERS, ("hashes", np.uint64, measures[0].hashes.shape)])
    names = [name for name, _ in _NUMBERS]
    rows = [(*(getattr(m, name) for name in names), m.hashes) for m in measures]
    return np.array(rows, dtype=dtype)


def _unpacked(value: Any) -> ClipMeasures:
    return ClipMeasures(**{name: value[name].item() for name, _ in _NUMBERS}, hashes=value["hashes"])


_NUMBERS: list[tuple[str, type[np.generic]]] = [
    ("duration_seconds", np.float64),
    ("num_frames", np.int64),
    ("average_fps", np.float64),
    ("width", np.int64),
    ("height", np.int64),
    ("motion", np.float64),
    ("black_fraction", np.float64),
    ("is_textured", np.bool_),
]


def _write_table(judged: Sequence[_Judged], path: Path) -> None:
    """`curation.parquet`: one row per clip in manifest order, with everything that was measured."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = [(name, pa.from_numpy_dtype(dtype)) for name, dtype in _NUMBERS]
    schema = pa.schema(
        [
            ("video_id", pa.string()),
            ("kept", pa.bool_()),
            ("rule", pa.string()),
            ("message", pa.string()),
            ("path", pa.string()),
            ("start_seconds", pa.float64()),
            ("end_seconds", pa.float64()),
            *numbers,
            ("perceptual_hash", pa.string()),
            ("duplicate_of", pa.string()),
            ("num_captions", pa.int64()),
            ("dropped_captions", pa.list_(pa.struct([(n, pa.string()) for n in ("caption", "rule", "message")]))),
        ]
    )
    pq.write_table(pa.Table.from_pylist([_table_row(clip) for clip in judged], schema), path, compression="zstd")


def _table_row(clip: _Judged) -> dict[str, Any]:
    index_row, measures, verdict = clip.index_row, clip.measures, clip.verdict
    row: dict[str, Any] = {
        "video_id": index_row.video_id,
        "kept": index_row.status == "ok",
        "rule": index_row.reason_code,
        "message": index_row.message,
        **clip.row.clip.model_dump(include={"path", "start_seconds", "end_seconds"}),
        "num_captions": len(clip.row.clip.captions),
    }
    if measures is not None:
        row |= {name: getattr(measures, name) for name, _ in _NUMBERS}
        row["perceptual_hash"] = hash_text(measures.hashes)
    if verdict is not None:
        dropped = [{"caption": d.caption, "rule": d.rule, "message": d.message} for d in verdict.dropped]
        row |= {"duplicate_of": verdict.duplicate_of or None, "dropped_captions": dropped}
    return row
