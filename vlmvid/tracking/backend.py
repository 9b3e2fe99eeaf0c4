"""What a tracking service must offer to the spooled tracker, and what it tells of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vlmvid.tracking.spool import Record


@dataclass(frozen=True, slots=True)
class RunSpec:
    """How a run is found again (`identity`: tags that only it has) and what it carries when new.

    `computed` is False for a stage whose result came from the store. A `replayed` run is not worked on: what an ended
    process left in its spool is sent, and its status is as that process said.
    """

    name: str
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    computed: bool = True
    replayed: bool = False


@dataclass(slots=True)
class OpenRun:
    """A run in the service and what it held when it was opened (empty for a new run).

    `last_steps` maps a metric to its highest recorded step, `values` to its latest value.
    `settled` is True when the run had finished before and its stage was now only reused: its
    status and times stay as they are. `owned` is False when another process that runs has it open too.
    """

    run_id: str
    params: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    last_steps: dict[str, int] = field(default_factory=dict)
    settled: bool = False
    owned: bool = True

    def new_points(self, records: Sequence[Record]) -> list[Record]:
        """The metric points of `records` that were not recorded before.

        A resumed stage repeats its last steps, and they may still wait in the spool. A result without a step is new
        when its value is.
        """
        values, last_steps = dict(self.values), dict(self.last_steps)
        return [r for r in records if r["kind"] == "metric" and _note(r, values, last_steps)]

    def recorded(self, points: Sequence[Record]) -> None:
        """Remember that the service has `points`."""
        for point in points:
            _note(point, self.values, self.last_steps)


def _note(point: Record, values: dict[str, float], last_steps: dict[str, int]) -> bool:
    """Enter a point, unless it is there; says whether it was new."""
    key, value, step = point["key"], point["value"], point["step"]
    if step is None:
        known = values.get(key)
        if known is not None and (known == value or (math.isnan(known) and math.isnan(value))):
            return False
    elif step <= last_steps.get(key, -1):
        return False
    else:
        last_steps[key] = step
    values[key] = value
    return True


class Backend(Protocol):
    """A tracking service. Methods raise Unreachable for outages and Refused for refusals."""

    uri: str
    scope: str  # names the service and what of it is used, without passwords

    def check(self) -> None:
        """Ask for a sign of life; returns or raises Unreachable within seconds."""

    def open_run(self, spec: RunSpec, parent_id: str | None) -> OpenRun:
        """Find the run by `spec.identity` below `parent_id` and reopen it, or create it."""

    def send(self, run: OpenRun, records: list[Record]) -> list[str]:
        """Record all of `records` or raise; sending again what was sent changes nothing.

        Returns what was left out on purpose, in words.
        """

    def close(self, run: OpenRun) -> None:
        """End `run` as KILLED if it is still running and no process that runs has it open."""

    def close_children(self, parent_id: str) -> None:
        """End the runs below `parent_id`, and those below them, that an ended process left running, as KILLED."""

    def page(self, run_id: str) -> str | None:
        """The address of a run that was opened, for a browser; None when the service has no pages."""
