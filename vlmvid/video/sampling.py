"""Which frames of a clip are taken: pure index maths on numpy arrays, no video needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.config.schema import SamplingConfig
from vlmvid.errors import ConfigError, DecodeError


def uniform_indices(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Centres of `num_frames` equal segments of [0, num_available), as int64 (num_frames,).

    Index i is floor((2 i + 1) * num_available / (2 * num_frames)) in integer arithmetic, so no
    rounding of floats decides which frame is taken. The indices do not decrease; they repeat
    when `num_available` < `num_frames`. Segment centres follow TSN (arXiv 1608.00859).

    Raises ConfigError when either count is below 1.
    """
    if num_available < 1 or num_frames < 1:
        raise ConfigError(
            f"uniform_indices needs num_available >= 1 and num_frames >= 1, got {num_available} and {num_frames}"
        )
    odd_numbers = 2 * np.arange(num_frames, dtype=np.int64) + 1
    return odd_numbers * num_available // (2 * num_frames)


def sample_indices(num_available: int, config: SamplingConfig) -> NDArray[np.int64]:
    """Indices into a clip of `num_available` frames, as int64 (config.num_frames,).

    A clip with at least `config.num_frames` frames is sampled by `uniform_indices`. A shorter one
    follows `config.short_video`: ``repeat_last`` takes every frame once and then the last one
    again, ``wrap`` starts over from the first, ``error`` raises.

    Raises DecodeError with reason ``too_short`` for an empty clip, and for a short one under ``error``.
    """
    if num_available < 1:
        raise DecodeError("the clip has no frames, so none can be sampled", reason_code="too_short")
    if num_available >= config.num_frames:
        return uniform_indices(num_available, config.num_frames)
    order = np.arange(config.num_frames, dtype=np.int64)
    if config.short_video == "repeat_last":
        return np.minimum(order, num_available - 1)
    if config.short_video == "wrap":
        return order % num_available
    raise DecodeError(
        f"the clip has {num_available} frames, but num_frames={config.num_frames} are asked for; take fewer frames "
        "or set sampling.short_video to 'repeat_last' or 'wrap'",
        reason_code="too_short",
    )


def checked_indices(indices: ArrayLike | Sequence[int], num_frames: int, path: str) -> NDArray[np.int64]:
    """`indices` as int64 (T,), each in [0, num_frames).

    Any order and repeats are allowed. Raises ConfigError naming the first index that does not fit.
    """
    array = np.asarray(indices)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ConfigError(
            f"frame indices must be a flat list of integers, got {array.dtype} of shape {array.shape} for {path}"
        )
    outside = array[(array < 0) | (array >= num_frames)]
    if outside.size:
        raise ConfigError(
            f"frame index {int(outside[0])} is outside {path}, which has num_frames={num_frames}; "
            f"use indices from 0 to {num_frames - 1}"
        )
    return array.astype(np.int64)


def indices_at_seconds(
    seconds: ArrayLike | Sequence[float], pts_seconds: NDArray[np.float64], end_seconds: float, path: str
) -> NDArray[np.int64]:
    """The frame on screen at each time: the last one whose timestamp is not later, int64 (T,).

    Args:
        seconds: times on the clock of `pts_seconds`, in [pts_seconds[0], end_seconds).
        pts_seconds: float64 (num_frames,), increasing.
        end_seconds: when the last frame leaves the screen.
        path: named in the error.

    Raises ConfigError for a time outside that range.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if times.ndim != 1:
        raise ConfigError(f"seconds must be a flat list of numbers, got shape {times.shape} for {path}")
    outside = times[~((times >= pts_seconds[0]) & (times < end_seconds))]
    if outside.size:
        raise ConfigError(
            f"no frame of {path} is shown at {float(outside[0])} s; the video runs from {pts_seconds[0]:.6f} s "
            f"to {end_seconds:.6f} s"
        )
    return (np.searchsorted(pts_seconds, times, side="right") - 1).astype(np.int64)
