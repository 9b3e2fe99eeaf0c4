"""The whole cluster as processes: a deployment runs the pipeline with the store in S3 and MLflow behind a password.

The workers run the code of this folder: it must not change while the tests run, or results are rightly made anew.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.cluster import ROOT, Cluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

# In a process of its own, because Prefect and MLflow read their addresses when they are imported.
RUN = """
import json, sys, time
from prefect.client.orchestration import get_client

with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name("vlmvid-pipeline/pipeline")
    run = client.create_flow_run_from_deployment(deployment.id, parameters=json.loads(sys.argv[1]))
    deadline = time.monotonic() + 600
    while not run.state.is_final() and time.monotonic() < deadline:
        time.sleep(1)
        run = client.read_flow_run(run.id)
    tasks = client.read_task_runs()
    while any(not task.state.is_final() for task in tasks) and time.monotonic() < deadline:
        time.sleep(1)  # the states of tasks arrive as events, through Redis
        tasks = client.read_task_runs()
    logs = [] if run.state.is_completed() else client.read_logs()
    print(json.dumps({
        "state": run.state.name,
        "pool": run.work_pool_name,
        "pools": sorted(pool.name for pool in client.read_work_pools()),
        "flows": sorted((r.name, r.state.name) for r in client.read_flow_runs()),
        "tasks": sorted({task.state.name for task in tasks}),
        "logs": [log.message for log in logs],
    }))
"""
MODEL = """
import json
from mlflow.tracking import MlflowClient
import vlmvid

client = MlflowClient()
(version,) = client.search_model_versions("name='vlmvid-fault'")
experiment = client.get_experiment_by_name("vlmvid")
runs = client.search_runs([experiment.experiment_id])
model = vlmvid.load(f"models:/vlmvid-fault/{version.version}")
print(json.dumps({
    "source": version.source,
    "root": experiment.artifact_location,
    "stages": {run.data.tags.get("vlmvid.stage", "pipeline"): run.info.status for run in runs},
    "shape": list(model.encode_text(["a red circle"]).shape),
}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), pools=("gpu-train",)) as started:
        yield started


