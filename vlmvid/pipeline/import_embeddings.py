"""Embeddings of other projects into the store: shards, and an index by id.

A row's clip key is the digest of its file and its place in it. So a folder that has grown adds only
its new rows, and the same folder under other ids adds none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import ArtifactRef, ClipStore, Facts, KeyParts, Store, hash_json, open_store
from vlmvid.artifacts.arrays import STORED_DTYPES, as_float32, dtype_name, finite_rows
from vlmvid.artifacts.files import MissingResult
from vlmvid.artifacts.shards import COLUMN_NAME
from vlmvid.artifacts.store import MANIFEST_FILE
from vlmvid.data.embedding_files import (
    DEFAULT_METADATA_COLUMN,
    FEATURES,
    FORMATS,
    EmbeddingPart,
    check_ids,
    read_id_column,
    read_ids,
)
from vlmvid.errors import ArtifactError, ConfigError, DatasetError
from vlmvid.pipeline.index import IndexRow, failed_ids, locate, status_counts, write_index
from vlmvid.pipeline.progress import StageProgress

logger = logging.getLogger(__name__)
STAGE = "import"
ROWS_PER_SHARD = 4096
NUM_NAMED = 5  # broken files that an error lists
Arrays = dict[str, NDArray[Any]]


def import_embeddings(
    folder: str | Path,
    *,
    format: str,
    name: str,
    home: str | Path,
    ids: str | Path | None = None,
    column: str | None = None,
) -> ArtifactRef:
    """Take a folder of embeddings into the store at `home`; nothing is done when it is there already.

    A row with NaN or infinity is refused: it stays in the index with the reason, and without features.

    Args:
        folder: see `vlmvid.data.embedding_files` for what it holds.
        format: one of its `FORMATS`.
        name: of the result, for people: its manifest carries it.
        ids: one id per row, in order: a text file, or a Parquet table whose `column` (``video_id``) holds them.
            None = the folder's own metadata (its `column`, else ``image_path``), else ``row-000000000`` and so on.

    Raises:
        ConfigError: `format` is unknown, or `column` has no table to be looked up in.
        DatasetError: files are missing, broken or unlike the others (all are named), or the ids do not fit the
            rows. Nothing is published then.
    """
    root = Path(folder).expanduser().absolute()
    store = open_store(home)
    parts = FORMATS.get(format)(root)
    ids_path = Path(ids).expanduser().absolute() if ids is not None else None
    if column is not None and ids_path is None and parts[0].metadata is None:
        raise ConfigError(f"--column {column!r} names a column of a table, but there is none: give one with --ids")
    digests = [{kind: _digest(store, path) for kind, path in part.files.items()} for part in parts]
    tables = [_digest(store, part.metadata) for part in parts if part.metadata is not None]
    key_parts = KeyParts(
        stage=STAGE,
        inputs={"files": hash_json(digests), "ids": _digest(store, ids_path) if ids_path else hash_json(tables)},
        config={"name": name, "format": format, "column": column},
    )
    with store.lock(STAGE, key_parts.key):
        known = store.ref(STAGE, key_parts.key)
        if known is not None and _is_whole(store, key_parts.key):
            return known
        rows = _take(store.clips(STAGE), root, parts, digests)
        names = _ids(parts, ids_path, column, len(rows))
        return _publish(store, key_parts, name, rows, names)


def read_embeddings(
    uri: str | Path, video_ids: Sequence[str] | None = None, *, column: str = FEATURES
) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and features (N, ...) float32 of an ``embeddings`` artifact, imported or encoded, by its folder or URI.

    `video_ids` None = all that have features, in manifest order. Raises ArtifactError for a folder that is no
    such artifact, an id without features, or a column that is not there (which are is said).
    """
    address = str(uri) if "://" in str(uri) else str(Path(uri).absolute())
    home, *place = address.rstrip("/").rsplit("/", 3)
    is_place = len(place) == 3 and place[0] == "stages" and ("://" in address) == ("://" in home)
    if not is_place or ("://" not in address and not (Path(address) / MANIFEST_FILE).is_file()):
        raise ArtifactError(f"{address} is no artifact of a store; give what encode or the import printed")
    _, stage, key = place
    store = open_store(home)
    manifest = store.manifest(stage, key)
    if manifest is None or manifest.kind != "embeddings":
        what = "nothing that can be read" if manifest is None else manifest.kind
        raise ArtifactError(f"{address} holds {what}, not embeddings; give what encode or the import printed")
    rows = locate(store.open_artifact(stage, key), video_ids)
    return list(rows), as_float32(store.clips(stage).gather(column, list(rows.values())))


