"""Samples to rows of bounded length, so that few places of a batch are padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmvid.errors import ConfigError

# Samples that are packed among each other: enough to fill rows, few enough that an epoch stays a shuffle.
WINDOW = 4096
_HISTOGRAM_BINS, _HISTOGRAM_WIDTH = 10, 40


def plan_rows(lengths: Sequence[int], max_length: int, *, packing: bool, seed: int) -> list[tuple[int, ...]]:
    """Put samples into rows of at most `max_length` tokens; the order of samples and rows is drawn from `seed`.

    With `packing` the shuffled samples are packed best-fit decreasing, `WINDOW` of them at a time; without it a row is
    one sample. Every sample is in one row, and rows come in random order, so that long samples do not come together.

    Args:
        lengths: tokens of every sample, at least 0.

    Returns the samples' indices, row by row. Raises ConfigError for a sample that is longer than `max_length`.
    """
    sizes = np.asarray(lengths, np.int64)
    too_long = np.flatnonzero(sizes > max_length)
    if len(too_long):
        first = int(too_long[0])
        raise ConfigError(
            f"sample {first} has {sizes[first]} tokens, and max_length={max_length} ({len(too_long)} samples are too "
            f"long); set max_length={sizes.max()} or leave them out"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sizes))
    if not packing:
        return [(sample,) for sample in order.tolist()]
    rows: list[list[int]] = []
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        longest_first = window[np.argsort(-sizes[window], kind="stable")]
        rows += _best_fit(longest_first.tolist(), sizes[longest_first].tolist(), max_length)
    return [tuple(rows[row]) for row in rng.permutation(len(rows)).tolist()]


def length_histogram(lengths: Sequence[int]) -> str:
    """Lengths as text: their number, mean and extremes, then a bar for each of at most ten equal ranges, from
    the first that has some.

    Raises ValueError when there are none.
    """
    sizes = np.asarray(lengths, np.int64)
    if not len(sizes):
        raise ValueError("there are no lengths to show")
    step = max(1, -(-(int(sizes.max()) + 1) // _HISTOGRAM_BINS))
    counts = np.bincount(sizes // step)
    digits = len(str(step * len(counts) - 1))
    lines = [
        f"{len(sizes):,} samples, {sizes.min()} to {sizes.max()} tokens, mean {sizes.mean():.1f}, "
        f"median {np.median(sizes):.0f}"
    ]
    for number, count in list(enumerate(counts.tolist()))[int(sizes.min()) // step :]:
        bar = "#" * -(-count * _HISTOGRAM_WIDTH // int(counts.max()))
        low, high = number * step, (number + 1) * step - 1
        lines.append(f"{low:>{digits}}-{high:<{digits}} {bar:<{_HISTOGRAM_WIDTH}} {count}")
    return "\n".join(line.rstrip() for line in lines)


def _best_fit(samples: list[int], sizes: list[int], max_length: int) -> list[list[int]]:
    """Each sample, in this order, to the fullest row that has room for it."""
    rows: list[list[int]] = []
    with_space: list[list[list[int]]] = [[] for _ in range(max_length + 1)]
    spaces = 0  # bit s is set where some row has space for s more tokens
    for sample, size in zip(samples, sizes, strict=True):
        fitting = spaces >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = with_space[space].pop()
            if not with_space[space]:
                spaces ^= 1 << space
        else:
            space, row = max_length, []
            rows.append(row)
        row.append(sample)
        left = space - size
        with_space[left].append(row)
        spaces |= 1 << left
    return rows
