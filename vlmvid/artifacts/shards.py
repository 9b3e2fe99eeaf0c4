"""Per-clip results in content-addressed shards: raw contiguous arrays, memory-mapped on read.

``<folder>/<shard>/`` holds one ``.npy`` per array (a column; first axis = rows) and ``shard.json`` with the
clip key of every row, sizes and sha256. The folder is written under a temporary name and renamed,
so a shard without a valid ``shard.json`` does not exist. A shard is never changed: new clips, and new columns
of old clips, are new shards.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vlmvid.artifacts.arrays import dtype_name
from vlmvid.artifacts.columns import StoredColumn
from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import MissingResult, read_json, staging_folder, write_json
from vlmvid.artifacts.formats import require_known_format
from vlmvid.artifacts.keys import hash_json
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError

SHARD_FILE = "shard.json"
SHARD_FORMAT = 1
SUFFIX = ".npy"
COLUMN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # a column's name becomes that of a file
OPEN_FILES = 128  # memory maps of numpy that are kept; each holds a file descriptor


class FileInfo(Config):
    """Size in bytes and sha256 of one file of an artifact."""

    size: int
    sha256: str


class ShardManifest(Config):
    """What a shard holds; `keys[i]` is the clip key of row i."""

    format: int = SHARD_FORMAT
    stage: str
    keys: tuple[str, ...]
    files: dict[str, FileInfo]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its arrays, sorted."""
        return tuple(sorted(name.removesuffix(SUFFIX) for name in self.files))


class ColumnInfo(Config):
    """Dtype (`vlmvid.artifacts.arrays.dtype_name`) and shape of one row of a column."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Where one clip's result lies."""

    shard: str
    row: int


