"""What the benchmarks of temporal grounding share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmvid.evaluation.answers.windows import FoundWindows, windows
from vlmvid.evaluation.base import metric_slug
from vlmvid.evaluation.scoring.aggregate import Outcome, outcomes_of
from vlmvid.evaluation.scoring.base import Item, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.metrics.grounding import best_iou
from vlmvid.metrics.rates import rate_result
from vlmvid.types import MetricResult


def first_window_iou(found: FoundWindows, item: Item) -> float:
    """The IoU of the window with the highest score with the annotated window that it fits best."""
    return best_iou(found.ranked().windows[0], item.answer)


def median_window(items: Sequence[Item]) -> tuple[float, float]:
    """The median start and the median end of all annotated windows: what a model that sees nothing may answer."""
    annotated = np.array([window for item in items for window in item.answer])
    start, end = np.median(annotated, axis=0)
    return float(start), float(max(start, end))


def counted_outcomes(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> list[Outcome]:
    """The outcomes that count: all of them, or those with a prediction; `score` is the first window's IoU."""
    outcomes = outcomes_of(items, predictions, windows, first_window_iou)
    return [row for row in outcomes if settings.missing != "skip" or row.status != "missing"]


def recall_results(
    items: Sequence[Item], predictions: Predictions, settings: ScoreSettings, thresholds: Sequence[float]
) -> list[MetricResult]:
    """R@1 at each threshold and the mean IoU, over all items that count."""
    counted = counted_outcomes(items, predictions, settings)
    overlaps = np.array([row.score for row in counted])
    results = [
        mean(f"r1_iou_{metric_slug(threshold)}", overlaps >= threshold, counted, settings) for threshold in thresholds
    ]
    return [*results, mean("miou", overlaps, counted, settings)]


def mean(
    name: str, values: Sequence[float] | NDArray[np.generic], rows: Sequence[Outcome], settings: ScoreSettings
) -> MetricResult:
    """The mean over `rows` of one value in [0, 1] each, clustered by video."""
    return rate_result(
        name,
        np.asarray(values, dtype=np.float64),
        clusters=[row.item.video_id for row in rows],
        seed=settings.seed,
        num_bootstrap=settings.num_bootstrap,
    )
