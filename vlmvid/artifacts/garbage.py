"""What interrupted writes have left in a store: found by names and manifests, removed without touching results.

Every write of vlmvid goes through a temporary name that nobody reads. A process that is killed leaves such names;
`find_temporaries` lists them all, whatever their age. Whether one is still being written only its age can tell.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vlmvid.artifacts.files import SCRATCH_PREFIX, fsync_folder
from vlmvid.artifacts.keys import is_key
from vlmvid.artifacts.ledger import read_lines
from vlmvid.artifacts.mirror import DIGEST_LENGTH, Mirror, cache_folder, mirror_of
from vlmvid.artifacts.objects import Objects
from vlmvid.artifacts.store import Store, check_shared_address
from vlmvid.config.base import Config
from vlmvid.errors import ArtifactError, ConfigError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
_REPLACED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp\.replaced")
_DAMAGED = re.compile(r"\..+\.[0-9a-f]{8}\.damaged")
_WRITE_TEST = re.compile(r"\.write-test-\d+-[0-9a-f]{8}")
_NAMES = (
    (_TEMPORARY, "temporary", "a write that was interrupted"),
    (_REPLACED, "temporary", "the result that an interrupted write was about to replace"),
    (_DAMAGED, "damaged", "a damaged shard that was set aside"),
    (_WRITE_TEST, "temporary", "a test of writing that was interrupted"),
    (re.compile(re.escape(SCRATCH_PREFIX) + ".+"), "scratch", "scratch space of a process that was killed"),
)
# Of a store: whatever is done in one makes one of them first.
_SIGNS = ("recipes", "events.jsonl", "digests", "tracking/locks")
_SHARED_SIGNS = {"accepted_code", "clips", "events", "events.jsonl", "ledger", "recipes", "stages", "write-tests"}
_FOREIGN = {"mlartifacts"}  # MLflow's own
_MODEL_FILE = "model.json"
_UPLOAD = "#upload="


class Leftover(Config):
    """Something that nobody reads any more.

    `place` is its path, or its URI in a shared store; `kind` a short word, `why` says what it is. `modified_seconds`
    (Unix time) is that of the newest file in it.
    """

    place: str
    kind: str
    why: str
    num_bytes: int
    modified_seconds: float


def find_temporaries(home: str | Path) -> list[Leftover]:
    """All that interrupted writes have left in the store at `home`, a folder or an fsspec URI; nothing is changed.

    Temporary names, shards set aside as damaged, scratch space, work folders of stages that are stored, half removed
    model folders and marks of spools that are gone; in a shared store, beside its local folder, also objects that no
    manifest names, and uploads that were never completed. A process that writes now has such names too:
    `Leftover.modified_seconds` tells how old they are.

    Raises ArtifactError when a shared store does not answer.
    """
    text = str(home)
    mirror = mirror_of(text) if "://" in text else None
    store = Store(Path(text).expanduser().absolute()) if mirror is None else _shared_store(mirror)
    if not store.home.is_dir() and mirror is None:
        return []
    found = [*_named(store.home), *_finished_work(store), *_half_models(store.home), *_spool_marks(store.home)]
    return [*found, *([] if mirror is None else _objects(mirror))]


def check_store(home: str | Path) -> None:
    """Raise ConfigError for a home that is no store: what lies there may be anybody's. Nothing is made there.

    Raises ArtifactError when a shared store does not answer.
    """
    text = str(home)
    if "://" in text:
        check_shared_address(text)
        if not Objects(text, attempts=1).names("") & _SHARED_SIGNS:
            raise ConfigError(f"there is no store at {text}, nothing was stored there; set VLMVID_HOME or --home")
        return
    folder = Path(text).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"there is no store at {folder}; set VLMVID_HOME or --home")
    holds = any(not path.name.startswith(".") and path.name != "locks" for path in folder.iterdir())
    if holds and not any((folder / sign).exists() for sign in _SIGNS):
        raise ConfigError(
            f"{folder} is no store, it has none of {', '.join(_SIGNS)}, so nothing in it is looked at; set VLMVID_HOME "
            "or --home to the store, which is .vlmvid in the folder where runs were started unless they were told "
            "another"
        )


def find_scratch() -> list[Leftover]:
    """Scratch space of this machine that belongs to no store: in its temporary folder, and among downloaded models."""
    folders = (Path(tempfile.gettempdir()), cache_folder() / "models")
    return [found for folder in folders for found in _scratch(folder)]


def leftover(path: Path, kind: str, why: str) -> Leftover:
    """What there is to say of a file or folder; what vanishes meanwhile counts nothing."""
    num_bytes, newest = 0, 0.0
    for one in _all_below(path):
        try:
            status = one.lstat()
        except OSError:
            continue
        newest = max(newest, status.st_mtime)
        num_bytes += 0 if one.is_dir() and not one.is_symlink() else status.st_size
    return Leftover(place=str(path), kind=kind, why=why, num_bytes=num_bytes, modified_seconds=newest or time.time())


def remove(place: str, home: str | Path) -> None:
    """Delete what lies at a `Leftover.place` of the store at `home`; what is gone already is no error.

    A folder first gets a temporary name, in one step: whoever looks sees all of it or nothing, and what a kill leaves
    is a temporary name again. Raises OSError when the system refuses, ArtifactError when a shared store does.
    """
    if "://" in place:
        _remove_object(mirror_of(str(home)), place)
        return
    path = Path(place)
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        if not any(pattern.fullmatch(path.name) for pattern, _, _ in _NAMES):
            hidden = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
            path.rename(hidden)
            fsync_folder(path.parent)
            path = hidden
    except FileNotFoundError:
        return
    shutil.rmtree(path)


def _all_below(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for folder, names, files in os.walk(path):
            yield from (Path(folder, name) for name in (*names, *files))


def _named(home: Path) -> Iterator[Leftover]:
    """What has a temporary name, anywhere below `home`."""
    for folder, names, files in os.walk(home):
        if Path(folder) == home:
            names[:] = [name for name in names if name not in _FOREIGN]
        for name in (*names, *files):
            known = next(((kind, why) for pattern, kind, why in _NAMES if pattern.fullmatch(name)), None)
            if known is not None:
                yield leftover(Path(folder, name), *known)
        names[:] = [name for name in names if not any(pattern.fullmatch(name) for pattern, _, _ in _NAMES)]


def _scratch(folder: Path) -> Iterator[Leftover]:
    """Our scratch folders directly below `folder`, which is shared with others."""
    for path in folder.glob(f"{SCRATCH_PREFIX}*"):
        with suppress(FileNotFoundError):
            if hasattr(os, "getuid") and path.lstat().st_uid != os.getuid():
                continue
            yield leftover(path, "scratch", "scratch space of a process that was killed")


def _finished_work(store: Store) -> Iterator[Leftover]:
    for path in sorted((store.home / "work").glob("*/*")):
        if not is_key(path.name):
            continue
        try:
            is_stored = store.manifest(path.parent.name, path.name) is not None
        except ArtifactError:  # of a newer version, or a store that does not answer
            continue
        if is_stored:
            yield leftover(path, "work", "checkpoints of a training whose result is stored")


def _half_models(home: Path) -> Iterator[Leftover]:
    for path in sorted((home / "models").glob("[!.]*")):
        if is_key(path.name) and path.is_dir() and not (path / _MODEL_FILE).is_file():
            yield leftover(path, "model", f"a model folder without {_MODEL_FILE}: its removal was interrupted")


def _spool_marks(home: Path) -> Iterator[Leftover]:
    spool = home / "tracking" / "spool"
    for path in sorted(spool.glob("*.sent")):
        if not path.with_suffix(".jsonl").exists():
            yield leftover(path, "spool", "how far a spool was sent that is gone since")
    for path in sorted(spool.glob("*.jsonl")):
        with suppress(FileNotFoundError):  # sent meanwhile
            if next(read_lines(path), None) is None:
                yield leftover(path, "spool", "a spool without a whole record")


# A shared store.


def _shared_store(mirror: Mirror) -> Store:
    from vlmvid.artifacts.shared_store import SharedStore

    return SharedStore(mirror)


def _objects(mirror: Mirror) -> Iterator[Leftover]:
    """Objects that no manifest leads to, and uploads that were never completed."""
    objects = mirror.objects
    for name, info in objects.find("write-tests").items():
        yield _object(mirror, name, "temporary", "a test of writing that was interrupted", info)
    for root in ("clips", "stages"):
        for stage in sorted(objects.names(root)):
            stored = objects.find(f"{root}/{stage}/data")
            # After the data, so that what is committed meanwhile counts.
            live = _live(mirror, f"{root}/{stage}")
            for name, info in stored.items():
                result, _, rest = name.removeprefix(f"{root}/{stage}/data/").partition("/")
                wanted = live.get(result, set())
                if wanted is not None and rest not in wanted:
                    yield _object(
                        mirror, name, "object", "no manifest names it: an interrupted or replaced upload", info
                    )
    for (name, upload_id), started in objects.unfinished_uploads().items():
        yield Leftover(
            place=f"{mirror.uri}/{name}{_UPLOAD}{upload_id}",
            kind="upload",
            why="an upload in parts that was never completed; the store keeps its parts",
            num_bytes=0,
            modified_seconds=started,
        )


def _object(mirror: Mirror, name: str, kind: str, why: str, info: tuple[int, float]) -> Leftover:
    return Leftover(place=f"{mirror.uri}/{name}", kind=kind, why=why, num_bytes=info[0], modified_seconds=info[1])


def _live(mirror: Mirror, folder: str) -> dict[str, set[str] | None]:
    """What each committed result needs (`_files_of`), by its name."""
    committed = mirror.objects.find(f"{folder}/commits")
    found: dict[str, set[str] | None] = {}
    for name, data in mirror.objects.read_all(committed).items():
        found[name.rpartition("/")[2].removesuffix(".json")] = _files_of(data)
    return found


def _files_of(manifest: bytes) -> set[str] | None:
    """The names below its data that a manifest leads to; None when it has an unknown form."""
    try:
        value = json.loads(manifest)
        if value["format"] != 1:
            return None
        files = value["files"]
        return {f"{info['sha256'][:DIGEST_LENGTH]}/{file}" for file, info in files.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _remove_object(mirror: Mirror, place: str) -> None:
    name = place.removeprefix(f"{mirror.uri}/")
    if _UPLOAD in name:
        name, _, upload_id = name.partition(_UPLOAD)
        mirror.objects.abort_upload(name, upload_id)
        return
    root, _, rest = name.partition("/")
    if root in ("clips", "stages"):
        # Once more: another machine may have committed the same content since.
        stage, _, rest = rest.partition("/data/")
        result, _, file = rest.partition("/")
        manifest = mirror.objects.read(f"{root}/{stage}/commits/{result}.json")
        wanted = set() if manifest is None else _files_of(manifest)
        if wanted is None or file in wanted:
            return
    mirror.objects.delete(name)
