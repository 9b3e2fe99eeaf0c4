"""CPU of a command and of everything that it starts, sampled while it runs; files that are opened meanwhile. Linux."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.5
_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36
_IN_OPEN = 0x20
_IN_NONBLOCK = 0o4000
_EVENT = struct.Struct("iIII")
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class Outcome:
    """What a command cost; `samples` are (time, CPU seconds of the tree so far)."""

    stdout: str
    cpu_seconds: float
    wall_seconds: float
    samples: list[tuple[float, float]] = field(default_factory=list)

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds of the tree between two times of the clock, by its samples."""
        return self._cpu_at(end) - self._cpu_at(start)

    def _cpu_at(self, moment: float) -> float:
        before = self.samples[0]
        for sample in self.samples:
            if sample[0] >= moment:
                share = (moment - before[0]) / (sample[0] - before[0]) if sample[0] > before[0] else 0.0
                return before[1] + max(share, 0.0) * (sample[1] - before[1])
            before = sample
        return before[1]


def run(command: Sequence[str], environment: Mapping[str, str]) -> Outcome:
    """Run `command` to its end and until nothing of what it started is left; raises RuntimeError when it fails."""
    # Servers that a command leaves behind become children of this process, so that their time is counted too.
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, started = _waited_for(), time.perf_counter()
    samples = [(time.time(), 0.0)]
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append((time.time(), _waited_for() - before + _of_descendants()))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    stdout, stderr = process.communicate()
    wall = time.perf_counter() - started
    _reap()
    ended.set()
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {stderr[-4000:]}")
    cpu = _waited_for() - before
    samples.append((time.time(), cpu))
    return Outcome(stdout, cpu, wall, samples)


def _waited_for() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _reap(limit_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return
    raise RuntimeError(f"what the command started still runs after {limit_seconds:g} s")


def _of_descendants() -> float:
    """CPU seconds of the processes below this one that live, and of those that they waited for."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(name)] = int(fields[1])
        ticks[int(name)] = sum(int(value) for value in fields[11:15])
    below = {os.getpid()}
    waiting = True
    while waiting:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        below |= more
        waiting = bool(more)
    return sum(ticks[pid] for pid in below - {os.getpid()}) / _TICKS


class OpenedFiles:
    """The names of the files of one folder that any process opened, by inotify; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.names: set[str] = set()
        self._folder = folder
        self._ended = threading.Event()

    def __enter__(self) -> OpenedFiles:
        self._descriptor = _LIBC.inotify_init1(_IN_NONBLOCK)
        if self._descriptor < 0 or _LIBC.inotify_add_watch(self._descriptor, os.fsencode(self._folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"cannot watch {self._folder}")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._reader.join()
        os.close(self._descriptor)

    def _read(self) -> None:
        while True:
            last = self._ended.is_set()
            try:
                events = os.read(self._descriptor, 1 << 20)
            except BlockingIOError:
                if last:
                    return
                self._ended.wait(0.05)
                continue
            place = 0
            while place < len(events):
                length = _EVENT.unpack_from(events, place)[3]
                place += _EVENT.size + length
                name = events[place - length : place].rstrip(b"\0").decode()
                if name:  # not the folder itself
                    self.names.add(name)
