from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlmvid.video.sampling_changes import frame_differences, largest_changes, scene_shares, scene_starts

levels = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 14.75, 15.0, 16.0, 45.0, 46.0, 200.0])
differences = st.lists(levels, min_size=1, max_size=80).map(lambda values: np.array([0.0, *values[1:]]))


def test_differences_are_those_of_pillows_grey_levels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 7), dtype=np.uint8)
    grey = [np.asarray(Image.fromarray(frame.transpose(1, 2, 0)).convert("L"), dtype=np.float64) for frame in frames]
    slow = [0.0] + [float(np.abs(after - before).sum() / 42) for before, after in zip(grey, grey[1:], strict=False)]
    measured = frame_differences(frames)
    assert measured.dtype == np.float64 and measured.tolist() == pytest.approx(slow, abs=1e-12)
    black_white = np.stack([np.zeros((3, 4, 4)), np.full((3, 4, 4), 255)]).astype(np.uint8)
    assert frame_differences(black_white).tolist() == [0.0, 255.0]
    assert frame_differences(black_white[:1]).tolist() == [0.0]


def slow_scene_starts(values: list[float]) -> list[int]:
    starts = [0]
    for i in range(1, len(values)):
        around = {j: values[j] for j in (i - 2, i - 1, i + 1, i + 2) if 1 <= j < len(values)}
        mean = Fraction(sum(Fraction(value) for value in around.values()), max(1, len(around)))
        is_largest = all((values[i], -i) > (value, -j) for j, value in around.items())
        if values[i] >= 15 and Fraction(values[i]) >= 3 * mean and is_largest:
            starts.append(i)
    return starts


@given(differences)
def test_scene_starts_equal_the_rule_in_fractions(values: np.ndarray) -> None:
    starts = scene_starts(values)
    assert starts.dtype == np.int64 and starts.tolist() == slow_scene_starts(values.tolist())
    assert (np.diff(starts[1:]) >= 3).all()


def test_scene_starts_known_cases() -> None:
    assert scene_starts(np.array([0.0])).tolist() == [0]
    assert scene_starts(np.array([0.0, 80.0])).tolist() == [0, 1]
    assert scene_starts(np.array([0, 1, 1, 90, 1, 1, 1, 14, 0, 0, 40, 2.0])).tolist() == [0, 3, 10]
    # Fast motion; a flash of one frame; every third frame new.
    assert scene_starts(np.array([0.0] + [40.0] * 20)).tolist() == [0]
    assert scene_starts(np.array([0, 0, 0, 60, 60, 0, 0, 0.0])).tolist() == [0, 3]
    assert scene_starts(np.array([0, 0, 0, 60, 0, 60, 0, 0, 0.0])).tolist() == [0, 3]
    # A cut within fast motion.
    assert scene_starts(np.array([0.0] + [20.0] * 5 + [90.0] + [20.0] * 5)).tolist() == [0, 6]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.data())
def test_scene_shares_are_fair_and_fit(lengths: list[int], data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, sum(lengths)))
    shares = scene_shares(np.array(lengths, dtype=np.int64), num_frames)
    assert shares.dtype == np.int64 and shares.sum() == num_frames
    assert all(share <= length for share, length in zip(shares, lengths, strict=True))
    if len(lengths) >= num_frames:
        longest = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))[:num_frames]
        assert [i for i, share in enumerate(shares) if share] == sorted(longest) and shares.max() == 1
        return
    left, wanted = sum(lengths) - len(lengths), num_frames - len(lengths)
    quotas = [Fraction(wanted * (length - 1), left) for length in lengths]
    floors = [floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(lengths)), key=lambda i: (floors[i] - quotas[i], i))
    for i in by_remainder[: wanted - sum(floors)]:
        floors[i] += 1
    assert shares.tolist() == [1 + share for share in floors]


def test_scene_shares_known_cases() -> None:
    for lengths, num_frames, expected in (
        ([100], 7, [7]),
        ([100, 100, 100], 8, [3, 3, 2]),
        ([290, 5, 5], 8, [6, 1, 1]),
        ([5, 9, 9, 7], 2, [0, 1, 1, 0]),
        ([1, 1, 1], 3, [1, 1, 1]),
        ([1, 5], 6, [1, 5]),
    ):
        assert scene_shares(np.array(lengths, dtype=np.int64), num_frames).tolist() == expected


@given(differences, st.data())
def test_largest_changes_equal_the_greedy_choice(values: np.ndarray, data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, values.size))
    gap = max(1, values.size // (2 * num_frames))
    taken: list[int] = []
    while len(taken) < num_frames:
        free = [i for i in range(values.size) if values[i] >= 1 and all(abs(i - j) >= gap for j in taken)]
        if not free:
            break
        taken.append(max(free, key=lambda i: (values[i], -i)))
    chosen = largest_changes(values, num_frames)
    assert chosen.dtype == np.int64 and chosen.tolist() == sorted(taken)
    if (values[1:] >= 1).all():
        assert chosen.size >= num_frames - 1  # the first frame differs from none
    if not taken:
        assert (values < 1).all()


@given(st.lists(st.floats(1, 255), min_size=1, max_size=200), st.data())
def test_where_every_frame_changes_all_are_found(values: list[float], data: st.DataObject) -> None:
    num_frames = data.draw(st.integers(1, len(values)))
    assert largest_changes(np.array(values), num_frames).size == num_frames


def test_largest_changes_known_cases() -> None:
    burst = np.array([0.0] + [30.0] * 10 + [2.0] * 29)
    assert largest_changes(burst, 4).tolist() == [1, 6, 11, 16]
    assert largest_changes(np.array([0, 9, 9, 9, 9, 9.0]), 2).tolist() == [1, 2]
    assert largest_changes(np.array([0, 0.9, 1.0, 0]), 3).tolist() == [2]
    assert largest_changes(np.zeros(5), 2).tolist() == []
