"""One clip of a video file to the frames that a model sees: the whole decode stage for one row.

Everything that decides its result is imported from here, so this module is the root of the
decode stage's code digest.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.reader import VideoReader, open_video
from vlmvid.video.sampling import sample_indices
from vlmvid.video.transforms import resize_center_crop

# Clip bounds are compared to the microsecond, so that 0.1 s finds the frame stored at 0.1 s
# although both are rounded.
_BOUND_TOLERANCE_SECONDS = 5e-7
# Full-size frames held at once (200 MB at 1080p); a longer clip is read and resized in pieces.
_FRAMES_AT_ONCE = 32


def decode_clip(
    path: str | os.PathLike[str], *, start_seconds: float = 0.0, end_seconds: float | None = None, config: DecodeConfig
) -> FrameBatch:
    """Sample, read and resize one clip.

    Args:
        path: a local video or picture file.
        start_seconds: first time of the clip, counted from the file's first frame.
        end_seconds: the clip is [start_seconds, end_seconds); None means the end of the file.
        config: sampling, image size and reader.

    Returns:
        uint8 (num_frames, 3, image_size, image_size) and the frames' times on the file's clock.

    Raises:
        ConfigError: bounds that are not 0 <= start < end.
        DecodeError: as `open_video`; ``too_short`` when no frame lies in the bounds or the policy
            refuses a short clip; ``truncated`` when the clip reaches into the missing part of a
            file that was cut off.
    """
    if not 0 <= start_seconds < (np.inf if end_seconds is None else end_seconds):
        raise ConfigError(f"clip bounds [{start_seconds}, {end_seconds}) of {path} must satisfy 0 <= start < end")
    name = os.fspath(path)
    with open_video(name, reader=config.reader) as reader:
        available = _indices_between(reader, start_seconds, end_seconds)
        _refuse_missing_part(reader, name, start_seconds, end_seconds)
        if not available.size:
            raise DecodeError(
                f"{name} has no frame in [{start_seconds}, {end_seconds}) s; its {reader.num_frames} frames last "
                f"{reader.duration_seconds:.3f} s; correct the clip's bounds",
                reason_code="too_short",
            )
        try:
            chosen = available[sample_indices(available.size, config.sampling)]
        except DecodeError as error:
            raise DecodeError(f"{name}: {error}", reason_code=error.reason_code) from error
        return _read_resized(reader, chosen, config.image_size)


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


def _read_resized(reader: VideoReader, indices: NDArray[np.int64], image_size: int) -> FrameBatch:
    pieces = [
        resize_center_crop(reader.frames_at(indices[start : start + _FRAMES_AT_ONCE]).frames, image_size)
        for start in range(0, indices.size, _FRAMES_AT_ONCE)
    ]
    frames = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return FrameBatch(frames, reader.pts_seconds[indices])
