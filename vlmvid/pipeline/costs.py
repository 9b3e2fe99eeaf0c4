"""What a stage costs: time, CPU and memory of this process and of those below it, written to the event log.

Costs enter no key and no artifact: the same work twice gives the same result and other costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vlmvid.pipeline.context import RunContext
from vlmvid.tracking.base import StageRun

if TYPE_CHECKING:
    import psutil

COST_EVENT = "stage.cost"
_FIRST_SECONDS, _LONGEST_SECONDS = 0.1, 5.0
_NOT_OURS = "prefect.server"  # a server that `vlmvid run` has started works for the orchestrator, not for the stage


class CostMeter:
    """Measures from its making to `close`.

    Memory is looked at now and then, in a long stage every five seconds, and pages that processes share count for each
    of them. Work on other machines, and by processes that others have started, is not seen.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._cpu_before = _cpu_seconds()
        self._peak_bytes = _resident_bytes()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vlmvid-cost", daemon=True)
        self._thread.start()

    def close(self) -> dict[str, float]:
        """``wall_seconds``, ``cpu_seconds`` and ``peak_memory_bytes``."""
        self._closed.set()
        self._thread.join()
        return {
            "wall_seconds": time.perf_counter() - self._started,
            "cpu_seconds": max(0.0, _cpu_seconds() - self._cpu_before),
            "peak_memory_bytes": float(max(self._peak_bytes, _resident_bytes())),
        }

    def _watch(self) -> None:
        wait = _FIRST_SECONDS
        while not self._closed.wait(wait):
            self._peak_bytes = max(self._peak_bytes, _resident_bytes())
            wait = min(_LONGEST_SECONDS, 2 * wait)


@contextmanager
def costed(context: RunContext, label: str, key: str, run: StageRun) -> Iterator[None]:
    """Measure the block and tell the event log and the tracker; a block that fails tells nothing.

    `label` is a stage, or ``"STAGE/PART"``; how many units it worked on is what its progress bar says.
    """
    context.progress.worked(label)  # of an earlier run of this process
    meter = CostMeter()
    done = False
    try:
        yield
        done = True
    finally:
        found = meter.close()
        units, unit = context.progress.worked(label)
        if done:
            run.log_metrics(found)
            rounded = {name: round(value, 3) for name, value in found.items()}
            context.store.events.emit(COST_EVENT, stage=label, key=key, units=units, unit=unit, **rounded)


def _cpu_seconds() -> float:
    """CPU seconds of this process, of those below it that live, and of their children that have ended."""
    total = 0.0
    for process in _processes():
        with _may_be_gone():
            total += sum(process.cpu_times()[:4])  # user and system, its own and of children that have ended
    return total


def _resident_bytes() -> int:
    total = 0
    for process in _processes():
        with _may_be_gone():
            total += process.memory_info().rss
    return total


def _processes() -> list[psutil.Process]:
    """This process and the living ones that it has started, and those that they have."""
    import psutil

    found = [psutil.Process()]
    for process in found[0].children(recursive=True):
        with _may_be_gone():
            if _NOT_OURS not in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextmanager
def _may_be_gone() -> Iterator[None]:
    import psutil

    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        yield
