"""Runs in a real MLflow database: one identity per stage, whatever happens in between."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.needs import ON_POSIX
from tests.unit.tracking_fixtures import EXPERIMENT, client_of, fresh_home, open_home
from vlmvid.config.schema import TrackingConfig
from vlmvid.errors import TrackingError
from vlmvid.tracking import NullTracker, Registration, open_tracker, resolve_tracking_uri
from vlmvid.tracking.mlflow import MlflowTracker, _require_readable
from vlmvid.tracking.outage import Refused
from vlmvid.tracking.spooled import clean_name


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fresh_home(tmp_path / "home")


def started(home: Path, key: str = "pipeline-1") -> MlflowTracker:
    tracker = open_home(home)
    config = {"name": "demo", "align": {"optim": {"lr": 0.001}}, "long": "x" * 900}
    tracker.start_pipeline(pipeline_key=key, name="demo", config=config, tags={"prefect.flow_run_id": "f1"})
    return tracker


def runs(home: Path) -> list[Run]:
    client = client_of(home)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


def test_what_can_never_be_sent_is_left_out_and_blocks_nothing(home: Path, tmp_path: Path) -> None:
    tracker = started(home)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "gone.txt").symlink_to("absent.txt")
    loop = tmp_path / "loop" / "file.txt"
    loop.parent.write_text("no folder")
    with tracker.stage("evaluate", "e1") as run:
        run.log_metrics({"first": 1})
        run.flush()
        assert run.run_id is not None
        client = client_of(home)
        client.log_text(run.run_id, "<html>not JSON</html>", "table.json")
        run.log_file(folder, "reports")
        run.log_file(loop)
        run.log_table("table.json", [{"a": 1}])
        run.log_metrics({"last": 2})
    tracker.finish("FINISHED")
    assert [gap.split(" was refused")[0] for gap in tracker.gaps] == [
        f"evaluate: file '{folder}'", f"evaluate: file '{loop}'", "evaluate: table 'table.json'"
    ]  # fmt: skip
    assert {run.info.run_name: run.data.metrics for run in runs(home)}["evaluate"] == {"first": 1, "last": 2}


@ON_POSIX
def test_a_file_that_may_not_be_read_is_refused(home: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)
        try:
            with pytest.raises(Refused, match="Permission denied"):
                _require_readable(folder)
            with pytest.raises(Refused, match="Permission denied"):
                _require_readable(folder / "closed" / "report.md")
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


def test_parent_holds_the_recipe_and_children_point_to_it(home: Path) -> None:
    tracker = started(home)
    with tracker.stage("decode", "d1") as decode:
        decode.log_metrics({"clips": 3})
    with tracker.stage("align", "a1") as align:
        align.log_params({"optim": {"lr": 0.001}})
        align.log_metrics({"loss": 1.0}, step=1)
    tracker.finish("FINISHED")
    assert tracker.gaps == []

    client = client_of(home)
    parent, first, second = runs(home)
    assert parent.data.tags["vlmvid.pipeline_key"] == "pipeline-1"
    assert parent.data.tags["prefect.flow_run_id"] == "f1"
    assert parent.data.params["align.optim.lr"] == "0.001"
    assert parent.data.params["long"] == "x" * 500
    recipe = json.loads(Path(client.download_artifacts(parent.info.run_id, "config.json")).read_text())
    assert recipe["long"] == "x" * 900
    assert [run.info.status for run in (parent, first, second)] == ["FINISHED"] * 3
    for run, stage, key in ((first, "decode", "d1"), (second, "align", "a1")):
        assert run.info.run_name == stage
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["vlmvid.stage"] == stage
        assert run.data.tags["vlmvid.stage_key"] == key
        assert run.data.tags["vlmvid.cached"] == "false"
        assert "vlmvid.version" in run.data.tags
    assert (align.run_id, decode.run_id) == (second.info.run_id, first.info.run_id)
    assert second.data.params == {"optim.lr": "0.001"}
    assert Path(parent.info.artifact_uri).is_relative_to(home / "mlartifacts")
    assert list((home / "tracking" / "spool").iterdir()) == []


def test_the_same_keys_reopen_the_same_runs(home: Path) -> None:
    for _ in range(2):
        tracker = started(home)
        with tracker.stage("align", "a1"):
            pass
        tracker.finish("FINISHED")
    other = started(home)
    with other.stage("align", "a2"):
        pass
    assert other.gaps == []
    assert [run.info.run_name for run in runs(home)] == ["demo", "align", "align"]
    assert runs(home)[0].info.status == "RUNNING"


@pytest.mark.parametrize(("error", "status"), [(ValueError("bad loss"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_failed_stage_says_so_and_a_retry_repeats_no_point(home: Path, error: BaseException, status: str) -> None:
    tracker = started(home)
    with pytest.raises(type(error)), tracker.stage("align", "a1") as align:
        for step in (1, 2, 3):
            align.log_metrics({"loss": 1 / step}, step=step)
        align.log_metrics({"total": 7.0, "nan": math.nan})
        raise error
    assert client_of(home).get_run(align.run_id).info.status == status
    assert client_of(home).get_run(align.run_id).data.tags["vlmvid.error"] == f"{type(error).__name__}: {error}"

    with started(home).stage("align", "a1") as again:
        assert client_of(home).get_run(align.run_id).info.status == "RUNNING"
        for step in (2, 3, 4):
            again.log_metrics({"loss": 1 / step}, step=step)
        again.log_metrics({"total": 7.0})
        again.log_metrics({"total": 8.0})
    assert again.run_id == align.run_id
    client = client_of(home)
    assert [point.step for point in client.get_metric_history(align.run_id, "loss")] == [1, 2, 3, 4]
    assert [point.value for point in client.get_metric_history(align.run_id, "total")] == [7.0, 8.0]
    assert client.get_run(align.run_id).info.status == "FINISHED"


def test_a_reused_stage_names_the_run_that_computed_it(home: Path) -> None:
    with started(home, "first").stage("encode", "e1") as computed:
        pass
    ended = client_of(home).get_run(computed.run_id).info.end_time
    with started(home, "first").stage("encode", "e1", cached=True) as same:
        same.log_metrics({"clips": 2})
    kept = client_of(home).get_run(computed.run_id)
    assert same.run_id == computed.run_id
    assert (kept.info.status, kept.info.end_time) == ("FINISHED", ended)
    assert kept.data.tags["vlmvid.cached"] == "false"

    with started(home, "second").stage("encode", "e1", cached=True) as reused:
        pass
    run = client_of(home).get_run(reused.run_id)
    assert reused.run_id != computed.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["vlmvid.cached"] == "true"
    assert run.data.tags["vlmvid.produced_by"] == computed.run_id

    with started(home, "second").stage("encode", "e1"):
        pass
    assert client_of(home).get_run(reused.run_id).data.tags["vlmvid.cached"] == "false"


def test_artifacts_are_replaced_by_name_and_datasets_recorded_once(home: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    for text in ("one", "two"):
        report.write_text(text)
        with started(home).stage("evaluate", "v1") as run:
            run.log_file(report, "reports")
            run.log_json("reports/retrieval.json", {"R@1": 0.5, "path": report, "k": (1, 5)})
            run.log_dataset("synthetic", "ab" * 32, "manifest.jsonl", 120, "testing")
            run.log_metrics({"T2V R@1": 0.25})
    client = client_of(home)
    listed = [item.path for item in client.list_artifacts(run.run_id, "reports")]
    assert listed == ["reports/report.txt", "reports/retrieval.json"]
    assert Path(client.download_artifacts(run.run_id, "reports/report.txt")).read_text() == "two"
    value = json.loads(Path(client.download_artifacts(run.run_id, "reports/retrieval.json")).read_text())
    assert value == {"R@1": 0.5, "path": str(report), "k": [1, 5]}
    stored = client.get_run(run.run_id)
    (dataset,) = stored.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("synthetic", ("ab" * 32)[:36])
    assert json.loads(dataset.dataset.profile) == {"num_rows": 120}
    assert [(item.key, item.value) for item in dataset.tags] == [("mlflow.data.context", "testing")]
    assert stored.data.metrics == {"T2V R_at_1": 0.25}


def test_what_mlflow_refuses_is_a_gap_and_the_rest_is_recorded(home: Path, tmp_path: Path) -> None:
    tracker = started(home)
    with tracker.stage("align", "a1") as run:
        run.set_tags({"fine": "1", "bad#key": "2"})
        run.log_file(tmp_path / "missing.txt")
        run.log_params({"lr": 1})
        run.log_params({"lr": 2})
    stored = client_of(home).get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["fine"] == "1"
    assert stored.data.params == {"lr": "1"}
    assert len(tracker.gaps) == 3
    assert "bad#key" in tracker.gaps[0]
    assert "missing.txt" in tracker.gaps[1] and "does not exist" in tracker.gaps[1]
    assert "'lr' stays '1'" in tracker.gaps[2]


def test_stages_of_killed_processes_are_closed(home: Path) -> None:
    left = started(home).stage("decode", "d1")
    orphan = left.__enter__()  # the process dies here
    tracker = started(home)
    with tracker.stage("decode", "d2") as other:
        pass
    tracker.finish("FAILED")
    client = client_of(home)
    assert client.get_run(orphan.run_id).info.status == "KILLED"
    assert client.get_run(other.run_id).info.status == "FINISHED"
    assert runs(home)[0].info.status == "FAILED"


def test_a_broken_database_never_stops_the_work(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database" * 50)
    tracker = started(tmp_path)
    with tracker.stage("align", "a1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.run_id is None
    tracker.finish("FINISHED")
    assert len(tracker.gaps) == 2
    assert all("cannot be opened" in gap and "kept in" in gap for gap in tracker.gaps)
    with pytest.raises(TrackingError, match="has not answered"):
        tracker.register(
            Registration(model_folder=tmp_path, model_name="m", alias="candidate", fingerprint="f", tags={}), run
        )


def test_entering_again_with_one_tracker_continues_the_same_spool(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database" * 50)
    tracker = started(tmp_path)
    with tracker.stage("align", "a1") as run:
        run.log_metrics({"loss": 1.0}, step=1)
    shutil.copy(fresh_home(tmp_path / "fixed") / "mlflow.db", tmp_path / "mlflow.db")
    tracker._breaker.succeeded()  # the pause is over
    tracker.start_pipeline(pipeline_key="pipeline-1", name="demo", config={}, tags={})
    with tracker.stage("align", "a1") as again:
        again.log_metrics({"loss": 0.5}, step=2)
    tracker.finish("FINISHED")
    assert tracker.gaps == []
    assert [point.step for point in client_of(tmp_path).get_metric_history(str(again.run_id), "loss")] == [1, 2]
    assert [run.info.status for run in runs(tmp_path)] == ["FINISHED", "FINISHED"]


def test_a_stage_needs_a_pipeline(home: Path) -> None:
    with pytest.raises(TrackingError, match="start_pipeline"), open_home(home).stage("align", "a1"):
        pass


def test_which_tracker_and_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert resolve_tracking_uri(None, tmp_path) == "http://server"
    assert resolve_tracking_uri("http://mine", tmp_path) == "http://mine"
    null = open_tracker(TrackingConfig(enabled=False), tmp_path)
    assert isinstance(null, NullTracker)
    null.start_pipeline(pipeline_key="k", name="n", config={}, tags={})
    with null.stage("align", "a") as run:
        run.log_metrics({"loss": 1.0})
        wanted = Registration(model_folder=tmp_path, model_name="m", alias="a", fingerprint="f", tags={})
        with pytest.raises(TrackingError, match="tracking.enabled"):
            null.register(wanted, run)
    null.finish("FINISHED")
    assert null.gaps == [] and run.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_http_limits_last_only_for_the_call(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with started(home).stage("align", "a1"):
        pass
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_metric_names() -> None:
    assert clean_name("T2V R@10 (1k-A)") == "T2V R_at_10 _1k-A_"
    assert len(clean_name("x" * 300)) == 250
