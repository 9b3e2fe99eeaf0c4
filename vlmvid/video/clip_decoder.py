"""One clip of a video file to the frames that a model sees: the whole decode stage for one row.

Everything that decides its result is imported from here, so this module is the root of the
decode stage's code digest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.options import MAX_FRAME_PIXELS, ClipJob
from vlmvid.video.reader import VideoReader, open_video
from vlmvid.video.sampling import sample_indices

# Clip bounds are compared to the microsecond, so that 0.1 s finds the frame stored at 0.1 s
# although both are rounded.
_BOUND_TOLERANCE_SECONDS = 5e-7


def decode_clip(
    job: ClipJob, config: DecodeConfig, *, num_threads: int = 1, max_frame_pixels: int = MAX_FRAME_PIXELS
) -> FrameBatch:
    """Sample, read and resize one clip.

    Args:
        job: the file and the bounds of the clip.
        config: sampling, image size and reader.
        num_threads: decoding threads.
        max_frame_pixels: a stream with larger frames is refused.

    Returns:
        uint8 (num_frames, 3, image_size, image_size) and the frames' times on the file's clock.

    Raises:
        ConfigError: bounds that are not 0 <= start < end.
        DecodeError: as `open_video`; ``too_short`` when no frame lies in the bounds or the policy
            refuses a short clip; ``truncated`` when the clip reaches into the missing part of a
            file that was cut off.
    """
    start, end = job.start_seconds, job.end_seconds
    if not 0 <= start < (np.inf if end is None else end):
        raise ConfigError(f"clip bounds [{start}, {end}) of {job.path} must satisfy 0 <= start < end")
    with open_video(
        job.path,
        reader=config.reader,
        num_threads=num_threads,
        image_size=config.image_size,
        max_frame_pixels=max_frame_pixels,
        index_path=job.index_path,
    ) as reader:
        available = _indices_between(reader, start, end)
        _refuse_missing_part(reader, job.path, start, end)
        if not available.size:
            raise DecodeError(
                f"{job.path} has no frame in [{start}, {end}) s; its {reader.num_frames} frames last "
                f"{reader.duration_seconds:.3f} s; correct the clip's bounds",
                reason_code="too_short",
            )
        try:
            chosen = available[sample_indices(available.size, config.sampling)]
        except DecodeError as error:
            raise DecodeError(f"{job.path}: {error}", reason_code=error.reason_code) from error
        return reader.frames_at(chosen)


def _indices_between(reader: VideoReader, start_seconds: float, end_seconds: float | None) -> NDArray[np.int64]:
    from_first = reader.pts_seconds - reader.pts_seconds[0] + _BOUND_TOLERANCE_SECONDS
    inside = from_first >= start_seconds
    if end_seconds is not None:
        inside &= from_first < end_seconds
    return np.flatnonzero(inside).astype(np.int64)


def _refuse_missing_part(reader: VideoReader, path: str, start_seconds: float, end_seconds: float | None) -> None:
    if reader.is_truncated and (end_seconds is None or end_seconds > reader.duration_seconds):
        raise DecodeError(
            f"{path} is cut off after {reader.duration_seconds:.3f} s ({reader.num_frames} frames), inside the clip "
            f"[{start_seconds}, {end_seconds}) s; copy the file again, or end the clip earlier",
            reason_code="truncated",
        )
