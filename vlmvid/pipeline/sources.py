"""The dataset's files as they are now: what enters the ingest key, and what is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
from vlmvid.errors import DecodeError
from vlmvid.types import Clip, Record
from vlmvid.video.paths import check_file, path_error

CLIPS_FILE = "clips.jsonl"
SOURCES_FILE = "sources.json"
MISSING = "missing"
REFUSED = "refused: "
AUGMENTING_MODULE = "vlmvid.data.caption_augment"


class SourceRow(Record):
    """One manifest row with the absolute path and the content digest of its file."""

    clip: Clip
    path: str
    source_sha256: str


class Sources:
    """A recipe's dataset and the digests of its files, and of those below `benchmark_media`."""

    def __init__(self, config: DataConfig, store: Store, benchmark_media: Sequence[Path] = ()) -> None:
        self._config = config
        self._store = store
        self._benchmark_media = tuple(benchmark_media)
        self._refused: dict[Path, DecodeError] = {}

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, its options validated."""
        return open_dataset(self._config)

    @property
    def code_roots(self) -> tuple[str, ...]:
        """The modules whose code decides the clips."""
        modules = self.dataset.code_modules()
        return (*modules, AUGMENTING_MODULE) if self._config.augment_captions is not None else modules

    @cached_property
    def digests(self) -> dict[str, str]:
        """Content digest by stable name of every source file; MISSING for one that is not there."""
        return {name: self.digest(path) for name, path in sorted(self.dataset.source_files().items())}

    def digest(self, path: Path) -> str:
        """The content digest of a file, MISSING, or REFUSED and the reason code.

        The file is looked at first: to hash a named pipe would be to wait for a writer, and what lies
        outside of ``data.restrict_root`` is nobody's business here.
        """
        try:
            check_file(path, self._root_of(path))
            digest = self._store.digests.digest(path)
        except DecodeError as error:
            self._refused[path] = error
        except OSError as error:
            self._refused[path] = path_error(error, path, "read")
        else:
            self._refused.pop(path, None)
            return digest
        code = self._refused[path].reason_code
        return MISSING if code == "missing_file" else f"{REFUSED}{code}"

    def refusal(self, path: Path) -> DecodeError | None:
        """Why a file is not read: what it is, where it lies, or what the storage says; None for a good one."""
        self.digest(path)
        return self._refused.get(path)

    def key_inputs(self) -> dict[str, str]:
        """What enters the ingest key as input."""
        return {"sources": hash_json(self.digests)} if self.digests else {}

    def key_config(self) -> dict[str, Any]:
        """What enters the ingest key as configuration."""
        config = {"name": self._config.name, "options": self.dataset.key_config()}
        if self._config.augment_captions is not None:
            config["augment_captions"] = self._config.augment_captions.model_dump(mode="json")
        return config

    @cached_property
    def folder(self) -> Path:
        """Where generated videos lie: one folder per place of the sources, generating configuration and code."""
        modules, packages = code_closure(self.dataset.code_modules())
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

    def _root_of(self, path: Path) -> Path | None:
        """The folder that must hold `path`: none for the file that lists the clips, for those that were made, and for
        benchmarks, whose folders the recipe names itself."""
        root = self.dataset.restrict_root
        if root is None or self.dataset.is_index(path):
            return None
        return None if any(path.is_relative_to(place) for place in (self.folder, *self._benchmark_media)) else root


def read_rows(artifact: Path) -> Iterator[SourceRow]:
    """The rows of an ingest artifact."""
    return (SourceRow.model_validate(value) for value in read_lines(artifact / CLIPS_FILE))
