"""Directional bias amplification of predictions on the user's own data (arXiv 2102.12594).

One table holds training and test labels; predictions hold an attribute and a task per test clip. The released code,
princetonvisualai/directional-bias-amp at 537e76f (`directional_biasamp.py`), differs in the sign of pairs that are
independent in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.benchmarks.bias.shared import OWN, read_rows
from vlmvid.evaluation.scoring.aggregate import labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import ID_KEYS, Predictions, from_pairs, read_document
from vlmvid.evaluation.scoring.reading import unique_items
from vlmvid.metrics import statistic_result
from vlmvid.metrics.bias_amplification import BiasAmplification, bias_amplification
from vlmvid.types import MetricResult

FILE = AnnotationFile("labels.*", ("id", "attribute", "task"), OWN)
SIDES = ("attribute", "task")
COMPAT = "directional-bias-amp"
Table = NDArray[np.float64]


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The test rows; rows whose column ``split`` is ``train`` give the direction, else the test rows do.

    Several labels in one cell are divided by ``|``; an empty cell has none.
    """
    rows = read_rows(path, FILE)
    train = [row for row in rows if row.get("split", "test") == "train"]
    test = [row for row in rows if row.get("split", "test") == "test"]
    if len(train) + len(test) < len(rows):
        found = sorted({row["split"] for row in rows} - {"train", "test"})
        raise DatasetError(f"{path}: splits {found}; expected train and test")
    source = [{side: _labels(row[side]) for side in SIDES} for row in train or test]
    items = [
        Item(
            item_id=row["id"],
            video_id=row["id"],
            answer={side: _labels(row[side]) for side in SIDES},
            media=(Media(row["id"]),),
            extra={"train": source, "has_train": bool(train)},
        )
        for row in test
    ]
    return unique_items(items, path)


def _labels(cell: Any) -> tuple[str, ...]:
    """The labels of a cell, or of a list."""
    values = cell if isinstance(cell, list | tuple) else str(cell).split("|")
    return tuple(str(value).strip() for value in values if str(value).strip())


def read_labels(path: Path, items: Sequence[Item]) -> Predictions:
    """Rows with an id, ``attribute`` and ``task``, or an object ``{id: {"attribute": .., "task": ..}}``."""
    document = read_document(path)
    if isinstance(document, dict):
        return Predictions({str(name): value for name, value in document.items()}, str(path))
    pairs = []
    for number, row in enumerate(document, start=1):
        key = next((name for name in ID_KEYS if isinstance(row, dict) and row.get(name) is not None), None)
        if key is None:
            raise EvaluationError(f"{path}, entry {number}: no id; expected an object with one of {', '.join(ID_KEYS)}")
        pairs.append((str(row[key]), row))
    return from_pairs(pairs, str(path))


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """``bias_amplification_a_to_t`` (tasks given the attribute) and ``.._t_to_a``, with intervals over clips.

    Above 0, predictions lean further than the labels in the direction of the training data; 0 is the best value. A
    clip without prediction has no right or wrong side: it is an error, or left out with ``missing=skip``.
    """
    return _score(items, predictions, settings, released=False)


