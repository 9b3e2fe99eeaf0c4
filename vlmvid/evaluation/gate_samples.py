"""Which samples make a metric: found in two evaluations' sample logs, so that their models can be paired.

A sample log does not say which rows and which column a metric is the mean of. It is looked for, and believed only when
it gives the value and the number of samples of the metric in both evaluations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vlmvid.evaluation.base import Sample, TaskResult, clusters_of
from vlmvid.metrics import PairedComparison, paired_comparison
from vlmvid.types import MetricResult

NUM_BOOTSTRAP = 2000
SEED = 0
_SAME = 1e-9
_SUBSETS = ("direction", "kind", "negatives", "label_yes", "group", "cell", "swap")  # columns that part a log
_RANKS = (1, 5, 10)
_MOST_VALUES = 30  # a column with more names samples rather than parts them
# What a sample is, whatever the model made of it.
_CONTENT: tuple[str, ...] = ("item_id", "question_id", "video_id", "direction", "kind", "negatives", "query")
_CONTENT += ("caption", "question", "answer", "label_yes", "references")
Measured = tuple[TaskResult, MetricResult]
Scores = NDArray[np.float64]


def paired_difference(first: Measured, second: Measured) -> tuple[float, float] | None:
    """The 95 % interval of the first metric minus the second, by bootstrap over clusters of the same samples.

    None where the metric is no mean over samples, or the samples are not the same ones. Where no sample differs, the
    interval is that single point.
    """
    found = paired(first, second, num_permutations=1)
    if found is None:
        return None
    if found.ci_low is not None and found.ci_high is not None:
        return found.ci_low, found.ci_high
    return 0.0, 0.0


def paired(first: Measured, second: Measured, *, num_permutations: int) -> PairedComparison | None:
    """The first metric minus the second over the same samples, clustered as their logs say.

    None where the metric is no mean over samples, the samples are not the same ones, or the difference has neither an
    interval nor is nought on every sample.
    """
    for reader in _readers(*first):
        ours, theirs = _table(*first, reader), _table(*second, reader)
        if ours is None or theirs is None or ours.keys() != theirs.keys():
            continue
        found = paired_comparison(
            [score for _, score in ours.values()],
            [theirs[key][1] for key in ours],
            clusters=[cluster for cluster, _ in ours.values()],
            seed=SEED,
            num_bootstrap=NUM_BOOTSTRAP,
            num_permutations=num_permutations,
        )
        if (found.ci_low is not None and found.ci_high is not None) or found.only_first == found.only_second == 0:
            return found
    return None


def num_shared(first: TaskResult, second: TaskResult) -> int:
    """How many samples two logs of one task have in common."""
    ours, theirs = ({sample_key(row) for row in result.samples} for result in (first, second))
    return len(ours & theirs)


_Reader = tuple[tuple[tuple[str, object], ...], str, int | None]  # rows with these values; the column; rank up to


def _readers(result: TaskResult, metric: MetricResult) -> Iterator[_Reader]:
    """What gives the metric's value and n in this log; the plainest first."""
    columns = {name for row in result.samples for name in row}
    parted = [name for name in _SUBSETS if name in columns and _has_few_values(result.samples, name)]
    for depth in range(min(2, len(parted)) + 1):
        for names in itertools.combinations(parted, depth):
            values = dict.fromkeys(tuple(row.get(name) for name in names) for row in result.samples)
            for chosen in values:
                where = tuple(zip(names, chosen, strict=True))
                rows = _rows(result.samples, where)
                if len(rows) == metric.num_samples:
                    yield from _columns(rows, where, metric)


def _has_few_values(samples: Sequence[Sample], name: str) -> bool:
    return len({row.get(name) for row in samples}) <= _MOST_VALUES


def _columns(rows: Sequence[Sample], where: tuple[tuple[str, object], ...], metric: MetricResult) -> Iterator[_Reader]:
    for column in sorted({name for row in rows for name in row}):
        # Only a metric that says so counts ranks up to K: of a median rank of 1 the mean of any R@K may be 1, too.
        for rank in (None, *(k for k in _RANKS if column == "rank" and metric.name.endswith(f"_at_{k}"))):
            scores = _scores(rows, column, rank)
            if scores is not None and abs(float(scores.mean()) - metric.value) < _SAME:
                yield where, column, rank


def _rows(samples: Sequence[Sample], where: tuple[tuple[str, object], ...]) -> list[Sample]:
    return [row for row in samples if all(row.get(name) == value for name, value in where)]


def _scores(rows: Sequence[Sample], column: str, rank: int | None) -> Scores | None:
    values = [row.get(column) for row in rows]
    if not values or not all(isinstance(value, (bool, int, float)) for value in values):
        return None
    scores = np.array(values, dtype=np.float64)
    if not np.isfinite(scores).all():
        return None
    return scores if rank is None else (scores <= rank).astype(np.float64)


def _table(result: TaskResult, metric: MetricResult, reader: _Reader) -> Mapping[str, tuple[str, float]] | None:
    """What each sample is -> (cluster, score); None where the metric is made otherwise, or two samples are one."""
    where, column, rank = reader
    rows = _rows(result.samples, where)
    scores = _scores(rows, column, rank)
    if scores is None or len(rows) != metric.num_samples or abs(float(scores.mean()) - metric.value) >= _SAME:
        return None
    keys = [sample_key(row) for row in rows]
    if len(set(keys)) != len(keys):
        return None
    return dict(zip(keys, zip(clusters_of(rows), map(float, scores), strict=True), strict=True))


def sample_key(row: Sample) -> str:
    """What a sample is, whatever the model made of it."""
    return repr([row.get(name) for name in _CONTENT])
