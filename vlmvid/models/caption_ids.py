"""Captions as small integers, for the objectives that predict words.

Word by word and independent of the text encoder: the encoder's own tokenizer has tens of thousands of entries, most
of which never occur in the captions of one recipe, and an encoder given by its features alone has none at hand.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# M captions, L places of the longest
PADDING, BEGIN, END, MASK, FIRST_WORD = 0, 1, 2, 3, 4
# Runs of letters, digits and underscores, or one mark; scripts without spaces give whole phrases.
_WORD = re.compile(r"\w+|[^\w\s]")


def words_of(caption: str) -> list[str]:
    """The words and punctuation marks of a caption, in lower case and composed Unicode (NFC)."""
    return _WORD.findall(unicodedata.normalize("NFC", caption.lower()))


@dataclass(frozen=True)
class CaptionVocabulary:
    """The words that have an id.

    Attributes:
        words: word i has id ``FIRST_WORD + i``; ids below mean padding, begin, end and hidden (`MASK`).

    ``len()`` counts the ids, these four included.
    """

    words: tuple[str, ...]

    @classmethod
    def of_captions(cls, captions: Iterable[str], max_words: int = 8192) -> CaptionVocabulary:
        """The `max_words` most frequent words of `captions`; of equally frequent ones the first by code point.

        The order of the captions changes nothing. Raises ValueError for a negative `max_words`.
        """
        if max_words < 0:
            raise ValueError(f"max_words must be at least 0, got {max_words}")
        counts = Counter(word for caption in captions for word in words_of(caption))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:max_words]))

    def __len__(self) -> int:
        return FIRST_WORD + len(self.words)

    def encode(self, captions: Sequence[str], max_length: int = 32) -> NDArray[np.int64]:
        """Captions to ids, int64 (M, L): `BEGIN`, the words, `END`, then `PADDING`.

        A word without an id becomes `MASK`: it is hidden, and never asked for. L is the length of the longest caption
        with begin and end, at most `max_length` and at least 2; a longer caption loses its last words and keeps `END`.
        Raises ValueError for a `max_length` below 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, for begin and end; got {max_length}")
        id_of = {word: FIRST_WORD + index for index, word in enumerate(self.words)}
        rows = [[id_of.get(word, MASK) for word in words_of(caption)[: max_length - 2]] for caption in captions]
        ids = np.full((len(rows), 2 + max(map(len, rows), default=0)), PADDING, dtype=np.int64)
        for row, word_ids in zip(ids, rows, strict=True):
            row[: len(word_ids) + 2] = [BEGIN, *word_ids, END]
        return ids
