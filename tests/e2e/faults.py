"""Kill a running pipeline at a chosen moment of its own event and ledger files."""

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

from vlmvid.artifacts.ledger import read_lines

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "pipelines" / "fault.yaml"


@dataclass(frozen=True)
class Outcome:
    """What a finished home says.

    Bytes of the metrics, of the learning curves and of the aligned weights; MLflow's runs and
    versions, and the points of two metrics.
    """

    metrics: bytes
    curves: bytes
    weights: bytes
    runs: dict[str, str]
    versions: list[str]
    points: dict[str, int]


@dataclass(frozen=True)
class Moment:
    """Something the pipeline has told of its work: the n-th event or ledger row, and its stage."""

    number: int
    stage: str
    name: str


def count_moments(home: Path) -> int:
    """Events and ledger rows so far; the number only grows."""
    files = [home / "events.jsonl", *(home / "ledger").rglob("*.jsonl")]
    return sum(1 for file in files for _ in read_lines(file))


def moments(home: Path) -> list[Moment]:
    """All moments of a finished home, in the order of their time."""
    files = [home / "events.jsonl", *(home / "ledger").rglob("*.jsonl")]
    rows = sorted((row for file in files for row in read_lines(file)), key=lambda row: row["time_seconds"])
    stage, found = "ingest", []
    for number, row in enumerate(rows, start=1):
        stage = row.get("stage", stage)
        found.append(Moment(number, stage, row.get("event", "ledger")))
    return found


def run(
    home: Path,
    prefect_api: str,
    *overrides: str,
    kill_when: Callable[[Path], bool] | None = None,
    timeout_seconds: float = 300,
) -> int:
    """Run the fault recipe in a process of its own; kill -9 its group once `kill_when` says so of the home.

    Returns the exit code, -9 when it was killed.
    """
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "VLMVID_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "vlmvid.cli", "run", str(RECIPE)]
    command += [word for override in overrides for word in ("-o", override)]
    log = home.with_suffix(".log").open("ab")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + timeout_seconds
    try:
        while process.poll() is None:
            if kill_when is not None and kill_when(home):
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
    experiment = client.get_experiment_by_name("vlmvid")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    by_stage = {run.data.tags.get("vlmvid.stage", "pipeline"): run for run in runs}
    assert len(by_stage) == len(runs), sorted(run.data.tags.get("vlmvid.stage", "pipeline") for run in runs)
    align = by_stage["align"]
    return Outcome(
        metrics=_only(home, "evaluate", "metrics.json"),
        curves=_only(home, "align", "curves.jsonl"),
        weights=_only(home, "align", "alignment.safetensors"),
        runs={stage: run.info.status for stage, run in sorted(by_stage.items())},
        versions=[str(version.version) for version in client.search_model_versions("name='vlmvid-fault'")],
        points={name: len(client.get_metric_history(align.info.run_id, name)) for name in ("loss", "lr")},
    )


def _only(home: Path, stage: str, name: str) -> bytes:
    found = list((home / "stages" / stage).glob(f"[!.]*/{name}"))
    assert len(found) == 1, found
    return found[0].read_bytes()
