"""Scorers that several benchmarks share, by name: what a declared benchmark chooses among."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vlmvid.evaluation.scoring.base import Kind, Scorer
from vlmvid.evaluation.scoring.choices import OPTIONS, ChoiceScorer
from vlmvid.evaluation.scoring.matrix import MatrixScorer, clip_benchmark
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


def _matrix(name: str) -> Scorer:
    return MatrixScorer(name, f"{name}: M media x T captions, each with its own")


def _matrix_compat(name: str) -> Mapping[str, Scorer]:
    return {"clip_benchmark": clip_benchmark(_matrix(name))} if name == "winoground" else {}


FAMILIES.register("matrix", Family("matrix", _matrix, _matrix_compat))


FAMILIES.register("choice", Family("choice", ChoiceScorer, options=OPTIONS))
