"""The fault recipe as processes that can be disturbed, and what a finished home must say afterwards."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vlmvid.artifacts import open_store
from vlmvid.artifacts.ledger import read_lines
from vlmvid.pipeline.index import read_index

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "pipelines" / "fault.yaml"
MODEL_NAME = "vlmvid-fault"
FUSED = ("decode.keep_frames=false",)
POLL_SECONDS = 0.002
CPU_WORDS = "seconds of CPU:"


@dataclass(frozen=True)
class Outcome:
    """What a finished home says.

    Bytes of the metrics, the learning curves and the trained weights, by name; MLflow's runs and versions, and the
    points of metrics; how many rows the indexes and the ledger have for each stage, by status.
    """

    files: dict[str, bytes]
    runs: dict[str, str]
    versions: list[str]
    points: dict[str, int]
    rows: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Moment:
    """Something the pipeline has told of its work: the n-th event or ledger row, and its stage."""

    number: int
    stage: str
    name: str


def count_moments(home: Path) -> int:
    """Events and ledger rows so far; the number only grows."""
    return sum(1 for file in _told(home) for _ in read_lines(file))


def moments(home: Path) -> list[Moment]:
    """All moments of a home, in the order of their time."""
    rows = sorted((row for file in _told(home) for row in read_lines(file)), key=lambda row: row["time_seconds"])
    stage, found = "ingest", []
    for number, row in enumerate(rows, start=1):
        stage = row.get("stage", stage)
        found.append(Moment(number, stage, row.get("event", "ledger")))
    return found


def events(home: Path, name: str) -> list[dict[str, Any]]:
    """The events of that name, in order."""
    return [row for row in read_lines(home / "events.jsonl") if row["event"] == name]


def _told(home: Path) -> list[Path]:
    return [home / "events.jsonl", *(home / "ledger").rglob("*.jsonl")]


class Pipeline:
    """One `vlmvid` process, the leader of a process group; by default it runs the fault recipe.

    Its output goes to a file beside the home. It is forked from a server that has imported what a run needs; a
    `command` is started as it is.
    """

    def __init__(
        self,
        home: Path | str,
        prefect_api: str,
        *overrides: str,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.log = log or Path(home).with_suffix(".log")
        values = {"PREFECT_API_URL": prefect_api, "VLMVID_HOME": str(home), **(environment or {})}
        words = [word for override in overrides for word in ("-o", override)]
        if command is None:
            start = (["run", str(RECIPE), *words], values, self.log)
            forked = _FORKING.Process(target=_main, args=start)
            forked.start()
            self._process: BaseProcess | subprocess.Popen[bytes] = forked
        else:
            everything = {**os.environ, **values}
            if "MLFLOW_TRACKING_URI" not in values:
                everything.pop("MLFLOW_TRACKING_URI", None)
            with self.log.open("ab") as file:
                self._process = subprocess.Popen(
                    [*command, *words], cwd=folder, env=everything, stdout=file, stderr=file, start_new_session=True
                )

    @property
    def pid(self) -> int:
        """The process's number, and its group's."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-4000:]

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def wait(self, timeout_seconds: float = 600) -> int:
        """Its exit code; it is killed when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the pipeline took more than {timeout_seconds} s; it said: {self.said}")
            time.sleep(0.05)
        return code

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float = 600) -> bool:
        """Whether `ready` came true while it ran."""
        deadline = time.monotonic() + timeout_seconds
        while self.poll() is None and time.monotonic() < deadline:
            if ready():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def signal(self, number: signal.Signals) -> None:
        """To this process alone."""
        os.kill(self.pid, number)

    def kill(self) -> int:
        """kill -9 of the whole group, with what it may have left behind; returns the exit code."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait()
        self._process.join()
        return self._process.exitcode or 0

    def finish(self, timeout_seconds: float = 600) -> None:
        """Wait for a good end."""
        code = self.wait(timeout_seconds)
        assert code == 0, f"exit code {code}: {self.said}"


_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.e2e.warm"])


