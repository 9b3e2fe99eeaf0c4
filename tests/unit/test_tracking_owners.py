"""Which process a run belongs to: what a killed one leaves is closed, and what one that runs has open is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.mlflow_fixtures import MlflowServer
from tests.unit.tracking_fixtures import EXPERIMENT, client_of, fresh_home, open_home
from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking import open_tracker, owner_ended
from vlmvid.tracking.base import RunStatus
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.tracking.mlflow_stragglers import close_stragglers
from vlmvid.tracking.owner import HOST_TAG, PID_TAG, owner_state, owner_tags

OTHER_PROCESS = """
import sys, time
from pathlib import Path
from tests.unit.tracking_fixtures import open_home
tracker = open_home(Path(sys.argv[1]))
tracker.start_pipeline(pipeline_key="p", name="demo", config={"lr": 1}, tags={})
with tracker.stage("align", "a1") as run:
    run.log_metrics({"loss": 1.0}, step=1)
    run.flush()
    run.log_metrics({"loss": 0.5}, step=2)
    print(run.run_id, flush=True)
    time.sleep(300)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fresh_home(tmp_path / "home")


@pytest.fixture
def other(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that trains in the pipeline ``p``, and the id of its stage's run."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(home)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def started(home: Path, key: str = "p") -> MlflowTracker:
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key=key, name="demo", config={"lr": 1}, tags={})
    return tracker


def statuses(home: Path) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in runs(home)}


def runs(home: Path) -> list[Run]:
    client = client_of(home)
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]))


def close(home: Path, **options: float) -> dict[str, RunStatus]:
    closed = close_stragglers(f"sqlite:///{home / 'mlflow.db'}", EXPERIMENT, owner_ended, **options)
    assert all(run.owner == f"{owner_tags()[HOST_TAG]} {run.owner.split()[1]}" for run in closed)
    return {run.name: run.status for run in closed}


def test_another_process_of_the_same_pipeline_is_let_alone_until_it_is_killed(
    home: Path, other: tuple[subprocess.Popen[str], str]
) -> None:
    process, run_id = other
    for status in ("KILLED", "FINISHED"):
        mine = started(home)
        with mine.stage("decode", f"d-{status}"):
            pass
        mine.finish(status)  # type: ignore[arg-type]
        assert mine.gaps == []
        assert statuses(home) == {"demo": "RUNNING", "align": "RUNNING", "decode": "FINISHED"}
    assert close(home, older_than_seconds=0) == {}

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert close(home) == {}  # too young
    assert close(home, older_than_seconds=0) == {"demo": "KILLED", "align": "KILLED"}
    assert close(home, older_than_seconds=0) == {}

    again = started(home)
    with again.stage("align", "a1") as resumed:
        assert resumed.run_id == run_id
        resumed.log_metrics({"loss": 0.25}, step=3)
    again.finish("FINISHED")
    assert again.gaps == []
    assert set(statuses(home).values()) == {"FINISHED"}
    points = client_of(home).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    tags = client_of(home).get_run(run_id).data.tags
    assert {name: tags[name] for name in (HOST_TAG, PID_TAG)} == owner_tags()


def test_what_a_killed_process_computed_is_not_said_to_be_reused(home: Path) -> None:
    left = started(home).stage("align", "a1")
    run_id = left.__enter__().run_id  # it publishes its result, and dies
    client_of(home).set_terminated(run_id, "KILLED")
    with started(home).stage("align", "a1", cached=True) as same:
        assert same.run_id == run_id
    tags = client_of(home).get_run(run_id).data.tags
    assert tags["vlmvid.cached"] == "false" and "vlmvid.produced_by" not in tags
    assert client_of(home).get_run(run_id).info.status == "FINISHED"


def test_stragglers_of_an_unknown_owner_are_left_and_other_tags_may_tell(home: Path) -> None:
    left = started(home).stage("align", "a1")
    run_id = left.__enter__().run_id
    client_of(home).set_tag(run_id, HOST_TAG, "elsewhere")
    client_of(home).set_tag(run_id, "prefect.flow_run_id", "f1")
    assert close(home, older_than_seconds=0) == {}

    def failed(tags: Mapping[str, str]) -> RunStatus | None:
        return "FAILED" if tags.get("prefect.flow_run_id") == "f1" else None

    (closed,) = close_stragglers(f"sqlite:///{home / 'mlflow.db'}", EXPERIMENT, failed, older_than_seconds=0)
    assert (closed.run_id, closed.name, closed.status) == (run_id, "align", "FAILED")
    assert client_of(home).get_run(run_id).info.status == "FAILED"
    assert close_stragglers(f"sqlite:///{home / 'mlflow.db'}", "no-such-experiment", failed) == []


