from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmvid.errors import ConfigError
from vlmvid.video.sampling import checked_indices, indices_at_seconds, uniform_indices

counts = st.integers(1, 5000)
frame_counts = st.integers(1, 300)


@given(counts, frame_counts)
def test_uniform_indices_are_the_floored_centres_of_exact_segments(num_available: int, num_frames: int) -> None:
    edges = [Fraction(i * num_available, num_frames) for i in range(num_frames + 1)]
    centres = [floor((low + high) / 2) for low, high in zip(edges, edges[1:], strict=False)]
    indices = uniform_indices(num_available, num_frames)
    assert indices.dtype == np.int64 and indices.tolist() == centres


@given(counts, frame_counts)
def test_uniform_indices_are_in_range_and_do_not_decrease(num_available: int, num_frames: int) -> None:
    indices = uniform_indices(num_available, num_frames)
    assert indices.shape == (num_frames,)
    assert indices[0] >= 0 and indices[-1] < num_available
    steps = np.diff(indices)
    assert (steps >= 0).all()
    if num_available >= num_frames:
        assert (steps >= 1).all() and (steps.size == 0 or steps.max() - steps.min() <= 1)


@given(st.integers(0, 40), frame_counts)
def test_uniform_indices_are_mirror_symmetric_for_odd_multiples(half: int, num_frames: int) -> None:
    num_available = (2 * half + 1) * num_frames
    indices = uniform_indices(num_available, num_frames)
    assert (num_available - 1 - indices[::-1]).tolist() == indices.tolist()


@given(st.integers(0, 40), st.integers(1, 100))
def test_swapping_the_halves_of_the_video_swaps_the_halves_of_the_sample(half: int, half_frames: int) -> None:
    num_frames = 2 * half_frames
    num_available = (2 * half + 1) * num_frames
    indices = uniform_indices(num_available, num_frames)
    assert (indices[half_frames:] - num_available // 2).tolist() == indices[:half_frames].tolist()


def test_uniform_indices_known_cases() -> None:
    assert uniform_indices(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert uniform_indices(24, 8).tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert uniform_indices(3, 1).tolist() == [1]
    assert uniform_indices(2, 4).tolist() == [0, 0, 1, 1]
    for bad in ((0, 1), (1, 0), (-3, 2)):
        with pytest.raises(ConfigError, match=str(bad[0])):
            uniform_indices(*bad)


def test_checked_indices() -> None:
    assert checked_indices([2, 0, 2], 3, "v.mp4").tolist() == [2, 0, 2]
    assert checked_indices([], 3, "v.mp4").shape == (0,)
    for bad in ([0, 3], [-1]):
        with pytest.raises(ConfigError, match=rf"{bad[-1]} .*v\.mp4.*num_frames=3"):
            checked_indices(bad, 3, "v.mp4")
    for wrong in ([0.5], [[0]], 1, [True]):
        with pytest.raises(ConfigError, match="flat list of integers"):
            checked_indices(wrong, 3, "v.mp4")


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=30, unique=True), st.data())
def test_indices_at_seconds_takes_the_frame_on_screen(ticks: list[int], data: st.DataObject) -> None:
    pts = np.array(sorted(ticks)) / 16.0
    end = float(pts[-1]) + 1.0
    time = data.draw(st.floats(float(pts[0]), end, exclude_max=True))
    slow = max(i for i, start in enumerate(pts) if start <= time)
    assert indices_at_seconds([time], pts, end, "v.mp4").tolist() == [slow]
    assert indices_at_seconds(pts, pts, end, "v.mp4").tolist() == list(range(len(pts)))
    for outside in (float(pts[0]) - 0.01, end, float("nan")):
        with pytest.raises(ConfigError, match=r"v\.mp4"):
            indices_at_seconds([outside], pts, end, "v.mp4")
