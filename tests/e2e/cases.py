"""Faults other than kills, each by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.bench import Bench, Survival


@dataclass(frozen=True)
class Case:
    """A fault that is tried once: its name in the table, and what tries it."""

    name: str
    survive: Callable[[Bench], Survival]


CASES: tuple[Case, ...] = ()
