"""What waits in a spool when a process ends is sent by the next one, once, with its own times."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.tracking_fixtures import client_of, fresh_home, open_home, runs_by_name
from vlmvid.tracking import spooled
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.tracking.outage import Unreachable
from vlmvid.tracking.spool import Record
from vlmvid.tracking.spool_claim import SpoolClaim


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fresh_home(tmp_path / "home")


def started(home: Path, key: str = "p") -> MlflowTracker:
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key=key, name=f"demo-{key}", config={"lr": 1}, tags={})
    return tracker


def away() -> None:
    raise Unreachable("away from the start")


def die(tracker: MlflowTracker) -> None:
    """What the system does for a process that is killed."""
    for run in tracker._runs.values():
        run.claim.release()


def test_points_that_waited_are_not_repeated_by_the_training_that_goes_on(home: Path) -> None:
    tracker = started(home)
    left = tracker.stage("align", "a1")  # kept: a generator that is collected ends its run
    run = left.__enter__()
    for step in range(1, 11):
        run.log_metrics({"loss": 1 / step}, step=step)
    run.flush()  # type: ignore[attr-defined]
    tracker._breaker.failed("away")
    for step in range(11, 21):
        run.log_metrics({"loss": 1 / step}, step=step)
    run.log_metrics({"recall": 0.5})
    die(tracker)
    killed = time.time_ns() // 1_000_000
    time.sleep(0.01)

    with started(home).stage("align", "a1") as again:
        assert again.run_id == run.run_id
        for step in range(6, 31):  # from the last checkpoint
            again.log_metrics({"loss": 1 / step}, step=step)
        again.log_metrics({"recall": 0.5})
    client = client_of(home)
    points = client.get_metric_history(again.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, 1 / step) for step in range(1, 31)]
    assert [point.timestamp <= killed for point in points] == [step <= 20 for step in range(1, 31)]
    assert len(client.get_metric_history(again.run_id, "recall")) == 1
    assert list((home / "tracking" / "spool").iterdir()) == []


def test_a_run_of_another_recipe_sends_what_was_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = started(home, "first")
    left = first.stage("align", "a1")
    run = left.__enter__()
    first._breaker.failed("away")
    run.log_metrics({"loss": 1.0}, step=1)
    die(first)
    lost = open_home(home)
    monkeypatch.setattr(lost._mlflow, "check", away)
    lost.start_pipeline(pipeline_key="second", name="demo-second", config={"lr": 2}, tags={})
    with lost.stage("encode", "e1"):
        pass
    lost.finish("FAILED")
    assert len(lost.gaps) == 2

    third = started(home, "third")
    third.finish("FINISHED")
    assert third.gaps == []
    assert list((home / "tracking" / "spool").iterdir()) == []
    found = runs_by_name(home)
    assert [point.step for point in client_of(home).get_metric_history(run.run_id, "loss")] == [1]
    # This process is still there, so nobody knows that the first pipeline is over.
    assert {name: one.info.status for name, one in found.items()} == {
        "demo-first": "RUNNING",
        "align": "RUNNING",
        "demo-second": "FAILED",
        "encode": "FINISHED",
        "demo-third": "FINISHED",
    }
    assert found["demo-second"].data.params == {"lr": "2"}
    assert found["encode"].data.tags["mlflow.parentRunId"] == found["demo-second"].info.run_id


def test_two_processes_of_one_pipeline_have_two_spools(home: Path) -> None:
    first, second = started(home), started(home)
    assert first._parent is not None and second._parent is not None
    assert first._parent.spool.path != second._parent.spool.path
    for tracker, name in ((first, "one"), (second, "two")):
        tracker._breaker.failed("away")
        tracker._parent.set_tags({name: "1"})  # type: ignore[union-attr]
        die(tracker)
    started(home).finish("FINISHED")
    assert {"one", "two"} <= runs_by_name(home)["demo-p"].data.tags.keys()
    assert list((home / "tracking" / "spool").iterdir()) == []


def test_a_claim_is_held_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "run.jsonl"
    first, second, third = SpoolClaim(path), SpoolClaim(path), SpoolClaim(path)
    first.claim().append([{"kind": "run"}, {"kind": "tag", "key": "a", "value": "1"}])
    with second.held() as beside:
        assert beside.path.name == "run.2.jsonl"
        beside.append([{"kind": "tag", "key": "b", "value": "2"}])
    first.release()
    records = third.claim().pending(9)[0]
    assert third.claim().path == path
    assert [record.get("key") for record in records] == [None, "a", "b"]
    assert [file.name for file in path.parent.iterdir()] == ["run.jsonl"]


class SlowService:
    """A service that answers each sending after `seconds` of its own clock, or not at all."""

    uri, scope = "slow://", "slow"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, self.seconds, self.is_away = 1000.0, seconds, False
        monkeypatch.setattr(spooled.time, "monotonic", lambda: self.now)
        self.spent = 0.0

    def _take(self, seconds: float) -> None:
        self.now += seconds
        self.spent += seconds

    def check(self) -> None:
        if self.is_away:
            self._take(3.0)
            raise Unreachable("no answer")

    def open_run(self, spec: object, parent_id: str | None) -> object:
        from vlmvid.tracking.backend import OpenRun

        return OpenRun("r1")

    def send(self, run: object, records: list[Record]) -> list[str]:
        self._take(5.0 if self.is_away else self.seconds)
        if self.is_away:
            raise Unreachable("no answer in 5 s")
        return []


@pytest.mark.parametrize(("seconds", "share"), [(0.05, 0.02), (4.9, 0.06)])
def test_sending_takes_a_twentieth_of_the_time_at_most(
    seconds: float, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SlowService(monkeypatch, seconds)
    run = run_at(service, tmp_path)
    start = service.now
    for step in range(10_000):  # of 0.1 s each
        service.now += 0.1
        run.log_metrics({"loss": 1.0}, step=step)
    assert 0 < service.spent / (service.now - start) < share


def test_an_hour_without_an_answer_costs_half_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SlowService(monkeypatch, 0.05)
    run = run_at(service, tmp_path)
    run.flush()
    service.is_away, service.spent, start = True, 0.0, service.now
    while service.now - start < 3600:
        service.now += 1.0
        run.log_metrics({"loss": 1.0}, step=int(service.now))
        if service.now - start < 60:
            assert service.spent <= 8.0
    assert service.spent <= 5 + 9 * 3
    service.is_away = False
    service.now += 601
    run.log_metrics({"loss": 1.0}, step=10**6)
    assert len(run.spool) == 0


def run_at(service: SlowService, folder: Path) -> spooled.SpooledRun:
    from vlmvid.tracking.backend import RunSpec
    from vlmvid.tracking.outage import Breaker

    claim = SpoolClaim(folder / "spool" / "run.jsonl")
    claim.claim()
    return spooled.SpooledRun(RunSpec("align", {}, {}), service, claim, Breaker(lambda: service.now))  # type: ignore[arg-type]
