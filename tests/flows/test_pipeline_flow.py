"""The whole pipeline as a Prefect flow, against a real server and a real MLflow database."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlmvid
from tests.tiny import write_dataset, write_recipe
from tests.unit.tracking_fixtures import client_of

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).parents[2]
REGISTER = {"register": {"model_name": "tiny-model"}}
STAGES = ["ingest", "decode", "encode", "align", "evaluate", "register"]


def task_runs_since(start: datetime) -> list[tuple[str, str]]:
    """Names and states of the task runs of this test; the server is shared by the session."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterStartTime

    async def read() -> list[tuple[str, str]]:
        async with get_client() as client:
            after = TaskRunFilter(start_time=TaskRunFilterStartTime(after_=start))
            runs = await client.read_task_runs(task_run_filter=after, limit=200)
            return [(run.name, run.state_name or "") for run in runs]

    return asyncio.run(read())


def runs_of(home: Path) -> list[Any]:
    client = client_of(home)
    experiment = client.get_experiment_by_name("vlmvid")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=100))


def test_the_flow_runs_records_and_registers_once(prefect_api: str, tracked_home: Path, tmp_path: Path) -> None:
    from flows.pipeline import pipeline

    recipe = write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER)
    started = datetime.now(UTC)
    first = pipeline(str(recipe))
    assert list(first) == STAGES
    names = dict(task_runs_since(started))
    assert len(names) == len(task_runs_since(started))
    assert names["decode shard 1"] == names["decode shard 3"] == names["encode index"] == "Completed"
    assert names["evaluate benchmark retrieval"] == names["evaluate summary"] == "Completed"
    recorded = runs_of(tracked_home)
    parents = [run for run in recorded if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = {run.data.tags["vlmvid.stage"]: run for run in recorded if run is not parents[0]}
    assert set(children) == set(STAGES)
    assert {run.info.status for run in recorded} == {"FINISHED"}
    assert children["evaluate"].data.metrics["retrieval/t2v_r_at_1"] >= 0
    assert "loss" in children["align"].data.metrics
    data = {stage: [i.dataset.name for i in children[stage].inputs.dataset_inputs] for stage in children}
    assert data["align"] == data["evaluate"] == data["ingest"] == ["tiny/manifest"]
    artifacts = {f.path for f in client_of(tracked_home).list_artifacts(children["evaluate"].info.run_id)}
    assert {"metrics.json", "report.md", "samples"} <= artifacts
    artifacts = {f.path for f in client_of(tracked_home).list_artifacts(parents[0].info.run_id)}
    assert {"report.html", "report.md"} <= artifacts
    assert names["report"] == "Completed"

    assert pipeline(str(recipe)) == first
    assert len(runs_of(tracked_home)) == len(recorded)
    assert len(client_of(tracked_home).search_model_versions("name='tiny-model'")) == 1


def test_without_kept_frames_each_shard_is_decoded_and_encoded_by_one_task(
    prefect_api: str, tracked_home: Path, tmp_path: Path
) -> None:
    from flows.pipeline import pipeline

    recipe = write_recipe(tmp_path, write_dataset(tmp_path), align=None, evaluate=None)
    (tmp_path / "clip3.mp4").write_bytes(b"")
    started = datetime.now(UTC)
    overrides = ["decode.keep_frames=false", "options.max_failed_fraction=0.5", "options.decode_workers=2"]
    results = pipeline(str(recipe), overrides)
    assert list(results) == ["ingest", "encode"]
    names = [name for name, _ in task_runs_since(started) if not name.endswith("-0")]  # those are the stages' flows
    assert sorted(names) == ["encode index", "encode shard 1", "encode shard 2", "encode shard 3", "ingest", "report"]
    counts = json.loads((Path(results["encode"].uri) / "manifest.json").read_text())["counts"]
    assert (counts["ok"], counts["failed_permanent"]) == (9, 1)
    assert pipeline(str(recipe), overrides) == results
    names = [name for name, _ in task_runs_since(started)]
    assert names.count("ingest") == 2 and names.count("encode shard 1") == 1


def test_the_registered_model_encodes_a_video_and_a_text(
    prefect_api: str, tracked_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.pipeline import pipeline

    results = pipeline(str(write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER)))
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    model = vlmvid.load("models:/tiny-model@candidate")
    video = model.encode_video([tmp_path / "clip6.mp4", tmp_path / "clip7.mp4"])
    text = model.encode_text(["a blue picture with a bar at speed 6"])
    assert video.shape == (2, 16) and text.shape == (1, 16) and video.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(video, axis=1), 1, atol=1e-5)
    # The same numbers as the evaluation saw: its first sample is test clip v6 with its caption.
    import pyarrow.parquet as pq

    samples = pq.read_table(Path(results["evaluate"].uri) / "retrieval.parquet").to_pylist()
    assert {row["video_id"] for row in samples} == {"v6", "v7", "v8", "v9"}


