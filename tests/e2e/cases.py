"""Faults other than kills, each by its name: those of servers and signals here, the cheap ones in `tests.e2e.small`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.e2e.bench import FUSED, Bench, Survival, same
from tests.e2e.faults import ROOT, Pipeline, events, moments, outcome
from tests.e2e.servers import PrefectServer
from tests.e2e.small import SMALL, Tiny
from tests.mlflow_fixtures import MlflowServer
from tests.unit.tracking_fixtures import client_of

AWAY_SECONDS = 60.0
MOST_SECONDS_TO_A_CHECKPOINT = 20.0


@dataclass(frozen=True)
class Case:
    """A fault that is tried once: its name in the table, and what tries it."""

    name: str
    survive: Callable[[Bench], Survival]


def terminated(bench: Bench, stage: str) -> Survival:
    """SIGTERM between two checkpoints: one of the update in work, runs KILLED, the next run goes on after it."""
    home = bench.fresh(f"sigterm-{stage.replace('/', '-')}")
    # No checkpoint by itself; long enough that the signal falls between two updates.
    many = ("align.optim.num_steps=4000", "align.checkpoint_every=100000", "train_vlm.stages.tune.num_epochs=200")
    rare = ("train_vlm.stages.tune.checkpoint_every=100000",)
    pipeline = bench.pipeline(home, *many, *rare)
    steps = partial(steps_of, home, stage)
    assert pipeline.wait_until(lambda: len(steps()) >= 2), pipeline.said
    sent = time.time()
    pipeline.signal(signal.SIGTERM)
    code = pipeline.wait(120)
    (saved,) = [row for row in events(home, "checkpoint.written") if row["stage"] == stage]
    seconds = saved["time_seconds"] - sent
    assert code == 1 and seconds <= MOST_SECONDS_TO_A_CHECKPOINT, (code, seconds, pipeline.said)
    client = client_of(home)
    experiment = client.get_experiment_by_name("vlmvid")
    assert experiment is not None
    states = {run.info.run_name: run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert states[stage] == "KILLED" and "RUNNING" not in states.values(), states
    assert set(states.values()) == {"FINISHED", "KILLED"}, states
    before = len(steps())
    again = bench.pipeline(home, *many, *rare)
    again.finish()
    reported = steps()
    assert min(reported[before:]) > saved["step"], "an update that was saved was done again"
    whole = bench.fresh(f"sigterm-undisturbed-{stage}")  # an own name: MLflow keeps connections by path
    undisturbed = bench.pipeline(whole, *many, *rare)
    undisturbed.finish()
    same(outcome(home, client_of(home)), outcome(whole, client_of(whole)))
    shutil.rmtree(home)
    shutil.rmtree(whole)
    return Survival(2, 0.0, f"checkpoint of update {saved['step']} after {seconds:.1f} s")


def steps_of(home: Path, stage: str) -> list[int]:
    """The updates that a stage has told of, in order."""
    return [row["step"] for row in events(home, "train.step") if row["stage"] == stage]


def prefect_away(bench: Bench, *, frozen: bool) -> Survival:
    """Prefect's server is killed and started again a minute later, or hangs for a minute, in the middle of a run."""
    name = "frozen" if frozen else "killed"
    with PrefectServer(bench.folder / f"prefect-server-{name}") as server:
        home = bench.fresh(f"prefect-{name}")
        pipeline = Pipeline(home, server.uri)
        assert pipeline.wait_until(lambda: any(m.stage == "decode" for m in moments(home))), pipeline.said
        if frozen:
            server.signal(signal.SIGSTOP)
        else:
            server.stop()
        time.sleep(AWAY_SECONDS)
        if frozen:
            server.signal(signal.SIGCONT)
        else:
            server.start()
        code = pipeline.wait()
        runs = 1
        if code:
            Pipeline(home, server.uri).finish()
            runs = 2
        return bench.settled(home, runs, note="" if code == 0 else f"the run ended with {code}: {pipeline.said[-300:]}")