def client(cluster: Cluster, code: str, *arguments: str, **changes: str) -> dict[str, Any]:
    """What a program prints that uses the cluster as a user would."""
    environment = cluster._processes.full({**cluster.environment(), "HF_HUB_OFFLINE": "1", **changes})
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=700)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def status_of(url: str, *, login: str | None = None, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    if login is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def objects(cluster: Cluster) -> list[str]:
    import boto3

    environment = cluster.environment()
    s3 = boto3.client(
        "s3",
        endpoint_url=cluster.s3_endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="vlmvid")
    found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    s3.close()
    return found


def test_a_deployment_runs_the_pipeline(cluster: Cluster) -> None:
    parameters = json.dumps({"recipe": "configs/pipelines/fault.yaml"})
    done = client(cluster, RUN, parameters)
    assert (done["state"], done["pool"]) == ("Completed", "gpu-train"), done["logs"][-20:]
    assert done["pools"] == ["cpu-decode", "gpu-encode", "gpu-train"]
    assert {state for _, state in done["flows"]} == {"Completed"} and done["tasks"] == ["Completed"]
    # The store and MLflow's artifacts are in the bucket; this machine's folder is a cache.
    keys = objects(cluster)
    for stage in ("ingest", "decode", "encode", "align", "evaluate", "register"):
        assert any(key.startswith(f"home/stages/{stage}/commits/") for key in keys), stage
    assert any(key.startswith("mlflow/") and key.endswith(".safetensors") for key in keys)
    # Somebody with MLflow's address, a password and an empty cache.
    seen = client(cluster, MODEL, VLMVID_CACHE=str(cluster.folder / "elsewhere"))
    assert seen["root"].startswith("mlflow-artifacts:") and seen["shape"] == [1, 32]
    assert set(seen["stages"].values()) == {"FINISHED"} and {"pipeline", "align", "register"} <= set(seen["stages"])
    # Once more: nothing is left to do, and there is no second version of the model.
    again = client(cluster, RUN, parameters)
    assert again["state"] == "Completed", again["logs"][-20:]
    assert client(cluster, MODEL)["source"] == seen["source"]
    assert commits(objects(cluster)) == commits(keys)


def commits(keys: list[str]) -> list[str]:
    return sorted(key for key in keys if "/commits/" in key)


def test_passwords_are_asked_for(cluster: Cluster) -> None:
    experiments = f"{cluster.mlflow_uri}/api/2.0/mlflow/experiments/get?experiment_id=0"
    password = cluster.environment()["MLFLOW_TRACKING_PASSWORD"]
    assert status_of(experiments) == 401
    assert status_of(experiments, login="admin:password1234") == 401  # what MLflow once shipped
    assert status_of(experiments, login=f"admin:{password}") == 200
    assert status_of(experiments, login=f"admin:{password}", host="evil.example") == 403
    assert status_of(f"{cluster.mlflow_uri}/health") == 200
    flows = f"{cluster.prefect_api}/admin/version"
    assert status_of(flows) == 401
    assert status_of(flows, login=cluster.environment()["PREFECT_API_AUTH_STRING"]) == 200
    assert status_of(f"{cluster.prefect_api}/ready") == 200


def test_passwords_are_on_no_command_line_and_in_no_log(cluster: Cluster) -> None:
    secrets = [value for value in vars(cluster._secrets).values()]
    for name in cluster.names:
        for pid in cluster.pids(name):
            line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
            assert not any(secret in line for secret in secrets), name
    for log in cluster.folder.glob("*.log"):
        assert not any(secret in log.read_text(errors="replace") for secret in secrets), log.name


def test_services_are_stopped_paused_and_killed(cluster: Cluster) -> None:
    cluster.pause("prefect")
    with pytest.raises((TimeoutError, urllib.error.URLError)):
        urllib.request.urlopen(f"{cluster.prefect_api}/health", timeout=2)
    cluster.resume("prefect")
    assert status_of(f"{cluster.prefect_api}/health") == 200
    cluster.kill9("mlflow")
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{cluster.mlflow_uri}/health", timeout=2)
    cluster.start("mlflow")
    assert status_of(f"{cluster.mlflow_uri}/health") == 200
    check = [sys.executable, str(ROOT / "docker/check_services.py")]
    environment = cluster._processes.full(cluster._prefect_environment())
    cluster.stop("prefect-services")
    deadline = time.monotonic() + 60
    while subprocess.run(check, env=environment).returncode == 0:
        assert time.monotonic() < deadline, "the health check does not see that the services are gone"
        time.sleep(1)
    cluster.start("prefect-services")


def test_from_the_command_line(tmp_path: Path) -> None:
    script = [sys.executable, "scripts/cluster.py"]
    shown = "import os; print(os.environ['VLMVID_HOME'], os.environ['AWS_ENDPOINT_URL'])"
    options = ["--folder", str(tmp_path / "run"), "--only", "s3"]
    command = [*script, "run", *options, "--", sys.executable, "-c", shown]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("s3://vlmvid/home http://127.0.0.1:")
    failing = subprocess.run([*command[:-1], "raise SystemExit(3)"], cwd=ROOT, capture_output=True, timeout=300)
    assert failing.returncode == 3
    up = subprocess.Popen([*script, "up", *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    exports = dict(up.stdout.readline().removeprefix("export ").strip().split("=", 1) for _ in range(11))
    assert exports["VLMVID_HOME"] == "s3://vlmvid/home"
    assert status_of(f"{exports['AWS_ENDPOINT_URL']}/moto-api/") == 200
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    up.stdout.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(exports["AWS_ENDPOINT_URL"], timeout=2)
