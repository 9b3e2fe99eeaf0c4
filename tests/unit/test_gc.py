"""Garbage collection: what interrupted writes left goes, what anything needs stays, whenever it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from tests.tiny import RECIPE, write_dataset
from tests.unit.pipeline_fixtures import features_of, request_for, run, statuses
from tests.unit.s3_fixtures import bucket, s3_server
from vlmvid.artifacts import open_store
from vlmvid.artifacts.files import scratch_folder, staging_folder, write_json
from vlmvid.artifacts.garbage import Leftover, find_temporaries, remove
from vlmvid.cli import main
from vlmvid.errors import ConfigError
from vlmvid.pipeline import RunRequest, decode, gc
from vlmvid.pipeline.context import open_context
from vlmvid.pipeline.gc import collect_garbage, report_text
from vlmvid.pipeline.gc_references import wanted_by

__all__ = ["bucket", "s3_server"]
SMALLER = {**RECIPE["encode"], "vision": {**RECIPE["encode"]["vision"], "image_size": 16}}
KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunRequest]:
    """A home in which two variants of a recipe are done, their dataset, and the request of the first."""
    folder = tmp_path_factory.mktemp("finished")
    manifest = write_dataset(folder, num_train=5, num_test=3)
    request = request_for(folder, folder / "home", manifest)
    run(request)
    run(request_for(folder, folder / "home", manifest, ("align.optim.lr=0.02",)))
    return folder / "home", manifest, request


@pytest.fixture
def store(finished: tuple[Path, Path, RunRequest], tmp_path: Path) -> Iterator[tuple[Path, RunRequest, Path]]:
    """A copy of that home, the request in it, and the dataset's manifest."""
    home = tmp_path / "home"
    shutil.copytree(finished[0], home, symlinks=True)
    request = finished[2].model_copy(update={"home": str(home)})
    request = request.model_copy(update={"recipe": str(home / "recipes" / Path(request.recipe).name)})
    yield home, request, finished[1]
    open_context.cache_clear()


def is_cached(request: RunRequest) -> bool:
    return {status for status, _ in statuses(request).values()} == {"cached"}


def files_of(home: Path) -> dict[str, bytes]:
    """All that holds results: no locks, events, digests or other notes."""
    kept = ("clips", "stages", "recipes", "ledger")
    return {str(p.relative_to(home)): p.read_bytes() for k in kept for p in (home / k).rglob("*") if p.is_file()}


def make_old(path: Path, hours: float = 48) -> None:
    then = time.time() - 3600 * hours
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.utime(one, (then, then))


