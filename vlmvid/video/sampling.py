"""Which frames of a clip are taken: pure index maths on numpy arrays, no video needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlmvid.config.schema import SamplingConfig, SamplingPolicy
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video.sampling_changes import largest_changes, scene_shares, scene_starts

_NANOSECONDS = 1_000_000_000


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFrames:
    """What the policies know of a clip: its frames in order, without their pixels.

    Attributes:
        pts_seconds: float64 (N,), increasing times of the frames.
        end_seconds: when the last frame leaves the screen, on the same clock.
        is_key: bool (N,), the frames that decode alone.
        differences: gives float64 (N,) in [0, 255], how much each frame differs from the one before (0
            for the first); called once at most, and only by the policies that look at the picture.
        seed: of the draw; at least 0.
        path: named in errors, as text that can be printed.
    """

    pts_seconds: NDArray[np.float64]
    end_seconds: float
    is_key: NDArray[np.bool_]
    differences: Callable[[], NDArray[np.float64]]
    seed: int
    path: str

    def __len__(self) -> int:
        return int(self.pts_seconds.size)


def sample_indices(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    """Indices into the N frames of `clip`, int64 (T,) with T = config.num_frames.

    They never decrease, except where ``wrap`` starts over and where the next window of ``dense``
    begins. Integers decide, so that no rounding of floats does. All policies but ``fps`` and
    ``dense`` give T different frames when N >= T. The policies:

    - ``uniform``: `uniform_indices`. With `num_clips` the clip is cut into that many equal windows,
      each sampled so by itself; this differs from one window only in rounding.
    - ``fps``: the frames on screen at first frame + (k + 1/2) / sampling_fps inside the clip, where a
      frame counts as on screen up to 1 ms early. Of more than T such times a uniform choice is taken.
      A clip without one gives its middle frame.
    - ``tsn_random``: one frame of each of T equal segments, each as likely (TSN, arXiv 1608.00859).
    - ``dense``: `num_clips` windows with evenly spaced centres, each T / num_clips frames that are
      `frame_stride` apart. Windows overlap where the clip is too short to hold them side by side.
    - ``keyframes``: the keyframes, thinned uniformly; where they are too few, a uniform choice of the
      other frames joins them.
    - ``scene_change``: `scene_starts` cuts the clip into scenes, `scene_shares` shares T among them,
      and each is sampled uniformly.
    - ``adaptive``: `largest_changes`; where they are too few, a uniform choice of the others joins.

    A clip with N < T (``fps``: with fewer times than T; ``dense``: shorter than one window) follows
    `config.short_video`. ``repeat_last``: every frame (or time) once, then the last one again.
    ``wrap``: then all over again. A dense window is taken from the clip prolonged in that way.
    ``error``: raises.

    Raises DecodeError with reason ``too_short`` for an empty clip, and for a short one under ``error``.
    """
    if not len(clip):
        raise DecodeError(f"{clip.path}: the clip has no frames, so none can be sampled", reason_code="too_short")
    if config.sampling_fps is not None:  # exactly where the policy is fps
        return _at_rate(clip, config, config.sampling_fps)
    if config.policy == "dense":
        return _dense(clip, config)
    if len(clip) < config.num_frames:
        have = f"the clip has {len(clip)} frames"
        return _prolonged(np.arange(config.num_frames, dtype=np.int64), len(clip), config, f"{clip.path}: {have}")
    return _POLICIES[config.policy](clip, config)


def _prolonged(
    positions: NDArray[np.int64], num_available: int, config: SamplingConfig, have: str
) -> NDArray[np.int64]:
    """`positions` in a clip that goes on behind its `num_available` frames as `config.short_video` says."""
    if positions[-1] < num_available:
        return positions
    if config.short_video == "repeat_last":
        return np.minimum(positions, num_available - 1)
    if config.short_video == "wrap":
        return positions % num_available
    raise DecodeError(
        f"{have}, but sampling num_frames={config.num_frames} with policy={config.policy!r} needs "
        f"{int(positions[-1]) + 1}; take fewer, or set sampling.short_video to 'repeat_last' or 'wrap'",
        reason_code="too_short",
    )


def _uniform(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    edges = _edges(len(clip), config.num_clips)
    share = config.num_frames // config.num_clips
    return np.concatenate([low + uniform_indices(high - low, share) for low, high in pairwise(edges)])


def _tsn_random(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    # NumPy promises that the raw numbers of a bit generator stay the same, unlike those of Generator.
    raw = np.random.PCG64(clip.seed).random_raw(config.num_frames).tolist()
    segments = pairwise(_edges(len(clip), config.num_frames))
    return np.array([low + ((high - low) * draw >> 64) for (low, high), draw in zip(segments, raw, strict=True)])


def _at_rate(clip: ClipFrames, config: SamplingConfig, sampling_fps: float) -> NDArray[np.int64]:
    pts = np.rint(clip.pts_seconds * _NANOSECONDS).astype(np.int64)
    duration = round(clip.end_seconds * _NANOSECONDS) - int(pts[0])
    # Matroska rounds times to the millisecond, so that a frame may be stored as much behind a time
    # that falls on its very start, as every time does at half the frame rate.
    slack = min(_NANOSECONDS // 1000, duration // (4 * len(clip)))
    rate, second = sampling_fps.as_integer_ratio()
    # The largest odd number below 2 * rate * (duration - slack) is 2 * count - 1.
    count = ((2 * rate * (duration - slack) - 1) // (second * _NANOSECONDS) + 1) // 2
    if count < 1:
        frames = uniform_indices(len(clip), 1)
    else:
        chosen = uniform_indices(count, min(count, config.num_frames)).tolist()
        times = [int(pts[0]) + (2 * k + 1) * second * _NANOSECONDS // (2 * rate) + slack for k in chosen]
        frames = np.searchsorted(pts, np.array(times, dtype=np.int64), side="right") - 1
    have = f"{clip.path}: the clip lasts {duration / _NANOSECONDS:.3f} s, {frames.size} frames at {sampling_fps}/s"
    return frames[_prolonged(np.arange(config.num_frames, dtype=np.int64), frames.size, config, have)]


def _dense(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    num_available, num_clips = len(clip), config.num_clips
    offsets = config.frame_stride * np.arange(config.num_frames // num_clips, dtype=np.int64)
    span = int(offsets[-1]) + 1
    window = _prolonged(offsets, num_available, config, f"{clip.path}: the clip has {num_available} frames")
    centres = (2 * np.arange(num_clips, dtype=np.int64) + 1) * num_available
    starts = np.clip((centres - num_clips * span) // (2 * num_clips), 0, max(0, num_available - span))
    return (starts[:, None] + window).reshape(-1)


def _keyframes(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    keys = np.flatnonzero(clip.is_key)
    if keys.size > config.num_frames:
        keys = keys[uniform_indices(keys.size, config.num_frames)]
    return _joined(keys, clip, config)


def _scene_change(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    starts = scene_starts(clip.differences())
    lengths = np.diff(starts, append=len(clip))
    shares = scene_shares(lengths, config.num_frames)
    scenes = zip(starts.tolist(), lengths.tolist(), shares.tolist(), strict=True)
    return np.concatenate([start + uniform_indices(length, share) for start, length, share in scenes if share])


def _adaptive(clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    return _joined(largest_changes(clip.differences(), config.num_frames), clip, config)


def _joined(frames: NDArray[np.int64], clip: ClipFrames, config: SamplingConfig) -> NDArray[np.int64]:
    """`frames` and as many of the others, chosen uniformly, as are missing."""
    missing = config.num_frames - frames.size
    if not missing:
        return frames
    others = np.setdiff1d(np.arange(len(clip), dtype=np.int64), frames)
    return np.sort(np.concatenate([frames, others[uniform_indices(others.size, missing)]]))


def _edges(num_available: int, num_segments: int) -> list[int]:
    return [i * num_available // num_segments for i in range(num_segments + 1)]


_POLICIES: dict[SamplingPolicy, Callable[[ClipFrames, SamplingConfig], NDArray[np.int64]]] = {
    "uniform": _uniform,
    "tsn_random": _tsn_random,
    "keyframes": _keyframes,
    "scene_change": _scene_change,
    "adaptive": _adaptive,
}


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
