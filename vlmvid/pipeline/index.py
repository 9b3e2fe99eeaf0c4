"""A sharded stage's artifact: one row per clip, ok or not, pointing into the clip store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vlmvid.artifacts import LedgerRow, Row
from vlmvid.artifacts.files import canonical_json
from vlmvid.artifacts.shards import ColumnInfo
from vlmvid.errors import ArtifactError, StageError
from vlmvid.registry import nearest
from vlmvid.types import Record

INDEX_FILE = "index.parquet"
COLUMNS_METADATA = "vlmvid.columns"
NUM_COMPARED = 10_000  # ids among which a misspelt one is looked for
NUM_EXAMPLES = 3


class IndexRow(Record):
    """Where the result of one clip lies (`shard`, `row`), or why there is none; the key of its tokens if kept."""

    video_id: str
    key: str
    status: str
    reason_code: str = ""
    message: str = ""
    shard: str = ""
    row: int = -1
    tokens_key: str = ""

    @property
    def location(self) -> Row:
        """The shard and row of an ok clip."""
        return Row(self.shard, self.row)


def write_index(rows: Sequence[IndexRow], folder: Path, columns: Mapping[str, ColumnInfo] | None = None) -> None:
    """Write `index.parquet`, rows in manifest order.

    `columns` (`ClipStore.columns`) says which arrays the shards hold; it goes into the table's own metadata, so
    that the file alone tells a reader where a clip's features lie: ``<shard>/<column>.npy``, row `row`.
    """
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=_SCHEMA)
    if columns:
        values = {name: info.model_dump(mode="json") for name, info in columns.items()}
        table = table.replace_schema_metadata({COLUMNS_METADATA: canonical_json(values)})
    pq.write_table(table, folder / INDEX_FILE, compression="zstd")


def read_columns(folder: Path) -> dict[str, ColumnInfo]:
    """The arrays of the shards that an index leads to, by name; empty when it does not say."""
    found = (pq.read_schema(folder / INDEX_FILE).metadata or {}).get(COLUMNS_METADATA.encode(), b"{}")
    return {name: ColumnInfo.model_validate(info) for name, info in json.loads(found).items()}


def locate(folder: Path, video_ids: Sequence[str] | None = None) -> dict[str, Row]:
    """Where the results of these clips lie, in this order; None = all that have one, in manifest order.

    Reads only the table's columns that are needed, and makes no object per row. Raises ArtifactError for an id
    that the index lacks, or that has no result (why is said).
    """
    table = pq.read_table(folder / INDEX_FILE, columns=["video_id", "status", "message", "shard", "row"])
    ids = table["video_id"].to_pylist()
    ok = [status == "ok" for status in table["status"].to_pylist()]
    if video_ids is None:
        numbers = [number for number, is_ok in enumerate(ok) if is_ok]
    else:
        number_of = {video_id: number for number, video_id in enumerate(ids)}
        unknown = [video_id for video_id in video_ids if video_id not in number_of]
        if unknown:
            raise ArtifactError(
                f"{len(unknown)} of {len(video_ids)} ids are not in {folder / INDEX_FILE}, the first is {unknown[0]!r}"
                f"{nearest(unknown[0], ids[:NUM_COMPARED])}"
            )
        numbers = [number_of[video_id] for video_id in video_ids]
        missing = [number for number in numbers if not ok[number]]
        if missing:
            why = table["message"][missing[0]].as_py()
            raise ArtifactError(
                f"{len(missing)} of {len(video_ids)} clips have no result, e.g. {ids[missing[0]]!r}: {why}"
            )
    taken = table.select(["shard", "row"]).take(pa.array(numbers, pa.int64())).combine_chunks()
    rows = zip(taken["shard"].to_pylist(), taken["row"].to_pylist(), strict=True)
    return {ids[number]: Row(shard, row) for number, (shard, row) in zip(numbers, rows, strict=True)}


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
        ("tokens_key", pa.string()),
    ]
)
