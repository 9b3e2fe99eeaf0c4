"""An MLflow server over HTTP that hangs, comes back and dies: gaps, never errors, no point twice."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.mlflow_fixtures import MlflowServer
from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking import Registration, open_tracker
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.tracking.mlflow_registry import download_model


def started(uri: str, home: Path) -> MlflowTracker:
    tracker = open_tracker(TrackingConfig(uri=uri, experiment="outage"), home)
    assert isinstance(tracker, MlflowTracker)
    tracker.start_pipeline(pipeline_key="p", name="demo", config={"lr": 1}, tags={})
    return tracker


def test_a_registered_model_is_downloaded_once(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLMVID_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.json").write_text("{}")
    tracker = started(mlflow_server.uri, tmp_path / "home")
    with tracker.stage("register", "r1") as run:
        registered = tracker.register(
            Registration(
                model_folder=tmp_path / "weights", model_name="over-http", alias="candidate", fingerprint="f1", tags={}
            ),
            run,
        )
    tracker.finish("FINISHED")
    assert tracker.gaps == []
    folder = download_model("models:/over-http@candidate", mlflow_server.uri).folder
    assert folder.is_relative_to(tmp_path / "cache")
    assert (folder / "artifacts" / "weights" / "model.json").read_text() == "{}"
    (folder / "seen").touch()
    assert (download_model(registered.uri, mlflow_server.uri).folder / "seen").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert capfd.readouterr().out == ""


def test_an_outage_leaves_a_gap_that_is_filled_later(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    tracker = started(mlflow_server.uri, home)
    before = time.time_ns() // 1_000_000
    with tracker.stage("align", "a1") as run:
        for step in range(300):
            run.log_metrics({"loss": float(step)}, step=step)
        run_id = run.run_id
        assert run_id is not None
        # Stopped, not killed: the server does what it was asked after it goes on, although the
        # client has given up by then. Sent again, the same points must not be there twice.
        mlflow_server.signal(signal.SIGSTOP)
        clock = time.monotonic()
        for step in range(300, 900):
            run.log_metrics({"loss": float(step)}, step=step)
        run.set_tags({"note": "written during the outage"})
    tracker.finish("FINISHED")
    assert time.monotonic() - clock < 10
    after = time.time_ns() // 1_000_000
    assert any("metric" in gap and "status" in gap and "align" in gap for gap in tracker.gaps)

    mlflow_server.signal(signal.SIGCONT)
    # The stage's result is in the store now, so the next run of the pipeline only reuses it.
    again = started(mlflow_server.uri, home)
    with again.stage("align", "a1", cached=True) as reopened:
        assert reopened.run_id == run_id
    again.finish("FINISHED")
    assert again.gaps == []
    client = MlflowClient(mlflow_server.uri, registry_uri=mlflow_server.uri)
    points = client.get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(step, float(step)) for step in range(900)]
    assert all(before <= point.timestamp <= after for point in points)
    stored = client.get_run(run_id)
    assert stored.data.tags["note"] == "written during the outage"
    assert stored.data.tags["vlmvid.cached"] == "false"
    assert stored.info.status == "FINISHED"
    assert before <= stored.info.end_time <= after
    parent = client.get_run(stored.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"lr": "1"}
    assert Path(client.download_artifacts(parent.info.run_id, "config.json", str(tmp_path))).is_file()

    with started(mlflow_server.uri, home).stage("align", "a2") as killed:
        mlflow_server.stop()
        clock = time.monotonic()
        for step in range(1000):
            killed.log_metrics({"loss": float(step)}, step=step)
    assert time.monotonic() - clock < 5
    assert "1000 metric" in killed.gaps()[0]


def test_a_server_that_hangs_from_the_start_costs_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:
        clock = time.monotonic()
        tracker = started(f"http://127.0.0.1:{hanging.getsockname()[1]}", tmp_path)
        for key in ("d1", "a1"):
            with tracker.stage("stage", key) as run:
                for step in range(1000):
                    run.log_metrics({"loss": 1.0}, step=step)
                run.log_json("report.json", {"a": 1})
        tracker.finish("FINISHED")
        assert time.monotonic() - clock < 10
    assert len(tracker.gaps) == 3
    assert all("does not answer" in gap for gap in tracker.gaps)
    assert "1000 metric" in tracker.gaps[1]
