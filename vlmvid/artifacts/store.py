"""The content-addressed store: one folder per stage key, complete when its manifest is there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from vlmvid.artifacts.code import combined_digest
from vlmvid.artifacts.digests import DigestCache, sha256_file
from vlmvid.artifacts.files import read_json, staging_folder, write_json
from vlmvid.artifacts.keys import KeyParts, differences, first_difference, hash_json
from vlmvid.artifacts.ledger import EventLog, Ledger
from vlmvid.artifacts.ref import ArtifactRef, Kind
from vlmvid.artifacts.shards import ClipStore, FileInfo
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError, ConfigError

MANIFEST_FILE = "manifest.json"


class Manifest(Config):
    """The description of a stage's artifact, written last.

    `revision` is empty unless the artifact was published again under the same key with other
    content (failed clips that succeeded on a retry); it then enters the keys of what follows.
    """

    format: int = 1
    stage: str
    kind: Kind
    key: str
    recipe: str
    parts: KeyParts
    parents: dict[str, str]
    counts: dict[str, int]
    files: dict[str, FileInfo]
    created_seconds: float
    adopted_code: bool = False
    revision: str = ""


class Store:
    """Everything below one VLMVID_HOME.

    Raises ConfigError when the home is a remote URI or cannot be written, before any work.
    """

    def __init__(self, home: Path, *, verify: bool = False) -> None:
        self.home = home
        self.digests = DigestCache(home / "digests", verify=verify)
        self.events = EventLog(home / "events.jsonl")
        self._clip_stores: dict[str, ClipStore] = {}

    def clips(self, stage: str) -> ClipStore:
        """The per-clip shards of a stage."""
        if stage not in self._clip_stores:
            self._clip_stores[stage] = ClipStore(self.home / "clips", stage)
        return self._clip_stores[stage]

    def refresh(self) -> None:
        """Look at every shard again: files may have been damaged or removed since they were read."""
        self._clip_stores.clear()

    def ledger(self, stage: str) -> Ledger:
        """A new writer on the ledger of a stage."""
        return Ledger(self.home / "ledger", stage)

    def artifact_folder(self, stage: str, key: str) -> Path:
        """Where the artifact of a stage key lies, whether it exists or not."""
        return self.home / "stages" / stage / key

    def work_folder(self, stage: str, key: str) -> Path:
        """Scratch space of an unfinished stage: checkpoints that a rerun resumes from."""
        return self.home / "work" / stage / key

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a complete artifact; None when there is none or a file of it is gone."""
        folder = self.artifact_folder(stage, key)
        try:
            manifest = Manifest.model_validate(read_json(folder / MANIFEST_FILE))
            whole = all((folder / n).stat().st_size == info.size for n, info in manifest.files.items())
        except (ArtifactError, ValidationError, OSError):
            return None
        return manifest if whole else None

    def ref(self, stage: str, key: str) -> ArtifactRef | None:
        """A reference to a complete artifact, or None."""
        manifest = self.manifest(stage, key)
        if manifest is None:
            return None
        return ArtifactRef(uri=str(self.artifact_folder(stage, key)), kind=manifest.kind, key=key)

    def publish(
        self,
        parts: KeyParts,
        kind: Kind,
        write: Callable[[Path], None],
        *,
        recipe: str,
        counts: Mapping[str, int] | None = None,
        adopted_code: bool = False,
    ) -> ArtifactRef:
        """Write an artifact: `write` fills a temporary folder, the manifest goes last, then a rename."""
        key, final = parts.key, self.artifact_folder(parts.stage, parts.key)
        before = self.manifest(parts.stage, key)
        if final.exists():
            final.rename(final.with_name(f".{key}.{os.urandom(4).hex()}.replaced"))
        with staging_folder(final) as temporary:
            write(temporary)
            files = {
                str(file.relative_to(temporary)): FileInfo(size=file.stat().st_size, sha256=sha256_file(file))
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            manifest = Manifest(
                stage=parts.stage,
                kind=kind,
                key=key,
                recipe=recipe,
                parts=parts,
                parents=parts.inputs,
                counts=dict(counts or {}),
                files=files,
                created_seconds=time.time(),
                adopted_code=adopted_code,
                revision=_revision(before, files),
            )
            write_json(temporary / MANIFEST_FILE, manifest.model_dump(mode="json"))
        for old in final.parent.glob(f".{key}.*.replaced"):
            shutil.rmtree(old, ignore_errors=True)
        self.events.emit("stage.published", stage=parts.stage, key=key)
        return ArtifactRef(uri=str(final), kind=kind, key=key)

    def input_key(self, stage: str, key: str) -> str:
        """The key by which later stages know this artifact: the stage key, and the revision if any."""
        manifest = self.manifest(stage, key)
        return f"{key}+{manifest.revision}" if manifest is not None and manifest.revision else key

    def previous(self, parts: KeyParts, recipe: str) -> Manifest | None:
        """The stored artifact of this stage that is closest to `parts`.

        The recipe's own earlier results come first, then the fewest differences, then the newest.
        """
        folder = self.home / "stages" / parts.stage
        names = [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []
        found = [m for m in (self.manifest(parts.stage, name) for name in names) if m is not None]

        def rank(manifest: Manifest) -> tuple[bool, int, float]:
            return (
                manifest.recipe != recipe,
                sum(1 for _ in differences(manifest.parts, parts)),
                -manifest.created_seconds,
            )

        return min(found, key=rank, default=None)

    def why_not_cached(self, parts: KeyParts, recipe: str) -> str:
        """The first thing that differs from the closest earlier result, in words."""
        old = self.previous(parts, recipe)
        if old is None:
            return "no earlier result in this store"
        return first_difference(old.parts, parts) or "its files are missing or damaged"

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold a stage key against other processes; released by the system when we are killed."""
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{stage}-{key}.lock"):
            yield

    # Accepting a code change pins the code digests of the old results to the new code.

    def accept_code(self, stage: str, code: Mapping[str, str], packages: Mapping[str, str], old: KeyParts) -> None:
        """Declare that results of `old`'s code stay valid under the current code of `stage`."""
        path = self.home / "accepted_code" / f"{stage}-{combined_digest(code, packages)}.json"
        write_json(path, {"code": old.code, "packages": old.packages})

    def accepted_code(
        self, stage: str, code: dict[str, str], packages: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str], bool]:
        """The code and packages that enter keys: the accepted old ones, or those given."""
        path = self.home / "accepted_code" / f"{stage}-{combined_digest(code, packages)}.json"
        if not path.exists():
            return code, packages, False
        value = read_json(path)
        return value["code"], value["packages"], True


def _revision(before: Manifest | None, files: Mapping[str, FileInfo]) -> str:
    if before is None:
        return ""
    if before.files == files:
        return before.revision
    return hash_json({name: info.sha256 for name, info in files.items()})[:8]


def open_store(home: str | Path, *, verify: bool = False) -> Store:
    """The store at `home`, made if needed and proved writable."""
    text = str(home)
    if "://" in text:
        raise ConfigError(f"VLMVID_HOME={text!r} is a remote URI; this version keeps its store in a local folder")
    folder = Path(text).expanduser().absolute()
    probe = folder / f".write-test-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"the store {folder} is not writable ({error.strerror or error}); "
            "set VLMVID_HOME (or --home) to a folder that you may write"
        ) from error
    return Store(folder, verify=verify)
