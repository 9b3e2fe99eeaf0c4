"""Open-vocabulary segmentation: predicted masks against annotated ones (SAIL's protocol, arXiv 2412.04616)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DatasetError, EvaluationError, MissingDataError
from vlmvid.evaluation.base import TaskResult, metric_slug
from vlmvid.evaluation.scoring.aggregate import Outcome, counts, coverage, labelled, sample
from vlmvid.evaluation.scoring.arrays import read_arrays
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, read_predictions
from vlmvid.evaluation.scoring.reading import read_text, unique_items
from vlmvid.metrics.segmentation import (
    IGNORE,
    ClassAreas,
    class_areas,
    class_iou,
    mean_class_accuracy,
    mean_iou_result,
    pixel_accuracy,
    total_areas,
)
from vlmvid.types import MetricResult

FILE = AnnotationFile(
    "*.png",
    ("one class index per pixel",),
    "the data set's own page: ADE20K (ADEChallengeData2016, annotations/validation), VOC2012 (SegmentationClass), "
    "COCO-Stuff (annotations/val2017)",
)
CLASSES = AnnotationFile("classes.txt", ("one class per line, synonyms after commas",), "your own list, in mask order")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """One item for each ``*.png`` below the folder `path`, or each array of an ``.npz``; ids are names without suffix.

    Indices of the masks follow the lines of ``classes.txt`` in `path` or its parent. With ``zero=ignore`` the masks
    count from 1 and 0 is ignored, as in ADE20K and VOC without background (`reduce_zero_label` of MMSegmentation).
    """
    masks = _mask_values(path, options.get("suffix", ""))
    if not masks:
        raise MissingDataError(
            f"there is no {FILE.name} in {path}; its authors publish it at {FILE.publisher}; it has the columns "
            f"{', '.join(FILE.columns)}"
        )
    classes = _classes(path, options)
    background = _number(options, "background", -1)
    if not -1 <= background < len(classes):
        raise ConfigError(f"background={background} is none of the {len(classes)} classes")
    if options.get("zero", "class") not in ("class", "ignore"):
        raise ConfigError(f"zero={options['zero']!r}: expected class or ignore")
    synonyms = tuple(tuple(name.strip() for name in line.split(",")) for line in classes)
    extra = {
        "ignore": _number(options, "ignore", IGNORE),
        "from_one": options.get("zero") == "ignore",
        "background": background,
        "synonyms": synonyms,
    }
    names = tuple(texts[0] for texts in synonyms)
    return unique_items(
        [
            Item(name, name, value, choices=names, media=(Media(name),), extra=extra)
            for name, value in sorted(masks.items())
        ],
        path,
    )


def _classes(path: Path, options: Mapping[str, str]) -> list[str]:
    folder = path if path.is_dir() else path.parent
    wanted = options.get("classes")
    places = [Path(wanted)] if wanted else [folder / CLASSES.name, folder.parent / CLASSES.name]
    found = next((place for place in places if place.is_file()), places[0])
    lines = [line.strip() for line in read_text(found, CLASSES).splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"{found} names no class; expected {CLASSES.columns[0]}")
    return lines


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(options.get(name, default))
    except ValueError:
        raise ConfigError(f"{name}={options[name]!r} must be a whole number") from None


def _mask_values(path: Path, suffix: str) -> dict[str, Any]:
    """Name -> a path of a picture, or an array."""
    if path.suffix == ".npz" and path.is_file():
        return {name.removesuffix(suffix): mask for name, mask in read_arrays(path).items()}
    found: dict[str, Any] = {}
    for file in sorted(path.rglob(FILE.name)) if path.is_dir() else [path] if path.suffix == ".png" else []:
        name = file.stem.removesuffix(suffix)
        if name in found:
            raise DatasetError(f"{found[name]} and {file} have one name; masks are joined by it")
        found[name] = str(file)
    return found


def read_masks(path: Path, items: Sequence[Item]) -> Predictions:
    """Predicted masks: a folder of ``*.png``, an ``.npz`` with one array per id, or JSON ``{id: rows or path}``.

    Their indices count from 0 in the order of the classes, whatever the annotated masks do.
    """
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        return read_predictions(path)
    masks = _mask_values(path, "")
    if not masks:
        raise EvaluationError(f"{path} holds no mask; expected a folder of {FILE.name}, an .npz, or JSON")
    return Predictions(masks, str(path))


def load_mask(value: Any) -> NDArray[np.int64] | None:
    """A mask (H, W) from an array, rows of indices or the path of a picture; None where it is none.

    The pixels of a palette picture (VOC) are its indices; other pictures with several channels are no mask.
    """
    if isinstance(value, str):
        from PIL import Image

        try:
            with Image.open(value) as picture:
                value = np.asarray(picture)
        except (OSError, SyntaxError, ValueError):  # a broken file, a name with a NUL
            return None
    try:
        mask = np.asarray(value)
    except ValueError:  # ragged rows
        return None
    if mask.ndim != 2 or not mask.size or not np.issubdtype(mask.dtype, np.integer):
        return None
    return mask.astype(np.int64)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """Mean IoU over classes, pixels of all pictures pooled, with an interval over pictures.

    A picture without a mask, or with one of another size, has all its pixels wrong. ``miou_no_background`` is there
    where the option `background` names a class. ``miou/constant`` is the best single class everywhere, ``miou/chance``
    a class drawn for every pixel. Where every picture has its mask, `miou` equals MMSegmentation's IoUMetric.
    """
    outcomes, areas = _outcomes(items, predictions)
    kept = [place for place, row in enumerate(outcomes) if settings.missing != "skip" or row.status != "missing"]
    if not kept:
        raise EvaluationError(f"{predictions.source} has no prediction for any of the {len(items)} items")
    counted = [outcomes[place] for place in kept]
    pooled = total_areas([areas[place] for place in kept])
    metrics = [*_metrics(pooled, items[0], settings), *_baselines(pooled), *counts(outcomes, counted)]
    if settings.blind is not None:
        blind = total_areas(_outcomes(items, settings.blind)[1])
        metrics.append(_mean_iou("miou/blind", blind, settings))
    ignored = items[0].extra
    rule = "0" if ignored["from_one"] else str(ignored["ignore"])
    return TaskResult(
        task="segmentation",
        protocol=(
            f"mean IoU over {len(items[0].choices)} classes, pixels pooled, those annotated {rule} ignored; "
            f"{coverage(items, predictions, outcomes, settings)}"
        ),
        metrics=labelled(metrics, settings),
        samples=[sample(row) for row in outcomes],
    )


def _outcomes(items: Sequence[Item], predictions: Predictions) -> tuple[list[Outcome], list[ClassAreas]]:
    outcomes, areas = [], []
    for item in items:
        truth, ignore = _annotated(item)
        num_classes = len(item.choices)
        raw = predictions.values.get(item.item_id)
        mask = load_mask(raw)
        fits = mask is not None and mask.shape == truth.shape
        # No mask: no pixel has a class, so all of them are wrong.
        found = mask if mask is not None and fits else np.full(truth.shape, -1)
        area = class_areas(found, truth, num_classes, ignore)
        status = "parsed" if fits else "unparsed" if item.item_id in predictions.values else "missing"
        present = class_iou(area)[area.annotated + area.predicted > 0]
        shown = f"{mask.shape[0]} x {mask.shape[1]}" if mask is not None else None
        overlap = float(present.mean()) if len(present) else 0.0
        outcomes.append(Outcome(Item(item.item_id, item.video_id, None), status, shown, score=overlap))
        areas.append(area)
    return outcomes, areas


def _annotated(item: Item) -> tuple[NDArray[np.int64], int]:
    """The annotated mask with indices from 0, and the index that is ignored."""
    mask = load_mask(item.answer)
    if mask is None:
        raise DatasetError(f"{item.item_id}: {item.answer!r:.100} is no mask; expected {FILE.columns[0]}")
    ignore = int(item.extra["ignore"])
    if item.extra["from_one"]:
        mask = np.where((mask == 0) | (mask == ignore), ignore, mask - 1)
    try:
        class_areas(mask, mask, len(item.choices), ignore)
    except EvaluationError as error:
        raise DatasetError(f"{item.item_id}: {error}; check the classes and the options ignore and zero") from error
    return mask, ignore


def _mean_iou(
    name: str, areas: ClassAreas, settings: ScoreSettings, classes: Sequence[int] | None = None
) -> MetricResult:
    return mean_iou_result(name, areas, classes=classes, num_bootstrap=settings.num_bootstrap, seed=settings.seed)


def _metrics(pooled: ClassAreas, item: Item, settings: ScoreSettings) -> list[MetricResult]:
    num_pictures = len(pooled.shared)
    metrics = [_mean_iou("miou", pooled, settings)]
    if item.extra["background"] >= 0:
        kept = [index for index in range(len(item.choices)) if index != item.extra["background"]]
        metrics.append(_mean_iou("miou_no_background", pooled, settings, kept))
    values = {"pixel_accuracy": pixel_accuracy(pooled), "mean_class_accuracy": mean_class_accuracy(pooled)}
    metrics += [MetricResult(name=name, value=value, num_samples=num_pictures) for name, value in values.items()]
    for index, (label, iou) in enumerate(zip(item.choices, class_iou(pooled), strict=True)):
        if not np.isnan(iou):
            name, occurs = f"iou_{index}_{metric_slug(label)}", int((pooled.annotated[:, index] > 0).sum())
            metrics.append(MetricResult(name=name, value=float(iou), num_samples=occurs))
    return metrics


def _baselines(pooled: ClassAreas) -> list[MetricResult]:
    annotated = pooled.annotated.sum(axis=0).astype(np.float64)
    total, present, num_classes = annotated.sum(), annotated[annotated > 0], len(annotated)
    if not total:
        return []
    # One class everywhere: its IoU is its share of the pixels, that of every other annotated class is 0.
    constant = float(annotated.max() / total / len(present))
    drawn = present / num_classes
    absent = num_classes - len(present)
    chance = float((drawn / (present + total / num_classes - drawn)).sum() / (len(present) + absent))
    return [
        MetricResult(name=f"miou/{name}", value=value, num_samples=len(pooled.shared))
        for name, value in (("constant", constant), ("majority", constant), ("chance", chance))
    ]


BENCHMARK = Benchmark(
    name="segmentation",
    title="open-vocabulary segmentation (ADE20K, VOC, COCO-Stuff)",
    kind="segmentation",
    source="SAIL, arXiv 2412.04616",
    files=(FILE, CLASSES),
    read=read,
    score=score,
    options={
        "classes": "the file of class names, if it is not classes.txt beside or above the masks",
        "ignore": f"annotated value that is ignored (default {IGNORE})",
        "zero": "class, or ignore: 0 is ignored and classes count from 1",
        "background": "index of the class that miou_no_background leaves out",
        "suffix": "end of the annotated names that predicted ones lack, e.g. _labelTrainIds",
    },
    read_predictions=read_masks,
)