def score_as_released(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """The two functions of `directional_biasamp.py`, with the rounding errors in their signs; they return values."""
    result = _score(items, predictions, settings, released=True)
    return replace(result, compat=COMPAT, printed="\n".join(str(metric.value) for metric in result.metrics))


def _score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings, *, released: bool) -> TaskResult:
    counted = [item for item in items if item.item_id in predictions.values]
    missing = predictions.missing(item.item_id for item in items)
    if missing and settings.missing != "skip" or not counted:
        raise EvaluationError(
            f"{predictions.source}: {len(missing)} of {len(items)} clips have no prediction, e.g. "
            f"{', '.join(missing[:5])}; predict them or use missing=skip"
        )
    guesses = [_guess(predictions, item) for item in counted]
    train = items[0].extra["train"]
    truth = [item.answer for item in counted]
    names = {side: sorted({label for row in [*train, *truth] for label in row[side]}) for side in SIDES}
    unknown = {label for guess in guesses for side in SIDES for label in guess[side] if label not in names[side]}
    tables = {
        key: {side: _table(rows, side, names[side]) for side in SIDES}
        for key, rows in (("train", train), ("truth", truth), ("guess", guesses))
    }
    metrics: list[MetricResult] = []
    words, parts = [], []
    for given, other in (SIDES, SIDES[::-1]):
        name = f"bias_amplification_{given[0]}_to_{other[0]}"
        result, found = _direction(name, tables, (given, other), settings, released)
        metrics.append(result)
        parts.append(_parts(found, tables, (given, other)))
        words.append(
            f"{name}: {found.num_undefined} of {len(names['attribute']) * len(names['task'])} pairs undefined, left out"
        )
    source = "training labels" if items[0].extra["has_train"] else "test labels, for want of training labels"
    protocol = (
        f"directional bias amplification: direction from the {source} ({len(train)} rows), {len(counted)} of "
        f"{len(items)} clips; {'; '.join(words)}; {len(unknown)} predicted labels are not among the labels"
    )
    share = dict(zip([item.item_id for item in counted], parts[0].tolist(), strict=True))
    samples = [_sample(item, predictions, share.get(item.item_id, 0.0)) for item in items]
    return TaskResult("bias_amplification", protocol, labelled(metrics, settings), samples)


def _direction(
    name: str,
    tables: Mapping[str, Mapping[str, Table]],
    sides: tuple[str, str],
    settings: ScoreSettings,
    released: bool,
) -> tuple[MetricResult, BiasAmplification]:
    given, other = sides

    def amplification(rows: NDArray[np.intp]) -> BiasAmplification:
        return bias_amplification(
            tables["truth"][given][rows],
            tables["truth"][other][rows],
            tables["guess"][other][rows],
            train_given=tables["train"][given],
            train_labels=tables["train"][other],
            released=released,
        )

    size = len(tables["truth"][given])
    whole = amplification(np.arange(size))
    if np.isnan(whole.value):
        raise EvaluationError(f"{name} is not defined: no clip has a label of {given!r}")
    result = statistic_result(
        name,
        np.arange(size, dtype=np.float64),
        lambda rows: float(amplification(rows.astype(np.intp)).value),
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
        higher_is_better=False,
    )
    return result, whole


def _parts(
    found: BiasAmplification, tables: Mapping[str, Mapping[str, Table]], sides: tuple[str, str]
) -> NDArray[np.float64]:
    """What each clip adds to the value (N,): their mean is the value."""
    given, other = sides
    side = tables["truth"][given]
    sizes = np.maximum(1, side.sum(axis=0))
    pull = (side / sizes) @ np.where(np.isnan(found.by_pair), 0.0, found.direction)
    parts: NDArray[np.float64] = (pull * (tables["guess"][other] - tables["truth"][other])).sum(axis=1)
    return parts * len(side) / (found.by_pair.size - found.num_undefined)


def _guess(predictions: Predictions, item: Item) -> dict[str, tuple[str, ...]]:
    value = predictions.values[item.item_id]
    missing = [side for side in SIDES if not isinstance(value, dict) or value.get(side) is None]
    if missing:
        raise EvaluationError(f"{predictions.source}, {item.item_id}: no {missing[0]!r}; expected both of {SIDES}")
    return {side: _labels(value[side]) for side in SIDES}


def _table(rows: Sequence[Mapping[str, Sequence[str]]], side: str, names: Sequence[str]) -> Table:
    return np.array([[float(name in row[side]) for name in names] for row in rows]).reshape(len(rows), len(names))


def _sample(item: Item, predictions: Predictions, part: float) -> Sample:
    if item.item_id not in predictions.values:
        return {"item_id": item.item_id, "video_id": item.video_id, "status": "missing", "score": 0.0}
    guess = _guess(predictions, item)
    return {
        "item_id": item.item_id,
        "video_id": item.video_id,
        "status": "parsed",
        "score": part,
        **{f"predicted_{side}": "|".join(guess[side]) for side in SIDES},
        **{side: "|".join(item.answer[side]) for side in SIDES},
    }


BENCHMARK = Benchmark(
    name="bias_amplification",
    title="Directional bias amplification on your own labels",
    kind="other",
    source="arXiv 2102.12594",
    files=(FILE,),
    read=read,
    score=score,
    compat={COMPAT: score_as_released},
    read_predictions=read_labels,
)
