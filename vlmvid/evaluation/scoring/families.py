"""Scorers that several benchmarks share, by name: what a declared benchmark chooses among."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vlmvid.evaluation.scoring.base import Kind, Scorer
from vlmvid.registry import Registry


@dataclass(frozen=True)
class Family:
    """Scorers of one kind of benchmark.

    Attributes:
        kind: what a prediction is.
        scorer: name of the benchmark -> its principled scorer.
        compat: name of the benchmark -> its reference scorers.
        options: as in `Benchmark`.
    """

    kind: Kind
    scorer: Callable[[str], Scorer]
    compat: Callable[[str], Mapping[str, Scorer]] = lambda name: {}
    options: Mapping[str, str] = field(default_factory=dict)


FAMILIES: Registry[Family] = Registry("family of scorers")
