"""What an evaluation reads and what it returns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import EvaluateConfig
from vlmvid.data.boxes import Box
from vlmvid.errors import EvaluationError
from vlmvid.evaluation.cosines import pair_similarity
from vlmvid.types import Clip, MetricResult, Question

if TYPE_CHECKING:
    from vlmvid.evaluation.answering import Answerer, TrainingClips

Sample = dict[str, str | int | float | bool | None]
EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

CLUSTER = "cluster"  # column of samples
_NORM_TOLERANCE = 1e-3


def _no_alignment(texts: Sequence[str]) -> NDArray[np.float32]:
    raise EvaluationError(f"{len(texts)} texts are to be embedded, and there is no alignment; add an 'align' section")


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """The clips of one split with their embeddings, or with a vision-language model that can be asked about them.

    Attributes:
        clips: the evaluated clips; every video_id once.
        video_embeds: float32 (N, D), L2-normalised; row i belongs to ``clips[i]``. Empty without an alignment.
        embed_texts: texts -> float32 (M, D), L2-normalised.
        shuffled_video_embeds: float32 (N, D), the same clips with their frames in a seeded random
            order, or None.
        training_captions: what the model was trained on, where the task asks for it.
        answerer: the vision-language model, or None.
        training: training clips whose captions can be copied, or None.
        training_boxes: what things the training clips have and their boxes, one mapping a clip.
        training_questions: the questions of task 'vqa' that training clips carry.
        condition: of the frames that the model is shown; `seed` is of its draws.

    Raises:
        EvaluationError: no clips, a repeated video_id, or embeddings of a wrong shape or norm.
    """

    clips: tuple[Clip, ...]
    video_embeds: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    embed_texts: EmbedTexts = _no_alignment
    shuffled_video_embeds: NDArray[np.float32] | None = None
    training_captions: tuple[str, ...] = ()
    answerer: Answerer | None = None
    training: TrainingClips | None = None
    training_boxes: tuple[Mapping[str, Box], ...] = ()
    training_questions: tuple[Question, ...] = ()
    condition: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.clips:
            raise EvaluationError("there is no clip to evaluate; check the split and the failures of earlier stages")
        repeated = [name for name, clips in group_by(self.clips, lambda clip: clip.video_id).items() if len(clips) > 1]
        if repeated:
            raise EvaluationError(f"{len(repeated)} video_ids occur more than once, e.g. {repeated[:3]}")
        if self.has_alignment:
            _check_embeds("video_embeds", self.video_embeds, len(self.clips))
        if self.shuffled_video_embeds is not None:
            _check_embeds("shuffled_video_embeds", self.shuffled_video_embeds, len(self.clips))

    @property
    def has_alignment(self) -> bool:
        """Whether there are embeddings."""
        return self.embed_texts is not _no_alignment

    def text_embeds(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (M, D) of `texts`; equal texts are embedded once, so that they tie exactly."""
        unique = list(dict.fromkeys(texts))
        embeds = np.asarray(self.embed_texts(unique))
        _check_embeds("text embeddings", embeds, len(unique))
        if embeds.shape[1] != self.video_embeds.shape[1]:
            raise EvaluationError(
                f"text embeddings have {embeds.shape[1]} dimensions and video embeddings "
                f"{self.video_embeds.shape[1]}; both must come from one model"
            )
        row = {text: index for index, text in enumerate(unique)}
        gathered: NDArray[np.float32] = embeds[[row[text] for text in texts]]
        return gathered


@dataclass(frozen=True)
class TaskResult:
    """The metrics of one task and the samples behind them.

    Attributes:
        task: registered name.
        protocol: one line that says exactly what was measured.
        metrics: main numbers first.
        samples: one row per sample, each with `video_id`.
        compat: the reference scorer that was reproduced, or None.
        printed: in compat, the line as the reference prints it.
    """

    task: str
    protocol: str
    metrics: tuple[MetricResult, ...]
    samples: list[Sample] = field(default_factory=list)
    compat: str | None = None
    printed: str | None = None

    def metric(self, name: str) -> MetricResult:
        """The metric called `name`; raises EvaluationError with the known names."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise EvaluationError(f"task {self.task!r} has no metric {name!r}; it has {[m.name for m in self.metrics]}")

    def renamed(self, task: str, protocol: str) -> TaskResult:
        """The same result under another name, with another protocol."""
        return replace(self, task=task, protocol=protocol)

    @property
    def file_stem(self) -> str:
        """Name of the sample log's file, without its suffix."""
        return self.task if self.compat is None else f"{self.task}-{self.compat}"

    def to_json(self) -> dict[str, Any]:
        """The document of ``score --json``; samples are not in it."""
        return {
            "task": self.task,
            "protocol": self.protocol,
            "compat": self.compat,
            "metrics": [metric.to_json() for metric in self.metrics],
            "printed": self.printed,
        }


