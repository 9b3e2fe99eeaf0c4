"""What Vinoground and TemporalBench share: options within the question, and scripts that read one letter."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmvid.errors import EvaluationError
from vlmvid.evaluation.scoring.base import Item
from vlmvid.evaluation.scoring.predictions import Predictions

_OPTION = re.compile(r"^\s*([A-Z])[.)]\s*(.*?)\s*$", re.MULTILINE)


def options_in(question: str) -> tuple[str, ...]:
    """The options ``A. ...``, ``B. ...`` at the beginnings of lines; ``("A", "B")`` where there are none.

    The letters must be A, B and so on in order, each once; anything else are no options.
    """
    found = _OPTION.findall(question)
    letters = "".join(letter for letter, _ in found)
    if len(found) < 2 or letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(found)]:
        return ("A", "B")
    return tuple(text for _, text in found)


def stem_of(question: str) -> str:
    """What comes before the options; all of it where there are none."""
    first = _OPTION.search(question)
    return question[: first.start()].strip() if first and options_in(question) != ("A", "B") else question


def first_character_right(item: Item, predictions: Predictions) -> bool:
    """Whether the first character of the response is the letter of the answer, in any case.

    Raises:
        EvaluationError: the response is no text, or empty, where the scripts stop.
    """
    response = predictions.values[item.item_id]
    if not isinstance(response, str) or not response:
        raise EvaluationError(f"the script takes the first character of each response; {item.item_id} has {response!r}")
    return response[0].lower() == "abcdefghijklmnopqrstuvwxyz"[item.answer]


def require_all(items: Sequence[Item], predictions: Predictions, script: str) -> None:
    """Raise EvaluationError when an item has no prediction."""
    missing = predictions.missing(item.item_id for item in items)
    if missing:
        raise EvaluationError(f"{script} reads every item; {len(missing)} have no response, e.g. {missing[:3]}")
