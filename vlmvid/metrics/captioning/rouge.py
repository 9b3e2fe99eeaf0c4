"""ROUGE-L as COCO's caption evaluation computes it (Lin 2004; salaniz/pycocoevalcap at ad63453cfa, rouge)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmvid.metrics.captioning.texts import check_texts

BETA = 1.2


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """ROUGE-L (N,) in [0, 1] of each item; the score of a set is their mean.

    F with beta 1.2 of the highest precision and the highest recall over the references, each taken over all of them,
    so that the two may come from different references. Captions are split at single spaces: an empty caption is one
    empty word, which an empty reference matches. Raises EvaluationError where an item has no reference.
    """
    check_texts(candidates, references)
    scores = np.zeros(len(candidates))
    for index, (candidate, texts) in enumerate(zip(candidates, references, strict=True)):
        words = candidate.split(" ")
        split = [text.split(" ") for text in texts]
        common = common_subsequences(words, split)
        precision = max(common) / len(words)
        recall = max(length / len(row) for length, row in zip(common, split, strict=True))
        if precision and recall:
            scores[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def common_subsequences(words: Sequence[str], others: Sequence[Sequence[str]]) -> list[int]:
    """Length of the longest common subsequence of `words` with each of `others`.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): a bit per word, one addition per word of
    the other sequence.
    """
    where: dict[str, int] = {}
    for place, word in enumerate(words):
        where[word] = where.get(word, 0) | 1 << place
    full = (1 << len(words)) - 1
    lengths = []
    for other in others:
        free = full
        for word in other:
            matched = free & where.get(word, 0)
            free = ((free + matched) | (free - matched)) & full
        lengths.append(len(words) - free.bit_count())
    return lengths
