"""What a parser is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlmvid.evaluation.scoring.base import Item


@dataclass(frozen=True, slots=True)
class Parser:
    """A raw response to what the scorer compares.

    Attributes:
        name: with its version, e.g. ``choice-2``; a change of behaviour is a new version.
        parse: (raw value as JSON gives it, item) -> the answer, or None where the response holds none.
    """

    name: str
    parse: Callable[[Any, Item], Any]


def finite(value: Any) -> float | None:
    """A number of JSON as a float; None for anything else, and for one that is no finite float (NaN, 10**400)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(raw: Any, item: Item) -> str | None:
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        return None
    return str(raw).strip() or None


as_is = Parser("as-is", lambda raw, item: raw)
text = Parser("text-1", _text)
