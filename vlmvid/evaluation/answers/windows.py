"""Windows of time in a video, and scores of its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vlmvid.evaluation.answers.base import Parser, finite
from vlmvid.evaluation.scoring.base import Item

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class FoundWindows:
    """What a model found for one query.

    Attributes:
        windows: [start, end] in seconds, in the order given.
        scores: one for each window; equal ones where none were given.
        saliency: scores of the parts of the video in order, or None.
    """

    windows: tuple[tuple[float, float], ...]
    scores: tuple[float, ...]
    saliency: tuple[float, ...] | None = None

    def ranked(self) -> FoundWindows:
        """The same by falling score; equal scores keep their order."""
        order = sorted(range(len(self.scores)), key=lambda place: -self.scores[place])
        return FoundWindows(
            tuple(self.windows[place] for place in order), tuple(self.scores[place] for place in order), self.saliency
        )


def _windows(raw: Any, item: Item) -> FoundWindows | None:
    """``[start, end]``, a list of such with an optional score each, moment_detr's object, or a text with two times.

    None for anything else: numbers that are not finite, a window that ends before it starts, no window at all.
    """
    saliency: Any = None
    if isinstance(raw, dict):
        saliency, raw = raw.get("pred_saliency_scores"), raw.get("pred_relevant_windows")
    if isinstance(raw, str):
        times = _times(raw)
        raw = [times[:2]] if len(times) >= 2 else None
    if isinstance(raw, list) and raw and not isinstance(raw[0], list):
        raw = [raw]
    if not isinstance(raw, list) or not raw or not all(_is_window(row) for row in raw):
        return None
    if saliency is not None and not _are_numbers(saliency):
        return None
    return FoundWindows(
        tuple((float(row[0]), float(row[1])) for row in raw),
        tuple(float(row[2]) if len(row) > 2 else 0.0 for row in raw),
        None if saliency is None else tuple(float(value) for value in saliency),
    )


def _is_window(row: Any) -> bool:
    return isinstance(row, list) and len(row) in (2, 3) and _are_numbers(row) and row[0] <= row[1]


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(finite(value) is not None for value in values)


def _times(text: str) -> list[float]:
    """The times of a text in seconds: clock times where there are any, else its numbers."""
    clocks = _CLOCK.findall(text)
    if clocks:
        return [3600 * float(hours or 0) + 60 * float(minutes) + float(seconds) for hours, minutes, seconds in clocks]
    return [float(number) for number in _NUMBER.findall(text)]


windows = Parser("windows-1", _windows)
