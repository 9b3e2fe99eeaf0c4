"""The content-addressed store: one folder per stage key, complete when its manifest is there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from vlmvid.artifacts.code import combined_digest
from vlmvid.artifacts.digests import DigestCache, sha256_file
from vlmvid.artifacts.files import MissingResult, read_json, staging_folder, write_json
from vlmvid.artifacts.formats import require_known_format
from vlmvid.artifacts.keys import KeyParts, differences, first_difference
from vlmvid.artifacts.ledger import EventLog, Ledger
from vlmvid.artifacts.ref import ArtifactRef, Kind
from vlmvid.artifacts.shards import ClipStore, FileInfo
from vlmvid.config.addresses import check_address, check_no_secret
from vlmvid.config.base import Config
from vlmvid.errors import ConfigError

logger = logging.getLogger(__name__)
MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1


class Facts(Config):
    """What a stage says about its artifact.

    `revision` is a digest of the clips that are missing from it, empty when none is: it enters the
    keys of what follows, because a retry may publish more clips under the same key. `adopted_code`
    says that results of older code were accepted as valid.
    """

    recipe: str
    counts: dict[str, int] = Field(default_factory=dict)
    adopted_code: bool = False
    revision: str = ""


class Manifest(Facts):
    """The description of a stage's artifact, written last."""

    format: int = MANIFEST_FORMAT
    stage: str
    kind: Kind
    key: str
    parts: KeyParts
    parents: dict[str, str]
    files: dict[str, FileInfo]
    created_seconds: float


