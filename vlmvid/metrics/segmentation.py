"""Semantic segmentation: patches to masks, and mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.errors import EvaluationError
from vlmvid.metrics.stats import Interval
from vlmvid.types import MetricResult

IGNORE = 255
_BLOCK_ENTRIES = 1 << 23  # upsampled logits held at once: 32 MiB of float32

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class ClassAreas:
    """Pixels by class, of one picture (C,) or of many (N, C).

    Attributes:
        shared: predicted and annotated as the class.
        predicted: predicted as the class where something is annotated.
        annotated: annotated as the class.
    """

    shared: NDArray[np.int64]
    predicted: NDArray[np.int64]
    annotated: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels that are one or the other."""
        return self.predicted + self.annotated - self.shared


def class_areas(predicted: ArrayLike, annotated: ArrayLike, num_classes: int, ignore: int = IGNORE) -> ClassAreas:
    """The areas (C,) of one picture, from masks (H, W) of class indices.

    Pixels annotated as `ignore` do not count. A predicted value outside [0, num_classes) is no class: it makes its
    pixel wrong.

    Raises:
        EvaluationError: masks of another shape, or an annotated value outside [0, num_classes) that is not `ignore`.
    """
    found, truth = _mask(predicted), _mask(annotated)
    if found.shape != truth.shape:
        raise EvaluationError(f"the predicted mask has the shape {found.shape}, the annotated one {truth.shape}")
    valid = truth != ignore
    found, truth = found[valid], truth[valid]
    if len(truth) and not (0 <= truth.min() and truth.max() < num_classes):
        raise EvaluationError(
            f"the annotated mask holds {truth.min()}..{truth.max()}; expected [0, {num_classes}) or {ignore} = ignored"
        )
    known = found[(found >= 0) & (found < num_classes)]
    return ClassAreas(
        np.bincount(truth[truth == found], minlength=num_classes),
        np.bincount(known, minlength=num_classes),
        np.bincount(truth, minlength=num_classes),
    )


def total_areas(areas: Sequence[ClassAreas]) -> ClassAreas:
    """The areas of several pictures, stacked (N, C)."""
    return ClassAreas(
        np.stack([area.shared for area in areas]),
        np.stack([area.predicted for area in areas]),
        np.stack([area.annotated for area in areas]),
    )


def class_iou(areas: ClassAreas) -> NDArray[np.float64]:
    """Intersection over union (C,) of each class, pixels of all pictures pooled; NaN for a class without a pixel."""
    shared, union = (np.atleast_2d(part).sum(axis=0).astype(np.float64) for part in (areas.shared, areas.union))
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.full(len(shared), np.nan), where=union > 0)
    return iou


def mean_iou(areas: ClassAreas, classes: Sequence[int] | None = None) -> float:
    """The unweighted mean of `class_iou` over `classes` (default: all) that occur, as MMSegmentation's IoUMetric.

    A class that is predicted but nowhere annotated has an IoU of 0 and counts; one that is neither does not. NaN where
    none of the classes occurs.
    """
    iou = class_iou(areas)
    chosen = iou if classes is None else iou[list(classes)]
    return float(np.nanmean(chosen)) if not np.isnan(chosen).all() else float("nan")


def mean_iou_result(
    name: str, areas: ClassAreas, *, classes: Sequence[int] | None = None, num_bootstrap: int, seed: int
) -> MetricResult:
    """`mean_iou` of areas (N, C) with its 95 % percentile bootstrap interval over pictures."""
    interval = _iou_interval(areas, classes, num_bootstrap, seed)
    return MetricResult(
        name=name,
        value=mean_iou(areas, classes),
        num_samples=len(areas.shared),
        ci_low=interval[0] if interval else None,
        ci_high=interval[1] if interval else None,
    )


def pixel_accuracy(areas: ClassAreas) -> float:
    """The share of annotated pixels that are predicted right; NaN without any."""
    total = int(areas.annotated.sum())
    return float(areas.shared.sum() / total) if total else float("nan")


