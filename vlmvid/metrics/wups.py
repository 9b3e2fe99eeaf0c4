"""WUPS: answers compared word by word through a similarity of words (Malinowski and Fritz, arXiv 1410.0210)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

WordSimilarity = Callable[[str, str], float]
_PENALTY = 0.1


def wups_score(candidate: Sequence[str], reference: Sequence[str], similarity: WordSimilarity, alpha: float) -> float:
    """The smaller of both directions' products of best word similarities; in [0, 1].

    A word that is like no word of the other side at all is left out of its product, as NExT-QA's scorer has it
    (doc-doc/NExT-OE, metrics.py): ``dog zzz`` against ``dog`` scores 1. Where every word is left out, or a side is
    empty, the score is 0.

    Args:
        candidate: words of the answer, in the form that `similarity` knows.
        reference: words of the right answer.
        similarity: of two words, in [0, 1]; equal words need not be asked and count 1.
        alpha: a similarity below it is multiplied by 0.1; 0 = none is.
    """
    return min(
        _one_direction(candidate, reference, similarity, alpha), _one_direction(reference, candidate, similarity, alpha)
    )


def _one_direction(words: Sequence[str], others: Sequence[str], similarity: WordSimilarity, alpha: float) -> float:
    product, counted = 1.0, False
    for word in words:
        best = max((_word(word, other, similarity, alpha) for other in others), default=0.0)
        if best > 0:
            product, counted = product * best, True
    return product if counted else 0.0


def _word(first: str, second: str, similarity: WordSimilarity, alpha: float) -> float:
    if first == second:
        return 1.0
    value = similarity(first, second)
    return _PENALTY * value if value < alpha else value