def test_the_owner_is_this_process_another_or_unknown() -> None:
    own = owner_tags()
    assert owner_state(own) == "this"
    assert owner_ended(own) is None
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        start = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        number, _, rest = own[PID_TAG].split(" ", 2)
        theirs = {**own, PID_TAG: f"{process.pid} start={start} {rest}"}
        assert owner_state(theirs) == "running"
        assert owner_ended(theirs) is None
        reused = {**own, PID_TAG: f"{process.pid} start={int(start) - 1} {rest}"}
        assert owner_state(reused) == "ended"
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner_ended(theirs) == "KILLED"  # nobody has asked for its exit status yet
    process.wait()
    assert owner_ended(theirs) == "KILLED"

    words = dict(word.split("=") for word in rest.split())
    for changed, state in (
        ({"namespace": "1"}, "unknown"),
        ({"boot": "another", "machine": ""}, "unknown"),
        ({"boot": "another", "machine": "another"}, "unknown"),
        ({"boot": "another"}, "ended" if words["machine"] else "unknown"),
    ):
        text = " ".join(f"{name}={value}" for name, value in {**words, **changed}.items())
        assert owner_state({**own, PID_TAG: f"{process.pid} start={start} {text}"}) == state, changed
    for tags in ({}, {HOST_TAG: "elsewhere", PID_TAG: own[PID_TAG]}, {**own, PID_TAG: "7"}, {**own, PID_TAG: ""}):
        assert owner_state(tags) == "unknown"


def test_the_older_of_two_runs_that_were_created_at_once_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = started(home)
    second = open_home(home)
    found = second._mlflow._found
    answers = iter([None])
    monkeypatch.setattr(second._mlflow, "_found", lambda *given: next(answers, None) or found(*given))
    second.start_pipeline(pipeline_key="p", name="demo", config={"lr": 1}, tags={})
    assert second._parent is not None and first._parent is not None
    assert second._parent.run_id == first._parent.run_id
    assert len(runs(home)) == 1


def test_origin_tags_and_links(mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = mlflow_server.uri.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{address}/")
    tracker = open_tracker(TrackingConfig(experiment="links"), tmp_path)
    tracker.note_origin({"prefect.flow_run_id": "f1"})
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("decode", "d1"):
        pass
    tracker.note_origin({"prefect.deployment": "nightly"})
    with tracker.stage("align", "a1") as align:
        links = tracker.links()
    tracker.finish("FINISHED")
    assert tracker.gaps == []
    client: MlflowClient = mlflow_server.client()
    experiment = client.get_experiment_by_name("links").experiment_id
    tags = {run.info.run_name: run.data.tags for run in client.search_runs([experiment])}
    assert tags["demo"]["prefect.flow_run_id"] == tags["decode"]["prefect.flow_run_id"] == "f1"
    assert tags["demo"]["prefect.deployment"] == tags["align"]["prefect.deployment"] == "nightly"
    assert "prefect.deployment" not in tags["decode"]
    assert not any("secret" in value for run in tags.values() for value in run.values())
    assert set(links) == {"pipeline", "decode", "align"}
    assert links["align"] == f"http://{address}/#/experiments/{experiment}/runs/{align.run_id}"
    assert links == tracker.links()
    monkeypatch.setenv("VLMVID_MLFLOW_PAGES", "https://user:word@mlflow.example/ui/")
    assert tracker.links()["align"] == f"https://mlflow.example/ui/#/experiments/{experiment}/runs/{align.run_id}"

    # A later run of the same process has another origin, and what is only reused keeps its own.
    tracker.note_origin({"prefect.flow_run_id": "f2"})
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("align", "a1", cached=True):
        pass
    with tracker.stage("encode", "e1", cached=True) as encode:
        pass
    tracker.finish("FINISHED")
    assert client.get_run(links["pipeline"].rpartition("/")[2]).data.tags["prefect.flow_run_id"] == "f2"
    assert client.get_run(align.run_id).data.tags["prefect.flow_run_id"] == "f1"
    assert client.get_run(encode.run_id).data.tags["prefect.flow_run_id"] == "f2"
    assert set(tracker.links()) == {"pipeline", "align", "encode"}


def test_a_database_has_no_pages(home: Path) -> None:
    tracker = started(home)
    assert tracker.links() == {}
