"""A sharded stage's artifact: one row per clip, ok or not, pointing into the clip store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlmvid.artifacts import LedgerRow, Row
from vlmvid.errors import StageError
from vlmvid.types import Record

INDEX_FILE = "index.parquet"
NUM_EXAMPLES = 3


class IndexRow(Record):
    """Where the result of one clip lies (`shard`, `row`), or why there is none."""

    video_id: str
    key: str
    status: str
    reason_code: str = ""
    message: str = ""
    shard: str = ""
    row: int = -1

    @property
    def location(self) -> Row:
        """The shard and row of an ok clip."""
        return Row(self.shard, self.row)


def write_index(rows: Sequence[IndexRow], folder: Path) -> None:
    """Write `index.parquet`, rows in manifest order."""
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=_SCHEMA)
    pq.write_table(table, folder / INDEX_FILE, compression="zstd")


def read_index(folder: Path) -> list[IndexRow]:
    """The rows of a stage's index, in manifest order; parsed once per file, because every shard asks."""
    return list(_parsed(folder, (folder / INDEX_FILE).stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _parsed(folder: Path, mtime_ns: int) -> tuple[IndexRow, ...]:
    return tuple(IndexRow.model_validate(row) for row in pq.read_table(folder / INDEX_FILE).to_pylist())


def make_index(keys: Sequence[tuple[str, str]], rows: dict[str, Row], ledger: dict[str, LedgerRow]) -> list[IndexRow]:
    """One row per (video_id, clip key): where its result lies, else what the ledger says of it."""
    index = []
    for video_id, key in keys:
        if key in rows:
            index.append(IndexRow(video_id=video_id, key=key, status="ok", shard=rows[key].shard, row=rows[key].row))
        elif key in ledger and ledger[key].status != "ok":
            known = ledger[key]
            index.append(
                IndexRow(
                    video_id=video_id,
                    key=key,
                    status=known.status,
                    reason_code=known.reason_code,
                    message=known.message,
                )
            )
        else:
            raise StageError(
                f"clip {video_id!r} (key {key}) has neither a result nor a ledger row; run the stage again"
            )
    return index


def status_counts(rows: Sequence[IndexRow]) -> dict[str, int]:
    """How many rows have each status."""
    return dict(sorted(Counter(row.status for row in rows).items()))


def failed_ids(rows: Sequence[IndexRow]) -> list[str]:
    """The clips that have no result."""
    return [row.video_id for row in rows if row.status != "ok"]


def require_enough(stage: str, rows: Sequence[IndexRow], max_failed_fraction: float) -> None:
    """Raise StageError when too many clips failed, naming counts, reasons and examples."""
    failed = [row for row in rows if row.status.startswith("failed")]
    if not rows:
        raise StageError(f"{stage}: the dataset has no clips; check its path and options")
    if len(failed) <= max_failed_fraction * len(rows) and len(failed) < len(rows):
        return
    reasons = ", ".join(f"{n} x {reason}" for reason, n in Counter(row.reason_code for row in failed).most_common())
    examples = "; ".join(f"{row.video_id}: {row.message}" for row in failed[:NUM_EXAMPLES])
    raise StageError(
        f"{stage}: {len(failed)} of {len(rows)} clips failed ({reasons}), more than "
        f"options.max_failed_fraction={max_failed_fraction}. Examples: {examples}. "
        "Mend the files and run again with --retry failed, or raise max_failed_fraction"
    )


_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("reason_code", pa.string()),
        ("message", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ]
)
