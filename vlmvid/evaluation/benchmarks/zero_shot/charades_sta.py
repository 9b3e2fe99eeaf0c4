"""Charades-STA: when does a sentence happen (arXiv 1705.02101; format: jiyanggao/TALL at 3df6794af1, README)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmvid.errors import DatasetError
from vlmvid.evaluation.answers.windows import FoundWindows, windows
from vlmvid.evaluation.base import TaskResult
from vlmvid.evaluation.benchmarks.zero_shot.grounding_scores import first_window_iou, median_window, recall_results
from vlmvid.evaluation.scoring.aggregate import AnswerScorer, labelled
from vlmvid.evaluation.scoring.base import AnnotationFile, Benchmark, Item, Media, ScoreSettings
from vlmvid.evaluation.scoring.predictions import Predictions
from vlmvid.evaluation.scoring.reading import find_file, read_text, unique_items

FILE = AnnotationFile(
    "charades_sta_test.txt",
    ("VIDEO START END##SENTENCE",),
    "https://github.com/jiyanggao/TALL (README, Charades-STA anno download)",
)
_LINE = re.compile(r"(\S+) (\S+) (\S+)##(.*)")


def read(path: Path, options: Mapping[str, str]) -> list[Item]:
    """The sentences of one file; ids are ``VIDEO_N``, N counting the lines of a video from 0.

    A window that ends before it starts is turned round.
    Raises MissingDataError, or DatasetError with the line for one that is not ``VIDEO START END##SENTENCE``.
    """
    found = find_file(path, FILE)
    seen: Counter[str] = Counter()
    items = []
    for number, line in enumerate(read_text(found, FILE).splitlines(), start=1):
        if line.strip():
            item = _item(line.strip(), seen, f"{found}, line {number}")
            seen[item.video_id] += 1
            items.append(item)
    return unique_items(items, found)


def _item(line: str, seen: Counter[str], where: str) -> Item:
    match = _LINE.fullmatch(line)
    try:
        start, end = (float(match[2]), float(match[3])) if match else (float("nan"), float("nan"))
    except ValueError:
        start = end = float("nan")
    if match is None or not (0 <= start < float("inf") and 0 <= end < float("inf")):
        raise DatasetError(f"{where}: {line!r:.80} is not 'VIDEO START END##SENTENCE' with times in seconds")
    return Item(
        item_id=f"{match[1]}_{seen[match[1]]}",
        video_id=match[1],
        answer=((min(start, end), max(start, end)),),
        question=match[4].strip(),
        media=(Media(f"{match[1]}.mp4"),),
    )


def _score(found: FoundWindows, item: Item) -> float:
    return float(first_window_iou(found, item) >= 0.5)


_answers = AnswerScorer(
    benchmark="charades_sta",
    parser=windows,
    score=_score,
    about="the window with the highest score against the annotated one, right at an IoU of at least 0.5",
    metric="r1_iou_0_5",
    constants=lambda items: [[list(median_window(items))]],
)


def score(items: Sequence[Item], predictions: Predictions, settings: ScoreSettings) -> TaskResult:
    """R@1 at IoU 0.5, at 0.3 and 0.7, and the mean IoU (``miou``), then the baselines; all over all sentences.

    The constant is one window for every sentence: the median start and the median end of the annotated ones.
    """
    result = _answers(items, predictions, settings)
    more = recall_results(items, predictions, settings, thresholds=(0.3, 0.7))
    return replace(result, metrics=(result.metrics[0], *labelled(more, settings), *result.metrics[1:]))


BENCHMARK = Benchmark(
    name="charades_sta",
    title="Charades-STA (test)",
    kind="other",
    source="arXiv 1705.02101",
    files=(FILE,),
    read=read,
    score=score,
)
