"""The shard tasks on Prefect's task runners and on a real Dask cluster: same rows, same bytes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.tiny import write_clip, write_dataset, write_recipe
from vlmvid.artifacts import Store, open_store
from vlmvid.errors import ConfigError, StageError
from vlmvid.pipeline import STAGES, RunnerChoice, make_request, runner_choice
from vlmvid.pipeline.index import read_index

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two Dask workers, one thread each, in processes of their own."""
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as running:
        yield running


def encode_with(recipe: Path, home: Path, runner: Any = None) -> Store:
    from flows.encode import encode
    from flows.ingest import ingest

    flow = encode if runner is None else encode.with_options(task_runner=runner)
    ingest(str(recipe), home=str(home))
    flow(str(recipe), home=str(home))
    return open_store(home)


def features_of(store: Store) -> dict[str, bytes]:
    """Each clip's features by video id, of the newest result."""
    folder = max((store.home / "stages" / "encode").iterdir(), key=lambda made: made.stat().st_mtime_ns)
    rows = [row for row in read_index(folder) if row.status == "ok"]
    clips = store.clips("encode")
    clips.rows([row.key for row in rows])
    return {row.video_id: np.ascontiguousarray(clips.gather("features", [row.location])).tobytes() for row in rows}


def ledger_of(store: Store) -> set[tuple[str, ...]]:
    rows = [*store.ledger("encode").rows().values(), *store.ledger("decode").rows().values()]
    return {(row.stage, row.key, row.video_id, row.status, row.reason_code, row.shard) for row in rows}


def pids_of(store: Store) -> set[int]:
    return {event["pid"] for event in store.events.read() if event["event"] == "shard.written"}


def num_shards_written(store: Store) -> int:
    return sum(event["event"] == "shard.written" for event in store.events.read())


def fused_recipe(folder: Path, **options: Any) -> Path:
    """Ten clips, one of them broken, in five shards."""
    manifest = write_dataset(folder)
    (folder / "clip3.mp4").write_bytes(b"")
    return write_recipe(
        folder,
        manifest,
        align=None,
        evaluate=None,
        decode={"sampling": {"num_frames": 2}, "image_size": 32},
        tracking={"enabled": False},
        options={"shard_size": 2, "max_failed_fraction": 0.5, "decode_workers": 0, "num_threads": 1, **options},
    )