class Store:
    """Everything below one VLMVID_HOME; `home` is its folder, `uri` its name for other processes.

    `vlmvid.artifacts.shared_store` has the one that machines share.
    """

    def __init__(self, home: Path, *, verify: bool = False) -> None:
        self.home = home
        self.uri = str(home)
        self.digests = DigestCache(home / "digests", verify=verify)
        self.events = EventLog(home / "events.jsonl")
        self._verify = verify
        self._hashed: set[Path] = set()
        self._clip_stores: dict[str, ClipStore] = {}
        self._ledgers: dict[str, Ledger] = {}

    def clips(self, stage: str) -> ClipStore:
        """The per-clip shards of a stage."""
        if stage not in self._clip_stores:
            self._clip_stores[stage] = ClipStore(self.home / "clips", stage)
        return self._clip_stores[stage]

    def refresh(self) -> None:
        """Look at every shard and ledger again: files may have been damaged or removed since they were read."""
        self._clip_stores.clear()
        self._ledgers.clear()
        self._hashed.clear()
        self.digests.forget_verified()

    def verify_clips(self, stage: str) -> list[str]:
        """With ``verify``, hash the shards of a stage again; the damaged ones are set aside and named."""
        return self.clips(stage).verify() if self._verify else []

    def ledger(self, stage: str) -> Ledger:
        """The ledger of a stage; it is read once, then only what was added."""
        return self._ledgers.setdefault(stage, Ledger(self.home / "ledger", stage))

    def artifact_folder(self, stage: str, key: str) -> Path:
        """Where the artifact of a stage key lies, whether it exists or not."""
        return self.home / "stages" / stage / key

    def open_artifact(self, stage: str, key: str) -> Path:
        """The folder of a complete artifact with all its files on this machine."""
        return self.artifact_folder(stage, key)

    def address(self, path: Path) -> str:
        """The name of a file or folder of this store for other processes."""
        return str(path)

    def local_path(self, address: str) -> Path:
        """The file or folder on this machine that `address` names; a small file is fetched when it is not here."""
        return Path(address)

    def share(self, path: Path) -> None:
        """Give a small finished file to all who share the store; in a local one they have it already."""

    def work_folder(self, stage: str, key: str) -> Path:
        """Scratch space of an unfinished stage: checkpoints that a rerun resumes from."""
        return self.home / "work" / stage / key

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a complete artifact; None when there is none or a file of it is gone.

        Raises ArtifactError for one that a newer version of vlmvid has written, and when a shared store cannot be
        asked: that says nothing of what it holds.
        """
        folder = self.artifact_folder(stage, key)
        try:
            value = self._read_manifest(folder)
        except (MissingResult, OSError):
            return None
        require_known_format(value, MANIFEST_FORMAT, folder / MANIFEST_FILE)
        try:
            manifest = Manifest.model_validate(value)
            whole = self._is_whole(folder, manifest, hashes=self._verify and folder not in self._hashed)
        except (MissingResult, ValidationError, OSError):
            return None
        if whole:
            self._hashed.add(folder)
        return manifest if whole else None

    def ref(self, stage: str, key: str) -> ArtifactRef | None:
        """A reference to a complete artifact, or None."""
        manifest = self.manifest(stage, key)
        if manifest is None:
            return None
        return ArtifactRef(uri=self.address(self.artifact_folder(stage, key)), kind=manifest.kind, key=key)

    def publish(self, parts: KeyParts, kind: Kind, write: Callable[[Path], None], facts: Facts) -> ArtifactRef:
        """Write an artifact: `write` fills a temporary folder, the manifest goes last, then a rename.

        An artifact that is there already is replaced.
        """
        final = self.artifact_folder(parts.stage, parts.key)
        with staging_folder(final, replace=True) as temporary:
            write(temporary)
            files = {
                str(file.relative_to(temporary)): FileInfo(size=file.stat().st_size, sha256=sha256_file(file))
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            manifest = Manifest(
                stage=parts.stage,
                kind=kind,
                key=parts.key,
                parts=parts,
                parents=parts.inputs,
                files=files,
                created_seconds=time.time(),
                **facts.model_dump(),
            )
            write_json(temporary / MANIFEST_FILE, manifest.model_dump(mode="json"))
            self._publish(final, manifest, temporary)
        self.events.emit("stage.published", stage=parts.stage, key=parts.key)
        return ArtifactRef(uri=self.address(final), kind=kind, key=parts.key)

    def input_key(self, stage: str, key: str) -> str:
        """The key by which later stages know this artifact: the stage key, and the revision if any."""
        manifest = self.manifest(stage, key)
        return f"{key}+{manifest.revision}" if manifest is not None and manifest.revision else key

    def previous(self, parts: KeyParts, recipe: str) -> Manifest | None:
        """The stored artifact of this stage that is closest to `parts`.

        The recipe's own earlier results come first, then the fewest differences, then the newest.
        """
        names = self._keys(parts.stage)
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
        if self.artifact_folder(parts.stage, parts.key).exists():
            return "files of its stored result are missing or damaged"
        old = self.previous(parts, recipe)
        if old is None:
            return "no earlier result in this store"
        if old.recipe != recipe:
            return f"no earlier result of recipe {recipe!r} in this store"
        return first_difference(old.parts, parts) or "its stored result is gone"

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """Hold a stage key against other processes; released by the system when we are killed."""
        folder = self.home / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{stage}-{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another process works on key %s; waiting for it", stage, key)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    # Accepting a code change pins the code digests of the old results to the new code.

    def accept_code(self, stage: str, code: Mapping[str, str], packages: Mapping[str, str], old: KeyParts) -> None:
        """Declare that results of `old`'s code stay valid under the current code of `stage`."""
        path = self.home / "accepted_code" / f"{stage}-{combined_digest(code, packages)}.json"
        write_json(path, {"code": old.code, "packages": old.packages})
        self.share(path)

    def accepted_code(
        self, stage: str, code: dict[str, str], packages: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str], bool]:
        """The code and packages that enter keys: the accepted old ones, or those given."""
        place = self.home / "accepted_code" / f"{stage}-{combined_digest(code, packages)}.json"
        path = self.local_path(self.address(place))
        if not path.exists():
            return code, packages, False
        value = read_json(path)
        return value["code"], value["packages"], True

    # What a store that machines share does otherwise.

    def _read_manifest(self, folder: Path) -> object:
        """The JSON of an artifact's manifest; raises MissingResult when there is none."""
        return read_json(folder / MANIFEST_FILE)

    def _is_whole(self, folder: Path, manifest: Manifest, *, hashes: bool) -> bool:
        """Whether the files of an artifact have their sizes, with `hashes` also their sha256."""
        files = manifest.files.items()
        if not all((folder / name).stat().st_size == info.size for name, info in files):
            return False
        return not hashes or all(sha256_file(folder / name) == info.sha256 for name, info in files)

    def _publish(self, final: Path, manifest: Manifest, folder: Path) -> None:
        """Called with every artifact when it is whole in the temporary `folder`; locally the rename publishes it."""

    def _keys(self, stage: str) -> list[str]:
        """The stage keys that have an artifact."""
        folder = self.home / "stages" / stage
        return [p.name for p in folder.iterdir() if not p.name.startswith(".")] if folder.is_dir() else []


def check_shared_address(home: str) -> None:
    """Raise ConfigError for an fsspec URI that is none, or that holds a password."""
    mend = "give it without, and set what the storage's own library reads, e.g. AWS_SECRET_ACCESS_KEY"
    check_no_secret(check_address(home, "home", "home"), "home", mend)


def open_store(home: str | Path, *, verify: bool = False) -> Store:
    """The store at `home`, a folder or an fsspec URI, made if needed and proved writable.

    Raises ConfigError when it is not.
    """
    text = str(home)
    if "://" in text:
        check_shared_address(text)
        from vlmvid.artifacts.shared_store import open_shared_store

        return open_shared_store(text, verify=verify)
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
