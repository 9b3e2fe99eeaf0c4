"""`vlmvid gc`: what nothing needs any more, found first, removed only when asked."""

from __future__ import annotations

import os
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vlmvid.artifacts import Store, open_store
from vlmvid.artifacts.garbage import Leftover, check_store, find_scratch, find_temporaries, leftover, remove
from vlmvid.artifacts.keys import is_key
from vlmvid.config import Config
from vlmvid.errors import ArtifactError, ConfigError
from vlmvid.pipeline.gc_locks import RunWatch, is_held, lock_files, only_one, remove_lock, running_stages
from vlmvid.pipeline.gc_references import (
    Place,
    Wanted,
    reachable,
    recipe_files,
    recipe_name,
    registered_keys,
    wanted_by,
    whole_artifacts,
)
from vlmvid.pipeline.gc_shards import ShardSweep
from vlmvid.pipeline.request import DEFAULT_HOME

DEFAULT_HOURS = 24.0
BUSY_HOURS = 24.0
# What no run can be in need of, however long it takes, once it is old.
_ALWAYS = {"temporary", "scratch", "damaged", "object", "upload"}


class Garbage(Config):
    """One thing that may go, or has gone: `error` says why it could not. `age_hours` is that of its newest file."""

    kind: str
    place: str
    why: str
    num_bytes: int
    age_hours: float
    removed: bool = False
    error: str = ""


