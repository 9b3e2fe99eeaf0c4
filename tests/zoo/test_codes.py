from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.codes import MAX_MILLISECONDS, MAX_NUMBER, Code, draw, read
from tests.zoo.makers import HEIGHT, WIDTH

CODES = st.builds(Code, st.integers(0, MAX_NUMBER), st.integers(-MAX_MILLISECONDS, MAX_MILLISECONDS))


def picture(code: Code, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return draw(code, height, width).transpose(2, 0, 1)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(code=CODES, height=st.integers(32, 130), width=st.integers(32, 130))
def test_a_code_reads_back_at_any_size_and_after_noise(code: Code, height: int, width: int) -> None:
    drawn = picture(code, height, width)
    assert read(drawn) == code
    noise = np.random.default_rng(0).normal(0, 20, drawn.shape)
    assert read((drawn + noise).clip(0, 255).astype(np.uint8)) == code


@settings(derandomize=True, deadline=None, max_examples=50)
@given(code=CODES)
def test_a_turned_mirrored_or_discoloured_code_does_not_read(code: Code) -> None:
    drawn = picture(code)
    assert read(drawn[::-1]) is None, "red and blue exchanged"
    square = drawn[:, :, (WIDTH - HEIGHT) // 2 : (WIDTH + HEIGHT) // 2]
    assert read(square) == code
    for turned in (np.rot90(square, turns, (1, 2)) for turns in (1, 2, 3)):
        assert read(turned) is None
        assert read(turned[:, :, ::-1]) is None
    assert read(square[:, :, ::-1]) is None and read(square[:, ::-1]) is None and read(255 - square) is None


@settings(derandomize=True, deadline=None, max_examples=100)
@given(first=CODES, second=CODES, row=st.integers(1, HEIGHT - 1), share=st.floats(0, 1))
def test_a_mixture_of_two_frames_reads_as_one_of_them_or_not_at_all(
    first: Code, second: Code, row: int, share: float
) -> None:
    one, other = picture(first), picture(second)
    torn = np.concatenate([one[:, :row], other[:, row:]], axis=1)
    assert read(torn) in {first, second, None}
    assert read((share * one + (1 - share) * other).astype(np.uint8)) in {first, second, None}


@pytest.mark.parametrize("level", [0, 16, 128, 235, 255])
def test_a_plain_picture_does_not_read(level: int) -> None:
    assert read(np.full((3, HEIGHT, HEIGHT), level, np.uint8)) is None
    assert read(np.full((3, 8, 8), level, np.uint8)) is None


def test_numbers_that_do_not_fit_are_refused() -> None:
    for code in (Code(MAX_NUMBER + 1, 0), Code(-1, 0), Code(0, MAX_MILLISECONDS + 1)):
        with pytest.raises(ValueError, match="does not fit"):
            draw(code, HEIGHT, WIDTH)
