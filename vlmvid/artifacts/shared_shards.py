"""The shards of a store that machines share: manifests are mirrored, arrays are fetched when they are read."""

from __future__ import annotations

from pathlib import Path

from vlmvid.artifacts.files import MissingResult, write_bytes
from vlmvid.artifacts.mirror import Mirror
from vlmvid.artifacts.shards import SHARD_FILE, ClipStore, ShardManifest


class SharedClipStore(ClipStore):
    """A `ClipStore` in which a shard exists once its manifest is in the shared store.

    A shard is written to a temporary local folder as always, its arrays are uploaded, then its manifest, and the
    folder gets its name. What other machines wrote is memory-mapped from a local copy, whose sha256 was checked when
    it was fetched.
    """

    def __init__(self, mirror: Mirror, folder: Path, stage: str) -> None:
        super().__init__(folder, stage)
        self._mirror = mirror
        self._committed: set[str] = set()

    def verify(self) -> list[str]:
        """Fetch and hash every array again; damaged shards lose their manifest and are named."""
        self.refresh()
        damaged = []
        for shard, manifest in list(self._manifests.items()):
            try:
                for name, info in manifest.files.items():
                    self._mirror.fetch(self._folder / shard, name, info, anew=True)
            except MissingResult:
                self._withdraw(shard)
                damaged.append(shard)
        self._open.cache_clear()
        return damaged

    def _names(self) -> set[str]:
        self._committed = self._mirror.committed(self._folder)
        new = {name for name in self._committed if not (self._folder / name / SHARD_FILE).is_file()}
        for name, data in self._mirror.commits(self._folder, new).items():
            write_bytes(self._folder / name / SHARD_FILE, data)
        return set(self._committed)

    def _is_whole(self, shard: str, manifest: ShardManifest) -> bool:
        return shard in self._committed  # its arrays are fetched when they are read

    def _publish(self, shard: str, manifest: ShardManifest, folder: Path) -> None:
        self._mirror.publish(self._folder / shard, SHARD_FILE, manifest.files, source=folder)
        with self._looking:
            self._committed.add(shard)

    def _path(self, shard: str, file: str) -> Path:
        if file == SHARD_FILE:
            return self._folder / shard / file
        if shard not in self._manifests:
            self.refresh()
        manifest = self._manifests.get(shard)
        if manifest is None or file not in manifest.files:
            return self._folder / shard / file
        info = manifest.files[file]
        try:
            return self._mirror.fetch(self._folder / shard, file, info)
        except MissingResult as error:
            if self._mirror.is_lost(self._folder / shard, {file: info}, error):
                self._withdraw(shard)
            raise

    def _withdraw(self, shard: str) -> None:
        self._mirror.withdraw(self._folder / shard, SHARD_FILE)
        self.discard(shard)
