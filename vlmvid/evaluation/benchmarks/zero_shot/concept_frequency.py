"""Accuracy of classes against how often the training captions name them (survey arXiv 2405.17247, 4.2.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmvid.errors import DatasetError, MissingDataError
from vlmvid.evaluation.answers.label import plain_label
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.zero_shot import classification
from vlmvid.evaluation.benchmarks.zero_shot.class_scores import class_scorer, counted_samples
from vlmvid.evaluation.concepts import concept_counts, frequency_bin, frequency_correlations
from vlmvid.evaluation.scoring.aggregate import labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json_lines, read_text
from vlmvid.metrics.classification import per_class_accuracy
from vlmvid.types import MetricResult

CAPTIONS = AnnotationFile("captions.txt", ("one training caption per line",), classification.PUBLISHER)
_LINES = AnnotationFile("captions.jsonl", ("caption",), classification.PUBLISHER)
_NAME = "concept_frequency"
_score = class_scorer(_NAME)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The labels as the benchmark `classification` reads them, and the training captions beside them.

    Captions are lines of ``captions.txt``, or of the file that the option `captions` names; one in ``.jsonl`` holds
    objects with `caption`.
    """
    items = classification.read(path, options)
    classes = items[0].choices
    found = concept_counts(_captions(classification.labels_file(path).parent, options), [*map(plain_label, classes)])
    counts = tuple(found[plain_label(name)] for name in classes)
    return [
        replace(
            item,
            groups={**item.groups, "frequency": frequency_bin(counts[item.answer])},
            extra={**item.extra, "counts": counts},
        )
        for item in items
    ]


def _captions(folder: Path, options: Mapping[str, str]) -> list[str]:
    wanted = options.get("captions")
    found = folder / wanted if wanted else find_file(folder, CAPTIONS)
    if not found.is_file():
        raise MissingDataError(f"there is no {found}; the option captions names a file with {CAPTIONS.columns[0]}")
    if found.suffix == ".jsonl":
        return [str(row["caption"]) for row in read_json_lines(found, _LINES)]
    captions = [line for line in read_text(found, CAPTIONS).splitlines() if line.strip()]
    if not captions:
        raise DatasetError(f"{found} is empty; expected {CAPTIONS.columns[0]}")
    return captions


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Accuracy as `classification` has it, by decades of frequency, and its correlation with it over classes.

    ``accuracy_frequency_spearman`` and ``_pearson``: of a class's accuracy with log10(1 + captions that name it).
    ``concept_coverage``: the share of the classes that some caption names. A correlation says that frequent concepts
    are known better, not why: frequent ones may be easier.
    """
    result = _score(items, predictions, settings)
    counted = counted_samples(items, result, settings)
    classes, counts = items[0].choices, items[0].extra["counts"]
    correct, labels = [row["score"] for _, row in counted], [item.answer for item, _ in counted]
    accuracy = per_class_accuracy(correct, labels, len(classes))
    keys = [str(place) for place in range(len(classes))]
    more = [
        MetricResult(name="concept_coverage", value=float(np.mean(np.array(counts) > 0)), num_samples=len(classes)),
        *frequency_correlations(
            "accuracy_frequency",
            dict(zip(keys, counts, strict=True)),
            dict(zip(keys, accuracy.tolist(), strict=True)),
            seed=settings.seed,
            num_bootstrap=settings.num_bootstrap,
        ),
    ]
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    protocol = f"{result.protocol}; {len(absent)} classes are in no training caption{_some(absent)}"
    return replace(result, protocol=protocol, metrics=(*result.metrics, *labelled(more, settings)))


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else ""


BENCHMARK = Benchmark(
    name=_NAME,
    title="accuracy of classes by their frequency in the training captions",
    kind="classification",
    source="survey arXiv 2405.17247, section 4.2.4",
    files=(*classification.BENCHMARK.files, CAPTIONS),
    read=read,
    score=score,
    options={**classification.LABEL_OPTIONS, "captions": "the file of training captions, if it is not captions.txt"},
)
