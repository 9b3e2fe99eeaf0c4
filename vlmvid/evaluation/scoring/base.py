"""What a benchmark is: files that its authors publish, items, and scorers.

The steps of a score are kept apart: a raw response is parsed (`vlmvid.evaluation.answers`, versioned, may give None),
the parsed answer is scored, the scores are aggregated (`vlmvid.evaluation.scoring.aggregate`). Nothing here knows a
model; `vlmvid score` and the evaluate stage use the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlmvid.errors import ConfigError
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.registry import nearest

Kind = Literal[
    "retrieval", "choice", "open", "yes_no", "caption", "matrix", "classification", "segmentation", "ranking", "other"
]
Missing = Literal["wrong", "skip"]
FrameOrder = Literal["forward", "reversed"]


@dataclass(frozen=True, slots=True)
class Media:
    """A video or picture that an item is about.

    Attributes:
        name: as the benchmark writes it: a file name, a path below the media folder, or a name without suffix.
        start_seconds: the part's first instant.
        end_seconds: its end; None = the end of the file.
        order: the order in which the frames are shown.
    """

    name: str
    start_seconds: float = 0.0
    end_seconds: float | None = None
    order: FrameOrder = "forward"


@dataclass(frozen=True, slots=True)
class Item:
    """One sample of a benchmark.

    Attributes:
        item_id: joins predictions; unique in the benchmark.
        video_id: samples that share it are one cluster of the standard errors.
        answer: what the benchmark's scorer compares with: a text, texts, the index of a choice, a label.
        question: the text that is asked.
        choices: the options of a question, or the captions (T) of a matrix item, as the benchmark orders them.
        media: what is shown; a matrix item has M of them, and its prediction is M rows of T scores.
        groups: breakdowns that this item belongs to, e.g. ``{"type": "temporal"}``: one accuracy for each value.
        units: ids of sets that are right only when all their items are, e.g. ``{"pair": "12"}``.
        extra: further columns of the benchmark that a scorer reads.
    """

    item_id: str
    video_id: str
    answer: Any
    question: str = ""
    choices: tuple[str, ...] = ()
    media: tuple[Media, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreSettings:
    """How predictions are scored.

    Attributes:
        compat: the reference scorer to reproduce; None = principled.
        missing: an item without a prediction counts as wrong, or is left out, which the metric's name then says.
        blind: predictions of the same model without the video, reported as a baseline.
        options: the benchmark's own options, e.g. its split; all values are text.
        num_bootstrap: resamples of each interval.
        seed: of intervals and permutations.
    """

    compat: str | None = None
    missing: Missing = "wrong"
    blind: Predictions | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    num_bootstrap: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """A file that the benchmark's authors publish.

    Attributes:
        name: its name, or a pattern such as ``*.json``.
        columns: the columns or keys that are read.
        publisher: where the authors publish it.
    """

    name: str
    columns: tuple[str, ...]
    publisher: str


Read = Callable[[Path, Mapping[str, str]], list[Item]]
ReadPredictions = Callable[[Path, Sequence[Item]], Predictions]
Scorer = Callable[[Sequence[Item], Predictions, ScoreSettings], TaskResult]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: one file below `vlmvid/evaluation/benchmarks`.

    Attributes:
        name: registered name, the TASK of ``vlmvid score``.
        title: as in the literature, with its split.
        kind: what a prediction is; an aligned model answers ``retrieval``, ``choice``, ``matrix``,
            ``classification`` and ``segmentation``.
        source: the paper, as an arXiv number or venue.
        files: the annotation files.
        read: (file or folder, options) -> items; raises DatasetError, MissingDataError.
        score: the principled scorer.
        compat: reference scorers by name; each reproduces one released script, `printed` included.
        text_compat: those of them that read words, letters or an index, and make nothing of a list of scores.
        options: names of the options that `read` and the scorers take, with what they mean.
        read_predictions: reads the result file of the benchmark's own scorer; None = the general reader, which takes
            that of `prediction_keys`.
        prediction_keys: (names of the id, names of the value) in a list of objects; the first that is there counts.
    """

    name: str
    title: str
    kind: Kind
    source: str
    files: tuple[AnnotationFile, ...]
    read: Read
    score: Scorer
    compat: Mapping[str, Scorer] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    read_predictions: ReadPredictions | None = None
    prediction_keys: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    text_compat: tuple[str, ...] = ()

    def check(self, settings: ScoreSettings) -> None:
        """Refuse a compat mode or an option that this benchmark does not have."""
        known = sorted(self.compat)
        if settings.compat is not None and settings.compat not in self.compat:
            words = f"known: {', '.join(known)}" if known else "it has none: no released scorer differs"
            raise ConfigError(
                f"{self.name} has no compat {settings.compat!r}{nearest(settings.compat, known)}; {words}"
            )
        for name in settings.options:
            if name not in self.options:
                raise ConfigError(
                    f"{self.name} has no option {name!r}{nearest(name, sorted(self.options))}; "
                    f"known: {', '.join(sorted(self.options)) or 'none'}"
                )

    def scorer(self, settings: ScoreSettings) -> Scorer:
        """The scorer that `settings` asks for."""
        self.check(settings)
        return self.score if settings.compat is None else self.compat[settings.compat]
