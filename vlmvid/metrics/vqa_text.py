"""Scores of short free-text answers against references."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_NEEDED = 3  # annotators who must agree with an answer for a full score


class TokenOverlap(NamedTuple):
    """Overlap of two bags of words; all in [0, 1]."""

    f1: float
    precision: float
    recall: float


def vqa_accuracy(num_matches: int, num_answers: int) -> float:
    """The VQA challenge's accuracy of an answer that `num_matches` of `num_answers` annotators gave; in [0, 1].

    The mean over annotators of ``min(1, matches among the others / 3)``: 0, .3, .6, .9, 1 for 0 to 4 matches of ten
    (Antol et al. 2015; visualqa.org). An empty list of answers scores 0.
    """
    if num_answers == 0:
        return 0.0
    if num_matches > _NEEDED:
        return 1.0
    matching = num_matches * min(1.0, (num_matches - 1) / _NEEDED) if num_matches else 0.0
    return (matching + (num_answers - num_matches) * min(1.0, num_matches / _NEEDED)) / num_answers


def token_overlap(candidate: Sequence[str], reference: Sequence[str]) -> TokenOverlap:
    """F1, precision and recall of words, each counted as often as it occurs in both (SQuAD, arXiv 1606.05250).

    Two empty sides agree fully; one empty side scores 0.
    """
    if not candidate or not reference:
        same = float(len(candidate) == len(reference))
        return TokenOverlap(same, same, same)
    common = sum((Counter(candidate) & Counter(reference)).values())
    precision, recall = common / len(candidate), common / len(reference)
    return TokenOverlap(2 * precision * recall / (precision + recall) if common else 0.0, precision, recall)
