"""Yes-no probes of objects that are and are not in a clip: what the synthetic world and the user's own labels share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from vlmvid.types import AttributeValue, Question

NEGATIVE_KINDS = ("random", "popular", "adversarial")
YES_NO = ("yes", "no")
_DETERMINER = re.compile(r"(?:an?|the|some|any|no|\d+)\s", re.IGNORECASE)
_CONSONANT_SOUND = re.compile(r"eu|ewe|one\b|once|u(?:ni(?![nmd])|s[aeu]|[kt][aeiou]|rani|fo\b)", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"[aeiou]|hour|honest|honou?r|heir|[fhlmnrsx]-", re.IGNORECASE)


def article(name: str) -> str:
    """``a`` or ``an``, by how `name` sounds as far as its letters tell: *a unicycle*, *an hourglass*, *an X-ray*."""
    return "an" if _VOWEL_SOUND.match(name) and not _CONSONANT_SOUND.match(name) else "a"


def with_article(name: str) -> str:
    """`name` with its article; one that brings its own (*some grass*, *a pair of scissors*) stays as it is."""
    return name if _DETERMINER.match(name) else f"{article(name)} {name}"


def presence_question(
    present: bool,
    *,
    question_id: str,
    question: str,
    statements: tuple[str, ...],
    task: str = "hallucination",
    attributes: Mapping[str, AttributeValue],
) -> Question:
    """A yes-no question with the statements, true when the answer is yes and true when it is no, that are ranked."""
    return Question(
        question_id=question_id,
        task=task,
        kind="yes_no",
        question=question,
        answer=YES_NO[0] if present else YES_NO[1],
        choices=YES_NO,
        statements=statements,
        attributes=dict(attributes),
    )


def balanced_probes(
    present: Sequence[str],
    absent: Callable[[str], Sequence[str]],
    ask: Callable[[str, str, bool], Question],
    kinds: Sequence[str] = NEGATIVE_KINDS,
) -> Iterator[Question]:
    """For each kind of negatives as many absent objects as present ones, so that half of the answers are yes.

    Args:
        present: objects that are in the clip.
        absent: kind -> objects that are not, the first to be asked first; where they are fewer, fewer present ones
            are asked for too.
        ask: (kind, object, whether it is present) -> the question.
        kinds: of negatives.
    """
    for kind in kinds:
        names = list(absent(kind))[: len(present)]
        for name in present[: len(names)]:
            yield ask(kind, name, True)
        for name in names:
            yield ask(kind, name, False)