def killed_in(code: str, home: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def leave_traces(home: Path) -> int:
    """What kill -9 leaves in every place that writes; returns how many things."""
    code = """
import sys
from pathlib import Path
import numpy as np
from vlmvid.artifacts import Facts, KeyParts, open_store
from vlmvid.artifacts.files import scratch_folder, write_bytes
home = Path(sys.argv[1])
store = open_store(home)
def write(folder):
    (folder / "part").write_bytes(b"x" * 1000)
    stage, rest = scratch_folder(home), None
    (stage.__enter__() / "half").write_bytes(b"y")
    KILL
store.publish(KeyParts(stage="encode", config={"of": "nobody"}), "embeddings", write, Facts(recipe="tiny"))
"""
    killed_in(code.replace("KILL", KILL), home)
    shard = next(path for path in sorted((home / "clips" / "decode").iterdir()))
    shutil.copytree(shard, shard.with_name(f".{shard.name}.0123abcd.damaged"))
    (home / "recipes" / ".tiny-0.yaml.0123456789ab.tmp").write_bytes(b"{")
    (home / "datasets" / "d").mkdir(parents=True)
    (home / "datasets" / "d" / ".clip.mp4.0123456789ab.tmp").write_bytes(b"{")
    (home / "stages" / "align" / ".k.0123456789ab.tmp.replaced").mkdir()
    (home / ".write-test-17-0123abcd").touch()
    key = next((home / "stages" / "align").glob("[!.]*")).name
    (home / "work" / "align" / key).mkdir(parents=True)
    (home / "work" / "align" / key / "step_00000002.safetensors").write_bytes(b"z" * 500)
    (home / "models" / ("0" * 24)).mkdir(parents=True)
    (home / "tracking" / "spool").mkdir(parents=True)
    (home / "tracking" / "spool" / "align-0.sent").write_text("12")
    return 10


def test_what_kill_leaves_is_found_and_goes_and_results_stay(store: tuple[Path, RunRequest, Path]) -> None:
    home, request, _ = store
    assert find_temporaries(home) == []
    before, features = files_of(home), features_of(request).tobytes()
    number = leave_traces(home)
    assert len(find_temporaries(home)) == number
    # Young things stay, a dry run removes nothing.
    assert collect_garbage(home, dry_run=False).items == ()
    report = collect_garbage(home, older_than_hours=0)
    assert len([item for item in report.items if item.kind != "lock"]) == number and report.num_bytes > 1000
    assert len(find_temporaries(home)) == number
    report = collect_garbage(home, dry_run=False, older_than_hours=0)
    assert all(item.removed for item in report.items) and report.failed == []
    assert find_temporaries(home) == []
    assert collect_garbage(home, older_than_hours=0).items == ()
    assert files_of(home) == before
    assert is_cached(request) and features_of(request).tobytes() == features


def test_age_counts_from_the_newest_file(store: tuple[Path, RunRequest, Path]) -> None:
    home, _, _ = store
    folder = home / "stages" / "encode" / ".k.0123456789ab.tmp"
    folder.mkdir()
    (folder / "part").write_bytes(b"1")
    make_old(folder)
    assert [item.kind for item in collect_garbage(home).items] == ["temporary"]
    (folder / "part").write_bytes(b"12")  # somebody writes it still
    report = collect_garbage(home)
    assert report.items == () and report.num_young >= 1


def test_while_a_stage_runs_only_old_temporary_names_go(store: tuple[Path, RunRequest, Path]) -> None:
    home, _, _ = store
    leave_traces(home)
    for path in home.rglob("*"):
        make_old(path)
    old = {item.kind for item in collect_garbage(home).items}
    assert old == {"temporary", "scratch", "damaged", "work", "model", "spool", "lock"}
    with FileLock(home / "locks" / "encode-abc.lock"):
        report = collect_garbage(home, dry_run=False, older_than_hours=0)
        assert report.busy == ("encode abc",) and "running now: encode abc" in report_text(report)
        assert {item.kind for item in report.items} == {"temporary", "scratch", "damaged"}
    assert {item.kind for item in collect_garbage(home).items} == {"work", "model", "spool", "lock"}


def test_shards_that_nothing_names_or_that_others_hold_too_go(store: tuple[Path, RunRequest, Path]) -> None:
    home, request, _ = store
    clips = open_store(home).clips("encode")
    name, manifest = next(iter(clips.manifests().items()))
    features = clips.array(name, "features")
    orphan = clips.write(["of no clip"], {"features": features[:1]})
    twice = clips.write(manifest.keys[:1], {"features": features[:1]})
    more = clips.write(manifest.keys[:2], {"features": features[:2], "pooled": features[:2]})
    text = open_store(home).clips("text").write(["of a text"], {"features": features[:1]})
    (home / "clips" / "decode" / ("0" * 24)).mkdir()
    report = collect_garbage(home, dry_run=False, older_than_hours=0)
    gone = {Path(item.place).name: item.why for item in report.items if item.kind in ("shard", "broken")}
    assert gone.keys() == {orphan, twice, "0" * 24}
    assert gone[orphan] == "nothing names its clips" and "as well" in gone[twice]
    assert (home / "clips" / "encode" / more).is_dir() and (home / "clips" / "text" / text).is_dir()
    assert is_cached(request)


def test_shards_of_an_interrupted_run_stay(finished: tuple[Path, Path, RunRequest], tmp_path: Path) -> None:
    request = request_for(tmp_path, tmp_path / "home", finished[1])
    run(request, "ingest")
    decode.run_shard(request, decode.plan_shards(request)[0])
    shutil.rmtree(tmp_path / "home" / "ledger" / "decode")  # killed before the ledger was written
    report = collect_garbage(tmp_path / "home", older_than_hours=0)
    assert "shard" not in {item.kind for item in report.items}
    # Of a recipe that is not there any more they go.
    Path(request.recipe).unlink()
    report = collect_garbage(tmp_path / "home", older_than_hours=0)
    assert [item.why for item in report.items if item.kind == "shard"] == ["nothing names its clips"]
    open_context.cache_clear()


def test_superseded_results_go_only_when_asked(store: tuple[Path, RunRequest, Path]) -> None:
    home, request, _ = store
    others = [path for path in (home / "recipes").glob("*.yaml") if str(path) != request.recipe]
    variant = request.model_copy(update={"recipe": str(others[0])})
    assert is_cached(variant)
    before = files_of(home)
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True)
    assert {item.kind for item in report.items} <= {"lock"}, "two variants of a recipe are both kept"
    # Only the variant that was asked for last counts now.
    make_old(others[0])
    os.utime(request.recipe)
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    kinds = [item.kind for item in report.items]
    assert kinds[0] == "recipe" and "artifact" in kinds and "shard" not in kinds
    gone = before.keys() - files_of(home).keys()
    assert {name.split("/")[1] for name in gone if name.startswith("stages/")} <= {"align", "evaluate", "evaluation"}
    assert is_cached(request)


