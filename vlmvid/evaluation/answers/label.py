"""Names of classes: which of a fixed set a response means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.scoring.base import Item

Label = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RankedScores:
    """What counts of a list of scores: the best class, or all that tie, and the 0-based place of the right one.

    Classes that score as high as the right one stand before it.
    """

    chosen: Label
    place: int


_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NO_WORD = re.compile(r"[^\w']+|_+")


def plain_label(text: str) -> str:
    """A class name in small letters and single spaces: ``ApplyEyeMakeup``, ``apply_eye_makeup`` are one."""
    return " ".join(_NO_WORD.sub(" ", _CAMEL.sub(" ", text).casefold()).split())


def chosen_label(raw: Any, item: Item) -> Label | None:
    """The index of the class that `raw` means, several where it does not decide between them, or None.

    A list of C scores is the highest one, or all that are highest. An integer is an index from 0, unless a class bears
    that number as its name. A text is the class whose name it is (`plain_label`), else the one whose name it holds as
    whole words, if it holds that of one class only; a longer name hides the shorter ones within it. A text of digits
    that is no name is an index. Nothing is guessed.
    """
    if isinstance(raw, bool) or raw is None:
        return None
    if isinstance(raw, int | str):
        return _from_text(str(raw), item.choices)
    if isinstance(raw, RankedScores):
        return raw.chosen
    if isinstance(raw, Sequence):
        scores = _scores(raw, len(item.choices))
        return None if scores is None else _best(scores)
    return None


def is_undecided(raw: Any, item: Item) -> bool:
    """Whether `raw` means several classes at once: scores that tie, or a name that two classes share."""
    return isinstance(chosen_label(raw, item), tuple)


def ranked(raw: Any, item: Item) -> Any:
    """A list of C scores as `RankedScores`; everything else as it is.

    A thousand scores for each of many samples are read once, and stay out of the sample log.
    """
    if isinstance(raw, str) or not isinstance(raw, Sequence):
        return raw
    scores = _scores(raw, len(item.choices))
    if scores is None:
        return raw
    return RankedScores(_best(scores), int((scores >= scores[item.answer]).sum()) - 1)


def _scores(raw: Sequence[Any], num_classes: int) -> NDArray[np.float64] | None:
    if len(raw) != num_classes or not num_classes or not set(map(type, raw)) <= {int, float}:
        return None
    try:
        scores = np.asarray(raw, dtype=np.float64)
    except OverflowError:  # an integer beyond 1e308
        return None
    return None if np.isnan(scores).any() else scores


def _best(scores: NDArray[np.float64]) -> Label:
    top = tuple(np.flatnonzero(scores == scores.max()).tolist())
    return top if len(top) > 1 else top[0]


def _from_text(text: str, choices: tuple[str, ...]) -> Label | None:
    known, pattern = _names(choices)
    plain = plain_label(text)
    if plain in known:
        return known[plain]
    if re.fullmatch(r"[0-9]{1,6}", text.strip()):
        return int(text) if int(text) < len(choices) else None
    held = {match for match in pattern.findall(plain)} if pattern else set()
    return known[held.pop()] if len(held) == 1 else None


@lru_cache(maxsize=16)
def _names(choices: tuple[str, ...]) -> tuple[Mapping[str, Label], re.Pattern[str] | None]:
    places: dict[str, list[int]] = {}
    for index, choice in enumerate(choices):
        places.setdefault(plain_label(choice), []).append(index)
    known: dict[str, Label] = {name: tuple(found) if len(found) > 1 else found[0] for name, found in places.items()}
    longest_first = sorted((name for name in known if name), key=lambda name: (-len(name), name))
    if not longest_first:
        return known, None
    return known, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


label = Parser("label-1", chosen_label)
