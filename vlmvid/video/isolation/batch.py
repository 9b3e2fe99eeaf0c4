"""The jobs of one call to a pool, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.protocol import Job

Outcome = FrameBatch | dict[str, Any] | DecodeError


@dataclass(slots=True, eq=False)
class Batch:
    """The jobs of one call and what has become of them, by their numbers.

    Attributes:
        num_threads: decoding threads per clip.
        ahead: so many jobs may be started beyond those whose outcomes were taken.
        outcomes: what is done and not taken yet.
        again: jobs to be tried once more, by a fresh worker.
        tries: how often the jobs in work were given to a worker.
        failure: why there will be no more outcomes.
    """

    jobs: Sequence[Job]
    num_threads: int
    ahead: int
    outcomes: dict[int, Outcome | ConfigError] = field(default_factory=dict)
    again: list[int] = field(default_factory=list)
    tries: dict[int, int] = field(default_factory=dict)
    num_started: int = 0
    num_taken: int = 0
    is_cancelled: bool = False
    failure: str | None = None

    @property
    def num_startable(self) -> int:
        """How many jobs may be started now."""
        return len(self.again) + min(len(self.jobs), self.num_taken + self.ahead) - self.num_started

    def next_number(self, *, is_fresh: bool) -> int | None:
        """The job to start next on a worker that is fresh or not; second tries need a fresh one."""
        if self.again and is_fresh:
            number = self.again.pop(0)
        elif self.num_startable > len(self.again):
            number = self.num_started
            self.num_started += 1
        else:
            return None
        self.tries[number] = self.tries.get(number, 0) + 1
        return number