def test_shards_of_superseded_artifacts_go_with_them(
    store: tuple[Path, RunRequest, Path], tmp_path: Path, finished: tuple[Path, Path, RunRequest]
) -> None:
    home, request, manifest = store
    newer = request_for(tmp_path, home, manifest, encode=SMALLER, decode={**RECIPE["decode"], "image_size": 16})
    run(newer)
    old_shards = {p.name for p in (finished[0] / "clips" / "decode").glob("[!.]*")}
    assert old_shards < {p.name for p in (home / "clips" / "decode").glob("[!.]*")}
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    assert report.failed == []
    assert not old_shards & {p.name for p in (home / "clips" / "decode").glob("[!.]*")}
    assert is_cached(newer)
    assert find_temporaries(home) == []


@pytest.mark.parametrize("moment", [4, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 9))])
def test_killed_in_the_middle_it_leaves_a_whole_store(
    moment: int, store: tuple[Path, RunRequest, Path], tmp_path: Path
) -> None:
    """Killed before, or in the middle of, removing the n-th thing: all that is there is whole, and gc ends its work."""
    home, request, manifest = store
    newer = request_for(tmp_path, home, manifest, encode=SMALLER, decode={**RECIPE["decode"], "image_size": 16})
    run(newer)
    code = f"""
import shutil, sys
from pathlib import Path
from vlmvid.pipeline.gc import collect_garbage
original, count = shutil.rmtree, 0
def rmtree(path, *args, **kwargs):
    global count
    count += 1
    if count == {moment}:
        next(p for p in Path(path).rglob("*") if p.is_file()).unlink()
        KILL
    original(path, *args, **kwargs)
shutil.rmtree = rmtree
collect_garbage(sys.argv[1], dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
"""
    killed_in(code.replace("KILL", KILL), home)
    opened = open_store(home)
    for folder in (home / "stages").glob("*/[!.]*"):
        assert opened.manifest(folder.parent.name, folder.name) is not None, folder
    for folder in (home / "clips").glob("*/[!.]*"):
        assert folder.name in opened.clips(folder.parent.name).manifests(), folder
    assert is_cached(newer)
    assert len(find_temporaries(home)) == 1
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    assert report.failed == [] and find_temporaries(home) == [] and is_cached(newer)


def test_unknown_recipes_keep_their_results(store: tuple[Path, RunRequest, Path], tmp_path: Path) -> None:
    home, request, _ = store
    recipe = json.loads(Path(request.recipe).read_text())
    recipe["data"]["options"]["path"] = str(tmp_path / "away.jsonl")
    Path(request.recipe).write_text(json.dumps(recipe))
    before = files_of(home)
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True)
    assert files_of(home) == before
    assert any("kept all that recipe tiny may need" in note for note in report.notes)


