"""The store that machines share: the local one of each, its results published to an fsspec URI."""

from __future__ import annotations

import json
from pathlib import Path

from vlmvid.artifacts.files import MissingResult
from vlmvid.artifacts.ledger import EventLog, Ledger
from vlmvid.artifacts.mirror import Mirror, open_mirror
from vlmvid.artifacts.shards import ClipStore
from vlmvid.artifacts.shared_shards import SharedClipStore
from vlmvid.artifacts.store import MANIFEST_FILE, Manifest, Store


class SharedStore(Store):
    """Shards, artifacts, ledger, events, recipes and accepted code are shared; the rest belongs to the machine.

    An artifact or shard exists once its manifest is in the shared store, wherever its files lie.
    """

    def __init__(self, mirror: Mirror, *, verify: bool = False) -> None:
        super().__init__(mirror.home, verify=verify)
        self.uri = mirror.uri
        self.events = EventLog(self.home / "events.jsonl", mirror)
        self._mirror = mirror

    def clips(self, stage: str) -> ClipStore:
        """The per-clip shards of a stage."""
        if stage not in self._clip_stores:
            self._clip_stores[stage] = SharedClipStore(self._mirror, self.home / "clips", stage)
        return self._clip_stores[stage]

    def ledger(self, stage: str) -> Ledger:
        """The ledger of a stage, of all machines; it is read once, then only what was added."""
        return self._ledgers.setdefault(stage, Ledger(self.home / "ledger", stage, self._mirror))

    def open_artifact(self, stage: str, key: str) -> Path:
        """The folder of a complete artifact with all its files on this machine, fetched when they are not.

        Raises MissingResult when there is none, or when a file of it is damaged or gone; then it counts as missing from
        now on.
        """
        folder = self.artifact_folder(stage, key)
        data = self._mirror.commit(folder)
        if data is None:
            raise MissingResult(f"{self.address(folder)} does not exist; run stage {stage!r} again")
        manifest = Manifest.model_validate_json(data)
        self._mirror.fetch_all(folder, MANIFEST_FILE, data, manifest.files)
        return folder

    def address(self, path: Path) -> str:
        """The URI of a file or folder of this store."""
        return self._mirror.uri_of(path)

    def local_path(self, address: str) -> Path:
        """The file on this machine that a URI of this store names, fetched when it is not here."""
        return self._mirror.pull(self._mirror.path_of(address))

    def share(self, path: Path) -> None:
        """Upload a small finished file to its own place."""
        self._mirror.push(path)

    def _read_manifest(self, folder: Path) -> object:
        data = self._mirror.commit(folder)
        if data is None:
            raise MissingResult(f"{self.address(folder)} does not exist")
        try:
            return json.loads(data)
        except ValueError as error:
            raise MissingResult(f"the manifest of {self.address(folder)} cannot be read as JSON: {error}") from error

    def _is_whole(self, folder: Path, manifest: Manifest, *, hashes: bool) -> bool:
        if hashes:
            for name, info in manifest.files.items():
                self._mirror.fetch(folder, name, info, anew=True)
        return True  # else its files are checked when they are fetched

    def _publish(self, final: Path, manifest: Manifest, folder: Path) -> None:
        self._mirror.publish(final, MANIFEST_FILE, manifest.files, source=folder)

    def _keys(self, stage: str) -> list[str]:
        return sorted(self._mirror.committed(self.home / "stages" / stage))


def open_shared_store(uri: str, *, verify: bool = False) -> SharedStore:
    """The store at an fsspec URI, proved writable; raises ConfigError when it is not."""
    return SharedStore(open_mirror(uri), verify=verify)
