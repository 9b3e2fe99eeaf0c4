"""Answers as the VQA challenge normalises them (GT-Vision-Lab/VQA at a013f0043c, vqaEval.py), and as its copies do.

In this order: line breaks and tabs to spaces; punctuation; lower case; number words to digits; articles dropped;
contractions given their apostrophe. The reference has three slips that `VqaRules` names and compat modes keep:

- it takes away 32 full stops at most, because a regex flag stands where the count belongs;
- its pattern for those full stops means to spare the ones between digits, but a malformed look-behind spares only
  those before a digit, so that ``3.`` loses its stop (which is right) and ``.5`` keeps it;
- a mark is removed where it touches a space *anywhere* in the text, or where the text has a comma between digits;
  else a space takes its place. So ``a-b`` gives ``a b`` and ``a-b c- d`` gives ``ab c d``.

The reference also fills its table of number words with every word it sees. A word is mapped to itself, so that this
changes no output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vlmvid.evaluation.answers.base import Parser, text
from vlmvid.evaluation.answers.open_text import NUMBER_WORDS
from vlmvid.evaluation.scoring.base import Item

ARTICLES = frozenset(("a", "an", "the"))
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ANY_MARK = re.compile("[" + re.escape(_MARKS + ".") + "]")
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA_OFFICIAL = re.compile(r"\d,\d")
_COMMA_EVALAI = re.compile(r"(?<=\d),+(?=\d)")
_DIGITS = {**NUMBER_WORDS, "none": "0"}
_CONTRACTED = (
    "'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've "
    "mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've"
).split()
# The reference's table has each of these with one of its apostrophes left out, and one entry the wrong way round.
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}


@dataclass(frozen=True, slots=True)
class VqaRules:
    """How one scorer normalises.

    Attributes:
        max_periods: full stops that are taken away; 0 = all. The reference takes 32.
        evalai_comma: whether ``1,,2`` counts as a comma between digits, as in EvalAI's copy.
        word_tokenize: whether commas and question marks go, and ``'s`` is split off, before all else: TextVQA's copy.
    """

    max_periods: int = 0
    evalai_comma: bool = False
    word_tokenize: bool = False


PRINCIPLED = VqaRules()
OFFICIAL = VqaRules(max_periods=int(re.UNICODE))
EVALAI = VqaRules(max_periods=int(re.UNICODE), evalai_comma=True)
TEXTVQA = VqaRules(max_periods=int(re.UNICODE), evalai_comma=True, word_tokenize=True)


def clean_spaces(answer: str) -> str:
    """`answer` without line breaks, tabs and spaces at its ends: what the reference does to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 18)
def vqa_normal(answer: str, rules: VqaRules = PRINCIPLED) -> str:
    """`answer` in normal form; it may be empty, e.g. that of ``the``."""
    if rules.word_tokenize:
        answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    answer = clean_spaces(answer)
    if _ANY_MARK.search(answer):
        answer = _without_marks(answer, rules)
    words = [_DIGITS.get(word, word) for word in answer.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_marks(answer: str, rules: VqaRules) -> str:
    comma = _COMMA_EVALAI if rules.evalai_comma else _COMMA_OFFICIAL
    in_number = comma.search(answer) is not None
    out = answer
    for mark in _MARKS:
        if mark in out:
            out = out.replace(mark, "" if in_number or f"{mark} " in answer or f" {mark}" in answer else " ")
    return _PERIOD.sub("", out, count=rules.max_periods)


def _vqa(raw: Any, item: Item) -> str | None:
    found: str | None = text.parse(raw, item)
    return None if found is None else vqa_normal(found) or None


vqa = Parser("vqa-1", _vqa)
