"""The dataset's files as they are now: what enters the ingest key, and what is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmvid.artifacts import Store, hash_json
from vlmvid.artifacts.code import code_closure, combined_digest, package_versions
from vlmvid.artifacts.files import read_json
from vlmvid.artifacts.ledger import read_lines
from vlmvid.config.schema import DataConfig
from vlmvid.data import open_dataset
from vlmvid.data.base import Dataset
from vlmvid.types import Clip, Record

CLIPS_FILE = "clips.jsonl"
SOURCES_FILE = "sources.json"
MISSING = "missing"
UNREADABLE = "unreadable: "


class SourceRow(Record):
    """One manifest row with the absolute path and the content digest of its file."""

    clip: Clip
    path: str
    source_sha256: str


class Sources:
    """A recipe's dataset and the digests of its files."""

    def __init__(self, config: DataConfig, store: Store) -> None:
        self._config = config
        self._store = store

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, its options validated."""
        return open_dataset(self._config)

    @property
    def code_roots(self) -> tuple[str, ...]:
        """The module whose code decides the clips."""
        return (type(self.dataset).__module__,)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Content digest by stable name of every source file; MISSING for one that is not there."""
        return {name: self.digest(path) for name, path in sorted(self.dataset.source_files().items())}

    def digest(self, path: Path) -> str:
        """The content digest of a file, MISSING, or UNREADABLE and why."""
        try:
            return self._store.digests.digest(path)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING
        except OSError as error:
            return f"{UNREADABLE}{error.strerror or error}"

    def key_inputs(self) -> dict[str, str]:
        """What enters the ingest key as input."""
        return {"sources": hash_json(self.digests)} if self.digests else {}

    def key_config(self) -> dict[str, Any]:
        """What enters the ingest key as configuration."""
        return {"name": self._config.name, "options": self.dataset.key_config()}

    @cached_property
    def folder(self) -> Path:
        """Where generated videos lie: one folder per place of the sources, generating configuration and code."""
        modules, packages = code_closure(self.code_roots)
        code = combined_digest(modules, package_versions(packages))
        places = sorted({str(path.parent) for path in self.dataset.source_files().values()})
        place = os.path.commonpath(places) if places else ""
        key = hash_json([self._config.name, place, self.dataset.generation_config(), code])
        return self._store.home / "datasets" / f"{self._config.name}-{key}"

    def source_of(self, name: str) -> str:
        """The digest of what a generated file is made from; empty when it is drawn from a seed."""
        source = self.dataset.source_of(name)
        return self.digests.get(source, MISSING) if source else ""

    def why_stale(self, artifact: Path) -> str | None:
        """Why a stored ingest result no longer matches the files on disk; None when it does."""
        for row in read_rows(artifact):
            found = self.digest(Path(row.path))
            if found != row.source_sha256:
                state = "is gone" if found == MISSING else "has other content"
                return f"input video {row.clip.video_id}: {row.path} {state}"
        return None

    def first_changed(self, artifact: Path) -> str | None:
        """The first source file that differs from those of an earlier ingest result, in words."""
        path = artifact / SOURCES_FILE
        before: dict[str, str] = read_json(path) if path.is_file() else {}
        for name in sorted(before.keys() | self.digests.keys()):
            old, new = before.get(name), self.digests.get(name)
            if old == new:
                continue
            if old is None:
                return f"input {name} is new"
            return f"input {name} is gone" if new in (None, MISSING) else f"input {name} has other content"
        return None


def read_rows(artifact: Path) -> Iterator[SourceRow]:
    """The rows of an ingest artifact."""
    return (SourceRow.model_validate(value) for value in read_lines(artifact / CLIPS_FILE))