class GarbageReport(Config):
    """What `collect_garbage` found.

    `items` are what may go (with `dry_run`), or what was tried to remove; `num_young` counts what is younger than
    `older_than_hours`; `busy` names the stages that run now; `notes` say what was kept because something is unknown.
    """

    home: str
    dry_run: bool
    superseded: bool
    older_than_hours: float
    items: tuple[Garbage, ...]
    num_young: int
    busy: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of what may go, or of what has gone."""
        return sum(item.num_bytes for item in self.items if self.dry_run or item.removed)

    @property
    def failed(self) -> list[Garbage]:
        """What could not be removed."""
        return [item for item in self.items if item.error]


def collect_garbage(
    home: str | Path | None = None,
    *,
    dry_run: bool = True,
    older_than_hours: float = DEFAULT_HOURS,
    superseded: bool = False,
    keep_recipes: int | None = None,
) -> GarbageReport:
    """Find what nothing in the store at `home` needs and, without `dry_run`, remove it.

    Always: what interrupted writes left (`find_temporaries`), damaged results, shards that no index, ledger or recipe
    names or that others hold as well, locks that nobody holds. With `superseded`, in a local store, also what no
    recipe of the store needs as files and code are now: artifacts, shards and model folders, except the newest
    artifact of every recipe's stage and what registered models were made of; `keep_recipes` first forgets all but so
    many variants of each recipe, those that were asked for last.

    Nothing that is younger than `older_than_hours` goes, and no scratch space outside of the store that is younger than
    `BUSY_HOURS`. While a stage runs on this machine only temporary names older than `BUSY_HOURS` go. Killed at any
    moment, it leaves a store that is whole.

    Raises ConfigError for options that do not go together, or where there is no store, ArtifactError when another
    `vlmvid gc` works, or a shared store does not answer.
    """
    place = str(home or os.environ.get("VLMVID_HOME") or DEFAULT_HOME)
    _check(place, older_than_hours, superseded, keep_recipes)
    store = open_store(place)
    with only_one(store.home, dry_run):
        # Before anything is looked at: a run that begins during the search is told by it.
        watch = RunWatch(store.home)
        forgotten = _forgotten(store.home, keep_recipes, older_than_hours)
        search = _Search(store, place, superseded, forgotten)
        busy = running_stages(store.home)
        now = time.time()
        items, num_young = [], 0
        for found, is_ours in search.leftovers():
            age = (now - found.modified_seconds) / 3600
            # What belongs to no store may be that of any run on this machine.
            if age < (older_than_hours if is_ours and not busy else max(older_than_hours, BUSY_HOURS)):
                num_young += is_ours
            elif not busy or found.kind in _ALWAYS:
                items.append(_garbage(found, age))
        if not dry_run:
            items = [_remove(item, place, watch) for item in items]
        return GarbageReport(
            home=store.uri,
            dry_run=dry_run,
            superseded=superseded,
            older_than_hours=older_than_hours,
            items=tuple(items),
            num_young=num_young,
            busy=tuple(busy),
            notes=tuple(search.notes),
        )


def _check(place: str, older_than_hours: float, superseded: bool, keep_recipes: int | None) -> None:
    if not older_than_hours >= 0:  # NaN is neither
        raise ConfigError(f"--older-than {older_than_hours:g}: expected hours, 0 or more")
    if keep_recipes is not None and (not superseded or keep_recipes < 1):
        raise ConfigError(f"--keep-recipes {keep_recipes}: expected 1 or more, together with --superseded")
    if "://" in place:
        if superseded:
            raise ConfigError(
                f"--superseded is for local stores, and {place} is shared: the locks of one machine do not tell that "
                "another one works with a result. Without the option gc removes what interrupted writes left there"
            )
    check_store(place)


class _Search:
    """Looks for what may go, in the order in which it is to go: what refers to others first."""

    def __init__(self, store: Store, place: str, superseded: bool, forgotten: list[Path]) -> None:
        self._store = store
        self._place = place
        self._superseded = superseded
        self._forgotten = forgotten
        self.notes: list[str] = []

    def leftovers(self) -> Iterator[tuple[Leftover, bool]]:
        """Everything, whatever its age; False for what lies outside of the store."""
        yield from ((found, True) for found in self._of_store())
        yield from ((found, False) for found in find_scratch())

    def _of_store(self) -> Iterator[Leftover]:
        if "://" not in self._place:
            yield from self._local()
        yield from find_temporaries(self._place)
        for path in lock_files(self._store.home):
            if not is_held(path):
                yield leftover(path, "lock", "a lock that nobody holds")

    def _local(self) -> Iterator[Leftover]:
        home = self._store.home
        artifacts, broken, refused = whole_artifacts(self._store)
        self.notes += [f"kept: {reason}" for reason in refused]
        recipes = recipe_files(home)
        yield from (leftover(path, "recipe", "later variants of the recipe are kept") for path in self._forgotten)
        kept_recipes = [path for path in recipes if path not in self._forgotten]
        wanted: Wanted | None = None
        going: set[Place] = set()
        if self._superseded:
            wanted = self._wanted(kept_recipes)
            registered = self._registered(wanted)
            kept = reachable(home, artifacts, wanted, registered)
            going = artifacts.keys() - kept
            for place in sorted(going, key=lambda place: (-artifacts[place].created_seconds, place)):
                yield leftover(
                    home / "stages" / place[0] / place[1], "artifact", "no recipe needs it, and newer ones exist"
                )
            yield from self._superseded_models(kept, registered)
            yield from self._superseded_work(wanted)
        sweep = ShardSweep(self._store, artifacts.keys() - going, going, self._superseded)
        if sweep.unneeded(wanted):
            wanted = wanted or self._wanted(kept_recipes)
            yield from sweep.unneeded(wanted)
        yield from sweep.broken()
        self.notes += [f"kept: {reason}" for reason in sweep.refused]
        yield from (leftover(path, "broken", "an artifact whose manifest or files are damaged") for path in broken)
        yield from self._packet_indexes()

    def _wanted(self, recipes: list[Path]) -> Wanted:
        wanted = wanted_by(self._store.home, recipes, self._forgotten)
        for (name, stage), reason in sorted(wanted.unknown.items()):
            what = f"stage {stage} of recipe {name}" if stage not in ("", "clips") else f"recipe {name}"
            self.notes.append(f"kept all that {what} may need: {reason}")
        return wanted

    def _registered(self, wanted: Wanted) -> set[str] | None:
        keys, silent = registered_keys(wanted.registries)
        self.notes += [f"kept all models and what they were made of: the registry does not answer: {s}" for s in silent]
        return None if silent else keys

    def _superseded_models(self, kept: set[Place], registered: set[str] | None) -> Iterator[Leftover]:
        """Model folders whose registration goes; the registry has its own copy of what was registered."""
        if registered is None:
            return
        keys = {key for stage, key in kept if stage == "register"} | registered
        for path in sorted((self._store.home / "models").glob("[!.]*")):
            if is_key(path.name) and path.is_dir() and path.name not in keys:
                yield leftover(path, "model", "no recipe needs this model folder")

    def _superseded_work(self, wanted: Wanted) -> Iterator[Leftover]:
        if wanted.unknown:
            return
        for path in sorted((self._store.home / "work").glob("*/[!.]*")):
            if is_key(path.name) and (path.parent.name, path.name) not in wanted.artifacts:
                yield leftover(path, "work", "checkpoints of a training that no recipe goes on with")

    def _packet_indexes(self) -> Iterator[Leftover]:
        folder = self._store.home / "packet_indexes"
        suffix = ""
        if self._superseded and folder.is_dir():
            from vlmvid.pipeline.keys import packet_index_code

            suffix = f"-{packet_index_code()}.npz"
        for path in sorted(folder.glob("*/[!.]*.npz")):
            if not zipfile.is_zipfile(path):
                yield leftover(path, "cache", "a packet index that cannot be read")
            elif not path.name.endswith(suffix):
                yield leftover(path, "cache", "a packet index of other code")


def _garbage(found: Leftover, age_hours: float) -> Garbage:
    return Garbage(
        kind=found.kind, place=found.place, why=found.why, num_bytes=found.num_bytes, age_hours=round(age_hours, 2)
    )


def _remove(item: Garbage, place: str, watch: RunWatch) -> Garbage:
    """Remove one thing, unless a run has begun that may be in need of it."""
    try:
        if item.kind == "lock":
            remove_lock(Path(item.place))
        elif item.kind not in _ALWAYS and watch.has_begun():
            return item.model_copy(update={"error": "a run began meanwhile; run gc again when it has ended"})
        else:
            remove(item.place, place)
    except (OSError, ArtifactError) as error:
        return item.model_copy(update={"error": str(error)})
    return item.model_copy(update={"removed": True})


def _forgotten(home: Path, keep_recipes: int | None, older_than_hours: float) -> list[Path]:
    """The recipes that `keep_recipes` gives up; not one so young that it stays, whose results would go without it."""
    seen: Counter[str] = Counter()
    forgotten = []
    for path in recipe_files(home) if keep_recipes is not None else ():
        seen[recipe_name(path)] += 1
        is_old = time.time() - path.stat().st_mtime >= older_than_hours * 3600
        if keep_recipes is not None and seen[recipe_name(path)] > keep_recipes and is_old:
            forgotten.append(path)
    return forgotten


# For people.


def report_text(report: GarbageReport) -> str:
    """The report for a terminal."""
    lines = []
    if report.items:
        width = max(len(item.kind) for item in report.items)
        shown = [item for item in report.items if item.kind != "lock" or item.error]  # of locks their number tells all
        lines += [_line(item, report, width) for item in shown]
        lines += [*([""] if shown else []), *_totals(report)]
    lines.append(_summary(report))
    lines += [f"running now: {stage}" for stage in report.busy]
    if report.busy:
        lines.append(
            f"while a stage runs only temporary names older than {BUSY_HOURS:g} hours go; run gc again after it"
        )
    return "\n".join([*lines, *report.notes])


def size_text(num_bytes: int) -> str:
    """A size in words, as ``12.3 MB``."""
    value, units = float(num_bytes), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _line(item: Garbage, report: GarbageReport, width: int) -> str:
    place = item.place.removeprefix(f"{report.home}/")
    end = f": NOT REMOVED: {item.error}" if item.error else ""
    return f"{item.kind:<{width}}  {size_text(item.num_bytes):>8}  {item.age_hours:7.1f} h  {place}  ({item.why}){end}"


def _totals(report: GarbageReport) -> list[str]:
    counts = Counter(item.kind for item in report.items)
    sizes: Counter[str] = Counter()
    for item in report.items:
        sizes[item.kind] += item.num_bytes
    return [f"{count} x {kind}, {size_text(sizes[kind])}" for kind, count in sorted(counts.items())]


def _summary(report: GarbageReport) -> str:
    young = f"; {report.num_young} younger than {report.older_than_hours:g} hours stay" if report.num_young else ""
    if not report.items:
        return f"{report.home}: nothing to remove{young}"
    if report.dry_run:
        return f"{report.home}: {size_text(report.num_bytes)} would go{young}; --delete removes them"
    failed = f", {len(report.failed)} could not be removed" if report.failed else ""
    gone = sum(item.removed for item in report.items)
    return f"{report.home}: {gone} removed, {size_text(report.num_bytes)}{failed}{young}"
