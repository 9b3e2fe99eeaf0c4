"""Per-clip results in content-addressed shards: raw contiguous arrays, memory-mapped on read.

``<folder>/<shard>/`` holds one ``.npy`` per array (first axis = rows) and ``shard.json`` with the
clip key of every row, sizes and sha256. The folder is written under a temporary name and renamed,
so a shard without a valid ``shard.json`` does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from vlmvid.artifacts.digests import sha256_file
from vlmvid.artifacts.files import read_json, staging_folder, write_json
from vlmvid.artifacts.keys import hash_json
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError

SHARD_FILE = "shard.json"


class FileInfo(Config):
    """Size in bytes and sha256 of one file of an artifact."""

    size: int
    sha256: str


class ShardManifest(Config):
    """What a shard holds; `keys[i]` is the clip key of row i."""

    format: int = 1
    stage: str
    keys: tuple[str, ...]
    files: dict[str, FileInfo]


@dataclass(frozen=True, slots=True)
class Row:
    """Where one clip's result lies."""

    shard: str
    row: int


class ClipStore:
    """All shards of one stage, shared by every dataset and run of a home."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._folder = folder / stage
        self._stage = stage
        self._manifests: dict[str, ShardManifest] = {}
        self._rows: dict[str, Row] = {}

    def rows(self, keys: Iterable[str]) -> dict[str, Row]:
        """The rows that exist among `keys`; reads the manifests that are new since the last call."""
        self.refresh()
        return {key: self._rows[key] for key in keys if key in self._rows}

    def refresh(self) -> None:
        """Notice shards that other writers added and forget those that are gone."""
        names = {e.name for e in os.scandir(self._folder) if e.name[0] != "."} if self._folder.is_dir() else set()
        for name in self._manifests.keys() - names:
            self._forget(name)
        for name in sorted(names - self._manifests.keys()):
            manifest = self._read_manifest(name)
            if manifest is not None:
                self._manifests[name] = manifest
                for row, key in enumerate(manifest.keys):
                    self._rows.setdefault(key, Row(name, row))

    def write(self, keys: Sequence[str], arrays: Mapping[str, NDArray[np.generic]]) -> str:
        """Write one shard whose row i is the result of `keys[i]`; returns its name."""
        for name, array in arrays.items():
            if len(array) != len(keys):
                raise ArtifactError(f"shard array {name!r} has {len(array)} rows for {len(keys)} keys")
        shard = hash_json(list(keys))
        final = self._folder / shard
        if self._read_manifest(shard) is None:
            self.discard(shard)
            with staging_folder(final) as temporary:
                files = {}
                for name, array in arrays.items():
                    path = temporary / f"{name}.npy"
                    np.save(path, np.ascontiguousarray(array), allow_pickle=False)
                    files[path.name] = FileInfo(size=path.stat().st_size, sha256=sha256_file(path))
                manifest = ShardManifest(stage=self._stage, keys=tuple(keys), files=files)
                write_json(temporary / SHARD_FILE, manifest.model_dump(mode="json"))
        self.refresh()
        return shard

    def array(self, shard: str, name: str) -> NDArray[np.generic]:
        """One array of a shard, memory-mapped read-only."""
        array: NDArray[np.generic] = np.load(self._folder / shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return array

    def gather(self, name: str, rows: Sequence[Row]) -> NDArray[np.generic]:
        """The given rows of array `name`, in order, in memory: (len(rows), ...)."""
        if not rows:
            raise ArtifactError(f"no rows of {name!r} were asked for; the {self._stage} stage has no result to read")
        first = self.array(rows[0].shard, name)
        out = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
        by_shard: dict[str, list[int]] = {}
        for position, row in enumerate(rows):
            by_shard.setdefault(row.shard, []).append(position)
        for shard, positions in by_shard.items():
            out[positions] = self.array(shard, name)[[rows[p].row for p in positions]]
        return out

    def verify(self) -> list[str]:
        """Re-hash every shard; damaged ones are discarded and named."""
        self.refresh()
        damaged = [
            shard
            for shard, manifest in self._manifests.items()
            if any(sha256_file(self._folder / shard / n) != info.sha256 for n, info in manifest.files.items())
        ]
        for shard in damaged:
            self.discard(shard)
        return damaged

    def discard(self, shard: str) -> None:
        """Move a damaged shard out of the way, so that its clips are computed again."""
        folder = self._folder / shard
        if folder.exists():
            folder.rename(folder.with_name(f".{shard}.{os.urandom(4).hex()}.damaged"))
        self._forget(shard)

    def _forget(self, shard: str) -> None:
        self._manifests.pop(shard, None)
        self._rows = {key: row for key, row in self._rows.items() if row.shard != shard}

    def _read_manifest(self, shard: str) -> ShardManifest | None:
        folder = self._folder / shard
        try:
            manifest = ShardManifest.model_validate(read_json(folder / SHARD_FILE))
            sizes_fit = all((folder / n).stat().st_size == info.size for n, info in manifest.files.items())
        except (ArtifactError, ValidationError, OSError):
            return None
        return manifest if sizes_fit else None
