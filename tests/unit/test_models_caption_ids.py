from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.models.caption_ids import BEGIN, END, FIRST_WORD, MASK, PADDING, CaptionVocabulary, words_of

CAPTIONS = ["A red ball, then a blue ball.", "a ball"]
TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


def test_words() -> None:
    assert words_of("A red Ball, then it's blue_2!") == "a red ball , then it ' s blue_2 !".split()
    assert words_of(" \t\n") == []
    # The same letter, composed and decomposed.
    assert words_of("Caf\u00e9") == words_of("CAFE\u0301") == ["caf\u00e9"]


def test_ids_by_hand() -> None:
    vocabulary = CaptionVocabulary.of_captions(CAPTIONS)
    assert vocabulary.words == ("a", "ball", ",", ".", "blue", "red", "then")
    assert len(vocabulary) == FIRST_WORD + 7
    ids = vocabulary.encode(["a red ball", "", "a green ball."])
    assert ids.dtype == np.int64
    assert ids.tolist() == [
        [BEGIN, 4, 9, 5, END, PADDING],
        [BEGIN, END, PADDING, PADDING, PADDING, PADDING],
        [BEGIN, 4, MASK, 5, 7, END],
    ]
    assert (PADDING, BEGIN, END, MASK, FIRST_WORD) == (0, 1, 2, 3, 4)


def test_long_captions_are_cut_and_rare_words_left_out() -> None:
    vocabulary = CaptionVocabulary.of_captions(CAPTIONS, max_words=2)
    assert vocabulary.words == ("a", "ball")
    assert vocabulary.encode(CAPTIONS, max_length=5).tolist() == [[BEGIN, 4, MASK, 5, END], [BEGIN, 4, 5, END, PADDING]]
    assert vocabulary.encode([]).shape == (0, 2)
    assert vocabulary.encode(CAPTIONS, max_length=2).tolist() == [[BEGIN, END]] * 2


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_words must be at least 0, got -1"):
        CaptionVocabulary.of_captions(CAPTIONS, max_words=-1)
    with pytest.raises(ValueError, match="max_length must be at least 2, for begin and end; got 1"):
        CaptionVocabulary(()).encode(CAPTIONS, max_length=1)


@given(st.lists(TEXT, max_size=6), st.integers(2, 12), st.randoms(use_true_random=False))
def test_ids_read_back_as_the_words(captions: list[str], max_length: int, random: object) -> None:
    vocabulary = CaptionVocabulary.of_captions(captions)
    shuffled = sorted(captions, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert CaptionVocabulary.of_captions(shuffled) == vocabulary
    ids = vocabulary.encode(captions, max_length)
    assert ids.shape[0] == len(captions) and 2 <= ids.shape[1] <= max_length
    for caption, row in zip(captions, ids.tolist(), strict=True):
        end = row.index(END)
        assert row[0] == BEGIN and set(row[end + 1 :]) <= {PADDING}
        assert [vocabulary.words[i - FIRST_WORD] for i in row[1:end]] == words_of(caption)[: max_length - 2]
