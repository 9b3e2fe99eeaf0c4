"""Answers to yes-no questions: vlmvid's parser, and those of the released scorers, each with its quirks."""

from __future__ import annotations

import re
from typing import Any

from vlmvid.evaluation.answers.base import Parser
from vlmvid.evaluation.scoring.base import Item

_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_BOTH = re.compile(  # "yes and no", "Yes/No", "no, yes."; "Yes, no doubt" says no more than yes
    r"\W*(yes|no)\b(?:\s*[/|&]\s*|\s+(?:and|or)\s+|\W+(?:(?:and|or|but|also)\s+)?(?=(?:yes|no)\b\W*(?:\Z|[.,;!?\n])))"
    r"(?!\1\b)(?:yes|no)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never|hardly)\b|n['’]t\b)(?:\s+(?:an?|the|be|say|answer|with|is|it|clearly|simply|sure))*"
    r"\s+[\"'(*]*(?:yes|no)\b",
    re.IGNORECASE,
)
_POPE_NO = {"No", "not", "no"}
_PUNCTUATION = r";/[]\"{}()=+\_-><@`,?!"
_COMMA_IN_NUMBER = re.compile(r"(\d)(,)(\d)")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_STOPS_REMOVED = 32  # VQA's script passes re.UNICODE where the number of replacements belongs
_UNCLEAR = re.compile(
    r"unclear|uncertain|not (?:clear|sure|possible)|(?:can ?no|can'|do no|don')t (?:tell|know|say|see|determine|answer|"
    r"be (?:determined|answered))|unable to|no (?:image|picture|figure|video|visual)",
    re.IGNORECASE,
)


def _yes_no(raw: Any, item: Item) -> str | None:
    """``yes`` or ``no``: the first word, else the only one of the two that occurs.

    None where neither decides, where the first word is joined to the other one (``yes and no``, ``Yes/No``), and for
    ``not yes``.
    """
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if not isinstance(raw, str):
        return None
    if _BOTH.match(raw):
        return None
    first = re.match(r"\W*(yes|no)\b", raw, re.IGNORECASE)
    if not first and _DENIED.search(raw):
        return None
    words = [first.group(1)] if first else _WORD.findall(raw)
    found = {word.lower() for word in words}
    return found.pop() if len(found) == 1 else None


def _or_unclear(raw: Any, item: Item) -> str | None:
    """`_yes_no`, and ``unclear`` for words that decline to answer; these come first where nothing is shown."""
    declines = isinstance(raw, str) and _UNCLEAR.search(raw) is not None
    if declines and not item.media:
        return "unclear"
    return _yes_no(raw, item) or ("unclear" if declines else None)


def _pope(raw: Any, item: Item) -> str:
    """As POPE's evaluate.py reads it: the text before the first full stop; ``no`` if a word of it is, else ``yes``."""
    words = str(raw).partition(".")[0].replace(",", "").split(" ")
    return "no" if _POPE_NO & set(words) else "yes"


def _lower(raw: Any, item: Item) -> str:
    """As lmms-eval compares it in POPE: lower case without white space around it, whatever it is."""
    return str(raw).lower().strip()


def _vlmevalkit(raw: Any, item: Item) -> str | None:
    """As VLMEvalKit's exact matching reads it: the one of the words yes and no that occurs; both or none is Unknown."""
    words = set(without_punctuation(str(raw).lower()).split())
    found = words & {"yes", "no"}
    return found.pop() if len(found) == 1 else None


def _contains_yes(raw: Any, item: Item) -> str:
    """As lmms-eval's InternVL path of HallusionBench reads it: ``yes`` if those letters occur anywhere, else ``no``."""
    return "yes" if "yes" in str(raw).lower() else "no"


def _amber(raw: Any, item: Item) -> str | None:
    """As AMBER's inference.py compares it: ``Yes`` and ``No`` exactly, nothing else is an answer."""
    return {"Yes": "yes", "No": "no"}.get(str(raw))


def _starts_with(raw: Any, item: Item) -> str | None:
    """As EventHallusion's eval.py reads it: what the text starts with, so that ``Nobody`` is a no."""
    text = raw.lower() if isinstance(raw, str) else ""
    return "yes" if text.startswith("yes") else "no" if text.startswith("no") else None


def _first_position(raw: Any, item: Item) -> str | None:
    """As NaturalBench reads it: of the words yes and no (of A and B in its multiple-choice groups) the earlier one."""
    words = ("A", "B") if item.groups.get("question_type") == "multiple_choice" else ("yes", "no")
    found = [re.search(rf"\b{word}\b", str(raw), re.IGNORECASE) for word in words]
    places = {word: match.start() for word, match in zip(words, found, strict=True) if match}
    return min(places, key=lambda word: places[word]) if places else None


def without_punctuation(text: str) -> str:
    """`text` as VQA's script strips it: punctuation vanishes where it touches a space anywhere, else becomes one."""
    found = text
    comma = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        found = found.replace(mark, "" if comma or f"{mark} " in text or f" {mark}" in text else " ")
    return _FULL_STOP.sub("", found, count=_STOPS_REMOVED)


yes_no = Parser("yes-no-2", _yes_no)
yes_no_unclear = Parser("yes-no-unclear-2", _or_unclear)
pope = Parser("pope", _pope)
lower_text = Parser("lmms-eval-lower", _lower)
vlmevalkit = Parser("vlmevalkit-yes-no", _vlmevalkit)
contains_yes = Parser("lmms-eval-contains-yes", _contains_yes)
amber = Parser("amber", _amber)
starts_with = Parser("event-hallusion", _starts_with)
first_position = Parser("natural-bench", _first_position)
