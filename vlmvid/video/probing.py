"""What a video file holds, for listing and checking folders of videos."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vlmvid.video.pyav_reader import PyAVReader


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """The best video stream of a file.

    Attributes:
        codec: FFmpeg's name of the codec, e.g. ``h264``.
        width: pixels of an upright frame.
        height: pixels of an upright frame.
        num_frames: whole frames in the file, counted.
        average_fps: mean frames per second as the container gives it.
        duration_seconds: from the first frame to the end of the last one.
        is_truncated: the file ends before its last declared frame.
    """

    codec: str
    width: int
    height: int
    num_frames: int
    average_fps: float
    duration_seconds: float
    is_truncated: bool


def probe_media(path: str | os.PathLike[str]) -> MediaInfo:
    """Read the packet list of `path` and decode its first frame.

    Cheap: no other frame is decoded, unless the stream has no timestamps to count by.
    Raises DecodeError as `vlmvid.video.open_video` does, also when the first frame does not decode.
    """
    with PyAVReader(os.fspath(path)) as reader:
        return MediaInfo(
            codec=reader.codec_name,
            width=reader.width,
            height=reader.height,
            num_frames=reader.num_frames,
            average_fps=reader.average_fps,
            duration_seconds=reader.duration_seconds,
            is_truncated=reader.is_truncated,
        )