class _Import:
    """Rows on their way into shards: many small files make one, a large file several."""

    def __init__(self, store: ClipStore) -> None:
        self.rows: list[tuple[str, str]] = []  # clip key, and why it was refused or an empty text
        self.lengths: list[int] = []
        self._store = store
        self._first: Arrays = {}
        self._keys: list[str] = []
        self._waiting: list[Arrays] = []

    def add(self, part: EmbeddingPart, digests: Mapping[str, str]) -> None:
        """Take the rows of one part; raises DatasetError for one that is broken or unlike the first."""
        arrays = _load(part)
        self._first = self._first or {name: array[:0] for name, array in arrays.items()}
        _check_alike(arrays, self._first, part)
        num_rows = len(next(iter(arrays.values())))
        self.lengths.append(num_rows)
        content = hash_json([digests, sorted(arrays)])
        keys = [hash_json([content, row]) for row in range(num_rows)]
        refused = _refused(arrays, part)
        self.rows += [(key, refused.get(row, "")) for row, key in enumerate(keys)]
        known = self._store.rows(keys, arrays)
        new = [row for row, key in enumerate(keys) if row not in refused and key not in known]
        for start in range(0, len(new), ROWS_PER_SHARD):
            some = new[start : start + ROWS_PER_SHARD]
            self._keys += [keys[row] for row in some]
            self._waiting.append({name: np.asarray(array[some]) for name, array in arrays.items()})
            if len(self._keys) >= ROWS_PER_SHARD:
                self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._keys:
            joined = {name: np.concatenate([arrays[name] for arrays in self._waiting]) for name in self._waiting[0]}
            self._store.write(self._keys, joined)
            self._keys, self._waiting = [], []


def _take(
    store: ClipStore, root: Path, parts: Sequence[EmbeddingPart], digests: Sequence[Mapping[str, str]]
) -> list[tuple[str, str]]:
    """Store every row; the clip key of each in order, and why it was refused or an empty text."""
    taken, broken = _Import(store), list[str]()
    progress = StageProgress()
    progress.begin(STAGE, len(parts), "file")
    try:
        for part, digest in zip(parts, digests, strict=True):
            try:
                taken.add(part, digest)
            except DatasetError as error:
                broken.append(str(error))
            progress.advance(STAGE)
    finally:
        progress.end(STAGE)
    if broken:
        more = f"; and {len(broken) - NUM_NAMED} more" if len(broken) > NUM_NAMED else ""
        raise DatasetError(
            f"{len(broken)} of {len(parts)} batches of {root} cannot be imported: {'; '.join(broken[:NUM_NAMED])}{more}"
        )
    taken.flush()
    uneven = [number for number, length in enumerate(taken.lengths) if length != taken.lengths[0]]
    # Where only places tell rows apart, batches of two sizes are the mark of two runs in one folder.
    if parts[0].metadata is None and uneven and (uneven != [len(parts) - 1] or taken.lengths[-1] > taken.lengths[0]):
        raise DatasetError(
            f"{_label(parts[uneven[0]])} has {taken.lengths[uneven[0]]} rows, {_label(parts[0])} has "
            f"{taken.lengths[0]}: batches of two sizes in one folder, so places say nothing; encode it anew in one go"
        )
    return taken.rows


def _load(part: EmbeddingPart) -> Arrays:
    """The arrays (B, ...) of a part by column."""
    from vlmvid.models.tensors import load_tensor_file

    arrays: Arrays = {}
    for column, path in part.files.items():
        if path.suffix == ".pt":
            arrays |= load_tensor_file(path)
            wrong = [name for name in arrays if not COLUMN_NAME.fullmatch(name)]
            if wrong:
                raise DatasetError(
                    f"{path} holds a tensor of the key {wrong[0]!r}, which cannot name a column: expected letters, "
                    "digits, '_', '.' and '-', the first a letter, digit or '_'; rename it"
                )
            continue
        try:
            arrays[column] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(f"{path} cannot be read as a .npy file: {error}; is it complete?") from error
    return arrays


