"""Options that a response names only to deny them ("not (B)", "B is wrong")."""

from __future__ import annotations

import re

NEGATED = re.compile(
    r"\b(?:no|not|cannot|never|neither|nor|without|unlike|instead|incorrect|wrong|false|inaccurate|opposite|contrast)\b|"
    r"n['’]t\b|\b(?:eliminat|exclud|contradict)|\brul(?:e|es|ed|ing) out\b|\brather than\b|"
    r"\bother (?:option|choice|caption)",
    re.IGNORECASE,
)
# Before the letter only words without content of their own may come between: in "not jumping, so B" B is not denied.
_BETWEEN = (
    r"(?:(?:the|an?|be|been|to|is|are|was|it|that|this|if|whether|of|with|about|going|go|either|both|best|correct|right|"
    r"final|only|answers?|ones?|options?|choices?|captions?|sentences?|statements?|information|think|believe|say|sure|"
    r"certain|choos(?:e|ing)|chose|select(?:ing)?|pick(?:ing)?|\w+ly)\b)"
)
_BEFORE = re.compile(
    r"(?:\b(?:no|not|cannot|never|neither|nor|without|unlike|except|exclud\w+|eliminat\w+|contradict\w*|"
    r"rul(?:e|es|ed|ing) out|rather than|instead of|none of|anything but|incorrect|wrong|false|inaccurate|unlikely)\b|"
    r"(?<!none )(?<!no )\bother than\b|(?<!no )(?<!without )(?<! a )\bdoubt\b|n['’]t\b)"
    rf"(?:\s+{_BETWEEN})*\s*[:=]?\s*[(\[\"']*\Z",
    re.IGNORECASE,
)
_WRONG = r"(?:incorrect|wrong|false|inaccurate)\b"
_AFTER = re.compile(
    r"[)\]\"']*\s*(?:,\s*which\s+)?(?:"
    r"(?:is|are|was|were|has\s+been|seems|looks|appears|can|could|should|must|would|may|might)"
    rf"(?:\s+(?:the|an?|be|to|\w+ly))*\s+(?:{_WRONG}|(?:not|never|unlikely|impossible|eliminated|excluded|ruled\s+out)\b)|"
    r"(?:is|are|was|were|do|does|did|has|ca|could|wo|would|should|must|might)n['’]t\b|cannot\b|"
    rf"(?:do|does|did|will)\s+not\b|[(:–-]?\s*{_WRONG})",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\banswers?\b[^.,;!?\n]*\Z", re.IGNORECASE)
_REACH = 120  # characters around a letter that are looked at


def is_denied(text: str, start: int, end: int, option: str) -> bool:
    """Whether the letter or number at ``text[start:end]`` is named to be denied.

    Args:
        text: the response.
        start: the first place of the letter, without brackets.
        end: the place after it.
        option: the text of the option that it names, in lower case; where that itself denies something and follows
            the letter ("(B) is not moving"), it is no denial of the letter.
    """
    if _BEFORE.search(text[max(0, start - _REACH) : start]):
        return True
    after = text[end : end + _REACH]
    following = " ".join(after.casefold().split()).lstrip(")]\"'.: ")
    if option and (following.startswith(option) or (NEGATED.search(option) and option in following)):
        return False
    return _AFTER.match(after) is not None


def denies_the_answer(text: str, start: int) -> bool:
    """Whether the denial before ``text[start]`` is one of the answer ("the answer is not B")."""
    before = text[max(0, start - _REACH) : start]
    return _BEFORE.search(before) is not None and _ANSWER.search(before) is not None