@pytest.fixture(scope="module")
def plain_run(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """A recipe, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("plain")
    recipe = fused_recipe(folder)
    return recipe, encode_with(recipe, folder / "home")


@pytest.mark.parametrize("kind", ["thread:3", "process:2", "dask"])
def test_every_runner_gives_the_same_bytes_and_rows(
    kind: str,
    plain_run: tuple[Path, Store],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, plain = plain_run
    assert pids_of(plain) == {os.getpid()}
    if kind == "dask":
        kind = f"dask:{request.getfixturevalue('cluster').scheduler_address}"
    monkeypatch.setenv("VLMVID_TASK_RUNNER", kind)
    other = encode_with(recipe, tmp_path / "other")
    features = features_of(plain)
    assert len(features) == 9 and features_of(other) == features
    assert ledger_of(other) == ledger_of(plain)
    assert num_shards_written(other) == 5
    if kind.startswith("thread"):
        assert pids_of(other) == {os.getpid()}
    else:
        assert os.getpid() not in pids_of(other) and len(pids_of(other)) == 2


def test_the_pipeline_hands_its_runner_to_the_sharded_stages(prefect_api: str, cluster: Any, tmp_path: Path) -> None:
    from prefect_dask.task_runners import DaskTaskRunner

    from flows.pipeline import pipeline

    home = tmp_path / "home"
    runner = DaskTaskRunner(address=cluster.scheduler_address)
    pipeline.with_options(task_runner=runner)(str(fused_recipe(tmp_path)), home=str(home))
    pids = pids_of(open_store(home))
    assert pids and os.getpid() not in pids


def test_a_worker_that_lives_on_sees_what_changed_between_two_runs(
    prefect_api: str, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLMVID_TASK_RUNNER", f"dask:{cluster.scheduler_address}")
    recipe, home = fused_recipe(tmp_path), tmp_path / "home"
    encode_with(recipe, home)
    (tmp_path / "clip3.mp4").write_bytes((tmp_path / "clip4.mp4").read_bytes())
    write_clip(tmp_path / "clip5.mp4", (1, 2, 3), shift=3)
    encode_with(recipe, home)
    monkeypatch.delenv("VLMVID_TASK_RUNNER")
    fresh = encode_with(recipe, tmp_path / "fresh")
    assert features_of(open_store(home)) == features_of(fresh)
    assert len(features_of(fresh)) == 10


def test_a_shard_that_fails_leaves_the_others_stored(
    prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmvid.pipeline import encode as encoding

    recipe, home = fused_recipe(tmp_path), tmp_path / "home"
    load, calls = encoding.vision_backbone, count()

    def fails_once(context: Any) -> Any:
        if next(calls) == 1:
            raise StageError("the second shard has no model")
        return load(context)

    monkeypatch.setenv("VLMVID_TASK_RUNNER", "thread:1")
    monkeypatch.setattr(encoding, "vision_backbone", fails_once)
    with pytest.raises(StageError, match="the second shard has no model"):
        encode_with(recipe, home)
    assert num_shards_written(open_store(home)) == 4
    store = encode_with(recipe, home)
    assert num_shards_written(store) == 5
    assert len(features_of(store)) == 9


@pytest.mark.long
@pytest.mark.parametrize("kind", ["process:2", "dask:2"])
def test_a_worker_that_is_killed_loses_only_the_shard_in_work(
    kind: str, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, home = fused_recipe(tmp_path, shard_size=1), tmp_path / "home"
    store = open_store(home)
    monkeypatch.setenv("VLMVID_TASK_RUNNER", kind)
    killer = Thread(target=kill_first_writer, args=(store,))
    killer.start()
    try:
        encode_with(recipe, home)
    except BrokenProcessPool:
        assert kind == "process:2"  # Dask gives the shard to another worker
    killer.join()
    before = num_shards_written(store)
    encode_with(recipe, home)
    assert 1 <= before <= num_shards_written(store) <= 11
    monkeypatch.delenv("VLMVID_TASK_RUNNER")
    assert features_of(store) == features_of(encode_with(recipe, tmp_path / "plain"))


def kill_first_writer(store: Store) -> None:
    deadline = time.monotonic() + 120
    while not (pids := pids_of(store)) and time.monotonic() < deadline:
        time.sleep(0.02)
    if pids:
        os.kill(min(pids), signal.SIGKILL)


def test_workers_with_other_code_are_refused(tmp_path: Path) -> None:
    from vlmvid.pipeline import StageTicket, join_run

    recipe = fused_recipe(tmp_path)
    encode_request = make_request(recipe, home=tmp_path / "home")
    STAGES["ingest"].run(encode_request)
    with pytest.raises(StageError, match="this worker works out the stage key .* the run has 0123"):
        join_run(encode_request, StageTicket(stage="encode", key="0123", run="a"))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("", RunnerChoice(kind="sequential")),
        ("sequential", RunnerChoice(kind="sequential")),
        ("thread", RunnerChoice(kind="thread", num_workers=2)),
        ("thread:4", RunnerChoice(kind="thread", num_workers=4)),
        ("process:2", RunnerChoice(kind="process", num_workers=2)),
        ("dask:2", RunnerChoice(kind="dask", num_workers=2)),
        ("dask:tcp://10.0.0.1:8786", RunnerChoice(kind="dask", address="tcp://10.0.0.1:8786")),
    ],
)
def test_the_variable_names_a_runner(text: str, choice: RunnerChoice) -> None:
    assert runner_choice(text) == choice


@pytest.mark.parametrize("text", ["slurm", "thread:0", "thread:-1", "thread:many", "sequential:2", "dask:-2", "Thread"])
def test_a_variable_that_names_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="use sequential, thread:N, process:N"):
        runner_choice(text)


@pytest.mark.parametrize(("text", "command"), [("ray", "pip install prefect-ray"), ("dask", r"pip install .*dask")])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, text: str, command: str) -> None:
    monkeypatch.setattr("vlmvid.pipeline.runners.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=command):
        runner_choice(text)
