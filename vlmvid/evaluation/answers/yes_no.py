"""Answers to yes-no questions."""

from __future__ import annotations

import re
from typing import Any

from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.scoring.base import Item

_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_POPE_NO = {"No", "not", "no"}


def _yes_no(raw: Any, item: Item) -> str | None:
    """``yes`` or ``no``: the first word, else the only one of the two that occurs; None where neither decides."""
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if not isinstance(raw, str):
        return None
    first = re.match(r"\W*(yes|no)\b", raw, re.IGNORECASE)
    words = [first.group(1)] if first else _WORD.findall(raw)
    found = {word.lower() for word in words}
    return found.pop() if len(found) == 1 else None


def _pope(raw: Any, item: Item) -> str:
    """As POPE's evaluate.py reads it: the text before the first full stop; ``no`` if a word of it is, else ``yes``."""
    words = str(raw).partition(".")[0].replace(",", "").split(" ")
    return "no" if _POPE_NO & set(words) else "yes"


yes_no = Parser("yes-no-1", _yes_no)
pope = Parser("pope", _pope)
