"""WEAT, SEAT and iEAT on the user's own embeddings, within or across modalities (arXiv 2010.15052).

References name the stimuli of each test; predictions are their embeddings by id. The released scorer
(ryansteed/weat at 79d072f6e9) draws permutations without a seed, so there is nothing to reproduce bug for bug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.base import Sample, TaskResult
from vlmvid.evaluation.benchmarks.bias.shared import OWN, refuse_skip, slugs_of
from vlmvid.evaluation.scoring.arrays import read_arrays
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, unique_items
from vlmvid.metrics.association import AssociationTest, association_test, associations, effect_interval
from vlmvid.types import MetricResult

SETS = ("X", "Y", "A", "B")
FILE = AnnotationFile("weat.json", SETS, OWN)


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The tests in a JSON object: ``{"X": [ids], "Y": .., "A": .., "B": ..}``, or ``{name: such an object}``."""
    found = find_file(path, FILE)
    document = read_json(found, dict, FILE)
    tests = {"weat": document} if set(SETS) <= document.keys() else document
    return unique_items([_item(found, str(name), test) for name, test in tests.items()], found)


def _item(path: Path, name: str, test: Any) -> Item:
    missing = [key for key in SETS if not isinstance(test, dict) or not isinstance(test.get(key), list)]
    if missing:
        raise DatasetError(f"{path}, {name}: {missing[0]} is no list; a test lists the ids of {', '.join(SETS)}")
    stimuli = {key: tuple(str(value) for value in test[key]) for key in SETS}
    for key, ids in stimuli.items():
        if not ids or len(set(ids)) < len(ids):
            raise DatasetError(f"{path}, {name}: {key} holds no id, or one twice; expected different ids")
    if len(stimuli["X"]) != len(stimuli["Y"]):
        sizes = f"{len(stimuli['X'])} and {len(stimuli['Y'])}"
        raise DatasetError(f"{path}, {name}: X and Y hold {sizes} ids; the permutation test needs as many in both")
    return Item(item_id=name, video_id=name, answer=None, extra=stimuli)


def read_embeddings(path: Path, items: Sequence[Item]) -> Predictions:
    """Embeddings by id: an ``.npz`` with ``ids`` (N,) and ``embeddings`` (N, D), or one array (D,) per id; or JSON."""
    if path.suffix.lower() != ".npz":
        return read_predictions(path)
    arrays = read_arrays(path)
    if {"ids", "embeddings"} <= arrays.keys():
        ids, rows = arrays["ids"], arrays["embeddings"]
        if ids.ndim != 1 or rows.ndim != 2 or len(ids) != len(rows):
            raise EvaluationError(f"{path}: ids {ids.shape} and embeddings {rows.shape}; expected (N,) and (N, D)")
        return from_pairs([(str(name), row) for name, row in zip(ids, rows, strict=True)], str(path))
    return from_pairs(list(arrays.items()), str(path))


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Effect size d (ddof=1) and permutation p of each test; of several tests first their mean absolute effect.

    ``p_NAME`` is one-sided, as published: the share of partitions of X and Y with as large a sum. The interval of an
    effect resamples targets within X and Y; ``/chance`` is the range over the partitions.

    Raises EvaluationError for stimuli without an embedding, and where missing ones are to be skipped: a test without
    some of its stimuli is another test.
    """
    refuse_skip(settings, "weat", "a test without some of its stimuli is another test; give every embedding")
    metrics: list[MetricResult] = []
    samples: list[Sample] = []
    stimuli: list[Sample] = []
    effects, words = [], []
    slugs = slugs_of([item.item_id for item in items])
    for item in items:
        x, y, a, b = (_embeddings(item, key, predictions) for key in SETS)
        both = associations(np.concatenate([x, y]), a, b)
        found = association_test(both[: len(x)], both[len(x) :], seed=settings.seed)
        metrics += _metrics(slugs[item.item_id], both, found, settings)
        stimuli += _samples(item, both)
        effect = found.effect_size if len(items) == 1 else abs(found.effect_size)
        samples.append(_row(item.item_id, item.item_id, effect, "test"))
        effects.append(found.effect_size)
        rule = "all" if found.exact else "seeded, with the observed one"
        words.append(f"{item.item_id}: {found.num_partitions} partitions ({rule}), {found.num_ties} tied ones counted")
    if len(effects) > 1:
        mean = float(np.mean(np.abs(effects)))
        metrics.insert(
            0, MetricResult(name="effect_size_abs_mean", value=mean, num_samples=len(effects), higher_is_better=False)
        )
    return TaskResult("weat", f"association tests by cosine; {'; '.join(words)}", tuple(metrics), samples + stimuli)


def _embeddings(item: Item, key: str, predictions: Predictions) -> NDArray[np.float64]:
    missing = predictions.missing(item.extra[key])
    if missing:
        raise EvaluationError(
            f"{predictions.source} has no embedding for {len(missing)} ids of {key} in {item.item_id}, e.g. "
            f"{', '.join(missing[:5])}"
        )
    rows = [_vector(name, predictions) for name in item.extra[key]]
    if len({row.shape for row in rows}) > 1 or rows[0].ndim != 1:
        shapes = sorted({str(row.shape) for row in rows})
        raise EvaluationError(f"embeddings of {key} in {item.item_id} have the shapes {shapes}; expected one (D,)")
    return np.stack(rows)


def _vector(name: str, predictions: Predictions) -> NDArray[np.float64]:
    value = predictions.values[name]
    try:
        row = np.asarray(value, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        row = np.array(np.nan)
    if not np.isfinite(row).all():
        raise EvaluationError(
            f"{predictions.source}, {name}: an embedding is a list of finite numbers, got {value!r:.60}"
        )
    return row


def _metrics(
    slug: str, both: NDArray[np.float64], found: AssociationTest, settings: ScoreSettings
) -> list[MetricResult]:
    half, size, effect = len(both) // 2, len(both), found.effect_size
    interval = effect_interval(both[:half], both[half:], num_bootstrap=settings.num_bootstrap, seed=settings.seed)
    low, high = interval or (None, None)
    p_values = {"p": found.p_value, "p_two_sided": found.p_two_sided}
    return [
        MetricResult(
            name=f"effect_size_{slug}",
            value=effect,
            num_samples=size,
            # Resampling shrinks the spread, so that the percentiles of few targets can miss the effect itself.
            ci_low=None if low is None else min(low, effect),
            ci_high=None if high is None else max(high, effect),
            higher_is_better=False,
        ),
        *(MetricResult(name=f"{name}_{slug}", value=value, num_samples=size) for name, value in p_values.items()),
        MetricResult(
            name=f"effect_size_{slug}/chance",
            value=0.0,
            num_samples=size,
            ci_low=min(0.0, found.chance[0]),
            ci_high=max(0.0, found.chance[1]),
            higher_is_better=False,
        ),
    ]


def _samples(item: Item, both: NDArray[np.float64]) -> list[Sample]:
    targets = [(key, name) for key in SETS[:2] for name in item.extra[key]]
    return [
        _row(f"{item.item_id}/{key}/{name}", name, float(value), f"target_{key}")
        for (key, name), value in zip(targets, both, strict=True)
    ]


def _row(item_id: str, video_id: str, value: float, direction: str) -> Sample:
    return {"item_id": item_id, "video_id": video_id, "status": "parsed", "score": value, "direction": direction}


BENCHMARK = Benchmark(
    name="weat",
    title="Association test on your embeddings (WEAT, SEAT, iEAT)",
    kind="other",
    source="arXiv 2010.15052",
    files=(FILE,),
    read=read,
    score=score,
    read_predictions=read_embeddings,
)
