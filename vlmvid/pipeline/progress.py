"""How far a long stage is: a progress bar on stderr, silent where that is no terminal, and the points of its curves.

All bars of vlmvid are made here, so that they look the same: what it is, how far, counts with their unit, times, rate.
Others may watch the numbers of the bar.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from threading import Lock
from typing import Any

from tqdm import tqdm

Watcher = Callable[[str, int, int], None]
MIN_POINTS, MAX_POINTS = 20, 1000
MAX_STEPS_BETWEEN = 10
_LABEL_WIDTH = 10  # the longest name of a usual stage, so that bars below each other line up


def is_reported(step: int, num_steps: int) -> bool:
    """Is an update (from 1 to `num_steps`) a point of the curves that the tracking service gets?

    Every tenth is; in a short training more, so that there are `MIN_POINTS` where there are as many updates, and in a
    long one fewer, about `MAX_POINTS`. The first and the last always are.
    """
    between = max(1, min(MAX_STEPS_BETWEEN, num_steps // MIN_POINTS), num_steps // MAX_POINTS)
    return step % between == 0 or step in (1, num_steps)


class StageProgress:
    """Bars by stage name; may be advanced from several threads.

    `watcher` is told the stage, how many units are done and how many there are, whenever that changes; it must not
    wait for anything.
    """

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self._bars: dict[str, Any] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._work: dict[str, tuple[int, str]] = {}
        self._lock = Lock()

    def begin(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Start the bar of a stage, unless it has one; nothing is drawn for an empty stage.

        `done` units are done already: they take no part in the estimate of the time left.
        """
        with self._lock:
            if total and stage not in self._bars:
                self._bars[stage] = tqdm(
                    total=total,
                    initial=done,
                    desc=stage.ljust(_LABEL_WIDTH),
                    unit=f" {unit}",
                    file=sys.stderr,
                    disable=None,
                    **_size(),
                    bar_format=f"{{desc}} {{percentage:3.0f}} % |{{bar}}| {{n_fmt}}/{{total_fmt}} {unit}s "
                    "[{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]",
                )
                self._work[stage] = total - done, unit
                self._tell(stage, done, total)

    def worked(self, stage: str) -> tuple[int, str]:
        """How many units of which kind the stage had to do since it was asked the last time; (0, "") for none."""
        with self._lock:
            return self._work.pop(stage, (0, ""))

    def advance(self, stage: str, amount: int = 1) -> None:
        """Move the bar of a stage on, if there is one."""
        with self._lock:
            if stage in self._bars:
                self._bars[stage].update(amount)
                done, total = self._counts[stage]
                self._tell(stage, done + amount, total)

    def note(self, stage: str, **counts: float) -> None:
        """Show `counts` behind the bar of a stage, if there is one."""
        with self._lock:
            if stage in self._bars:
                self._bars[stage].set_postfix(counts, refresh=False)

    def end(self, stage: str) -> None:
        """Close the bar of a stage, if there is one."""
        with self._lock:
            bar = self._bars.pop(stage, None)
            if bar is not None:
                bar.close()

    def _tell(self, stage: str, done: int, total: int) -> None:
        self._counts[stage] = (done, total)
        if self.watcher is not None:
            self.watcher(stage, done, total)


def _size() -> dict[str, Any]:
    """How large bars may be: as the terminal is, also when it is resized; a usual size where it does not say."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        columns = rows = 0
    return {"dynamic_ncols": True} if columns and rows else {"ncols": 80, "nrows": 24}
