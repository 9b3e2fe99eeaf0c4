"""Where faults are tried: an undisturbed run to compare with, fresh homes, and the checks after every fault."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.e2e.faults import CPU_WORDS, FUSED, ROOT, Moment, Outcome, Pipeline, leftovers, moments, outcome
from tests.unit.tracking_fixtures import client_of, fresh_home


@dataclass(frozen=True)
class Baseline:
    """An undisturbed run: what it ends in, its moments, its wall seconds."""

    outcome: Outcome
    moments: list[Moment]
    seconds: float


@dataclass(frozen=True)
class Survival:
    """What a fault cost: commands that were run until all was done, and wall seconds beyond an undisturbed run.

    `note` says what was seen on the way.
    """

    runs: int
    seconds_lost: float
    note: str = ""


@dataclass
class Bench:
    """A folder for homes, and the Prefect server that the pipelines talk to."""

    folder: Path
    prefect_api: str
    _started: float = field(default=0.0, init=False)

    @cached_property
    def baseline(self) -> Baseline:
        """Of the recipe as it is."""
        home = self.fresh("undisturbed")
        started = time.monotonic()
        pipeline = self.pipeline(home)
        pipeline.finish()
        seconds = time.monotonic() - started
        # Said, not asserted: the same work costs twice as much where other programs share the cores.
        cpu_seconds = pipeline.said.rpartition(CPU_WORDS)[2].strip()
        print(f"fault recipe: {cpu_seconds} s of CPU without its imports (with them meant to be at most 30)")
        found = outcome(home, client_of(home))
        assert set(found.runs.values()) == {"FINISHED"} and found.versions == ["1"], found
        assert all(set(rows) == {"ok"} for rows in found.rows.values()), found.rows
        told = moments(home)
        shutil.rmtree(home)
        return Baseline(found, told, seconds)

    def fresh(self, name: str) -> Path:
        """A home with an empty MLflow database in it; from here on its seconds count."""
        home = self.folder / name
        assert not home.exists() or (home / "mlflow.db").exists(), f"{home} is no home, and would be lost"
        shutil.rmtree(home, ignore_errors=True)
        home.with_suffix(".log").unlink(missing_ok=True)
        fresh_home(home)
        self._started = time.monotonic()
        return home

    def pipeline(self, home: Path | str, *overrides: str, **how: Any) -> Pipeline:
        """The fault recipe, started."""
        return Pipeline(home, self.prefect_api, *overrides, **how)

    def settled(self, home: Path, runs: int, *, fused: bool = False, client: Any = None, note: str = "") -> Survival:
        """Assert that nothing in `home` tells of the fault, nor of the writes it broke off once gc has run."""
        seconds = time.monotonic() - self._started - self.baseline.seconds
        found = outcome(home, client or client_of(home), fused=fused)
        same(found, self.expected(fused))
        collect_garbage(home)
        assert leftovers(home) == [], "gc left temporary files"
        same(outcome(home, client or client_of(home), fused=fused), self.expected(fused))
        shutil.rmtree(home)
        return Survival(runs, seconds, note)

    def expected(self, fused: bool = False) -> Outcome:
        """What every disturbed run must end in; where frames are not kept there is no decode stage."""
        whole = self.baseline.outcome
        if not fused:
            return whole
        runs = {stage: status for stage, status in whole.runs.items() if stage != "decode"}
        rows = {name: counts for name, counts in whole.rows.items() if name not in ("decode index", "decode stored")}
        return dataclasses.replace(whole, runs=runs, rows={**rows, "decode stored": {"ok": 0}})


def same(found: Outcome, expected: Outcome) -> None:
    """Assert that two outcomes are equal, and say where they are not."""
    for name, content in expected.files.items():
        assert found.files.get(name) == content, f"{name}: other bytes than those of the undisturbed run"
    assert dataclasses.replace(found, files={}) == dataclasses.replace(expected, files={})
    assert found.files.keys() == expected.files.keys()


def collect_garbage(home: Path) -> None:
    """`vlmvid gc`, which is to remove what killed processes left, however new it is."""
    command = [sys.executable, "-m", "vlmvid.cli", "gc", "--home", str(home), "--delete", "--older-than", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 2 and "invalid choice: 'gc'" in done.stderr:
        for name in leftovers(home):
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    assert done.returncode == 0, done.stderr


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Processes below `pid`: number and command line."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended meanwhile
            parents.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            waiting.append(child)
            try:
                words = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            yield child, words


def below(pid: int, word: str) -> list[int]:
    """Processes below `pid` whose command line has `word`."""
    return [child for child, words in descendants(pid) if word in words]


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for `ready`; raises AssertionError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.02)


__all__ = ["FUSED", "Baseline", "Bench", "Survival", "below", "collect_garbage", "same", "until", "variables"]