def test_vlmvid_run_prints_the_table_and_the_places(prefect_api: str, tracked_home: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER)
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_LOGGING_LEVEL": "INFO"}
    command = [sys.executable, "-m", "vlmvid.cli", "run", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for words in (
        "t2v_r_at_1",
        "95 % interval",
        "Page",
        "report.html",
        "Report",
        "report.md",
        "Model",
        "models:/tiny-model/1",
        "mlflow ui",
    ):
        assert words in done.stdout
    for name in ("flow_runs: vlmvid-pipeline", "flow_runs: decode", "task_runs: decode shard 1", "task_runs: align"):
        assert f"INFO prefect.{name}: Finished in state Completed()" in done.stderr
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, cwd=ROOT)
    summary = json.loads(again.stdout)
    assert summary["model"]["alias_uri"] == "models:/tiny-model@candidate"
    assert summary["tracking"]["gaps"] == []


def test_an_mlflow_that_does_not_answer_costs_a_gap_and_not_the_run(
    prefect_api: str, tracked_home: Path, tmp_path: Path
) -> None:
    from flows.pipeline import pipeline
    from vlmvid.pipeline import make_request, summarise

    dead = {"uri": "http://127.0.0.1:9", "experiment": "vlmvid"}
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), **REGISTER, tracking=dead)
    results = pipeline(str(recipe))
    assert (Path(results["evaluate"].uri) / "metrics.json").is_file()
    summary = summarise(make_request(recipe))
    assert summary["model"]["uri"] is None and "127.0.0.1:9" in summary["model"]["gap"]
    assert summary["tracking"]["gaps"]
    model = vlmvid.load(summary["model"]["model_folder"])
    assert model.encode_text(["x"]).shape == (1, 16)


def test_a_failing_stage_fails_the_flow_and_the_run(prefect_api: str, tracked_home: Path, tmp_path: Path) -> None:
    from flows.pipeline import pipeline
    from vlmvid.errors import StageError

    manifest = write_dataset(tmp_path)
    for clip in tmp_path.glob("clip*.mp4"):
        clip.write_bytes(b"")
    with pytest.raises(StageError, match="10 of 10 clips failed"):
        pipeline(str(write_recipe(tmp_path, manifest, **REGISTER)))
    statuses = {run.data.tags.get("vlmvid.stage", "parent"): run.info.status for run in runs_of(tracked_home)}
    assert statuses == {"parent": "FAILED", "ingest": "FINISHED", "decode": "FAILED"}


def test_a_known_error_is_one_line_and_no_traceback(prefect_api: str, tracked_home: Path, tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path)
    for clip in tmp_path.glob("clip*.mp4"):
        clip.write_bytes(b"")
    recipe = write_recipe(tmp_path, manifest, **REGISTER)
    environment = {**os.environ, "PREFECT_API_URL": prefect_api}
    done = subprocess.run(
        [sys.executable, "-m", "vlmvid.cli", "run", str(recipe)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") < 40
    assert "StageError: decode: 10 of 10 clips failed (10 x empty_file)" in done.stderr.splitlines()[-1]
