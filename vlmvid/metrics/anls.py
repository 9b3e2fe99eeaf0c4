"""Average normalised Levenshtein similarity, the score of text-centric VQA (ST-VQA, arXiv 1905.13648, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

from vlmvid.errors import EvaluationError


def levenshtein(first: str, second: str) -> int:
    """Insertions, deletions and substitutions of characters that turn `first` into `second`.

    One column of the dynamic programme at a time, held in the bits of two integers (Myers 1999, J. ACM 46(3), in
    Hyyro's form).
    """
    if not first or not second:
        return max(len(first), len(second))
    places: dict[str, int] = {}
    for row, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << row
    mask, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = mask, 0, len(first)
    for character in second:
        match = places.get(character, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        right, left = down | (~(diagonal | up) & mask), up & diagonal
        if right & last:
            distance += 1
        elif left & last:
            distance -= 1
        right = (right << 1 | 1) & mask
        up, down = ((left << 1) & mask) | (~(diagonal | right) & mask), right & diagonal
    return distance


def anls_score(answer: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """The best similarity ``1 - NL`` in [0, 1] of `answer` to one of `references`, 0 where NL is not below `threshold`.

    NL is the Levenshtein distance over the length of the longer text. Nothing is normalised here; two empty texts are
    alike.

    Raises:
        EvaluationError: no references.
    """
    if not references:
        raise EvaluationError("ANLS needs at least one reference answer, got none")
    best = min(_normalised(answer, reference) for reference in references)
    return 1.0 - best if best < threshold else 0.0


def _normalised(first: str, second: str) -> float:
    longer = max(len(first), len(second))
    return levenshtein(first, second) / longer if longer else 0.0
