"""A flow run that is cancelled in the middle of training: Prefect ends its process with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import RECIPE, write_dataset, write_recipe
from tests.unit.tracking_fixtures import client_of
from vlmvid.artifacts.ledger import read_lines

pytestmark = [pytest.mark.prefect, pytest.mark.long]
ROOT = Path(__file__).parents[2]


def test_its_runs_are_killed_and_the_next_flow_run_reopens_them(
    tmp_path: Path, tracked_home: Path, prefect_api: str
) -> None:
    training = {**RECIPE["align"], "optim": {**RECIPE["align"]["optim"], "num_steps": 200_000}, "checkpoint_every": 500}
    recipe = write_recipe(tmp_path, write_dataset(tmp_path), align=training, evaluate=None)
    ids = []
    for _ in range(2):
        assert cancelled(recipe, tracked_home, prefect_api) != 0
        client = client_of(tracked_home)
        found = client.search_runs([client.get_experiment_by_name("vlmvid").experiment_id])
        runs = {run.info.run_name: run for run in found}
        assert len(runs) == len(found)
        assert {name: run.info.status for name, run in runs.items()} == {
            "tiny": "KILLED",
            "ingest": "FINISHED",
            "decode": "FINISHED",
            "encode": "FINISHED",
            "align": "KILLED",
        }
        assert "prefect.flow_run_id" in runs["align"].data.tags
        steps = [point.step for point in client.get_metric_history(runs["align"].info.run_id, "loss")]
        assert steps and len(set(steps)) == len(steps)
        ids.append({name: run.info.run_id for name, run in runs.items()})
    assert ids[0] == ids[1]


def cancelled(recipe: Path, home: Path, prefect_api: str) -> int:
    """Run the pipeline until it has trained for a while, then do what Prefect's runner does; the exit code."""
    events = home / "events.jsonl"
    before = sum(row["event"] == "train.step" for row in read_lines(events))
    environment = {**os.environ, "PREFECT_API_URL": prefect_api, "VLMVID_HOME": str(home)}
    with home.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vlmvid.cli", "run", str(recipe)], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 480
        while sum(row["event"] == "train.step" for row in read_lines(events)) < before + 3:
            assert process.poll() is None and time.monotonic() < deadline, home.with_suffix(".log").read_text()[-3000:]
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
