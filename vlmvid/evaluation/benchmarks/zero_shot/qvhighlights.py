"""QVHighlights: moments and highlights for a query (arXiv 2107.09609; jayleicn/moment_detr at b7e553ac3b)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import DatasetError, EvaluationError
from vlmvid.evaluation.answers.windows import FoundWindows, windows
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.zero_shot.grounding_scores import (
    counted_outcomes,
    mean,
    median_window,
    recall_results,
)
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions, from_pairs, read_document
from vlmvid.evaluation.scoring.reading import find_file, read_json_lines, unique_items
from vlmvid.evaluation.scoring.shapes import in_shape
from vlmvid.metrics.grounding import IOU_THRESHOLDS, best_iou, highlight_average_precision, window_average_precision
from vlmvid.types import MetricResult

FILE = AnnotationFile(
    "highlight_val_release.jsonl",
    ("qid", "query", "duration", "vid", "relevant_windows", "relevant_clip_ids", "saliency_scores"),
    "https://github.com/jayleicn/moment_detr (data)",
)
CLIP_SECONDS = 2
MAX_WINDOWS = 10
NUM_ANNOTATORS = 3
# name of the range -> (shortest, longest] length of a window in seconds
RANGES = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
LEVELS = {"fair": 2, "good": 3, "verygood": 4}
_PRINTED_LEVELS = {"fair": "Fair", "good": "Good", "verygood": "VeryGood"}


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The queries of ``highlight_val_release.jsonl``, or of the file that is given; ids are ``qid``.

    The test release holds no windows; its authors published them later as ``highlight_test_with_gt.jsonl``.
    """
    found = find_file(path, FILE)
    items = []
    for row in read_json_lines(found, FILE):
        where = f"{found}, qid {row['qid']}"
        with in_shape(where, FILE):
            items.append(_item(row, where))
    return unique_items(items, found)


def _item(row: Mapping[str, Any], where: str) -> Item:
    moments = tuple((float(start), float(end)) for start, end in row["relevant_windows"])
    num_clips = int(row["duration"] / CLIP_SECONDS)
    clips = [int(clip) for clip in row["relevant_clip_ids"]]
    if not moments or any(not 0 <= start <= end < math.inf for start, end in moments):
        raise DatasetError(f"{where}: relevant_windows {row['relevant_windows']} holds no window [start, end]")
    if len(clips) != len(row["saliency_scores"]) or any(not 0 <= clip < num_clips for clip in clips):
        raise DatasetError(
            f"{where}: {len(clips)} relevant_clip_ids with {len(row['saliency_scores'])} saliency_scores; expected as "
            f"many, with ids in [0, {num_clips}), the {CLIP_SECONDS} s clips of {row['duration']} s"
        )
    ratings = np.asarray(row["saliency_scores"], dtype=np.float64)
    if clips and (ratings.shape != (len(clips), NUM_ANNOTATORS) or not np.isfinite(ratings).all()):
        raise DatasetError(f"{where}: saliency_scores must hold {NUM_ANNOTATORS} numbers for each clip")
    return Item(
        item_id=str(row["qid"]),
        video_id=str(row["vid"]),
        answer=moments,
        question=str(row["query"]),
        media=(Media(f"{row['vid']}.mp4"),),
        extra={"num_clips": num_clips, "clips": tuple(clips), "saliency": row["saliency_scores"]},
    )


def read_answers(path: Path, items: Sequence[Item]) -> Predictions:
    """moment_detr's result file: one object per line with `qid`, `pred_relevant_windows`, `pred_saliency_scores`.

    A JSON object ``{qid: windows}`` is read too. Raises EvaluationError as the general reader does.
    """
    rows = read_document(path)
    if isinstance(rows, dict) and "qid" not in rows:
        return from_pairs([(str(key), value) for key, value in rows.items()], str(path))
    pairs: list[tuple[str, Any]] = []
    for number, row in enumerate([rows] if isinstance(rows, dict) else rows, start=1):
        if not isinstance(row, dict) or "qid" not in row or "pred_relevant_windows" not in row:
            raise EvaluationError(f"{path}, entry {number}: expected an object with qid and pred_relevant_windows")
        pairs.append((str(row["qid"]), {key: value for key, value in row.items() if key.startswith("pred_")}))
    return from_pairs(pairs, str(path))


