"""kill -9 of any process of a pipeline, at moments drawn from what it tells of its work."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.e2e.bench import Bench, Survival, below, until
from tests.e2e.faults import RECIPE, ROOT, Moment, Pipeline, count_moments

Victim = Literal["flow", "flow over workers", "decode worker", "task-runner worker", "worker's run"]
# Of fifty: which process dies. The others than the flow's own live only while shards are decoded and encoded.
SHARE: dict[Victim, int] = {
    "flow": 26,
    "flow over workers": 6,
    "decode worker": 6,
    "task-runner worker": 6,
    "worker's run": 6,
}
SHARDED = ("decode", "encode")
STAGES = (
    "ingest",
    "decode",
    "encode",
    "align",
    "vlm",
    "train_vlm",
    "train_vlm/warmup",
    "train_vlm/tune",
    "evaluation",
    "evaluate",
    "register",
)
DEFAULT_SEED = 20
POOL = "faults"


@dataclass(frozen=True)
class Kill:
    """A process that dies once the pipeline has come to a moment."""

    victim: Victim
    moment: Moment

    @property
    def name(self) -> str:
        return f"kill -9 {self.victim} at {self.moment.number} ({self.moment.stage} {self.moment.name})"


def draw(moments: list[Moment], seed: int | None = None) -> list[Kill]:
    """Fifty kills before the last moment: of the flow one in every stage, the rest anywhere its victim lives."""
    seed = int(os.environ.get("VLMVID_FAULT_SEED", DEFAULT_SEED)) if seed is None else seed
    rng = random.Random(seed)
    before_the_end = moments[:-1]
    kills: list[Kill] = []
    for victim, count in SHARE.items():
        if victim in ("flow", "worker's run"):
            among = before_the_end
        else:
            stages = ("decode",) if victim == "decode worker" else SHARDED
            # Not at the end of a shard: by then its worker may have nothing left to do.
            among = [m for m in before_the_end if m.stage in stages and m.name in ("stage.started", "ledger")]
        drawn = [rng.choice([m for m in among if m.stage == stage]) for stage in STAGES] if victim == "flow" else []
        drawn += rng.sample([m for m in among if m not in drawn], count - len(drawn))
        kills += [Kill(victim, moment) for moment in drawn]
    return kills


def survive(bench: Bench, kill: Kill) -> Survival:
    """Let `kill` happen, run again, and look at what is there."""
    if kill.victim == "worker's run":
        return _kill_in_a_prefect_worker(bench, kill.moment)
    home = bench.fresh(f"kill-{kill.victim.replace(' ', '-')}-{kill.moment.number}")
    overrides = ("options.decode_workers=2",) if kill.victim == "decode worker" else ()
    over_workers = kill.victim in ("flow over workers", "task-runner worker")
    environment = {"VLMVID_TASK_RUNNER": "process:2"} if over_workers else {}
    pipeline = bench.pipeline(home, *overrides, environment=environment)
    try:
        came = pipeline.wait_until(lambda: count_moments(home) >= kill.moment.number)
        assert came, f"{kill.name} did not come before the end: {pipeline.said}"
        code = _strike(pipeline, kill.victim)
    finally:
        if kill.victim != "flow over workers":
            pipeline.kill()
    note = "" if code == -9 else f"the run went on and ended with {code}"
    bench.pipeline(home).finish()
    return bench.settled(home, 2, note=note)


def _strike(pipeline: Pipeline, victim: Victim) -> int:
    """Kill the victim; returns the exit code of the flow's process."""
    if victim == "flow":
        return pipeline.kill()
    if victim == "flow over workers":
        # The flow's process alone: what it started must come to an end by itself.
        pipeline.signal(signal.SIGKILL)
        return pipeline.wait()
    word = "vlmvid.video.isolation.worker" if victim == "decode worker" else "spawn_main"
    assert pipeline.wait_until(lambda: bool(below(pipeline.pid, word)), 30), f"no {victim} was seen"
    found = below(pipeline.pid, word)
    for pid in found[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pipeline.wait()


# A worker of Prefect's, which starts runs of a deployment as processes.


@contextmanager
def prefect_worker(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """A process worker on a pool of its own, and the pipeline deployed to it as ``vlmvid-pipeline/faults``."""
    environment = {**os.environ, "PREFECT_API_URL": bench.prefect_api, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    deploy = (
        "from flows.pipeline import pipeline\n"
        f"pipeline.from_source(source={str(ROOT)!r}, entrypoint='flows/pipeline.py:pipeline')"
        f".deploy(name='faults', work_pool_name={POOL!r}, print_next_steps=False)\n"
    )
    with (bench.folder / "worker.log").open("ab") as log:
        prefect = [sys.executable, "-m", "prefect"]
        pool = [*prefect, "work-pool", "create", "--type", "process", "--overwrite", POOL]
        for words in (pool, [sys.executable, "-c", deploy]):
            subprocess.run(words, cwd=ROOT, env=environment, check=True, stdout=log, stderr=log)
        worker = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", POOL, "--name", "faults"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def start_deployed(bench: Bench, home: Path) -> str:
    """Ask for a run of the deployment; returns the flow run's id."""
    from prefect.deployments import run_deployment

    parameters = {"recipe": str(RECIPE), "home": str(home)}
    found = run_deployment("vlmvid-pipeline/faults", parameters=parameters, timeout=0)
    return str(found.id)


def state_of(flow_run_id: str) -> str:
    """The type of a flow run's state, as ``COMPLETED``."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
    return "" if state is None else state.type.value


def _kill_in_a_prefect_worker(bench: Bench, moment: Moment) -> Survival:
    with prefect_worker(bench) as worker:
        home = bench.fresh(f"kill-deployed-{moment.number}")
        first = start_deployed(bench, home)
        until(lambda: count_moments(home) >= moment.number, 180, f"moment {moment.number} of the deployed run")
        found = [pid for word in ("prefect.engine", "flow-run execute") for pid in below(worker.pid, word)]
        assert found, "the worker's subprocess was not found"
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: state_of(first) in ("CRASHED", "FAILED", "COMPLETED"), 90, "the end of the killed run")
        seen = state_of(first)
        assert seen == "CRASHED", seen
        second = start_deployed(bench, home)
        until(lambda: state_of(second) in ("CRASHED", "FAILED", "COMPLETED"), 240, "the end of the second run")
        assert state_of(second) == "COMPLETED", (bench.folder / "worker.log").read_text()[-3000:]
        time.sleep(0.5)  # the process ends after its state is known
        return bench.settled(home, 2, note="Prefect says CRASHED of the first run")
