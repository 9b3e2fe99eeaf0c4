"""Parts of a stage as runs below the stage's run, and tables, in a real MLflow database and over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.mlflow_fixtures import MlflowServer
from tests.unit.tracking_fixtures import EXPERIMENT, client_of, fresh_home, open_home, runs_by_name
from vlmvid.config.schema import TrackingConfig
from vlmvid.tracking import NullTracker, open_tracker
from vlmvid.tracking.mlflow import MlflowTracker
from vlmvid.tracking.tables import TABLES_TAG, merged_table, tables_tag

ROWS = [{"step": 1, "prompt": "What?", "answer": "7"}, {"step": 1, "prompt": "Who?", "answer": "NA"}]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fresh_home(tmp_path / "home")


def started(home: Path, key: str = "p") -> MlflowTracker:
    tracker = open_home(home)
    tracker.start_pipeline(pipeline_key=key, name="demo", config={}, tags={})
    return tracker


def test_parts_of_a_stage_are_children_of_its_run(home: Path) -> None:
    tracker = started(home)
    with tracker.stage("train_vlm", "t1") as stage:
        with tracker.stage("train_vlm/warm-up", "w1") as first:
            first.log_metrics({"loss": 2.0}, step=1)
            both = [client_of(home).get_run(run.run_id).info.status for run in (stage, first)]
        with tracker.stage("train_vlm/align", "a1", cached=True):
            pass
        stage.log_metrics({"num_tokens": 5.0})
    with tracker.stage("evaluate", "e1"):
        pass
    tracker.finish("FINISHED")
    assert both == ["RUNNING", "RUNNING"]
    assert tracker.gaps == []
    runs = runs_by_name(home)
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    top, own = runs["demo"].info.run_id, runs["train_vlm"].info.run_id
    assert parents == {
        "demo": None,
        "train_vlm": top,
        "evaluate": top,
        "train_vlm/warm-up": own,
        "train_vlm/align": own,
    }
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["train_vlm/warm-up"].data.metrics == {"loss": 2.0}
    assert runs["train_vlm"].data.metrics == {"num_tokens": 5.0}
    assert runs["train_vlm/align"].data.tags["vlmvid.cached"] == "true"


@pytest.mark.parametrize(("error", "status"), [(ValueError("nan"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_resumed_stage_reopens_its_parts(home: Path, error: BaseException, status: str) -> None:
    tracker = started(home)
    with pytest.raises(type(error)), tracker.stage("train_vlm", "t1"):
        with tracker.stage("train_vlm/one", "k1"):
            pass
        with tracker.stage("train_vlm/two", "k2") as second:
            second.log_metrics({"loss": 1.0}, step=1)
            second.log_table("samples.json", ROWS[:1])
            raise error
    tracker.finish("FAILED")
    before = runs_by_name(home)
    assert {name: run.info.status for name, run in before.items()} == {
        "demo": "FAILED",
        "train_vlm": status,
        "train_vlm/one": "FINISHED",
        "train_vlm/two": status,
    }

    again = started(home)
    with again.stage("train_vlm", "t1") as stage:
        with again.stage("train_vlm/one", "k1", cached=True):
            pass
        with again.stage("train_vlm/two", "k2") as second:
            assert client_of(home).get_run(second.run_id).info.status == "RUNNING"
            second.log_metrics({"loss": 1.0}, step=1)
            second.log_metrics({"loss": 0.5}, step=2)
            second.log_table("samples.json", ROWS)
    again.finish("FINISHED")
    assert again.gaps == []
    after = runs_by_name(home)
    assert {name: run.info.run_id for name, run in after.items()} == {n: run.info.run_id for n, run in before.items()}
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert stage.run_id == after["train_vlm"].info.run_id
    assert after["train_vlm/one"].data.tags["vlmvid.cached"] == "false"
    client = client_of(home)
    assert [point.step for point in client.get_metric_history(second.run_id, "loss")] == [1, 2]
    table = json.loads(Path(client.download_artifacts(second.run_id, "samples.json")).read_text())
    assert len(table["data"]) == 2


def test_parts_left_open_by_a_killed_process_are_closed(home: Path) -> None:
    tracker = started(home)
    left = [tracker.stage("train_vlm", "t1"), tracker.stage("train_vlm/one", "k1")]
    for run in left:
        run.__enter__()  # the process dies here
    other = started(home)
    with other.stage("train_vlm", "t2"):
        pass
    other.finish("FINISHED")
    client = client_of(home)
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert sorted(
        (run.data.tags.get("vlmvid.stage_key"), run.info.status) for run in found if run.info.run_name != "demo"
    ) == [
        ("k1", "KILLED"),
        ("t1", "KILLED"),
        ("t2", "FINISHED"),
    ]


def test_the_same_part_of_two_pipelines_has_two_runs_and_spools(home: Path) -> None:
    first, second = started(home, "p1"), started(home, "p2")
    with first.stage("train_vlm", "t"), second.stage("train_vlm", "t"):
        with first.stage("train_vlm/one", "k") as one, second.stage("train_vlm/one", "k") as other:
            assert one.run_id != other.run_id
            assert one.spool.path != other.spool.path  # type: ignore[attr-defined]


def test_tables_over_http_are_what_mlflow_reads(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    tracker = open_tracker(TrackingConfig(uri=mlflow_server.uri, experiment="tables"), tmp_path / "home")
    tracker.start_pipeline(pipeline_key="p", name="demo", config={}, tags={})
    with tracker.stage("train_vlm", "t"), tracker.stage("train_vlm/one", "k") as run:
        run.log_table("evaluation/samples.json", ROWS)
        run.log_table(
            "evaluation/samples.json", [ROWS[1], {"step": 2, "prompt": "What?", "answer": "eight", "nan": float("nan")}]
        )
        run.log_table("other.json", [{"path": tmp_path}])
    tracker.finish("FINISHED")
    assert tracker.gaps == []
    client = MlflowClient(mlflow_server.uri, registry_uri=mlflow_server.uri)
    tag = json.loads(client.get_run(run.run_id).data.tags[TABLES_TAG])
    assert tag == [{"path": "evaluation/samples.json", "type": "table"}, {"path": "other.json", "type": "table"}]
    held = json.loads(Path(client.download_artifacts(run.run_id, "evaluation/samples.json", str(tmp_path))).read_text())
    assert held == {
        "columns": ["step", "prompt", "answer", "nan"],
        "data": [[1, "What?", "7", None], [1, "Who?", "NA", None], [2, "What?", "eight", None]],
    }
    # As MLflow itself reads tables of that name.
    frame = client._read_from_file(client.download_artifacts(run.run_id, "evaluation/samples.json", str(tmp_path)))
    assert list(frame.columns) == ["step", "prompt", "answer", "nan"] and len(frame) == 3


def test_merging_keeps_types_and_order() -> None:
    once = merged_table(None, ROWS)
    assert merged_table(once, ROWS) == once == merged_table(merged_table(None, ROWS[:1]), ROWS)
    assert json.loads(once)["data"] == [[1, "What?", "7"], [1, "Who?", "NA"]]
    assert json.loads(merged_table(None, [])) == {"columns": [], "data": []}
    wide = json.loads(merged_table(once, [{"step": 1, "prompt": "What?", "answer": 7}]))
    assert [row[2] for row in wide["data"]] == ["7", "NA", 7]
    assert tables_tag(tables_tag(None, "a.json"), "a.json") == tables_tag(None, "a.json")
    with NullTracker().stage("train_vlm/one", "k") as run:
        run.log_table("samples.json", ROWS)
