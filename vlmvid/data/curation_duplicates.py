"""Near duplicates among clips by their perceptual hashes: exact, every pair, in blocks of numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vlmvid.video.fingerprint import ClipMeasures

# Two blocks of hashes and their distances stay in a processor's cache.
_BLOCK = 1024

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """That a clip repeats another one.

    Attributes:
        of: number of the clip that is kept.
        distance: bits of 64 per sampled frame in which both differ.
        is_same_content: both have the same bytes and bounds.
    """

    of: int
    distance: float
    is_same_content: bool


def find_duplicates(
    measures: Sequence[ClipMeasures],
    contents: Sequence[str],
    *,
    max_distance: float,
    keep: Literal["first", "largest"],
) -> dict[int, Duplicate]:
    """The clips to leave out, by number.

    Clips whose hashes differ by at most `max_distance` bits of 64 per frame, or whose `contents` are
    equal, belong together, and so do those that belong together with a common third. Of each group one
    clip is kept: the ``first``, or the ``largest`` picture (of equals the first). Clips without texture
    have no hash that tells anything and are duplicates only of the same content.
    """
    labels = np.arange(len(measures))
    for i, j in chain(_same_content(contents), _near(measures, max_distance)):
        labels = merged(labels, i, j)
    kept: dict[int, int] = {}
    found: dict[int, Duplicate] = {}
    areas = [m.width * m.height for m in measures]
    for group in _groups(labels):
        best = group[0] if keep == "first" else min(group, key=lambda number: (-areas[number], number))
        kept.update((number, best) for number in group if number != best)
    for number in sorted(kept):
        best = kept[number]
        bits = int(np.bitwise_count(measures[number].hashes ^ measures[best].hashes).sum())
        found[number] = Duplicate(best, bits / len(measures[number].hashes), contents[number] == contents[best])
    return found


def near_pairs(hashes: NDArray[np.uint64], max_bits: int) -> Iterator[Pairs]:
    """Every pair i < j whose hashes (uint64 (N, T)) differ in at most `max_bits` bits in all, block by block.

    Exact. Time grows with the square of N; what is yielded at a time has at most a million pairs. The
    bits of half the frames are counted first: they are too many already for all but a few pairs.
    """
    half = max(1, hashes.shape[1] // 2)
    for top in range(0, len(hashes), _BLOCK):
        rows = hashes[top : top + _BLOCK]
        for left in range(top, len(hashes), _BLOCK):
            columns = hashes[left : left + _BLOCK]
            bits = np.zeros((len(rows), len(columns)), dtype=np.uint16)
            for frame in range(half):
                bits += np.bitwise_count(rows[:, None, frame] ^ columns[None, :, frame])
            i, j = np.nonzero(bits <= max_bits)
            later = top + i < left + j
            i, j = i[later], j[later]
            near = np.bitwise_count(rows[i] ^ columns[j]).sum(axis=1, dtype=np.int64) <= max_bits
            if near.any():
                yield top + i[near], left + j[near]


def merged(labels: NDArray[np.int64], i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group labels, int64 (N,), after the groups of each pair (i, j) became one; all below N."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    apart = labels[i] != labels[j]
    if not apart.any():
        return labels
    ones = np.ones(int(apart.sum()), dtype=np.int8)
    graph = coo_array((ones, (labels[i[apart]], labels[j[apart]])), shape=(labels.size, labels.size))
    new: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return new[labels]


def _groups(labels: NDArray[np.int64]) -> list[list[int]]:
    """The groups of two or more clips, each in increasing order."""
    members: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(number)
    return [group for group in members.values() if len(group) > 1]


def _near(measures: Sequence[ClipMeasures], max_distance: float) -> Iterator[Pairs]:
    numbers = np.array([number for number, m in enumerate(measures) if m.is_textured], dtype=np.int64)
    if numbers.size < 2:
        return
    hashes = np.stack([measures[number].hashes for number in numbers])
    for i, j in near_pairs(hashes, int(np.floor(max_distance * hashes.shape[1] + 1e-6))):
        yield numbers[i], numbers[j]


def _same_content(contents: Sequence[str]) -> Iterator[Pairs]:
    first: dict[str, int] = {}
    firsts = np.array([first.setdefault(content, number) for number, content in enumerate(contents)], dtype=np.int64)
    numbers = np.arange(firsts.size)
    yield firsts, numbers
