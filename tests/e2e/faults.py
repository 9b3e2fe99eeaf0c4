"""Kill a running pipeline at a chosen moment of its own event and ledger files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmvid.artifacts.ledger import read_lines

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "pipelines" / "fault.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a finished home says: bytes of the metrics, MLflow's runs and versions, points per metric."""

    metrics: bytes
    runs: dict[str, str]
    versions: list[str]
    points: dict[str, int]


def count_moments(home: Path) -> int:
    """Events, ledger rows and learning-curve rows so far: what the pipeline has told of its work."""
    files = [home / "events.jsonl", *(home / "ledger").rglob("*.jsonl"), *(home / "work").rglob("*.jsonl")]
    return sum(1 for file in files for _ in read_lines(file))


def run(home: Path, prefect_api: str, *, kill_at: int | None = None, timeout_seconds: float = 300) -> int:
    """Run the fault recipe in a process of its own; kill -9 its group once `kill_at` moments have passed.

    Returns the exit code, -9 when it was killed.
    """
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "VLMVID_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "vlmvid.cli", "run", str(RECIPE)]
    log = home.with_suffix(".log").open("ab")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + timeout_seconds
    try:
        while process.poll() is None:
            if kill_at is not None and count_moments(home) >= kill_at:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the pipeline took more than {timeout_seconds} s; see {home.with_suffix('.log')}")
            time.sleep(0.002)
        return process.returncode
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def outcome(home: Path, client: Any) -> Outcome:
    """Read a finished home."""
    reports = list((home / "stages" / "evaluate").glob("[!.]*/metrics.json"))
    assert len(reports) == 1, reports
    experiment = client.get_experiment_by_name("vlmvid")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    by_stage = {run.data.tags.get("vlmvid.stage", "pipeline"): run for run in runs}
    assert len(by_stage) == len(runs), sorted(run.data.tags.get("vlmvid.stage", "pipeline") for run in runs)
    align = by_stage["align"]
    return Outcome(
        metrics=reports[0].read_bytes(),
        runs={stage: run.info.status for stage, run in sorted(by_stage.items())},
        versions=[str(version.version) for version in client.search_model_versions("name='vlmvid-fault'")],
        points={name: len(client.get_metric_history(align.info.run_id, name)) for name in ("loss", "lr")},
    )
