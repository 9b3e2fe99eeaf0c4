"""Answers to questions with options: which option a response means."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from vlmvid.evaluation.answers.base import Parser, finite
from vlmvid.evaluation.answers.denial import NEGATED, denies_the_answer, is_denied
from vlmvid.evaluation.scoring.base import Item

Chosen = int | tuple[int, ...]

_LETTERS = string.ascii_uppercase
_EDGES = " \t\r\n.,;:!?\"'`*"
_OPTION = r"(?:option|choice|caption|sentence|statement|information)"
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")
_JOINED = (
    r"[)\]\"']*\s*(?P<join>,(?:\s*(?:/|&|\||\+|\bor\b|\band\b))?|/|&|\||\+|\bor\b|\band\b)\s*"
    r"(?:(?:maybe|perhaps|possibly|probably|else|even|also)\s+)*"
)
_LIST_END = re.compile(r"[)\]\"'.]*\s*(?:\Z|[,.;\n]|(?:or|and)\b)")
_PLURAL = re.compile(r"[)\]\"']*\s*(?:both\s+)?(?:are|were|do|have|cannot|can)\b")
_NUMBERED = re.compile(
    rf"(?<!\w){_OPTION}\s*(?P<first>[0-9]{{1,4}})(?!\w)(?:\s*(?:/|&|\bor\b|\band\b)\s*(?P<second>[0-9]{{1,4}})(?!\w))?",
    re.IGNORECASE,
)
_NO_NOUN = r"(?:and|or|nor|but|is|are|was|were|as|because|since|if|for|would|seems|matches|fits|with|not)\b"


class _Mention(NamedTuple):
    """An option that a response names: its index, whether it is denied, and the place in the text."""

    option: int
    denied: bool
    place: int


def chosen(raw: Any, item: Item) -> Chosen | None:
    """The index of the option that `raw` means, several where scores tie, or None where that is not clear.

    A list of T scores for T options is the highest one; of tied options with different texts all are given. An integer
    is an index from 0. A text is an option if it

    - is that option's text, or its letter alone, in any case and with brackets or a full stop;
    - gives a letter as its answer (``answer is B``, ``I choose (B)``); else begins with a marked one (``(B)``,
      ``b) ...``), unless it repeats several options with their letters, or names options (``Option 2``, from 1);
    - holds one capital letter standing alone, and no text of another option. An ``A`` before a word in lower case is an
      article, and no letter;
    - holds the text of one option as whole words, in a sentence without a negation; of texts within each other the
      longest counts;
    - is a number and no option has one: an index from 0, as result files in CSV have it.

    Where a text means several options, only its sentences without a negation count ("B. A is wrong"). A letter or
    number that is denied ("not (B)", "B is wrong") is no answer; one that another is joined to ("A or B") is not clear.

    An object with ``prediction`` (the result file of NExT-QA) is that value. Nothing is guessed.
    """
    if isinstance(raw, Mapping):
        raw = raw.get("prediction")
    if isinstance(raw, bool) or raw is None:
        return None
    if isinstance(raw, int | float):
        return int(raw) if raw in range(len(item.choices)) else None
    if isinstance(raw, str):
        return _from_text(raw, item.choices)
    if isinstance(raw, Sequence):
        return _from_scores(raw, item.choices)
    return None


def is_tied(raw: Any, item: Item) -> bool:
    """Whether `raw` is a list of scores whose highest belongs to options with different texts."""
    return not isinstance(raw, str | int | float) and isinstance(chosen(raw, item), tuple)


def is_right(parsed: Chosen, item: Item) -> float:
    """1.0 for the right option, or another one with the same text; 0.0 for tied ones."""
    return float(isinstance(parsed, int) and item.choices[parsed] == item.choices[item.answer])


def _from_scores(scores: Sequence[Any], choices: Sequence[str]) -> Chosen | None:
    values = [value for score in scores if (value := finite(score)) is not None]
    if not choices or len(scores) != len(choices) or len(values) != len(choices):
        return None
    best = max(values)
    top = tuple(index for index, value in enumerate(values) if value == best)
    return top if len({choices[index] for index in top}) > 1 else top[0]


def _from_text(text: str, choices: Sequence[str]) -> int | None:
    text = text.replace("*", "").replace("`", "").strip()
    texts = [_plain(choice) for choice in choices]
    letters = min(len(choices), len(_LETTERS))
    if not text or not letters:
        return None
    alone = _alone(text, letters)
    whole = texts.index(_plain(text)) if _plain(text) in texts else None
    if alone is not None or whole is not None:
        return _agreed([alone, whole])
    if re.fullmatch(r"[0-9]{1,4}", text):
        index = int(text)
        return index if index < len(choices) and not any(re.search(r"\d", choice) for choice in choices) else None
    found = _meant(text, texts)
    if len(set(found)) > 1:
        asserted = _asserted(text)
        found = _meant(asserted, texts) if asserted else []
    return _agreed(found)


def _meant(text: str, texts: Sequence[str]) -> list[int]:
    """Indices of the options that the response means; several where it contradicts itself."""
    stated, named = _named(text, texts)
    standing = _standing(text, texts)
    refused = {one.option for one in standing if one.denied and denies_the_answer(text, one.place)}
    if refused & {one.option for one in stated}:
        return []
    for mentions in (stated, named):
        if mentions and not _is_refusal(mentions):
            return [one.option for one in mentions]
    if _repeats(text, texts):
        return []
    mentions = [*stated, *named, *standing]
    found = [*(one.option for one in mentions), *_held(text, texts)]
    return [] if len(set(found)) == 1 and _is_refusal(mentions) else found


def _is_refusal(mentions: Sequence[_Mention]) -> bool:
    """Whether one option is named only, and is denied; where there are several the sentences decide."""
    return len({one.option for one in mentions}) == 1 and any(one.denied for one in mentions)


def _agreed(found: Sequence[int | None]) -> int | None:
    indices = {index for index in found if index is not None}
    return indices.pop() if len(indices) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_EDGES)


@cache
def _patterns(count: int) -> tuple[re.Pattern[str], ...]:
    """Patterns of a letter alone, one that begins a response, one given as an answer, one standing, one joined on."""
    upper = f"[A-{_LETTERS[count - 1]}]"
    either = f"[A-{_LETTERS[count - 1]}a-{_LETTERS[count - 1].lower()}]"
    alone = re.compile(rf"[\W_]*({either})[\W_]*")
    # What follows the mark keeps abbreviations out: "e.g. this", "D.C. is".
    lead = re.compile(rf"[(\[\"'\s]*({either})[)\].:]+(?=\s|$|[A-Z(](?!\.))")
    said = re.compile(
        rf"(?<!\w)(?:(?P<answer>(?i:answer|choose|select|pick))|(?P<best>(?i:best|correct|right|final)\s+)?(?i:{_OPTION}))"
        rf"(?P<is>\s+(?i:is|are|would\s+be|should\s+be))?\s*[:=]?\s*(?:(?i:{_OPTION})\s*)?(?:[(\[](?P<marked>{either})[)\]]|(?P<bare>{upper})(?![\w'’-]))"
    )
    standing = re.compile(rf"[(\[](?P<marked>{either})[)\]]|(?<![\w'’.&-])(?P<bare>{upper})(?![\w'’&-]|\.[A-Za-z])")
    joined = re.compile(
        rf"(?i:{_JOINED}(?:{_OPTION}\s+)?)(?:[(\[](?P<marked>{either})[)\]]|(?P<bare>{upper})(?![\w'’-]))"
    )
    return alone, lead, said, standing, joined


def _alone(text: str, count: int) -> int | None:
    found = _patterns(count)[0].fullmatch(text)
    return _LETTERS.index(found.group(1).upper()) if found else None


def _named(text: str, texts: Sequence[str]) -> tuple[list[_Mention], list[_Mention]]:
    """The options that the response gives as its answer, and those that it names as options or begins with."""
    letters = min(len(texts), len(_LETTERS))
    stated: list[_Mention] = []
    named: list[_Mention] = []
    for match in _patterns(letters)[2].finditer(text):
        if match["bare"] and not match["is"] and _is_article(text, match):
            continue
        places = stated if match["answer"] or match["best"] else named
        places += _with_joined(text, match.span("marked" if match["marked"] else "bare"), texts)
    named += _numbered(text, texts)
    lead = _patterns(letters)[1].match(text)
    if lead and not _repeats(text, texts):
        named += _with_joined(text, lead.span(1), texts)
        rest = _plain(text[lead.end() :])
        if rest in texts and rest != texts[_LETTERS.index(lead[1].upper())]:
            named.append(_Mention(texts.index(rest), False, lead.end()))
    elif text[0] in _LETTERS[:letters] and _plain(text[1:]) == texts[_LETTERS.index(text[0])]:
        named.append(_Mention(_LETTERS.index(text[0]), False, 0))
    return stated, named


def _repeats(text: str, texts: Sequence[str]) -> bool:
    """Whether the response lists several options with their letters, as they were asked."""
    plain = _plain(text)
    pairs = zip(_LETTERS.lower(), texts, strict=False)
    listed = [re.search(rf"(?<!\w){letter}[).:]\s*{re.escape(option)}", plain) for letter, option in pairs if option]
    return sum(found is not None for found in listed) > 1


def _mention(span: tuple[int, int], text: str, texts: Sequence[str]) -> _Mention:
    index = _LETTERS.index(text[slice(*span)].upper())
    return _Mention(index, is_denied(text, *span, texts[index]), span[0])


def _with_joined(text: str, span: tuple[int, int], texts: Sequence[str]) -> list[_Mention]:
    """The letter at `span`, and another that is joined to it ("A or B", "A, B")."""
    first = _mention(span, text, texts)
    match = _patterns(min(len(texts), len(_LETTERS)))[4].match(text, span[1])
    if match is None or match["bare"] == "I" or (match["bare"] and _is_article(text, match)):
        return [first]
    place = match.span("marked" if match["marked"] else "bare")
    other = _mention(place, text, texts)
    if other.denied and not _PLURAL.match(text, place[1]):
        return [first]  # "A, and B is wrong"
    # "B, A shows a dog" goes on with another sentence; "B, C" and "B, C or D" are lists.
    listed = other.denied or match["join"] != "," or _LIST_END.match(text, place[1])
    return [first, other] if listed else [first]


def _numbered(text: str, texts: Sequence[str]) -> list[_Mention]:
    """The options that are named by their numbers, from 1."""
    found = []
    for match in _NUMBERED.finditer(text):
        for group in ("first", "second"):
            number = int(match[group] or 0)
            if 1 <= number <= len(texts):
                denied = is_denied(text, *match.span(group), texts[number - 1])
                found.append(_Mention(number - 1, denied, match.start(group)))
    return found


def _standing(text: str, texts: Sequence[str]) -> list[_Mention]:
    """The letters that stand alone."""
    found = []
    for match in _patterns(min(len(texts), len(_LETTERS)))[3].finditer(text):
        bare = match["bare"]
        if bare == "I" or (bare and _is_article(text, match)):
            continue
        found.append(_mention(match.span("bare" if bare else "marked"), text, texts))
    return found


def _is_article(text: str, match: re.Match[str]) -> bool:
    return match.group("bare") == "A" and re.match(rf"\s+(?!{_NO_NOUN})[a-z]", text[match.end() :]) is not None


def _asserted(text: str) -> str:
    """`text` without the sentences that hold a negation."""
    return "\n".join(part for part in _SENTENCE_END.split(text) if not NEGATED.search(part)).strip()


def _held(text: str, texts: Sequence[str]) -> list[int]:
    """Indices of the options that `text` asserts as whole words, without those that only occur within longer ones."""
    whole, asserted = _plain(text), _plain(_asserted(text))
    found = []
    for option in sorted({option for option in texts if option}, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(option)}(?!\w)"
        if re.search(pattern, whole if NEGATED.search(option) else asserted):
            found.append(texts.index(option))
            whole, asserted = (re.sub(pattern, "\0", place) for place in (whole, asserted))
    return found


choice = Parser("choice-2", chosen)