def _precisions(found: FoundWindows, truth: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    kept = slice(0, MAX_WINDOWS)
    return window_average_precision(found.windows[kept], found.scores[kept], truth)


def _score(found: FoundWindows, item: Item) -> float:
    return float(_precisions(found.ranked(), item.answer).mean())


_answers = AnswerScorer(
    benchmark="qvhighlights",
    parser=windows,
    score=_score,
    about=f"average precision of the {MAX_WINDOWS} windows with the highest scores, mean over IoU 0.5 to 0.95",
    metric="map",
    constants=lambda items: [[list(median_window(items))]],
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """mAP over IoU 0.5 to 0.95, at 0.5 and at 0.75, R@1 at 0.5 and 0.7, mean IoU, by length, and highlights.

    ``map_short``, ``map_middle`` and ``map_long`` keep the annotated windows of one range of lengths, and all
    predicted ones. Highlights are scored as soon as one query has saliency scores, and a query without them is wrong:
    ``hl_LEVEL_map`` and ``hl_LEVEL_hit1`` for clips that an annotator rated at least fair, good, very good.
    """
    result = _answers(items, predictions, settings)
    counted = counted_outcomes(items, predictions, settings)
    precisions = np.array(
        [
            _precisions(row.parsed.ranked(), row.item.answer) if row.parsed else np.zeros(len(IOU_THRESHOLDS))
            for row in counted
        ]
    )
    more = [mean(f"map_{name}", precisions[:, place], counted, settings) for name, place in (("0_5", 0), ("0_75", 5))]
    more += recall_results(items, predictions, settings, thresholds=(0.5, 0.7))
    for name, limits in RANGES.items():
        rows = [(row, _within(row.item, limits)) for row in counted]
        rows = [(row, truth) for row, truth in rows if truth]
        values = [float(_precisions(row.parsed.ranked(), truth).mean()) if row.parsed else 0.0 for row, truth in rows]
        more += [mean(f"map_{name}", values, [row for row, _ in rows], settings)] if rows else []
    if any(row.parsed is not None and row.parsed.saliency is not None for row in counted):
        for name, level in LEVELS.items():
            rated = [_highlights(row.parsed, row.item, level) for row in counted]
            more.append(mean(f"hl_{name}_map", [value.precision for value in rated], counted, settings))
            more.append(mean(f"hl_{name}_hit1", [value.hit for value in rated], counted, settings))
    return replace(result, metrics=(*result.metrics, *labelled(more, settings)))


def _within(item: Item, limits: tuple[int, int]) -> list[tuple[float, float]]:
    return [(start, end) for start, end in item.answer if limits[0] < end - start <= limits[1]]


@dataclass(frozen=True, slots=True)
class _Highlights:
    precision: float
    hit: float


def _highlights(found: FoundWindows | None, item: Item, level: int) -> _Highlights:
    """Average precision, mean over the annotators, and whether the best clip is relevant for one of them.

    Scores beyond the last clip are left out, missing ones are 0, as in the released script.
    """
    if found is None or found.saliency is None:
        return _Highlights(0.0, 0.0)
    ratings = np.zeros((item.extra["num_clips"], NUM_ANNOTATORS))
    if item.extra["clips"]:
        ratings[list(item.extra["clips"])] = item.extra["saliency"]
    given = np.array(found.saliency)
    scores = np.zeros(len(ratings))
    scores[: len(given)] = given[: len(ratings)]
    relevant = ratings >= level
    best = int(given.argmax()) if len(given) else len(ratings)
    hit = bool(relevant[best].any()) if best < len(ratings) else False
    return _Highlights(float(np.mean([highlight_average_precision(one, scores) for one in relevant.T])), float(hit))


def score_as_qvhighlights(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """moment_detr's standalone_eval: its differences from `score` are kept.

    R@1 takes the first window of the list, not the one with the highest score; AP takes the first ten of the list.
    Highlights are scored if the first prediction has saliency scores. Raises EvaluationError where the script stops:
    other qids than those of the file, no window for a query, or no query with windows of some length.
    """
    ids = [item.item_id for item in items]
    missing, extra = predictions.missing(ids), predictions.extra(ids)
    if missing or extra:
        raise EvaluationError(
            f"the released script needs the qids of the file: {len(missing)} are missing, {len(extra)} unknown"
        )
    found = {item.item_id: windows.parse(predictions.values[item.item_id], item) for item in items}
    unparsed = [name for name, value in found.items() if value is None]
    if unparsed:
        raise EvaluationError(f"the released script stops at a query without a window: {', '.join(unparsed[:3])}")
    values = _compat_values(items, found)
    first = found[next(iter(predictions.values))]
    if first is not None and first.saliency is not None:
        values |= _compat_highlights(items, found)
    base = _answers(items, predictions, settings)
    return replace(
        base,
        protocol="moment_detr's standalone_eval: the first window of each list for R@1, its first ten for mAP",
        metrics=tuple(MetricResult(name=name, value=value, num_samples=len(items)) for name, value in values.items()),
        compat="qvhighlights",
        printed=json.dumps(_printed(values), indent=4),
    )


def _compat_values(items: Sequence[Item], found: Mapping[str, FoundWindows]) -> dict[str, float]:
    precisions = np.array([_precisions(found[item.item_id], item.answer) for item in items])
    overlaps = np.array([best_iou(found[item.item_id].windows[0], item.answer) for item in items])
    values = {
        "map": float(precisions.mean(axis=0).mean()),
        "map_0_5": float(precisions[:, 0].mean()),
        "map_0_75": float(precisions[:, 5].mean()),
        "r1_iou_0_5": float((overlaps >= 0.5).mean()),
        "r1_iou_0_7": float((overlaps >= 0.7).mean()),
    }
    for name, limits in RANGES.items():
        kept = [(item, truth) for item in items if (truth := _within(item, limits))]
        if not kept:
            raise EvaluationError(f"the released script stops: no query has a window of {limits[0]} to {limits[1]} s")
        values[f"map_{name}"] = float(np.mean([_precisions(found[item.item_id], truth) for item, truth in kept]))
    return values


def _compat_highlights(items: Sequence[Item], found: Mapping[str, FoundWindows]) -> dict[str, float]:
    without = [item.item_id for item in items if found[item.item_id].saliency is None]
    if without:
        raise EvaluationError(f"the released script needs saliency scores for every query; {without[:3]} have none")
    values = {}
    for name, level in LEVELS.items():
        rated = [_highlights(found[item.item_id], item, level) for item in items]
        values[f"hl_{name}_map"] = float(np.mean([value.precision for value in rated]))
        values[f"hl_{name}_hit1"] = float(np.mean([value.hit for value in rated]))
    return values


def _printed(values: Mapping[str, float]) -> dict[str, dict[str, float]]:
    names = {
        "MR-full-R1@0.5": "r1_iou_0_5",
        "MR-full-R1@0.7": "r1_iou_0_7",
        "MR-full-mAP": "map",
        "MR-full-mAP@0.5": "map_0_5",
        "MR-full-mAP@0.75": "map_0_75",
        **{f"MR-{name}-mAP": f"map_{name}" for name in ("long", "middle", "short")},
    }
    for name, printed in _PRINTED_LEVELS.items():
        if f"hl_{name}_map" in values:
            names |= {f"HL-min-{printed}-mAP": f"hl_{name}_map", f"HL-min-{printed}-Hit1": f"hl_{name}_hit1"}
    return {"brief": {printed: float(f"{100 * values[name]:.2f}") for printed, name in names.items()}}


BENCHMARK = Benchmark(
    name="qvhighlights",
    title="QVHighlights (val)",
    kind="other",
    source="arXiv 2107.09609",
    files=(FILE,),
    read=read,
    score=score,
    compat={"qvhighlights": score_as_qvhighlights},
    read_predictions=read_answers,
)
