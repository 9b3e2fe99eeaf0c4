"""The files of a video index.

::

    DIR/index.json       what the index is, and the folder of its table; written last
    DIR/tables/TABLE/    everything in row order
        embeddings.npy   float16 (N, D), L2-normalised
        rows.parquet     the clips: ids, files, captions, attributes, where their time steps lie
        facets.npy       int16 (F, N): which value of each facet a clip has, -1 = none
        failed.parquet   the clips that are in no row, with the reason
        tags.json, tags.npy   captions and attribute values, and their embeddings
        cells.faiss      where approximate search was asked for
    DIR/clips/index/     what was computed, by content: shards as `vlmvid.artifacts.shards` has them

A table is never changed: a new one is written beside it, `index.json` names it by one rename, and the old one goes.
An index of which only `clips` is there was not finished; building it again goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import MissingResult, read_json, write_json
from vlmvid.artifacts.formats import require_known_format
from vlmvid.artifacts.shards import FileInfo
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError
from vlmvid.types import Record

INDEX_FILE = "index.json"
INDEX_FORMAT = 1
STAGE = "index"  # of the shards in DIR/clips and the ledger in DIR/ledger
EMBEDDINGS, STEPS, SECONDS = "embeddings", "steps", "pts_seconds"  # columns of the shards
EMBEDDINGS_FILE, ROWS_FILE, FAILED_FILE = "embeddings.npy", "rows.parquet", "failed.parquet"
CELLS_FILE = "cells.faiss"
FACETS_FILE, TAGS_FILE, TAG_EMBEDDINGS_FILE = "facets.npy", "tags.json", "tags.npy"
ROWS_PER_GROUP = 1024  # of rows.parquet that are read together
_OTHER_ARTIFACT = "manifest.json"  # of every stage's artifact


class IndexDescription(Config):
    """What `index.json` says.

    Attributes:
        model_digest: of the parts that embed; of an index and a model with the same, embeddings can be compared.
        encoders: the names of these parts, for people.
        table: name of the table's folder; `files` are sizes and hashes of its files.
        code: digest of the code that embedded the clips.
        source: the folder, manifest or artifact that the clips are of.
        content: digest of the rows and failures, by which a build that changes nothing is known.
        shards: the folders below ``clips/index`` that the table leads to.
        num_steps: S, time steps with an embedding of their own in every clip; 0 = none.
        max_norm: the largest length of an embedding, which rounding to float16 makes other than 1.
        facets: attribute name -> value -> how many clips, of attributes with few values; order is that of the codes.
    """

    format: int = INDEX_FORMAT
    model_digest: str
    model_name: str
    encoders: str
    code: str = ""
    source: str = ""
    content: str = ""
    table: str = Field(pattern="^[0-9a-z-]+$")
    files: dict[str, FileInfo]
    shards: tuple[str, ...] = ()
    num_clips: int = Field(ge=1)
    num_failed: int = Field(ge=0)
    embed_dim: int = Field(ge=1)
    dtype: str = "float16"
    num_steps: int = Field(ge=0)
    max_norm: float = Field(gt=0, allow_inf_nan=False)
    facets: dict[str, dict[str, int]]
    created_seconds: float


class TableRow(Record):
    """One clip of a table; `shard` and `shard_row` say where its time steps lie, ``""`` where it has none."""

    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None
    captions: tuple[str, ...]
    attributes: dict[str, str]
    source_sha256: str
    shard: str
    shard_row: int


class FailedRow(Record):
    """A clip without an embedding, and why."""

    video_id: str
    path: str
    start_seconds: float
    end_seconds: float | None
    status: str
    reason_code: str
    message: str


ROW_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("start_seconds", pa.float64()),
        ("end_seconds", pa.float64()),
        ("captions", pa.list_(pa.string())),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("source_sha256", pa.string()),
        ("shard", pa.string()),
        ("shard_row", pa.int64()),
    ]
)
FAILED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("video_id", "path")]
    + [(name, pa.float64()) for name in ("start_seconds", "end_seconds")]
    + [(name, pa.string()) for name in ("status", "reason_code", "message")]
)


def table_folder(folder: Path, name: str) -> Path:
    """Where the table of that name lies in an index."""
    return folder / "tables" / name


def read_description(folder: Path) -> IndexDescription:
    """What the index in `folder` says of itself.

    Raises ArtifactError when there is none, when it was not finished, and when it is damaged or of a newer version.
    """
    path = folder / INDEX_FILE
    try:
        value = read_json(path)
    except MissingResult as error:
        raise ArtifactError(_why_none(folder, error)) from error
    require_known_format(value, INDEX_FORMAT, path)
    try:
        return IndexDescription.model_validate(value)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} does not describe a video index ({error.error_count()} faults, the first at "
            f"{'.'.join(map(str, error.errors()[0]['loc']))}); {_mend(folder)}"
        ) from error


def stored_description(folder: Path) -> IndexDescription | None:
    """As `read_description` for who builds the index: None where there is none, or none that can be read.

    Raises ArtifactError for one of a newer version alone.
    """
    try:
        require_known_format(read_json(folder / INDEX_FILE), INDEX_FORMAT, folder / INDEX_FILE)
    except MissingResult:
        return None
    try:
        return read_description(folder)
    except ArtifactError:
        return None


def check_files(folder: Path, description: IndexDescription, *, hashes: bool = False) -> None:
    """Raise ArtifactError when a file of the table is gone or has another size, with `hashes` also another sha256."""
    table = table_folder(folder, description.table)
    for name, info in description.files.items():
        path = table / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ArtifactError(f"{path} of the video index cannot be read: {error}; {_mend(folder)}") from error
        if size != info.size:
            raise ArtifactError(
                f"the video index is damaged: {path} has {size} bytes, expected {info.size}; {_mend(folder)}"
            )
        if hashes and sha256_file(path) != info.sha256:
            raise ArtifactError(f"the video index is damaged: {path} has other content than written; {_mend(folder)}")


def describe_files(table: Path) -> dict[str, FileInfo]:
    """Sizes and hashes of the files of a table."""
    return {
        path.name: FileInfo(size=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(table.iterdir())
        if path.is_file()
    }


def write_description(folder: Path, description: IndexDescription) -> None:
    """Publish a table: from here on the index is this one."""
    write_json(folder / INDEX_FILE, description.model_dump(mode="json"))


def write_rows(path: Path, rows: Iterable[TableRow]) -> None:
    """Write `rows.parquet`."""
    waiting = iter(rows)
    with pq.ParquetWriter(path, ROW_SCHEMA, compression="zstd") as writer:
        while some := [row.model_dump() for row in islice(waiting, ROWS_PER_GROUP)]:
            values = [{**row, "attributes": list(row["attributes"].items())} for row in some]
            writer.write_table(pa.Table.from_pylist(values, schema=ROW_SCHEMA))


def write_failed(path: Path, rows: Sequence[FailedRow]) -> None:
    """Write `failed.parquet`."""
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], schema=FAILED_SCHEMA), path)


def read_failed(folder: Path) -> list[FailedRow]:
    """The clips that the index in `folder` could not take, with the reasons; raises as `read_description`."""
    description = read_description(folder)
    check_files(folder, description)
    table = pq.read_table(table_folder(folder, description.table) / FAILED_FILE)
    return [FailedRow.model_validate(row) for row in table.to_pylist()]


def read_rows(folder: Path, description: IndexDescription) -> Iterator[TableRow]:
    """All rows, in order; raises ArtifactError when they cannot be read."""
    path = table_folder(folder, description.table) / ROWS_FILE
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP):
                for row in batch.to_pylist():
                    yield TableRow.model_validate({**row, "attributes": dict(row["attributes"])})
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; {_mend(folder)}") from error


def read_ids(folder: Path, description: IndexDescription) -> list[str]:
    """The video_ids of all rows; raises ArtifactError when they cannot be read."""
    path = table_folder(folder, description.table) / ROWS_FILE
    try:
        found: list[str] = pq.read_table(path, columns=["video_id"])["video_id"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; {_mend(folder)}") from error
    return found


def read_tags(folder: Path, description: IndexDescription) -> tuple[list[str], NDArray[np.float16]]:
    """The tags, M texts, and their embeddings (M, D); raises ArtifactError when they cannot be read."""
    table = table_folder(folder, description.table)
    try:
        texts: list[str] = read_json(table / TAGS_FILE)
        embeddings: NDArray[np.float16] = np.load(table / TAG_EMBEDDINGS_FILE, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"the tags in {table} cannot be read: {error}; {_mend(folder)}") from error
    if embeddings.shape != (len(texts), description.embed_dim):
        raise ArtifactError(f"{table} holds {len(texts)} tags and embeddings {embeddings.shape}; {_mend(folder)}")
    return texts, embeddings


def write_tags(table: Path, texts: Sequence[str], embeddings: NDArray[np.float16]) -> None:
    """Write the tags: M texts and their embeddings (M, D)."""
    write_json(table / TAGS_FILE, list(texts))
    np.save(table / TAG_EMBEDDINGS_FILE, embeddings)


def write_facets(table: Path, codes: Mapping[str, NDArray[np.int16]], num_rows: int) -> None:
    """Write the codes (N,) of each facet, in their order."""
    stacked = np.stack(list(codes.values())) if codes else np.empty((0, num_rows), np.int16)
    np.save(table / FACETS_FILE, stacked)


def _why_none(folder: Path, error: MissingResult) -> str:
    command = f"vlmvid index VIDEOS --model URI --out {folder}"
    if (folder / INDEX_FILE).exists():
        return f"the video index is damaged: {error}; {_mend(folder)}"
    if (folder / _OTHER_ARTIFACT).is_file():
        return (
            f"{folder} is the artifact of a stage, no video index; make one of an encode artifact, without opening a "
            f"video: vlmvid index {folder} --model URI --out DIR"
        )
    if (folder / "clips").is_dir():
        return f"the video index {folder} was not finished; run the command that builds it again: {command}"
    return f"{folder} is no video index: it has no {INDEX_FILE}; make one: {command}"


def _mend(folder: Path) -> str:
    return f"build it again (vlmvid index VIDEOS --model URI --out {folder}); what is whole is not computed again"