class ClipStore:
    """All shards of one stage, shared by every dataset and run of a home.

    Whatever reads shards raises ArtifactError for one that a newer version of vlmvid has written.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._folder = folder / stage
        self._stage = stage
        self._manifests: dict[str, ShardManifest] = {}
        self._rows: dict[str, Row] = {}
        self._others: dict[str, list[Row]] = {}  # further rows of keys that lie in several shards
        self._looking = RLock()  # shards of one process may be written by several threads
        self._open = lru_cache(maxsize=OPEN_FILES)(self._load)

    def rows(self, keys: Iterable[str], columns: Iterable[str] = ()) -> dict[str, Row]:
        """The rows that exist among `keys`, with all of `columns`; reads the manifests new since the last call."""
        with self._looking:
            self.refresh()
            wanted = set(columns)
            if not wanted:
                return {key: self._rows[key] for key in keys if key in self._rows}
            fitting = {name for name, manifest in self._manifests.items() if wanted <= set(manifest.columns)}
            found = {}
            for key in keys:
                places = (self._rows[key], *self._others.get(key, ())) if key in self._rows else ()
                place = next((place for place in places if place.shard in fitting), None)
                if place is not None:
                    found[key] = place
            return found

    def manifests(self) -> dict[str, ShardManifest]:
        """What every whole shard holds, by the shard's name."""
        with self._looking:
            self.refresh()
            return dict(self._manifests)

    def refresh(self) -> None:
        """Notice shards that other writers added and forget those that are gone."""
        with self._looking:
            names = self._names()
            self._forget(self._manifests.keys() - names)
            for name in sorted(names - self._manifests.keys()):
                self._note(name)

    def missing(self, places: Mapping[str, Row]) -> list[str]:
        """The clip keys of `places` whose result does not lie there (any more), wherever else it may lie."""
        with self._looking:
            self.refresh()
            return [
                key
                for key, row in places.items()
                if row != self._rows.get(key) and row not in self._others.get(key, ())
            ]

    def write(self, keys: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str:
        """Write one shard whose row i is the result of `keys[i]`; returns its name.

        What is there stays as it is: a shard of the same keys that has these columns is left alone, and one that
        lacks some gets a second shard beside it.

        Raises ArtifactError for an array whose name is not `COLUMN_NAME`, or that has not a row per key.
        """
        for name, array in arrays.items():
            if not COLUMN_NAME.fullmatch(name):
                raise ArtifactError(
                    f"a shard array cannot be named {name!r}: the name becomes that of a file; expected letters, "
                    "digits, '_', '.' and '-', the first a letter, digit or '_'"
                )
            if len(array) != len(keys):
                raise ArtifactError(f"shard array {name!r} has {len(array)} rows for {len(keys)} keys")
        shard = hash_json(list(keys))
        manifest = self._read_manifest(shard)
        if manifest is not None and not arrays.keys() <= set(manifest.columns):
            shard = hash_json([list(keys), sorted(arrays)])
            manifest = self._read_manifest(shard)
        if manifest is None:
            self.discard(shard)
            with staging_folder(self._folder / shard) as temporary:
                files = {}
                for name, array in arrays.items():
                    path = temporary / f"{name}{SUFFIX}"
                    _save(path, array)
                    files[path.name] = FileInfo(size=path.stat().st_size, sha256=sha256_file(path))
                manifest = ShardManifest(stage=self._stage, keys=tuple(keys), files=files)
                write_json(temporary / SHARD_FILE, manifest.model_dump(mode="json"))
                self._publish(shard, manifest, temporary)
        self._note(shard)  # as it lies there: another writer of the same keys may have been first
        return shard

    def array(self, shard: str, name: str) -> NDArray[Any]:
        """One array of a shard, memory-mapped read-only.

        Raises MissingResult when the shard is gone or damaged, or has no such column (which it has is said).
        """
        return self._open(shard, name)

    def columns(self, shards: Iterable[str]) -> dict[str, ColumnInfo]:
        """The columns that all of these shards have, as the first of them stores them."""
        names = list(dict.fromkeys(shards))
        shared = set.intersection(*(set(self._manifest(name).columns) for name in names)) if names else set()
        arrays = {column: self.array(names[0], column) for column in sorted(shared)}
        return {
            column: ColumnInfo(dtype=dtype_name(array.dtype), shape=array.shape[1:]) for column, array in arrays.items()
        }

    def column(self, name: str, rows: Sequence[Row]) -> StoredColumn:
        """Array `name` over the given rows, for reading batch after batch; see `StoredColumn`."""
        if not rows:
            raise ArtifactError(f"no rows of {name!r} were asked for; the {self._stage} stage has no result to read")
        number: dict[str, int] = {}
        shards = np.fromiter((number.setdefault(row.shard, len(number)) for row in rows), np.int64, len(rows))
        places = np.fromiter((row.row for row in rows), np.int64, len(rows))
        names = list(number)
        return StoredColumn(lambda i: self.array(names[i], name), shards, places, name=f"{self._stage} {name!r}")

    def gather(self, name: str, rows: Sequence[Row]) -> NDArray[Any]:
        """The given rows of array `name`, in order, in memory: (len(rows), ...) as stored.

        `vlmvid.artifacts.arrays.as_float32` makes float32 of it.
        """
        return self.column(name, rows).read()

    def verify(self) -> list[str]:
        """Re-hash every shard; damaged ones are discarded and named."""
        self.refresh()
        damaged = [
            shard
            for shard, manifest in self._manifests.items()
            if any(sha256_file(self._path(shard, n)) != info.sha256 for n, info in manifest.files.items())
        ]
        for shard in damaged:
            self.discard(shard)
        return damaged

    def discard(self, shard: str) -> None:
        """Move a damaged shard out of the way, so that its clips are computed again."""
        folder = self._folder / shard
        if folder.exists():
            folder.rename(folder.with_name(f".{shard}.{os.urandom(4).hex()}.damaged"))
        self._open.cache_clear()
        self._forget({shard})

    # What a store that machines share does otherwise: `vlmvid.artifacts.shared_shards`.

    def _names(self) -> set[str]:
        """The shards that are there now."""
        return {e.name for e in os.scandir(self._folder) if e.name[0] != "."} if self._folder.is_dir() else set()

    def _is_whole(self, shard: str, manifest: ShardManifest) -> bool:
        """Whether the files of a shard have their sizes; raises OSError when one is gone."""
        return all(self._path(shard, n).stat().st_size == info.size for n, info in manifest.files.items())

    def _publish(self, shard: str, manifest: ShardManifest, folder: Path) -> None:
        """Called with every shard when it is whole in the temporary `folder`; in a local store the rename publishes."""

    def _note(self, shard: str) -> None:
        """Take in a shard that is not known yet, if it is whole."""
        with self._looking:
            manifest = self._read_manifest(shard) if shard not in self._manifests else None
            if manifest is not None:
                self._manifests[shard] = manifest
                self._note_rows(shard, manifest)

    def _note_rows(self, shard: str, manifest: ShardManifest) -> None:
        for number, key in enumerate(manifest.keys):
            place = Row(shard, number)
            if self._rows.setdefault(key, place) is not place:
                self._others.setdefault(key, []).append(place)

    def _forget(self, shards: Iterable[str]) -> None:
        gone = [shard for shard in shards if self._manifests.pop(shard, None) is not None]
        if gone:
            self._open.cache_clear()
            # From the manifests that are left: a clip may lie in one of them too.
            self._rows, self._others = {}, {}
            for shard, manifest in self._manifests.items():
                self._note_rows(shard, manifest)

    def _path(self, shard: str, file: str) -> Path:
        return self._folder / shard / file

    def _load(self, shard: str, name: str) -> NDArray[Any]:
        path = self._path(shard, f"{name}{SUFFIX}")
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            known = ", ".join(self._manifest(shard).columns)
            raise MissingResult(f"shard {shard} of {self._stage} has no column {name!r}; it has: {known}") from None
        except (OSError, ValueError) as error:
            raise MissingResult(
                f"{path} cannot be read: {error}; run again with --verify to compute it anew"
            ) from error
        return array

    def _manifest(self, shard: str) -> ShardManifest:
        manifest = self._manifests.get(shard) or self._read_manifest(shard)
        if manifest is None:
            raise MissingResult(
                f"shard {shard} of {self._stage} is missing or damaged ({self._folder / shard}); run the stage again"
            )
        return manifest

    def _read_manifest(self, shard: str) -> ShardManifest | None:
        path = self._path(shard, SHARD_FILE)
        try:
            value = read_json(path)
        except MissingResult:
            return None
        require_known_format(value, SHARD_FORMAT, path)
        try:
            manifest = ShardManifest.model_validate(value)
            return manifest if self._is_whole(shard, manifest) else None
        except (ValidationError, OSError):
            return None


def _save(path: Path, array: NDArray[Any]) -> None:
    try:
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy says how many values were written, and not why: a disk that takes a part of them is full.
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {error}", str(path)) from error
