"""Near duplicates against the slow way: every pair, bit by bit, and a walk over the pairs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmvid.data import curation_duplicates
from vlmvid.data.curation_duplicates import merged, near_pairs


def slow_pairs(hashes: np.ndarray, max_bits: int) -> list[tuple[int, int]]:
    rows = [[int(word) for word in row] for row in hashes]
    return [
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if sum(bin(a ^ b).count("1") for a, b in zip(rows[i], rows[j], strict=True)) <= max_bits
    ]


def slow_groups(num_clips: int, pairs: list[tuple[int, int]]) -> set[frozenset[int]]:
    group = {n: {n} for n in range(num_clips)}
    for i, j in pairs:
        both = group[i] | group[j]
        for n in both:
            group[n] = both
    return {frozenset(g) for g in group.values()}


@given(
    seed=st.integers(0, 2**32 - 1),
    num_clips=st.integers(0, 40),
    num_frames=st.integers(1, 5),
    max_bits=st.integers(0, 60),
    block=st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_pairs_and_groups_are_those_of_the_slow_way(
    seed: int, num_clips: int, num_frames: int, max_bits: int, block: int
) -> None:
    random = np.random.default_rng(seed)
    # Around a few centres, so that pairs lie on both sides of any limit.
    centres = random.integers(0, 2**63, (4, num_frames), dtype=np.uint64)
    flips = np.bitwise_and.reduce(random.integers(0, 2**63, (3, num_clips, num_frames), dtype=np.uint64))
    hashes = centres[random.integers(0, 4, num_clips)] ^ flips
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curation_duplicates, "_BLOCK", block)
        blocks = list(near_pairs(hashes, max_bits))
    expected = slow_pairs(hashes, max_bits)
    found = [(int(a), int(b)) for i, j in blocks for a, b in zip(i, j, strict=True)]
    assert sorted(found) == expected
    labels = np.arange(num_clips)
    for i, j in blocks:
        labels = merged(labels, i, j)
    groups = {frozenset(np.flatnonzero(labels == label).tolist()) for label in labels}
    assert groups == slow_groups(num_clips, expected)


def test_ten_thousand_clips_take_seconds() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, (10_000, 8), dtype=np.uint64)
    hashes[9_999] = hashes[17] ^ np.uint64(0b1011)
    start = time.process_time()
    pairs = [(int(a), int(b)) for i, j in near_pairs(hashes, 32) for a, b in zip(i, j, strict=True)]
    assert pairs == [(17, 9_999)]
    assert time.process_time() - start < 20