class Task(Protocol):
    """An evaluation: pure, seeded by the config."""

    def __call__(self, data: EvaluationData, config: EvaluateConfig) -> TaskResult:
        """The result, or EvaluationError when `data` lacks what the task reads."""
        ...


def group_by(items: Iterable[V], key: Callable[[V], K]) -> dict[K, list[V]]:
    """Items by key, keys and items in order of first appearance."""
    groups: dict[K, list[V]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def choice_texts(question: Question) -> tuple[str, ...]:
    """The texts that are ranked for a question: its statements, else ``"{question} {choice}"``."""
    return question.statements or tuple(f"{question.question} {choice}" for choice in question.choices)


def choice_scores(data: EvaluationData, asked: Sequence[tuple[int, Question]]) -> list[NDArray[np.float32]]:
    """Similarity of each choice of each question with its clip; `asked` holds (row of the clip, question)."""
    texts = [text for _, question in asked for text in choice_texts(question)]
    rows = [row for row, question in asked for _ in choice_texts(question)]
    scores = pair_similarity(data.video_embeds[rows], data.text_embeds(texts))
    ends = np.cumsum([len(choice_texts(question)) for _, question in asked])
    return np.split(scores, ends[:-1])


def attribute_label(clip: Clip, name: str) -> str | None:
    """An attribute as text; None when the clip does not carry it or it is empty."""
    return str(clip.attributes.get(name, "")) or None


def clusters_by_clip(clips: Sequence[Clip], config: EvaluateConfig) -> dict[str, str]:
    """video_id -> what its samples are resampled with: the value of `cluster_attribute`, else the clip itself.

    Raises EvaluationError when that option is set and no clip has the attribute.
    """
    name = config.cluster_attribute
    labels = {clip.video_id: attribute_label(clip, name) if name is not None else None for clip in clips}
    if name is not None and not any(labels.values()):
        raise EvaluationError(
            f"evaluate.cluster_attribute is {name!r}, and no evaluated clip has that attribute; name one that clips of "
            "one origin share, or leave it out"
        )
    return {video_id: label or video_id for video_id, label in labels.items()}


def with_clusters(samples: list[Sample], clips: Sequence[Clip], config: EvaluateConfig) -> list[Sample]:
    """The samples with a column `cluster` where the recipe names an attribute for it, else as they are."""
    if config.cluster_attribute is None:
        return samples
    clusters = clusters_by_clip(clips, config)
    return [{**sample, CLUSTER: clusters[str(sample["video_id"])]} for sample in samples]


def clusters_of(samples: Iterable[Sample]) -> list[str]:
    """What each sample is resampled with: its cluster, else its video."""
    return [str(sample.get(CLUSTER, sample["video_id"])) for sample in samples]


def clustering(config: EvaluateConfig) -> str:
    """What intervals are clustered by, in words."""
    name = config.cluster_attribute
    return "by video" if name is None else f"by the attribute {name!r} (clips without it by themselves)"


def metric_slug(label: object) -> str:
    """A label as part of a metric name: lower case, other characters than letters and digits as ``_``."""
    slug = re.sub(r"[^0-9a-z]+", "_", str(label).lower()).strip("_")
    return slug or "empty"


def attributes_json(attributes: dict[str, Any]) -> str:
    """Attributes as one JSON text, for a column of the sample log."""
    return json.dumps(attributes, sort_keys=True, ensure_ascii=False)


def missing_input(task: str, needed: str) -> EvaluationError:
    """The error of a task whose input is not in the data."""
    return EvaluationError(
        f"task {task!r} has nothing to evaluate: the manifest must contain {needed}; "
        "add it or take the task out of evaluate.tasks"
    )


def missing_model(task: str, what: str, section: str) -> EvaluationError:
    """The error of a task whose model is not in the data."""
    return EvaluationError(
        f"task {task!r} reads {what}, and there is none; add the section {section!r} to the recipe, or take the task "
        "out of evaluate.tasks"
    )


def _check_embeds(name: str, embeds: NDArray[Any], num_rows: int) -> None:
    if embeds.ndim != 2 or len(embeds) != num_rows or embeds.dtype != np.float32:
        raise EvaluationError(f"{name} must be float32 of shape ({num_rows}, D); got {embeds.dtype} {embeds.shape}")
    norms = np.linalg.norm(embeds.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
    if len(bad):
        raise EvaluationError(
            f"{len(bad)} of {num_rows} rows of {name} are not L2-normalised, first row {bad[0]} with norm "
            f"{norms[bad[0]]}; normalise them and look for NaN"
        )