def test_options_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="there is no store at"):
        collect_garbage(tmp_path / "nowhere")
    for hours in (-1, float("nan")):
        with pytest.raises(ConfigError, match=f"--older-than {hours:g}: expected hours"):
            collect_garbage(tmp_path, older_than_hours=hours)
    with pytest.raises(ConfigError, match="together with --superseded"):
        collect_garbage(tmp_path, keep_recipes=1)
    with pytest.raises(ConfigError, match="is for local stores"):
        collect_garbage("s3://bucket/home", superseded=True)
    assert main(["gc", "--home", str(tmp_path / "nowhere")]) == 2
    assert main(["gc", "--home", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == []


def test_a_folder_that_is_no_store_is_left_alone(store: tuple[Path, RunRequest, Path], tmp_path: Path) -> None:
    for folder in (tmp_path / "project", store[0]):
        for name in ("models/resnet/weights.pt", "stages/one/two/notes", "clips/holiday/day/v.mp4", "work/all/mine/x"):
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="project is no store.*set VLMVID_HOME"):
        collect_garbage(tmp_path / "project", dry_run=False, older_than_hours=0)
    # Nor does a store take for its own what has no key.
    report = collect_garbage(store[0], dry_run=False, older_than_hours=0, superseded=True)
    assert {item.kind for item in report.items} <= {"lock"}


def test_a_recipe_that_stays_keeps_its_results(store: tuple[Path, RunRequest, Path]) -> None:
    home, request, _ = store
    other = next(path for path in (home / "recipes").glob("*.yaml") if str(path) != request.recipe)
    make_old(home)
    os.utime(request.recipe)
    os.utime(other, (time.time() - 3600,) * 2)
    report = collect_garbage(home, dry_run=False, superseded=True, keep_recipes=1)
    assert not {item.kind for item in report.items} & {"recipe", "artifact", "shard"}
    assert is_cached(request.model_copy(update={"recipe": str(other)}))


def test_models_of_forgotten_recipes_stay_registered(store: tuple[Path, RunRequest, Path]) -> None:
    home, request, _ = store
    recipe = json.loads(Path(request.recipe).read_text())
    forgotten = home / "recipes" / "tiny-0123456789ab.yaml"
    write_json(forgotten, {**recipe, "tracking": {"uri": "http://127.0.0.1:9"}})
    assert "http://127.0.0.1:9" in wanted_by(home, [], [forgotten]).registries


def test_a_run_that_begins_during_the_search_stops_it(
    store: tuple[Path, RunRequest, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, request, _ = store
    os.utime(next(path for path in (home / "recipes").glob("*.yaml") if str(path) != request.recipe), (1, 1))

    def begin() -> list[Leftover]:
        os.utime(request.recipe, (2e9, 2e9))
        return []

    monkeypatch.setattr(gc, "find_scratch", begin)
    report = collect_garbage(home, dry_run=False, older_than_hours=0, superseded=True, keep_recipes=1)
    assert any(item.kind == "artifact" for item in report.items)
    assert all("a run began" in item.error for item in report.items if item.kind != "lock")


def home_with_spools(home: Path, num_spools: int, num_locks: int) -> None:
    (home / "tracking" / "spool").mkdir(parents=True)
    (home / "recipes").mkdir()
    (home / "locks").mkdir()
    for number in range(num_spools):
        (home / "tracking" / "spool" / f"{number:03}.sent").touch()
    for number in range(num_locks):
        (home / "locks" / f"align-{number:03}.lock").touch()


def test_locks_are_not_tried_again_for_everything_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home_with_spools(tmp_path, num_spools=200, num_locks=50)
    tried = 0
    acquire = FileLock.acquire

    def counted(lock: FileLock, *args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        tried += 1
        return acquire(lock, *args, **kwargs)

    monkeypatch.setattr(FileLock, "acquire", counted)
    report = collect_garbage(tmp_path, dry_run=False, older_than_hours=0)
    assert len(report.items) == 250 and report.failed == []
    assert tried < 200 * 50 / 4


@pytest.mark.parametrize("name", ["align-001.lock", "encode-new.lock"])
def test_a_lock_that_is_taken_during_the_removal_stops_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home_with_spools(tmp_path, num_spools=9, num_locks=3)
    lock = FileLock(tmp_path / "locks" / name)

    def remove_and_begin(place: str, home: str) -> None:
        remove(place, home)
        if place.endswith("003.sent"):
            lock.acquire()
            time.sleep(0 if "new" in name else 0.3)  # known locks rest for 9 times the time of a look, some ms here

    monkeypatch.setattr(gc, "remove", remove_and_begin)
    report = collect_garbage(tmp_path, dry_run=False, older_than_hours=0)
    lock.release()
    spools = [item for item in report.items if item.kind == "spool"]
    assert [item.removed for item in spools] == [True] * 4 + [False] * 5
    assert all("a run began meanwhile" in item.error for item in spools[4:])


def test_what_the_system_does_not_let_us_read_is_not_broken(store: tuple[Path, RunRequest, Path]) -> None:
    home, _, _ = store
    folders = [next((home / kind).glob("[!.]*")) for kind in ("stages/align", "clips/encode")]
    for folder, name in zip(folders, ("manifest.json", "shard.json"), strict=True):
        (folder / name).rename(folder / "aside")
        (folder / name).symlink_to(name)  # a loop, which root cannot read either
    report = collect_garbage(home, dry_run=False, older_than_hours=0)
    assert all(folder.is_dir() for folder in folders) and "broken" not in {item.kind for item in report.items}
    assert all(any(f"{folder} cannot be read" in note for note in report.notes) for folder in folders)


def test_command(store: tuple[Path, RunRequest, Path], capsys: pytest.CaptureFixture[str]) -> None:
    home, _, _ = store
    with staging_folder(home / "stages" / "align" / "k") as folder:
        (folder / "part").write_bytes(b"x" * 2000)
        make_old(folder)
        assert main(["gc", "--home", str(home)]) == 0
        told = capsys.readouterr().out
    shutil.rmtree(home / "stages" / "align" / "k")
    assert "a write that was interrupted" in told and "2.0 kB would go" in told and "--delete removes them" in told
    with scratch_folder(home) as scratch:
        make_old(scratch)
        assert main(["gc", "--home", str(home), "--delete"]) == 0
        assert not scratch.exists()
        scratch.mkdir()  # its owner removes it
    assert "1 removed" in capsys.readouterr().out


def test_a_store_in_s3(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "cache"))
    store = open_store(bucket)
    clips = store.clips("encode")
    arrays = {"features": np.arange(6, dtype=np.float32).reshape(3, 2)}
    shard = clips.write(["a", "b", "c"], arrays)
    assert find_temporaries(bucket) == []
    # A machine that died during its upload, one whose shard was replaced, a test of writing, half an upload.
    objects = store._mirror.objects  # type: ignore[attr-defined]
    objects.write(f"clips/encode/data/{'0' * 24}/0123456789abcdef/features.npy", b"x" * 100)
    objects.write(f"clips/encode/data/{shard}/0123456789abcdef/features.npy", b"x" * 100)
    objects.write("write-tests/1-ab", b"")
    import boto3

    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    write_json(store.home / "clips" / "encode" / ".x.0123456789ab.tmp", {})
    assert sorted(found.kind for found in find_temporaries(bucket)) == [
        "object", "object", "temporary", "temporary"
    ]  # fmt: skip
    assert collect_garbage(bucket, dry_run=False).items == (), "all is young"
    # Its server says of every upload that it is years old.
    client.create_multipart_upload(Bucket=name, Key=f"{prefix}/clips/encode/data/big/0/frames.npy")
    report = collect_garbage(bucket, dry_run=False, older_than_hours=0)
    assert len(report.items) == 5 and report.failed == []
    assert find_temporaries(bucket) == [] and "Uploads" not in client.list_multipart_uploads(Bucket=name)
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "other"))
    rows = open_store(bucket).clips("encode")
    assert rows.gather("features", list(rows.rows(["c", "a"]).values())).tolist() == [[4, 5], [0, 1]]
    client.close()
