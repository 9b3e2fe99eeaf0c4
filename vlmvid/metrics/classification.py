"""Accuracy over a fixed set of classes: top k with ties against the model, and the mean over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Clusters, bootstrap_interval, proportion_interval
from vlmvid.types import MetricResult


def label_places(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.intp]:
    """0-based place (N,) of the right class among scores (N, C); classes that score as high stand before it.

    Equal scores must not count as right: an embedding that gives every class the same score is then right nowhere,
    where ``argmax`` and ``topk`` would give it the class that happens to come first.

    Raises:
        EvaluationError: other shapes, a label outside [0, C), or NaN.
    """
    values, index = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or index.shape != values.shape[:1]:
        raise EvaluationError(f"expected scores (N, C) and labels (N,), got {values.shape} and {index.shape}")
    if np.isnan(values).any():
        raise EvaluationError(f"{int(np.isnan(values).any(axis=1).sum())} rows of scores hold NaN; leave them out")
    if len(index) and not ((index >= 0) & (index < values.shape[1])).all():
        raise EvaluationError(f"labels must lie in [0, {values.shape[1]}), got {index.min()} to {index.max()}")
    own = np.take_along_axis(values, index.astype(np.intp)[:, None], axis=1)
    places: NDArray[np.intp] = (values >= own).sum(axis=1) - 1
    return places


def per_class_accuracy(correct: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[np.float64]:
    """Accuracy (C,) of the samples of each class; NaN for a class without samples.

    Args:
        correct: (N,), bool or in [0, 1].
        labels: (N,) in [0, C).
        num_classes: C.
    """
    values, index = np.asarray(correct, dtype=np.float64), np.asarray(labels, dtype=np.intp)
    if values.ndim != 1 or values.shape != index.shape:
        raise EvaluationError(f"expected one label for each of the samples, got {values.shape} and {index.shape}")
    sizes = np.bincount(index, minlength=num_classes).astype(np.float64)
    sums = np.bincount(index, weights=values, minlength=num_classes)
    means: NDArray[np.float64] = np.divide(sums, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
    return means


def mean_per_class(correct: ArrayLike, labels: ArrayLike) -> float:
    """The unweighted mean of the accuracies of the classes that have samples; labels (N,) are integers from 0."""
    index = np.asarray(labels, dtype=np.intp)
    if len(index) == 0:
        raise EvaluationError("the mean over classes needs at least one sample")
    return float(np.nanmean(per_class_accuracy(correct, index, int(index.max()) + 1)))


def mean_per_class_result(
    name: str,
    correct: ArrayLike,
    labels: ArrayLike,
    *,
    clusters: Clusters | None = None,
    num_bootstrap: int,
    seed: int,
) -> MetricResult:
    """`mean_per_class` with its bootstrap interval over clusters; `num_samples` counts the classes.

    Where all samples are right, or all wrong, resampling has no width and Wilson's interval stands in for it, as in
    `vlmvid.metrics.rates.rate_result`.
    """
    values, index = np.asarray(correct, dtype=np.float64), np.asarray(labels, dtype=np.intp)
    rows = np.stack([values, index.astype(np.float64)], axis=1)
    interval: tuple[float, float] | None
    if (values == values[0]).all() and values[0] in (0.0, 1.0):
        interval = proportion_interval(values, clusters)
    else:
        interval = bootstrap_interval(
            rows,
            lambda drawn: mean_per_class(drawn[:, 0], drawn[:, 1]),
            clusters=clusters,
            num_bootstrap=num_bootstrap,
            seed=seed,
        )
    return MetricResult(
        name=name,
        value=mean_per_class(values, index),
        num_samples=len(np.unique(index)),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
    )


def ensemble(embeds: ArrayLike, owners: Sequence[int]) -> NDArray[np.float32]:
    """One direction per owner (C, D): the normalised mean of its normalised rows of `embeds` (M, D).

    `owners` (M,) count from 0 without a gap. This is how CLIP (arXiv 2103.00020, section 3.1.4) turns many prompts of
    one class into one classifier weight.

    Raises:
        EvaluationError: other lengths, an owner without rows, a row or a mean of length 0.
    """
    rows, index = np.asarray(embeds, dtype=np.float64), np.asarray(owners, dtype=np.intp)
    if rows.ndim != 2 or index.shape != rows.shape[:1] or len(index) == 0:
        raise EvaluationError(f"expected embeddings (M, D) and an owner for each, got {rows.shape} and {index.shape}")
    counts = np.bincount(index)
    if (counts == 0).any():
        raise EvaluationError(f"class {int(np.flatnonzero(counts == 0)[0])} has no prompt; every class needs one")
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, index, _unit(rows))
    return _unit(sums / counts[:, None]).astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise EvaluationError(
            f"row {int(np.flatnonzero(~(norms[:, 0] > 0))[0])} has norm 0 or NaN: it has no direction"
        )
    unit: NDArray[np.float64] = rows / norms
    return unit
