"""Short free-text answers."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from vlmvid.evaluation.answers.base import Parser, finite, text
from vlmvid.evaluation.scoring.base import Item

_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?")
NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}  # fmt: skip


@lru_cache(maxsize=1 << 18)
def plain(answer: str) -> str:
    """`answer` in lower case with single spaces, without quotes around it and without a full stop at its end."""
    return _SPACES.sub(" ", answer).strip(" \"'`.!").lower()


def _short_answer(raw: Any, item: Item) -> str | None:
    found: str | None = text.parse(raw, item)
    return None if found is None else plain(found) or None


def _number(raw: Any, item: Item) -> float | None:
    """A JSON number, else the first number in the text, else its first number word; None where there is none.

    Commas may set off thousands: ``1,000`` is 1000.
    """
    if not isinstance(raw, str):
        return finite(raw)
    found = _NUMBER.search(raw)
    if found:
        return finite(float(found.group().replace(",", "")))
    words = [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", raw.lower()) if word in NUMBER_WORDS]
    return float(words[0]) if words else None


short_answer = Parser("short-answer-1", _short_answer)
number = Parser("number-2", _number)
