"""Responses to questions with options as lmms-eval reads them, bug for bug (EvolvingLMMs-Lab/lmms-eval at 75571cfe0f).

Where lmms-eval draws a random option, without a seed, the readers here give None.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_PHRASES = (
    "the answer is",
    "answer is",
    "the correct answer is",
    "correct answer is",
    "the best answer is",
    "best answer is",
    "the correct option is",
    "correct option is",
    "the best option is",
    "best option is",
    "the choice is",
    "choice is",
    "the correct choice is",
    "correct choice is",
    "i choose",
    "i select",
    "i pick",
    "my answer is",
    "my choice is",
    "\uc635\uc158",
    "\uc815\ub2f5\uc740",
    "\ub2f5\uc740",
    "\ub2f5:",
    "\u7b54\u6848\u662f",
    "\u7b54\u6848\u4e3a",
    "\u9009",
    "\u7b54\u3048\u306f",
)
_FORMS = (("({})", 6), ("{}.", 5), ("{}:", 4), ("{})", 3), ("{} ", 2))
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_MAX_PERIODS = 32  # the value of re.UNICODE, which is passed where the number of replacements belongs


def mcq_letter(response: str, letters: Sequence[str]) -> str:
    """The letter of the shared reader `mcq_extract` (Video-MME), or "".

    Forms have priorities: at the start, at the end, after a phrase, ``(A)``, ``A.``, ``A:``, ``A)``, ``A`` and a space;
    of equal ones the last in the text counts. After a phrase every letter of `letters` counts, also within a word, so
    that "the answer is Blue" is B. Only where nothing has a form any occurrence counts.
    """
    if not response.strip():
        return ""
    text = f" {_stripped(response.strip(), ',.!?;:' + chr(39) + chr(34))} "
    found = [
        (priority, text.rfind(form.format(letter)), letter)
        for form, priority in _FORMS
        for letter in letters
        if form.format(letter) in text
    ]
    lowered = text.lower()
    for phrase in _PHRASES:
        start = lowered.find(phrase)
        if start >= 0:
            places = [(text.find(letter, start + len(phrase)), letter) for letter in letters]
            found += [(_PHRASE, place, letter) for place, letter in places if place >= 0]
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and not bare[len(letter) :][:1].isalpha():
            found.append((_START, 0, letter))
        if bare.endswith(letter) and not bare[: -len(letter)][-1:].isalpha():
            found.append((_END, len(text) - 1, letter))
    if not found:
        found = [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda entry: entry[:2])[2] if found else ""


def _stripped(text: str, characters: str) -> str:
    for character in characters:
        text = text.strip(character)
    return text


def nextqa_letter(response: str, choices: Sequence[str]) -> str | None:
    """The letter for NExT-QA, or None where a random one is drawn.

    ``(A)`` first, else a letter before a space (also the last one of a word), else before a full stop, else the text of
    an option if there are more than five words; of several the last in the response, where only a letter between two
    spaces has a place.
    """
    letters = string.ascii_uppercase[: len(choices)]
    text = f" {_stripped(response, ',.!?;:' + chr(39))} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    held = _held(text, choices, letters)
    return max(held, key=held.__getitem__) if held else None


def egoschema_letter(response: str, choices: Sequence[str]) -> str | None:
    """The letter for EgoSchema, or None where a random one is drawn.

    All forms of all letters are candidates, each at its last place; the first of these places counts.

    Args:
        response: what the model answered.
        choices: the options as they are shown there, ``A. text``.
    """
    letters = string.ascii_uppercase[: len(choices)]
    text = f" {_stripped(response, ',.!?;:' + chr(39))} "
    places = [
        (text.rfind(form.format(letter)), letter)
        for form in ("({})", "{} ", "{}.")
        for letter in letters
        if form.format(letter) in text
    ]
    if places:
        return min(places, key=lambda entry: entry[0])[1]
    held = _held(text, choices, letters)
    return min(held, key=held.__getitem__) if held else None


def _held(text: str, choices: Sequence[str], letters: str) -> dict[str, int]:
    """The last place of each option's text in a response of more than five words."""
    if len(text.split()) <= 5:
        return {}
    lowered = text.lower()
    texts = {letter: choice.strip().lower() for letter, choice in zip(letters, choices, strict=True)}
    return {letter: lowered.rfind(option) for letter, option in texts.items() if option in lowered}


def mvbench_answer(response: str) -> str:
    """What is compared with the right letter for MVBench: a letter A to E, or a text.

    The first letter A to E that stands alone counts in any case, so that an English "a" is option A.
    """
    marked = re.match(r"([A-E])\.\s*(.+)$", response.strip(), re.IGNORECASE)
    if marked:
        return marked.group(1).upper()
    text = _without_punctuation(response.replace("\n", " ").replace("\t", " ").strip())
    text = _stripped(text, "'\")(").strip().lower()
    letter = re.search(r"\b([a-e])\b", text, re.IGNORECASE)
    return letter.group(1).upper() if letter else text


def _without_punctuation(text: str) -> str:
    comma = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        between = not (f"{mark} " in text or f" {mark}" in text or comma)
        cleaned = cleaned.replace(mark, " " if between else "")
    return re.sub(r"\.(?!\d)", "", cleaned, count=_MAX_PERIODS)


def tvbench_letter(response: str, choices: Sequence[str]) -> str:
    """The letter for TVBench, or "".

    In upper case: the first letter that stands alone, if it is an option's; else the first character, if it is, so that
    "cat" is C; else the only option whose text occurs.
    """
    text = response.strip()
    letters = string.ascii_uppercase[: max(len(choices), 2)]
    if not text:
        return ""
    alone = re.search(r"\b([A-Z])\b", text.upper())
    if alone and alone.group(1) in letters:
        return alone.group(1)
    first = re.match(r"[(\[]?([A-Z])", text.upper())
    if first and first.group(1) in letters:
        return first.group(1)
    said = " ".join(text.lower().split())
    plain = [" ".join(choice.lower().split()) for choice in choices]
    held = [index for index, option in enumerate(plain) if option and option in said]
    return letters[held[0]] if len(held) == 1 else ""
