"""What the tests of deployments do to a real Prefect server: deploy, trigger, work, read back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
)
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessWorker

ROOT = Path(__file__).parents[2]
POOLS = ("cpu-decode", "gpu-encode", "gpu-train")


def environment(api: str, **more: str) -> dict[str, str]:
    return {**os.environ, "PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "INFO", "PYTHONPATH": str(ROOT), **more}


def prefect(api: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """One command of Prefect's own command line, in the checkout; nobody is there to be asked."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(api, **more), timeout=300)


def client() -> SyncPrefectClient:
    return get_client(sync_client=True)


def make_pools() -> None:
    """The pools of docs/deployments.md."""
    with client() as api:
        there = {pool.name for pool in api.read_work_pools()}
        for name in POOLS:
            if name not in there:
                template = ProcessWorker.get_default_base_job_template()
                api.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))


def trigger(deployment: str, **parameters: Any) -> FlowRun:
    """A run of ``FLOW/DEPLOYMENT``, as the UI and the API start it."""
    with client() as api:
        found = api.read_deployment_by_name(deployment)
        return api.create_flow_run_from_deployment(found.id, parameters=parameters)


def work_once(api: str, pool: str, **more: str) -> str:
    """What a worker says that takes what waits in the pool, and ends when that has."""
    words = ["worker", "start", "--pool", pool, "--type", "process", "--run-once"]
    return prefect(api, *words, **more).stdout


@contextmanager
def running(api: str, *words: str, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m WORDS`` in the checkout until the block ends."""
    with log.open("wb") as output:
        command = [sys.executable, "-m", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(api, **more), stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for_end(run: FlowRun, seconds: float = 240) -> FlowRun:
    deadline = time.monotonic() + seconds
    with client() as api:
        while time.monotonic() < deadline:
            run = api.read_flow_run(run.id)
            if run.state is not None and run.state.is_final():
                return run
            time.sleep(0.5)
    raise AssertionError(f"{run.name} is {run.state} after {seconds} s")


def artifacts_of(runs: Sequence[FlowRun]) -> dict[str, Any]:
    """Artifacts by key; of those with the same key the newest."""
    with client() as api:
        ids = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]))
        found = sorted(api.read_artifacts(artifact_filter=ids, limit=200), key=lambda one: str(one.created))
    return {one.key: one for one in found if one.key}


def below(run: FlowRun) -> dict[str, FlowRun]:
    """The runs of flows that this one has started, by the name of the flow."""
    with client() as api:
        parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        return {api.read_flow(one.flow_id).name: one for one in api.read_flow_runs(flow_run_filter=parent)}


def task_states(run: FlowRun) -> dict[str, str]:
    with client() as api:
        runs = api.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}), task_run_filter=TaskRunFilter()
        )
        return {one.name: one.state_name or "" for one in runs}


def wait_for_log(run: FlowRun, beginning: str, seconds: float = 30) -> str:
    """The first message that begins so; Prefect sends them in batches, a while after they were written."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = [message for _, _, message in logs_of(run) if message.startswith(beginning)]
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"no log of {run.name} begins with {beginning!r}: {logs_of(run)}")


def logs_of(run: FlowRun) -> list[tuple[str, int, str]]:
    """Logger, level and message of every record, those of tasks too."""
    with client() as api:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        return [(log.name, log.level, log.message) for log in api.read_logs(of_run)]