def mean_class_accuracy(areas: ClassAreas) -> float:
    """The unweighted mean over annotated classes of the share of their pixels that are predicted right."""
    shared, annotated = (np.atleast_2d(part).sum(axis=0) for part in (areas.shared, areas.annotated))
    present = annotated > 0
    return float((shared[present] / annotated[present]).mean()) if present.any() else float("nan")


def _iou_interval(areas: ClassAreas, classes: Sequence[int] | None, num_bootstrap: int, seed: int) -> Interval | None:
    if num_bootstrap < 1:
        raise EvaluationError(f"num_bootstrap must be at least 1, got {num_bootstrap}")
    num_pictures = len(areas.shared)
    if num_pictures < 2:
        return None
    rng = np.random.default_rng(seed)
    # How often each picture is drawn: one product instead of a gathered copy of all areas for every resample.
    drawn = rng.multinomial(num_pictures, np.full(num_pictures, 1 / num_pictures), size=num_bootstrap)
    shared, union = drawn @ areas.shared, drawn @ areas.union
    iou = np.divide(shared, union, out=np.full(shared.shape, np.nan), where=union > 0)
    iou = iou if classes is None else iou[:, list(classes)]
    defined = iou[~np.isnan(iou).all(axis=1)]
    if 2 * len(defined) <= num_bootstrap:
        return None
    low, high = np.quantile(np.nanmean(defined, axis=1), [0.025, 0.975])
    return float(low), float(high)


def upsampling_matrix(size: int, new_size: int) -> NDArray[np.float32]:
    """The weights (new_size, size) of linear interpolation along one axis; each row sums to 1.

    Samples sit at the centres of their cells and the borders repeat, which is bilinear interpolation with
    ``align_corners=False`` in PyTorch.
    """
    places = np.clip((np.arange(new_size) + 0.5) * size / new_size - 0.5, 0, size - 1)
    lower = np.floor(places).astype(np.intp)
    upper = np.minimum(lower + 1, size - 1)
    weight = places - lower
    matrix = np.zeros((new_size, size))
    rows = np.arange(new_size)
    np.add.at(matrix, (rows, lower), 1 - weight)
    np.add.at(matrix, (rows, upper), weight)
    return matrix.astype(np.float32)


def resize_bilinear(maps: ArrayLike, size: Size) -> NDArray[np.float32]:
    """Maps (Q, h, w) at another size (Q, H, W), see `upsampling_matrix`; no filter where they shrink."""
    values = np.asarray(maps, dtype=np.float32)
    rows, columns = upsampling_matrix(values.shape[1], size[0]), upsampling_matrix(values.shape[2], size[1])
    resized: NDArray[np.float32] = rows @ (values @ columns.T)
    return resized


def patch_logits(patches: ArrayLike, texts: ArrayLike, grid: Size) -> NDArray[np.float32]:
    """Cosines (Q, h, w) of every patch with every text.

    Args:
        patches: (h * w, D) projected patch tokens in row-major order, without prefix tokens; normalised here.
        texts: (Q, D) embeddings of the class names, normalised here.
        grid: (h, w).

    Raises:
        EvaluationError: other shapes, or a row of norm 0 or NaN.
    """
    tokens, names = _unit_rows("patches", patches), _unit_rows("texts", texts)
    if len(tokens) != grid[0] * grid[1] or tokens.shape[1] != names.shape[1]:
        raise EvaluationError(
            f"{len(tokens)} patches of {tokens.shape[1]} dimensions do not fill a grid of {grid[0]} x {grid[1]} or do "
            f"not fit texts of {names.shape[1]} dimensions"
        )
    logits: NDArray[np.float32] = (names @ tokens.T).reshape(len(names), *grid).astype(np.float32)
    return logits