def _command(words: list[str], prefect_api: str) -> int:
    """`vlmvid` with the settings that Prefect reads from the environment when it is imported: it was, in the server."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from vlmvid.cli import main

    with temporary_settings({PREFECT_API_URL: prefect_api, PREFECT_CLIENT_MAX_RETRIES: 8}):
        return main(words)


def _main(words: list[str], environment: dict[str, str], log: Path) -> None:
    """What a forked process does: `vlmvid` with these words."""
    try:
        os.setsid()
        os.chdir(ROOT)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(file, number)
        if "MLFLOW_TRACKING_URI" not in environment:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.update(environment)
        code = _command(words, environment["PREFECT_API_URL"])
    except Exception:
        traceback.print_exc()
        code = 1
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sys.stderr.write(f"{CPU_WORDS} {sum(one.ru_utime + one.ru_stime for one in used):.1f}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def run(
    home: Path, prefect_api: str, *overrides: str, kill_when: Callable[[Path], bool] | None = None, **how: Any
) -> int:
    """Run the fault recipe to its end, or kill -9 its group once `kill_when` says so of the home.

    Returns the exit code, -9 when it was killed.
    """
    pipeline = Pipeline(home, prefect_api, *overrides, **how)
    try:
        if kill_when is not None and pipeline.wait_until(lambda: kill_when(home)):
            return pipeline.kill()
        return pipeline.wait()
    finally:
        pipeline.kill()


def outcome(home: Path, client: Any, fused: bool = False) -> Outcome:
    """Read a finished home; `client` is of its MLflow. The rows of each clip are looked at on the way."""
    experiment = client.get_experiment_by_name("vlmvid")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    # Training stages of a vision-language model have the name train_vlm/NAME.
    by_stage = {run.data.tags.get("vlmvid.stage", "pipeline"): run for run in runs}
    assert len(by_stage) == len(runs), f"a run twice: {sorted(run.info.run_name for run in runs)}"
    files = {"metrics": _only(home, "evaluate", "metrics.json")}
    files |= {name: _only(home, "align", name) for name in ("curves.jsonl", "alignment.safetensors")}
    files |= {
        f"{step}/{path.name}": path.read_bytes()
        for folder in sorted((home / "stages" / "vlm").glob("[!.]*"))
        for step in [_vlm_step(folder)]
        for path in folder.rglob("*.safetensors")
    }
    points = {
        f"{stage}/{name}": len(client.get_metric_history(by_stage[stage].info.run_id, name))
        for stage in ("align", "train_vlm/warmup", "train_vlm/tune")
        for name in ("loss", "lr")
    }
    return Outcome(
        files=files,
        runs={stage: run.info.status for stage, run in sorted(by_stage.items())},
        versions=[str(version.version) for version in client.search_model_versions(f"name='{MODEL_NAME}'")],
        points=points,
        rows=rows_of(home, fused),
    )


def rows_of(home: Path, fused: bool = False) -> dict[str, dict[str, int]]:
    """Rows by stage and status; asserts that index and ledger have each clip once, and the shards each result once."""
    store, found = open_store(home), {}
    for stage in ("encode",) if fused else ("decode", "encode"):
        (folder,) = (home / "stages" / stage).glob("[!.]*")
        index = read_index(folder)
        ids = [row.video_id for row in index]
        assert len(set(ids)) == len(ids), f"{stage}: the index has a clip twice"
        places = [(row.shard, row.row) for row in index if row.status == "ok"]
        assert len(set(places)) == len(places), f"{stage}: two clips share a row"
        found[f"{stage} index"] = dict(Counter(row.status for row in index))
    for stage in ("ingest", "decode", "encode"):
        ledger = store.ledger(stage).rows().values()
        ids = [row.video_id for row in ledger]
        assert len(set(ids)) == len(ids), f"{stage}: the ledger has a clip twice"
        found[f"{stage} ledger"] = dict(Counter(row.status for row in ledger))
    for stage in ("decode", "encode"):
        keys = [key for shard in (home / "clips" / stage).glob("[!.]*/shard.json") for key in _keys(shard)]
        assert len(set(keys)) == len(keys), f"{stage}: a clip lies in two shards"
        found[f"{stage} stored"] = {"ok": len(keys)}
    return found


def leftovers(home: Path) -> list[str]:
    """Temporary files and folders of writes that did not end, and set-aside results, by the way they are named."""
    names = [path for path in home.rglob("*") if path.name.startswith((".", "tmp"))]
    return sorted(str(path.relative_to(home)) for path in names)


def _keys(shard: Path) -> list[str]:
    import json

    found: list[str] = json.loads(shard.read_text())["keys"]
    return found


def _vlm_step(folder: Path) -> str:
    import json

    return str(json.loads((folder / "stage.json").read_text())["stage"])


def _only(home: Path, stage: str, name: str) -> bytes:
    found = list((home / "stages" / stage).glob(f"[!.]*/{name}"))
    assert len(found) == 1, found
    return found[0].read_bytes()
