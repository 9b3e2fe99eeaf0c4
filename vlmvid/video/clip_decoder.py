"""One clip of a video file to the frames that a model sees: the whole decode stage for one row.

Everything that decides its result is imported from here, so this module is the root of the
decode stage's code digest.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig
from vlmvid.types import FrameBatch
from vlmvid.video.clip_window import clip_window
from vlmvid.video.options import MAX_FRAME_PIXELS, ClipJob
from vlmvid.video.paths import printable
from vlmvid.video.readers.reader import open_video
from vlmvid.video.sampling import ClipFrames, sample_indices, uniform_indices
from vlmvid.video.sampling_changes import frame_differences

_LOOKS_AT_THE_PICTURE = ("scene_change", "adaptive")
_MAX_EXAMINED = 4096
_EXAMINED_SIZE = 32


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
        uint8 (num_frames, 3, image_size, image_size) and the frames' times from the file's first frame, as bounds of
        clips count, whatever the file's own clock begins with.

    Raises:
        ConfigError: bounds that are not 0 <= start < end.
        DecodeError: as `open_video`; ``too_short`` when no frame lies in the bounds or the policy
            refuses a short clip; ``truncated`` when the clip reaches into the missing part of a
            file that was cut off. The policies ``scene_change`` and ``adaptive`` also fail on a damaged
            frame that would not be taken, because they look at it.
    """
    with open_video(
        job.path,
        reader=config.reader,
        num_threads=num_threads,
        image_size=config.image_size,
        max_frame_pixels=max_frame_pixels,
        index_path=job.index_path,
    ) as reader:
        end_of_file = float(reader.pts_seconds[0]) + reader.duration_seconds
        window = clip_window(job, reader.pts_seconds, end_of_file, is_truncated=reader.is_truncated)
        available = window.frames
        if config.sampling.policy in _LOOKS_AT_THE_PICTURE:
            available = _examined(available, reader.is_key, config.sampling.num_frames)
        clip = ClipFrames(
            pts_seconds=reader.pts_seconds[available],
            end_seconds=window.end_seconds,
            is_key=reader.is_key[available],
            differences=partial(_differences, job, available, num_threads, max_frame_pixels),
            seed=_seed(job, config.sampling.seed),
            path=printable(job.path),
        )
        taken = reader.frames_at(available[sample_indices(clip, config.sampling)])
        return FrameBatch(taken.frames, taken.pts_seconds - float(reader.pts_seconds[0]))


def _seed(job: ClipJob, seed: int) -> int:
    """The same in every process for the same clip; another clip, or another `seed`, draws apart."""
    end = None if job.end_seconds is None else float(job.end_seconds)
    text = json.dumps([seed, job.identity, float(job.start_seconds), end])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def _examined(available: NDArray[np.int64], is_key: NDArray[np.bool_], num_frames: int) -> NDArray[np.int64]:
    """The frames of a clip among which a policy that looks at the picture chooses, at most 4,096.

    All of a shorter clip. Of a longer one the keyframes, where it has four for each frame wanted:
    each decodes alone, so an hour costs seconds. Else 4,096 evenly spaced frames, for which most of
    the clip must be decoded, as it must for frames wanted that close together.
    """
    if available.size <= _MAX_EXAMINED:
        return available
    keys = available[is_key[available]]
    some = keys if keys.size >= 4 * num_frames else available
    return some[uniform_indices(some.size, min(some.size, _MAX_EXAMINED))]


def _differences(
    job: ClipJob, examined: NDArray[np.int64], num_threads: int, max_frame_pixels: int
) -> NDArray[np.float64]:
    """`frame_differences` of the frames' centre squares at 32 x 32 pixels: 12 MiB for 4,096 frames.

    Always by PyAV, so that the reader in the recipe does not decide which frames are taken. One call
    reads them all, because every further call would decode the beginning of a group of pictures again.
    """
    with open_video(
        job.path,
        reader="pyav",
        num_threads=num_threads,
        image_size=_EXAMINED_SIZE,
        max_frame_pixels=max_frame_pixels,
        index_path=job.index_path,
    ) as reader:
        return frame_differences(reader.frames_at(examined).frames)
