"""Which frames of a file belong to a clip: index maths on timestamps, the same for decoding and measuring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.video.options import ClipJob
from vlmvid.video.paths import printable

# Clip bounds are compared to the microsecond, so that 0.1 s finds the frame stored at 0.1 s
# although both are rounded.
_BOUND_TOLERANCE_SECONDS = 5e-7


@dataclass(frozen=True, slots=True)
class ClipWindow:
    """The frames [first, first + num_frames) of a file, and when the clip ends on the file's clock."""

    first: int
    num_frames: int
    end_seconds: float

    @property
    def frames(self) -> NDArray[np.int64]:
        """The frame numbers, int64 (num_frames,)."""
        return np.arange(self.first, self.first + self.num_frames, dtype=np.int64)


def clip_window(
    job: ClipJob, pts_seconds: NDArray[np.float64], file_end_seconds: float, *, is_truncated: bool
) -> ClipWindow:
    """The frames of `job`'s file that are first shown within its bounds.

    Args:
        job: bounds in seconds, counted from the file's first frame.
        pts_seconds: float64 (num_frames,), increasing, at least one.
        file_end_seconds: when the last frame leaves the screen.
        is_truncated: the file was cut off there.

    Raises:
        ConfigError: bounds that are not 0 <= start < end.
        DecodeError: ``too_short`` when no frame lies within the bounds; ``truncated`` when they reach
            into the missing part of a file that was cut off.
    """
    start, end = job.start_seconds, job.end_seconds
    if not 0 <= start < (np.inf if end is None else end):
        raise ConfigError(f"clip bounds [{start}, {end}) of {printable(job.path)} must satisfy 0 <= start < end")
    first_pts = float(pts_seconds[0])
    duration = file_end_seconds - first_pts
    if is_truncated and (end is None or end > duration):
        raise DecodeError(
            f"{printable(job.path)} is cut off after {duration:.3f} s ({pts_seconds.size} frames), inside the clip "
            f"[{start}, {end}) s; copy the file again, or end the clip earlier",
            reason_code="truncated",
        )
    from_first = pts_seconds - first_pts + _BOUND_TOLERANCE_SECONDS
    first = int(np.searchsorted(from_first, start))
    behind = pts_seconds.size if end is None else int(np.searchsorted(from_first, end))
    if behind <= first:
        raise DecodeError(
            f"{printable(job.path)} has no frame in [{start}, {end}) s; its {pts_seconds.size} frames last "
            f"{duration:.3f} s; correct the clip's bounds",
            reason_code="too_short",
        )
    shown_until = float(pts_seconds[behind]) if behind < pts_seconds.size else file_end_seconds
    return ClipWindow(first, behind - first, shown_until if end is None else min(shown_until, first_pts + end))
