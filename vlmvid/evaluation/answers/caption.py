"""Captions as answers."""

from __future__ import annotations

from typing import Any

from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.scoring.base import Item


def _caption(raw: Any, item: Item) -> str | None:
    """A text, or a list that holds one, as results of COCO's scorers do; an empty text is an empty caption."""
    if isinstance(raw, list) and len(raw) == 1:
        raw = raw[0]
    return raw if isinstance(raw, str) else None


caption = Parser("caption-1", _caption)