def _check_alike(arrays: Arrays, first: Arrays, part: EmbeddingPart) -> None:
    where = _label(part)
    if arrays.keys() != first.keys():
        raise DatasetError(f"{where} holds {', '.join(sorted(arrays))}; the first file {', '.join(sorted(first))}")
    for name, array in arrays.items():
        if array.ndim < 2 or not array.size or dtype_name(array.dtype) not in STORED_DTYPES:
            raise DatasetError(
                f"{where}: {name} is {dtype_name(array.dtype)} {array.shape}; expected rows (B, D) of "
                f"{', '.join(STORED_DTYPES)}"
            )
        if (array.dtype, array.shape[1:]) != (first[name].dtype, first[name].shape[1:]):
            raise DatasetError(
                f"{where}: rows of {name} are {dtype_name(array.dtype)} {array.shape[1:]}; those of the first file "
                f"{dtype_name(first[name].dtype)} {first[name].shape[1:]}"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        counts = " and ".join(f"{length} rows of {name}" for name, length in lengths.items())
        raise DatasetError(f"{where}: {counts}; expected as many")


def _refused(arrays: Arrays, part: EmbeddingPart) -> dict[int, str]:
    """Why rows are refused, by number."""
    found: dict[int, str] = {}
    for name, array in arrays.items():
        for row in np.flatnonzero(~finite_rows(array)).tolist():
            found.setdefault(row, f"row {row} of {_label(part)} holds NaN or infinity in {name}; encode it again")
    return found


def _ids(parts: Sequence[EmbeddingPart], path: Path | None, column: str | None, num_rows: int) -> list[str]:
    """The id of every row, in order."""
    tables = [part.metadata for part in parts if part.metadata is not None]
    if path is not None:
        names, source = read_ids(path, column), str(path)
    elif tables:
        chosen = column or DEFAULT_METADATA_COLUMN
        names, source = [n for table in tables for n in read_id_column(table, chosen)], f"{tables[0].parent}, {chosen}"
    else:
        return [f"row-{row:09d}" for row in range(num_rows)]
    check_ids(names, num_rows, source)
    return names


def _publish(
    store: Store, key_parts: KeyParts, name: str, rows: Sequence[tuple[str, str]], names: Sequence[str]
) -> ArtifactRef:
    known = store.clips(STAGE).rows(key for key, reason in rows if not reason)
    index = []
    for (key, reason), video_id in zip(rows, names, strict=True):
        row = IndexRow(video_id=video_id, key=key, status="ok")
        changes: dict[str, str | int]
        if reason:
            changes = {"status": "failed_permanent", "reason_code": "not_finite", "message": reason}
        else:
            changes = {"shard": known[key].shard, "row": known[key].row}
        index.append(row.model_copy(update=changes))
    refused = failed_ids(index)
    if len(refused) == len(index):
        raise DatasetError(f"{name}: every row was refused, e.g. {index[0].video_id!r}: {index[0].message}")
    if refused:
        logger.warning("%d of %d rows were refused, the first is %r", len(refused), len(index), refused[0])
    columns = store.clips(STAGE).columns(row.shard for row in known.values())
    facts = Facts(recipe=name, counts=status_counts(index), revision=hash_json(sorted(refused))[:8] if refused else "")
    return store.publish(key_parts, "embeddings", lambda folder: write_index(index, folder, columns), facts)


def _is_whole(store: Store, key: str) -> bool:
    """Whether the shards that the index leads to are there."""
    shards = {row.shard for row in locate(store.open_artifact(STAGE, key)).values()}
    try:
        return bool(store.clips(STAGE).columns(shards))
    except MissingResult:
        return False


def _label(part: EmbeddingPart) -> str:
    return " and ".join(str(path) for path in part.files.values())


def _digest(store: Store, path: Path) -> str:
    try:
        return store.digests.digest(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
