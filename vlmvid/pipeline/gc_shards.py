"""Shards that nothing needs: no index, no ledger row and no recipe names their clips, or others hold them as well."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vlmvid.artifacts import LedgerRow, Store
from vlmvid.artifacts.garbage import Leftover, leftover
from vlmvid.artifacts.keys import is_key
from vlmvid.artifacts.shards import ShardManifest
from vlmvid.errors import ArtifactError
from vlmvid.pipeline.gc_references import Place, Wanted, unreadable
from vlmvid.pipeline.index import INDEX_FILE

TEXT = "text"  # its keys stand in no index: a shard of texts goes only when others hold them
TOKENS = "tokens"


class Indexes:
    """What the indexes of some artifacts name: shards by clip stage, and the keys of clips."""

    def __init__(self, home: Path, places: Iterable[Place]) -> None:
        import pyarrow.parquet as pq

        self.shards: dict[str, set[str]] = {}
        self.keys: dict[str, set[str]] = {}
        for stage, key in places:
            path = home / "stages" / stage / key / INDEX_FILE
            if not path.is_file():
                continue
            table = pq.read_table(path, columns=["key", "shard", "tokens_key"])
            self._add(stage, table["key"].to_pylist(), table["shard"].to_pylist())
            self._add(TOKENS, filter(None, table["tokens_key"].to_pylist()), ())

    def _add(self, stage: str, keys: Iterable[str], shards: Iterable[str]) -> None:
        self.keys.setdefault(stage, set()).update(keys)
        self.shards.setdefault(stage, set()).update(filter(None, shards))


class ShardSweep:
    """Finds the shards of a local store that are not needed, given the artifacts that stay and those that go.

    `wanted` is asked for only when a shard depends on it, because working it out reads every recipe's sources.
    """

    def __init__(self, store: Store, kept: Iterable[Place], going: Iterable[Place], superseded: bool) -> None:
        self._store = store
        self._kept = Indexes(store.home, kept)
        self._going = Indexes(store.home, going)
        self._superseded = superseded
        self.refused: list[str] = []

    def broken(self) -> list[Leftover]:
        """Folders of shards without a valid manifest."""
        found = []
        for stage in self._stages():
            known = self._manifests(stage)
            if known is not None:
                folder = self._store.home / "clips" / stage
                for name in sorted({path.name for path in folder.glob("[!.]*") if is_key(path.name)} - known.keys()):
                    problem = unreadable(folder / name)
                    if problem is None:
                        found.append(leftover(folder / name, "broken", "a shard whose manifest or files are damaged"))
                    else:
                        self.refused.append(problem)
        return found

    def unneeded(self, wanted: Wanted | None) -> list[Leftover]:
        """The shards that are not needed; with `wanted` None as if no recipe needed any."""
        found = []
        for stage in self._stages():
            folder = self._store.home / "clips" / stage
            reasons = self._reasons(stage, wanted)
            found += [leftover(folder / name, "shard", why) for name, why in sorted(reasons.items())]
        return found

    def _stages(self) -> list[str]:
        return sorted(path.name for path in (self._store.home / "clips").glob("[!.]*") if path.is_dir())

    def _manifests(self, stage: str) -> dict[str, ShardManifest] | None:
        try:
            return self._store.clips(stage).manifests()
        except ArtifactError as error:  # written by a newer version
            self.refused.append(str(error))
            return None

    def _reasons(self, stage: str, wanted: Wanted | None) -> dict[str, str]:
        """Why shards of a clip stage are not needed, by their names."""
        manifests = self._manifests(stage) or {}
        named = self._kept.shards.get(stage, set())
        others = {name: manifest for name, manifest in manifests.items() if name not in named}
        if not others:
            return {}
        needed = _Needed(self._ledger(stage), self._kept.keys.get(stage, set()), all_keys=stage == TEXT)
        if wanted is not None:
            needed.keys |= wanted.clips.get(stage, set())
        # Where a recipe's clips are unknown, any shard may hold some.
        needed.all_keys |= wanted is not None and wanted.hides_clips
        held: dict[str, list[frozenset[str]]] = {}
        for name in manifests.keys() - others.keys():
            _hold(held, manifests[name])
        reasons = {}
        for name in sorted(others, key=lambda name: (-len(others[name].columns), -len(others[name].keys), name)):
            manifest = others[name]
            keys, columns = needed.of(name, manifest), frozenset(manifest.columns)
            if all(any(columns <= some for some in held.get(key, ())) for key in keys):
                reasons[name] = "other shards hold its clips as well" if keys else "nothing names its clips"
            else:
                _hold(held, manifest)
        return reasons

    def _ledger(self, stage: str) -> list[LedgerRow]:
        """The rows of results that count; with `superseded` not those of which a clip has a newer one."""
        rows = [row for row in self._store.ledger(stage).rows().values() if row.status == "ok"]
        if not self._superseded:
            return rows
        newest: dict[str, float] = {}
        for row in rows:
            newest[row.video_id] = max(newest.get(row.video_id, 0.0), row.time_seconds)
        going = self._going.keys.get(stage, set())
        return [row for row in rows if row.time_seconds >= newest[row.video_id] and row.key not in going]


class _Needed:
    """Which clips of a stage something names."""

    def __init__(self, ledger: Iterable[LedgerRow], keys: set[str], *, all_keys: bool) -> None:
        rows = list(ledger)
        self.keys = keys | {row.key for row in rows}
        self.all_keys = all_keys
        # The ledger of curate has keys of its own, and names the shard.
        self._shards = {row.shard for row in rows} - {""}

    def of(self, name: str, manifest: ShardManifest) -> list[str]:
        """The clips of a shard that are needed."""
        whole = self.all_keys or name in self._shards
        return [key for key in manifest.keys if whole or key in self.keys]


def _hold(held: dict[str, list[frozenset[str]]], manifest: ShardManifest) -> None:
    columns = frozenset(manifest.columns)
    for key in manifest.keys:
        held.setdefault(key, []).append(columns)
