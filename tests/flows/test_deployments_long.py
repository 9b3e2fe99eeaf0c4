"""The whole pipeline by a worker and by `flows.serve`, each in processes of their own, with an MLflow server."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from tests.flows import deploying
from tests.flows.deploying import (
    artifacts_of,
    below,
    logs_of,
    make_pools,
    prefect,
    running,
    task_states,
    trigger,
    wait_for_end,
    work_once,
)
from tests.mlflow_fixtures import MlflowServer
from tests.tiny import write_dataset, write_recipe
from vlmvid.config import load_recipe

pytestmark = [pytest.mark.prefect, pytest.mark.long]
RECIPE = "configs/pipelines/fault.yaml"
STAGES = load_recipe(deploying.ROOT / RECIPE).stages()


def test_the_fault_recipe_by_a_worker_with_links_both_ways(
    prefect_api: str, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    make_pools()
    deployed = prefect(prefect_api, "deploy", "--all")
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    again = prefect(prefect_api, "deploy", "--all")  # the same once more: updated in place
    assert again.returncode == 0, again.stdout + again.stderr
    home = str(tmp_path / "home")
    overrides = [f"tracking.uri={mlflow_server.uri}", "tracking.experiment=deployed"]
    with running(prefect_api, "prefect", "worker", "start", "--pool", "gpu-train", log=tmp_path / "worker.log"):
        run = trigger("vlmvid-pipeline/pipeline", recipe=RECIPE, overrides=overrides, home=home)
        run = wait_for_end(run, seconds=550)
    assert run.state is not None and run.state.name == "Completed", (tmp_path / "worker.log").read_text()
    stages = below(run)
    assert set(stages) == set(STAGES)
    assert {one.state_name for one in stages.values()} == {"Completed"}
    assert set(task_states(stages["decode"])) == {
        "decode shard 1", "decode shard 2", "decode shard 3", "decode index",
    }  # fmt: skip

    shown = artifacts_of([run, *stages.values()])
    assert "fault: ingest (24 ok)" in shown["vlmvid-summary"].data
    table = json.loads(shown["vlmvid-results"].data)
    rows = {(row["task"], row["metric"]): row for row in table}
    assert rows["retrieval", "t2v_r_at_1"]["n"] == 6 and " to " in rows["retrieval", "t2v_r_at_1"]["95 % interval"]
    assert shown["vlmvid-progress-decode"].data == shown["vlmvid-progress-evaluate"].data == 100
    assert shown["vlmvid-report"].data.startswith(f"[Report]({mlflow_server.uri}")
    assert shown["vlmvid-report"].data.endswith("/artifacts/report.html)")
    assert any(name.startswith("vlmvid.") and "running" in text for name, _, text in logs_of(stages["align"]))
    assert all(level <= logging.INFO for _, level, _ in logs_of(run))

    client = mlflow_server.client()
    experiment = client.get_experiment_by_name("deployed")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    recorded = {one.data.tags.get("vlmvid.stage", "pipeline"): one for one in runs}
    recorded = {name: one for name, one in recorded.items() if "/" not in name}  # without parts of stages
    assert set(recorded) == {"pipeline", *STAGES}
    for name, one in recorded.items():
        assert one.data.tags["prefect.flow_run_id"] == str(run.id), name
        assert one.data.tags["prefect.deployment"] == "vlmvid-pipeline/pipeline"
        assert one.data.tags["prefect.flow_run_url"].endswith(str(run.id))
        link = shown[f"vlmvid-mlflow-{name.replace('_', '-')}"].data
        assert one.info.run_id in link and link.startswith("[") and f"({mlflow_server.uri}" in link

    # A run that its process left open, and whose flow run has ended, is closed by maintenance.
    client.update_run(recorded["align"].info.run_id, status="RUNNING")
    time.sleep(max(0.0, 61 - (time.time() - recorded["align"].info.start_time / 1000)))  # younger ones are left alone
    upkeep = trigger("maintenance/maintenance", home=home, older_than_hours=0)
    said = work_once(prefect_api, "cpu-decode", MLFLOW_TRACKING_URI=mlflow_server.uri)
    upkeep = wait_for_end(upkeep, seconds=5)
    assert upkeep.state is not None and upkeep.state.name == "Completed", said
    assert client.get_run(recorded["align"].info.run_id).info.status == "FINISHED"
    assert "**Runs closed:** " in artifacts_of([upkeep])["vlmvid-maintenance"].data

    # A model of a few training steps passes no gate: the run fails, and says which.
    (version,) = client.search_model_versions("name='vlmvid-fault'")
    gates = tmp_path / "gates.yaml"
    threshold = {"metric": "retrieval/t2v_r_at_1", "threshold": 0.99}
    gates.write_text(json.dumps({"kind": version.tags["vlmvid.kind"], "thresholds": [threshold]}))
    uri = mlflow_server.uri
    refused = trigger("promote/promote", model_name="vlmvid-fault", gates=str(gates), tracking_uri=uri, home=home)
    said = work_once(prefect_api, "cpu-decode")
    refused = wait_for_end(refused, seconds=5)
    assert refused.state is not None and refused.state.name == "Failed", said
    assert "1 of 1 gates failed: retrieval/t2v_r_at_1" in (refused.state.message or "")
    assert "vlmvid-promotion" in artifacts_of([refused])


def test_a_pool_that_does_not_exist_is_named(prefect_api: str) -> None:
    with deploying.client() as api:
        for pool in api.read_work_pools():
            if pool.name == "gpu-encode":
                api.delete_work_pool(pool.name)
    done = prefect(prefect_api, "deploy", "--name", "encode")
    assert done.returncode != 0
    assert "gpu-encode" in done.stdout + done.stderr and "does not exist" in " ".join(done.stdout.split())


def test_serve_runs_all_of_them_without_a_pool(prefect_api: str, tmp_path: Path) -> None:
    make_pools()
    assert prefect(prefect_api, "deploy", "--name", "ingest").returncode == 0
    log = tmp_path / "serve.log"
    with running(prefect_api, "flows.serve", log=log) as process:
        assert process.wait(timeout=120) == 2
    assert (
        "the server has deployments for workers: " in log.read_text() and "ingest/ingest (pool cpu-" in log.read_text()
    )
    with deploying.client() as api:
        for deployment in api.read_deployments():
            api.delete_deployment(deployment.id)
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), tracking={"enabled": False}, align=None, evaluate=None)
    with running(prefect_api, "flows.serve", log=log) as process:
        deadline = 120
        while "polling for scheduled runs" not in log.read_text():
            deadline -= 1
            assert deadline and process.poll() is None, log.read_text()
            time.sleep(1)
        run = wait_for_end(trigger("encode/encode", recipe=str(recipe), home=str(tmp_path / "home")))
        assert run.state is not None and run.state.name == "Completed", log.read_text()
        assert set(below(run)) == {"ingest", "decode"}  # prefect.yaml asks for the earlier stages
    assert "Pausing all deployments" in log.read_text()
