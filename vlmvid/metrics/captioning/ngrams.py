"""Counts of n-grams of many captions at once, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_N = 4  # BLEU-4 and CIDEr count up to four words


@dataclass(frozen=True, eq=False)
class NgramCounts:
    """How often each n-gram of one length occurs in each caption; sorted by caption, then by n-gram.

    Attributes:
        caption: int64 (E,), index of the caption.
        gram: int64 (E,), the n-gram; equal n-grams have equal numbers in all captions that were counted together.
        count: int64 (E,), occurrences, at least 1.
        num_grams: numbers lie below it; at least 1.
    """

    caption: NDArray[np.int64]
    gram: NDArray[np.int64]
    count: NDArray[np.int64]
    num_grams: int


def caption_lengths(captions: Sequence[str]) -> NDArray[np.int64]:
    """Words (N,) of each caption, split at white space."""
    return np.array([len(caption.split()) for caption in captions], dtype=np.int64)


def count_ngrams(captions: Sequence[str]) -> tuple[NgramCounts, ...]:
    """Counts for n = 1 to 4 of the words of each caption, split at white space."""
    number: dict[str, int] = {}
    words = [[number.setdefault(word, len(number)) for word in caption.split()] for caption in captions]
    lengths = np.array([len(row) for row in words], dtype=np.int64)
    flat = np.array([word for row in words for word in row], dtype=np.int64)
    owner = np.repeat(np.arange(len(captions)), lengths)
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # words from here to the end of the caption
    num_words = max(1, len(number))
    starts, grams, num_grams = np.arange(len(flat)), flat, num_words
    found = []
    for n in range(1, MAX_N + 1):
        if n > 1:
            # An n-gram is the (n - 1)-gram at its start, already a number, and its last word.
            fits = room[starts] >= n
            starts = starts[fits]
            kinds, grams = np.unique(grams[fits] * num_words + flat[starts + n - 1], return_inverse=True)
            num_grams = max(1, len(kinds))
        keys, counts = np.unique(owner[starts] * num_grams + grams, return_counts=True)
        found.append(NgramCounts(keys // num_grams, keys % num_grams, counts, num_grams))
    return tuple(found)


def repeat_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """All texts in one list, candidates first, with the item (R,) and the place (R,) of each reference in it."""
    owner = np.repeat(np.arange(len(references)), [len(texts) for texts in references])
    texts = [*captions, *(text for group in references for text in group)]
    return texts, owner.astype(np.int64), np.arange(len(captions), len(texts), dtype=np.int64)
