"""What a parser is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlmvid.evaluation.scoring.base import Item


@dataclass(frozen=True, slots=True)
class Parser:
    """A raw response to what the scorer compares.

    Attributes:
        name: with its version, e.g. ``choice-1``; a change of behaviour is a new version.
        parse: (raw value as JSON gives it, item) -> the answer, or None where the response holds none.
    """

    name: str
    parse: Callable[[Any, Item], Any]


def _text(raw: Any, item: Item) -> str | None:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    return str(raw).strip() or None


as_is = Parser("as-is", lambda raw, item: raw)
text = Parser("text-1", _text)
