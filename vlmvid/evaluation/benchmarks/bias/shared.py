"""What the bias benchmarks share: options, the user's own tables, group metrics, orders that no file decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import ConfigError, DatasetError, EvaluationError
from vlmvid.evaluation.base import metric_slug
from vlmvid.evaluation.scoring.aggregate import Outcome
from vlmvid.evaluation.scoring.base import AnnotationFile, Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_json, read_json_lines, read_table, require_columns
from vlmvid.metrics.bias_groups import GapSpec, gap_results, ranked_groups
from vlmvid.types import MetricResult

OWN = "docs/benchmarks/bias.md: it is your own file"
MIN_GROUP = "groups of fewer samples are reported, and are never the worst, the best or the most skewed (default 10)"


def whole_number(options: Mapping[str, str], name: str, default: int) -> int:
    """The option `name` as a number of at least 1; raises ConfigError for anything else."""
    value = options.get(name, str(default))
    if not value.isdigit() or int(value) < 1:
        raise ConfigError(f"option {name}={value!r} must be a whole number of at least 1")
    return int(value)


def read_rows(path: Path, file: AnnotationFile) -> list[dict[str, str]]:
    """The rows of a table that the user wrote: CSV or TSV with a header, JSON Lines, or a JSON list of objects.

    Every cell as text, null as an empty one; raises as the readers of annotation files do.
    """
    found = find_file(path, file)
    rows: Sequence[Mapping[str, Any]]
    if found.suffix.lower() in (".jsonl", ".ndjson"):
        rows = read_json_lines(found, file)
    elif found.suffix.lower() == ".json":
        rows = read_json(found, list, file)
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise DatasetError(f"{found}, entry {number}: expected an object, got {type(row).__name__}")
            require_columns(found, file, row, f"entry {number}")
    else:
        rows = read_table(found, file)
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]


def slugs_of(groups: Sequence[str]) -> dict[str, str]:
    """Each group as part of a metric name; raises EvaluationError where two of them would share one."""
    names = sorted(set(groups))
    slugs = {name: metric_slug(name) for name in names}
    if len(set(slugs.values())) < len(names):
        raise EvaluationError(f"groups {names} are not distinct as metric names; rename them")
    return slugs


def group_metrics(
    name: str, outcomes: Sequence[Outcome], group: Callable[[Item], str], settings: ScoreSettings
) -> list[MetricResult]:
    """Worst group, gap and every group's mean of the scores; see `gap_results`."""
    outcomes = sorted(outcomes, key=lambda outcome: outcome.item.item_id)  # permutations must not follow the file
    labels = [group(outcome.item) for outcome in outcomes]
    spec = GapSpec(whole_number(settings.options, "min_group", 10), settings.num_bootstrap, settings.seed)
    scores = np.array([outcome.score for outcome in outcomes])
    right = bool(((scores == 0) | (scores == 1)).all())
    clusters = [outcome.item.video_id for outcome in outcomes]
    return gap_results(name, scores == 1 if right else scores, labels, slugs_of(labels), spec, clusters)


def group_words(labels: Sequence[str], min_group: int) -> str:
    """Groups and their sizes for a protocol, with those that are too small to be ranked."""
    sizes = {name: list(labels).count(name) for name in sorted(set(labels))}
    small = sorted(set(labels) - set(ranked_groups(list(labels), min_group)))
    words = f"groups {', '.join(f'{name} ({size})' for name, size in sizes.items())}"
    return f"{words}; under {min_group} samples, reported and not ranked: {', '.join(small)}" if small else words


def counted_outcomes(outcomes: Sequence[Outcome], predictions: Predictions, settings: ScoreSettings) -> list[Outcome]:
    """The outcomes that count: without the missing ones where they are skipped; raises EvaluationError for none."""
    counted = [o for o in outcomes if o.status != "missing"] if settings.missing == "skip" else list(outcomes)
    if not counted:
        raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(outcomes)} items")
    return counted


def refuse_skip(settings: ScoreSettings, name: str, why: str) -> None:
    """Raise EvaluationError where missing predictions are to be skipped and `name` cannot leave any out."""
    if settings.missing == "skip":
        raise EvaluationError(f"{name} cannot skip missing predictions: {why}, and leave missing=skip out")


def hashed_order(scores: ArrayLike, ids: Sequence[str]) -> NDArray[np.intp]:
    """Indices of `scores` (N,) from high to low; ties in the order of a hash of `ids`.

    Neither the order of a file nor ids that tell the group (``man_01``) then decide who comes first.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(ids),) or np.isnan(values).any():
        raise EvaluationError(f"expected one score without NaN for each of {len(ids)} ids, got shape {values.shape}")
    hashes = np.array([_hash(name) for name in ids], dtype=np.int64)
    return np.lexsort((hashes, -values))


@lru_cache(maxsize=1 << 20)
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