def mlflow_away(bench: Bench) -> Survival:
    """MLflow's server is killed while the pipeline runs and comes back before the next run."""
    with MlflowServer(bench.folder / "mlflow-server") as server:
        home = bench.fresh("mlflow-away")
        environment = {"MLFLOW_TRACKING_URI": server.uri}
        pipeline = bench.pipeline(home, environment=environment)
        assert pipeline.wait_until(lambda: any(m.stage == "decode" for m in moments(home))), pipeline.said
        server.stop()
        pipeline.finish()
        server.start()
        bench.pipeline(home, environment=environment).finish()
        client = MlflowClient(server.uri, registry_uri=server.uri)
        return bench.settled(home, 2, client=client, note="the model was registered by the second run")


def two_runs(bench: Bench) -> Survival:
    """Two processes run the recipe over one store at once: both end well, and each clip is computed once."""
    home = bench.fresh("two-runs")
    first, second = bench.pipeline(home), bench.pipeline(home)
    first.finish()
    second.finish()
    for stage in ("decode", "encode"):
        written = [row for row in events(home, "shard.written") if row["stage"] == stage]
        assert sum(row["ok"] for row in written) == 24, f"{stage}: clips were computed twice"
    trained = [row["step"] for row in events(home, "checkpoint.written") if row["stage"] == "align"]
    assert trained == sorted(set(trained)), "the alignment was trained twice"
    return bench.settled(home, 2)


def killed_in_the_fused_stage(bench: Bench) -> Survival:
    """kill -9 while frames go from the decoder to the backbone and are not kept, and two workers decode."""
    home = bench.fresh("fused")
    fused = (*FUSED, "options.decode_workers=2")
    pipeline = bench.pipeline(home, *fused)
    assert pipeline.wait_until(lambda: bool(events(home, "shard.written"))), pipeline.said
    pipeline.kill()
    assert {row["stage"] for row in events(home, "shard.written")} == {"encode"}
    assert len(events(home, "shard.written")) < 3
    bench.pipeline(home, *fused).finish()
    assert not (home / "clips" / "decode").exists()
    return bench.settled(home, 2, fused=True)


def edited_code(bench: Bench) -> Survival:
    """The package is a copy; a comment in a module that decides is edited, then a constant of it."""
    home, tree = bench.fresh("edited"), bench.folder / "edited-code"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("vlmvid", "flows"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {"PYTHONPATH": str(tree)}
    cli = [sys.executable, "-m", "vlmvid.cli"]
    recipe = str(ROOT / "configs" / "pipelines" / "fault.yaml")

    def decode() -> None:
        for stage in ("ingest", "decode"):
            command = [*cli, stage, recipe]
            Pipeline(home, bench.prefect_api, environment=environment, command=command, folder=tree).finish()

    def status() -> tuple[str, str]:
        done = subprocess.run(
            [*cli, "plan", recipe, "--json"],
            cwd=tree,
            env={**os.environ, **environment, "VLMVID_HOME": str(home)},
            capture_output=True,
            text=True,
            check=True,
        )
        stages = {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}
        return stages["decode"]["status"], stages["decode"]["reason"]

    decode()
    module = tree / "vlmvid" / "video" / "sampling.py"
    module.write_text(module.read_text() + "\n# A comment decides nothing.\n")
    assert status()[0] == "cached", status()
    module.write_text(module.read_text() + "\nEDITED = 1\n")
    found = status()
    assert found[0] == "run" and re.search(r"vlmvid\.video\.sampling", found[1]), found
    before = len(events(home, "shard.written"))
    decode()
    assert len(events(home, "shard.written")) == 2 * before, "old results were reused under new code"
    shutil.rmtree(home)
    return Survival(2, 0.0, f"plan said: {found[1]}")


def _small(bench: Bench, name: str) -> Survival:
    return SMALL[name](_tiny(bench.folder))


@cache
def _tiny(folder: Path) -> Tiny:
    return Tiny(folder / "tiny")


CASES: tuple[Case, ...] = (
    *(Case(name, partial(_small, name=name)) for name in SMALL),
    Case("SIGTERM in align", partial(terminated, stage="align")),
    Case("SIGTERM in train_vlm", partial(terminated, stage="train_vlm/tune")),
    Case("Prefect's server killed, back after a minute", partial(prefect_away, frozen=False)),
    Case("Prefect's server hangs for a minute", partial(prefect_away, frozen=True)),
    Case("MLflow's server killed, back for the next run", mlflow_away),
    Case("two runs over one store at once", two_runs),
    Case("kill -9 between decoder and backbone", killed_in_the_fused_stage),
    Case("code edited between runs", edited_code),
)