def segment(
    logits: ArrayLike,
    size: Size,
    *,
    classes: Sequence[int] | None = None,
    scale: float = 1.0,
    threshold: float = 0.0,
    background: int = 0,
) -> NDArray[np.int64]:
    """The class (H, W) of each pixel: logits (Q, h, w) are enlarged bilinearly, and the best text wins.

    SAIL's protocol (arXiv 2412.04616, its code at b39de67180, which follows ClearCLIP): of several texts of one class
    the best counts; a pixel whose softmax over all texts stays below `threshold` everywhere is `background`.
    Of classes that tie, the first wins.

    Args:
        logits: (Q, h, w).
        size: (H, W) of the picture as it is annotated.
        classes: class of each text (Q,); None = text i is class i.
        scale: multiplies the logits before the softmax; matters only with a threshold.
        threshold: in [0, 1]; 0 = no pixel is background for being uncertain.
        background: its class.
    """
    values = np.asarray(logits, dtype=np.float32)
    owners = np.arange(len(values)) if classes is None else np.asarray(classes, dtype=np.intp)
    if values.ndim != 3 or owners.shape != values.shape[:1] or not np.isfinite(values).all():
        raise EvaluationError(f"expected finite logits (Q, h, w) and Q classes, got {values.shape} and {owners.shape}")
    order = np.argsort(owners, kind="stable")  # so that of texts that tie the lowest class comes first
    values, owners = values[order], owners[order]
    rows, columns = upsampling_matrix(values.shape[1], size[0]), upsampling_matrix(values.shape[2], size[1])
    wide = values @ columns.T
    step = max(1, _BLOCK_ENTRIES // (len(values) * size[1]))
    mask = np.empty(size, dtype=np.int64)
    for start in range(0, size[0], step):
        block = rows[start : start + step] @ wide
        found = owners[block.argmax(axis=0)]
        if threshold > 0:
            probability = 1 / np.exp(scale * (block - block.max(axis=0))).sum(axis=0)
            found = np.where(probability < threshold, background, found)
        mask[start : start + step] = found
    return mask


def sliding_windows(size: Size, crop: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the crops that cover a picture (H, W), the last ones moved in from its border.

    A picture smaller than a crop gives one crop of what there is. SAIL uses 448 pixels every 224.
    """
    if crop < 1 or not 1 <= stride <= crop:
        raise EvaluationError(f"crop={crop} and stride={stride}: expected 1 <= stride <= crop")
    for top in _starts(size[0], crop, stride):
        for left in _starts(size[1], crop, stride):
            yield slice(top, min(top + crop, size[0])), slice(left, min(left + crop, size[1]))


def merge_windows(
    windows: Sequence[tuple[slice, slice]], logits: Sequence[NDArray[np.float32]], size: Size
) -> NDArray[np.float32]:
    """Logits (Q, H, W) of a picture: those of its crops (Q, h, w), enlarged and averaged where they meet.

    Raises EvaluationError for another number of logits than of windows, or a pixel that no window covers.
    """
    if len(windows) != len(logits) or not windows:
        raise EvaluationError(f"expected logits for each of {len(windows)} windows, at least one; got {len(logits)}")
    total = np.zeros((len(logits[0]), *size), dtype=np.float32)
    count = np.zeros(size, dtype=np.float32)
    for (rows, columns), part in zip(windows, logits, strict=True):
        total[:, rows, columns] += resize_bilinear(part, (rows.stop - rows.start, columns.stop - columns.start))
        count[rows, columns] += 1
    if not count.all():
        raise EvaluationError(f"{int((count == 0).sum())} pixels of {size} lie in no window; use `sliding_windows`")
    merged: NDArray[np.float32] = total / count
    return merged


def _starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(place * stride + crop, length) - crop, 0) for place in range(count)]


def _unit_rows(name: str, values: ArrayLike) -> NDArray[np.float32]:
    rows = np.asarray(values, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if rows.ndim != 2 or not (np.isfinite(norms) & (norms > 0)).all():
        raise EvaluationError(f"{name} must be (N, D) with finite rows of positive norm, got shape {rows.shape}")
    unit: NDArray[np.float32] = rows / norms
    return unit


def _mask(values: ArrayLike) -> NDArray[np.int64]:
    mask = np.asarray(values)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise EvaluationError(f"a mask must be (H, W) class indices, got {mask.dtype} {mask.shape}")
    return mask.astype(np.int64)
