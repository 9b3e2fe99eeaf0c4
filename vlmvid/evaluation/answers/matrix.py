"""Similarities as answers: a matrix of media and captions, or one row of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmvid.evaluation.answers.base import Parser, finite
from vlmvid.evaluation.scoring.base import Item

NO_BEST = -1


def numbers(raw: Any) -> list[float] | None:
    """`raw` as finite numbers; None when it is no list of them."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        return None
    found = [number for value in raw if (number := finite(value)) is not None]
    return found if len(found) == len(raw) else None


def row(raw: Any, num_scores: int) -> list[float] | None:
    """`raw` as one row of `num_scores` finite numbers, also where it is wrapped once more; None otherwise."""
    if isinstance(raw, list | tuple) and len(raw) == 1 and isinstance(raw[0], list | tuple):
        raw = raw[0]
    found = numbers(raw)
    return found if found is not None and len(found) == num_scores else None


def _matrix(raw: Any, item: Item) -> list[list[float]] | None:
    """M rows of T finite numbers; a matrix with one row or one column may be a flat list."""
    num_media, num_captions = len(item.media), len(item.choices)
    if not isinstance(raw, list | tuple):
        return None
    if num_media == 1:
        one = row(raw, num_captions)
        return None if one is None else [one]
    if num_captions == 1 and (column := numbers(raw)) is not None:
        return [[value] for value in column] if len(column) == num_media else None
    rows = [numbers(line) for line in raw]
    if len(rows) != num_media:
        return None
    found = [line for line in rows if line is not None and len(line) == num_captions]
    return found if len(found) == num_media else None


def _caption(raw: Any, item: Item) -> int | None:
    """The place of the caption that is chosen; NO_BEST where the highest score is shared."""
    if isinstance(raw, str):
        wanted = plain(raw)
        places = [place for place, choice in enumerate(item.choices) if plain(choice) == wanted]
        return places[0] if len(places) == 1 else None
    scores = row(raw, len(item.choices))
    if scores is None:
        return None
    best = max(scores)
    return scores.index(best) if scores.count(best) == 1 else NO_BEST


def plain(text: str) -> str:
    """A caption for comparison: lower case, single spaces, without the final full stop."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


matrix = Parser("matrix-1", _matrix)
caption = Parser("caption-1", _caption)
