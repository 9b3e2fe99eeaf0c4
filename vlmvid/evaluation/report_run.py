"""What a report knows of a run, wherever it was found: in a store, in a tracking service, or in an artifact alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts import KeyParts
from vlmvid.evaluation.base import TaskResult


@dataclass(frozen=True)
class Cost:
    """What a stage took when it was computed the last time; None where it was not measured."""

    wall_seconds: float
    cpu_seconds: float | None = None
    peak_memory_bytes: float | None = None
    units: int = 0
    unit: str = ""


@dataclass(frozen=True)
class StageRecord:
    """A finished stage, or a part of one (``train_vlm/NAME``).

    Attributes:
        name: of the stage.
        key: of its artifact.
        counts: what its manifest counts.
        created_seconds: when it was published, Unix time; None where that is not known.
        parts: what its key is made of; None where that is not known.
        revision: of an artifact from which clips are missing.
        adopted_code: whether results of older code were accepted.
        cost: of its computation.
    """

    name: str
    key: str
    counts: Mapping[str, int] = field(default_factory=dict)
    created_seconds: float | None = None
    parts: KeyParts | None = None
    revision: str = ""
    adopted_code: bool = False
    cost: Cost | None = None


@dataclass(frozen=True)
class Curve:
    """What a training reported of its updates: rows with `step` and numbers."""

    stage: str
    rows: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Defect:
    """A clip that has no result in a stage, and why."""

    stage: str
    video_id: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True)
class SplitCount:
    """How much of a dataset belongs to a split."""

    split: str
    clips: int
    captions: int
    questions: int


@dataclass(frozen=True, eq=False)
class Similarity:
    """Cosines (N, N) of some texts with the clips they belong to, in the same order."""

    texts: tuple[str, ...]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        name: of the recipe.
        source: what was asked for: a recipe, a folder, a run id.
        facts: what was run, in words: name and value.
        stages: in order.
        splits: of the dataset.
        results: of the evaluation, with samples.
        topics: result name -> ``bias``, ``hallucination`` or another group of benchmarks, where that is known.
        curves: of the trainings.
        similarity: of some clips with their captions.
        defects: clips without a result.
        versions: name -> version of the code that wrote the report's run.
        notes: what is missing from the report, and why.
    """

    name: str
    source: str
    facts: tuple[tuple[str, str], ...] = ()
    stages: tuple[StageRecord, ...] = ()
    splits: tuple[SplitCount, ...] = ()
    results: tuple[TaskResult, ...] = ()
    topics: Mapping[str, str] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    similarity: Similarity | None = None
    defects: tuple[Defect, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def created_seconds(self) -> float | None:
        """When the newest of its stages was published."""
        return max((s.created_seconds for s in self.stages if s.created_seconds is not None), default=None)

    def stage(self, name: str) -> StageRecord | None:
        """A stage by name, if it is finished."""
        return next((stage for stage in self.stages if stage.name == name), None)
