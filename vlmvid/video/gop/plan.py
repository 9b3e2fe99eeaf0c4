"""Which packets must be decoded for the frames that are wanted: pure index maths on a `PacketIndex`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.video.gop.packet_index import PacketIndex

# Up to this many packets that nobody wants are decoded on the way to the next keyframe: cheaper than
# to empty the decoder and to seek.
_PACKETS_WORTH_A_SEEK = 4


@dataclass(frozen=True, slots=True)
class GopRun:
    """Packets that are decoded at one go, from a keyframe to the last one that is needed.

    Attributes:
        first: place of the keyframe's packet in decode order; 0 for frames before any keyframe.
        last: place of the last packet to decode.
        wanted: increasing frame numbers (presentation order) that come out of it.
    """

    first: int
    last: int
    wanted: tuple[int, ...]


def plan_runs(index: PacketIndex, wanted: Sequence[int], *, keys_back: int = 0) -> list[GopRun]:
    """One run per group of pictures that holds a frame of `wanted` (increasing), in file order.

    A frame is reached from the last keyframe that is neither shown nor decoded after it. With `keys_back`
    decoding starts that many keyframes earlier.
    """
    numbers = np.asarray(wanted, dtype=np.int64)
    if not numbers.size:
        return []
    starts = _starts(index, numbers, keys_back)
    order = np.argsort(starts, kind="stable")
    firsts, edges = np.unique(starts[order], return_index=True)
    groups = zip(firsts.tolist(), np.split(numbers[order], edges[1:]), strict=True)
    return [GopRun(first, int(index.positions[own].max()), tuple(sorted(own.tolist()))) for first, own in groups]


def join_runs(runs: Sequence[GopRun]) -> list[GopRun]:
    """`runs` with those made one that all but touch: one decoder then goes on without a seek."""
    joined: list[GopRun] = []
    for run in runs:
        if joined and run.first - joined[-1].last <= _PACKETS_WORTH_A_SEEK:
            before = joined.pop()
            wanted = tuple(sorted(before.wanted + run.wanted))
            joined.append(GopRun(before.first, max(before.last, run.last), wanted))
        else:
            joined.append(run)
    return joined


def needed_packets(index: PacketIndex, run: GopRun) -> NDArray[np.bool_]:
    """Which of the packets [run.first, run.last] are decoded, bool (run.last - run.first + 1,).

    Left out are those that no picture refers to and whose own is not wanted.
    """
    needed = ~index.unreferenced[run.first : run.last + 1]
    needed[index.positions[list(run.wanted)] - run.first] = True
    return needed


def share_runs(index: PacketIndex, runs: Sequence[GopRun], num_shares: int) -> list[list[GopRun]]:
    """Cut `runs` into at most `num_shares` consecutive shares of about equal work.

    Work is the number of bytes to decode. No share is empty.
    """
    costs = [int(index.packet_sizes[run.first : run.last + 1][needed_packets(index, run)].sum()) for run in runs]
    # A run belongs to the share in which its middle falls.
    middles = np.cumsum(costs) - np.asarray(costs) / 2
    places = np.minimum((middles * num_shares / max(1, sum(costs))).astype(np.int64), num_shares - 1)
    shares = [[run for run, place in zip(runs, places, strict=True) if place == share] for share in range(num_shares)]
    return [share for share in shares if share]


def _starts(index: PacketIndex, numbers: NDArray[np.int64], keys_back: int) -> NDArray[np.int64]:
    """Where decoding starts for each frame: int64 (len(numbers),), places in decode order."""
    keys = np.searchsorted(index.key_pts, index.pts[numbers], side="right") - 1
    keys = np.maximum(keys - keys_back, -1)
    positions = index.positions[numbers]
    places = np.append(index.key_positions, 0)  # -1, no keyframe before it, means the start of the file
    while (late := (keys >= 0) & (places[keys] > positions)).any():
        keys = keys - late
    return places[keys]
