"""BLEU as COCO's caption evaluation computes it (Papineni et al. 2002; salaniz/pycocoevalcap at ad63453cfa, bleu)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.metrics.captioning.ngrams import MAX_N, caption_lengths, count_ngrams, repeat_captions
from vlmvid.metrics.captioning.texts import check_texts

_TINY, _SMALL = 1e-15, 1e-9  # added to counts above and below, so that 0 of 0 is 0


@dataclass(frozen=True, eq=False)
class BleuCounts:
    """What BLEU is computed from, for each of N items; sums over items give the corpus score.

    Attributes:
        correct: float64 (N, 4), n-grams of the candidate that a reference has, each at most as often as the reference
            that has it most often.
        guess: float64 (N, 4), n-grams of the candidate.
        length: float64 (N,), words of the candidate.
        reference_length: float64 (N,), words of the reference nearest in length; of two equally near the shorter.
    """

    correct: NDArray[np.float64]
    guess: NDArray[np.float64]
    length: NDArray[np.float64]
    reference_length: NDArray[np.float64]

    def table(self) -> NDArray[np.float64]:
        """All counts as (N, 10), for `bleu_of_table`."""
        return np.column_stack([self.correct, self.guess, self.length, self.reference_length])


def bleu_counts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> BleuCounts:
    """Counts of tokenized captions; raises EvaluationError where an item has no reference."""
    check_texts(candidates, references)
    texts, owner, places = repeat_captions(candidates, references)
    num = len(candidates)
    lengths = caption_lengths(texts)
    correct = np.zeros((num, MAX_N))
    for n, counts in enumerate(count_ngrams(texts)):
        is_candidate = counts.caption < num
        item = np.concatenate([np.arange(num), owner])[counts.caption]
        key = item * counts.num_grams + counts.gram
        wanted, order = np.unique(key[~is_candidate], return_inverse=True)
        most = np.zeros(len(wanted), dtype=np.int64)
        np.maximum.at(most, order, counts.count[~is_candidate])
        place = np.searchsorted(wanted, key[is_candidate])
        known = np.zeros(len(place), dtype=bool)
        inside = place < len(wanted)
        known[inside] = wanted[place[inside]] == key[is_candidate][inside]
        clipped = np.minimum(counts.count[is_candidate][known], most[place[known]])
        correct[:, n] = np.bincount(item[is_candidate][known], weights=clipped, minlength=num)
    length = lengths[:num]
    guess = np.maximum(0, length[:, None] - np.arange(MAX_N))
    # The key orders references of an item by distance, then by length.
    distance = np.abs(lengths[places] - length[owner])
    first = np.lexsort((lengths[places], distance, owner))
    starts = np.searchsorted(owner[first], np.arange(num))
    nearest = lengths[places][first][starts]
    return BleuCounts(correct, guess.astype(np.float64), length.astype(np.float64), nearest.astype(np.float64))


def corpus_bleu(counts: BleuCounts) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4 (4,) in [0, 1] of the whole set: counts are summed over items, then the score is taken."""
    return bleu_of_table(counts.table().sum(axis=0))


def sentence_bleu(counts: BleuCounts) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4 (N, 4) of each item alone, with the same constants; their mean is not the corpus score."""
    return bleu_of_table(counts.table())


def bleu_of_table(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1 to BLEU-4 (..., 4) of counts (..., 10): the geometric mean of precisions times the brevity penalty."""
    correct, guess = table[..., :MAX_N], table[..., MAX_N : 2 * MAX_N]
    length, reference_length = table[..., -2], table[..., -1]
    precisions = np.cumprod((correct + _TINY) / (guess + _SMALL), axis=-1)
    scores = precisions ** (1 / np.arange(1, MAX_N + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    # exp(1 - r / c) of an empty candidate is 0, by underflow.
    penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    result: NDArray[np.float64] = scores * penalty[..., None]
    return result
