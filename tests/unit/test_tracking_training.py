"""A training stage whose MLflow server hangs, dies and comes back: it goes on, and every point is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric, Run

from tests.mlflow_fixtures import MlflowServer
from tests.tiny import RECIPE, write_dataset, write_recipe
from tests.unit.pipeline_fixtures import NO_TRACKING, request_for, run
from vlmvid.artifacts.ledger import read_lines
from vlmvid.pipeline import RunRequest, align, run_links
from vlmvid.pipeline.progress import is_reported
from vlmvid.tracking import spooled

ROOT = Path(__file__).parents[2]
ENCODED = ("ingest", "decode", "encode")


@dataclass
class Encoded:
    """A home with features in it, and the manifest that they are of."""

    folder: Path
    manifest: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    given = Encoded(tmp_path, write_dataset(tmp_path))
    run(request_for(tmp_path, given.home, given.manifest, evaluate=None, **NO_TRACKING), *ENCODED)
    return given


def sections(server: MlflowServer, experiment: str, num_steps: int) -> dict[str, Any]:
    training = {**RECIPE["align"], "optim": {**RECIPE["align"]["optim"], "num_steps": num_steps}}
    training["checkpoint_every"] = 500
    return {"align": training, "evaluate": None, "tracking": {"uri": server.uri, "experiment": experiment}}


def runs(server: MlflowServer, experiment: str) -> dict[str, Run]:
    client = server.client()
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def points(server: MlflowServer, run_id: str) -> list[Metric]:
    return sorted(server.client().get_metric_history(run_id, "loss"), key=lambda point: point.step)


@pytest.mark.parametrize("num_steps", [6, 20, 45, 150, 400, 5_000, 100_000])
def test_curves_have_twenty_points_and_not_many_more_than_a_thousand(num_steps: int) -> None:
    steps = [step for step in range(1, num_steps + 1) if is_reported(step, num_steps)]
    assert min(20, num_steps) <= len(steps) <= 1001
    assert steps[0] == 1 and steps[-1] == num_steps


def test_a_server_that_hangs_during_training_costs_one_wait_and_no_point(
    encoded: Encoded, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sections(mlflow_server, "hanging", 60)
    request: RunRequest = request_for(encoded.folder, encoded.home, encoded.manifest, **given)
    monkeypatch.setattr(spooled, "SEND_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(spooled, "REST", 0.0)
    waits: list[float] = []
    last = [time.monotonic()]

    def watched(step: int, num_steps: int) -> bool:
        waits.append(time.monotonic() - last[0])
        last[0] = time.monotonic()
        if step == 30:  # accepts connections from here on, and answers none
            mlflow_server.signal(signal.SIGSTOP)
        return is_reported(step, num_steps)

    monkeypatch.setattr(align, "is_reported", watched)
    run(request, *ENCODED, "align")
    ended = time.time_ns() // 1_000_000
    mlflow_server.go_on()
    # What came before the outage took milliseconds; one call waited for its answer, and no other.
    assert sum(wait > 2.5 for wait in waits[1:]) <= 1
    assert max(waits[1:]) < 10
    links = run_links(request)
    assert set(links) == {"pipeline", *ENCODED, "align"}
    before = points(mlflow_server, links["align"].rpartition("/")[2])
    assert 0 < len(before) < 25

    run(request, *ENCODED, "align")  # reused, and what waited is sent
    found = runs(mlflow_server, "hanging")
    after = points(mlflow_server, found["align"].info.run_id)
    assert [point.step for point in after] == [step for step in range(1, 61) if is_reported(step, 60)]
    assert all(point.timestamp <= ended for point in after)
    assert {one.info.status for one in found.values()} == {"FINISHED"}
    assert found["align"].data.tags["vlmvid.cached"] == "false"
    assert list((encoded.home / "tracking" / "spool").iterdir()) == []


@dataclass
class Training:
    """`vlmvid align` in a process of its own."""

    home: Path
    recipe: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "vlmvid.cli", "-v", "align", str(self.recipe), "--home", str(self.home)]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        with self.home.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Send a signal; the exit code, and the seconds until it came."""
        assert self.process is not None
        assert self.process.poll() is None, self.home.with_suffix(".log").read_text()[-3000:]
        clock = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout=60), time.monotonic() - clock

    def steps(self) -> list[tuple[int, float]]:
        """Every report of a step so far: its number and its time (Unix seconds)."""
        events = read_lines(self.home / "events.jsonl")
        return [(row["step"], row["time_seconds"]) for row in events if row["event"] == "train.step"]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_training_beside_a_server_that_hangs_dies_and_returns(encoded: Encoded, mlflow_server: MlflowServer) -> None:
    given = sections(mlflow_server, "outages", 200_000)
    training = Training(encoded.home, write_recipe(encoded.folder, encoded.manifest, **given))
    client = mlflow_server.client()

    def sent() -> int:
        """The last step that the server has."""
        found = runs(mlflow_server, "outages") if client.get_experiment_by_name("outages") is not None else {}
        history = points(mlflow_server, found["align"].info.run_id) if "align" in found else []
        return history[-1].step if history else 0

    try:
        training.start()
        until(lambda: sent() > 0, 480)
        mlflow_server.signal(signal.SIGSTOP)
        hung = time.time()
        time.sleep(20)
        mlflow_server.go_on()
        in_outage = training.steps()[-1][0]
        until(lambda: sent() > in_outage, 480)

        mlflow_server.stop()
        died = time.time()
        time.sleep(10)
        in_outage = training.steps()[-1][0]
        mlflow_server.start()
        until(lambda: sent() > in_outage, 480)
        returned = time.time()

        # Killed with points in the spool.
        mlflow_server.signal(signal.SIGSTOP)
        time.sleep(15)
        assert training.end(signal.SIGKILL)[0] == -signal.SIGKILL
        killed = time.time()
        mlflow_server.go_on()
        assert sent() < training.steps()[-1][0]
        assert {one.info.status for one in runs(mlflow_server, "outages").values()} == {"RUNNING"}
        reached = training.steps()[-1][0]
        training.start()
        until(lambda: sent() > reached, 480)
        code, seconds = training.end(signal.SIGTERM)
    finally:
        if training.process is not None and training.process.poll() is None:
            training.process.kill()
            training.process.wait()
    assert code == 1 and seconds < 30  # Prefect kills after that
    found = runs(mlflow_server, "outages")
    assert {one.info.status for one in found.values()} == {"KILLED"}
    history = points(mlflow_server, found["align"].info.run_id)
    times: dict[int, float] = {}
    for step, at in training.steps():
        times.setdefault(step, at)
    assert [point.step for point in history] == sorted(times)
    late = max(abs(point.timestamp / 1000 - times[point.step]) for point in history)
    assert late < 1.0
    assert sum(point.timestamp / 1000 < killed for point in history) == sum(at < killed for at in times.values())
    pauses = gaps([at for at in times.values() if at < killed])
    usual = sorted(pauses)[len(pauses) // 2]
    longest = max(pauses_between(times, hung, died)), max(pauses_between(times, died, returned))
    print(f"{len(history)} points, {usual:.2f} s apart, at most {longest} s; SIGTERM to exit {seconds:.1f} s")
    assert max(longest) - usual < 10


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def pauses_between(times: dict[int, float], start: float, end: float) -> list[float]:
    return gaps([at for at in times.values() if start - 5 <= at <= end])


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.5)
