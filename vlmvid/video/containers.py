"""Opening a media file with PyAV, choosing its video stream, and naming what went wrong.

PyAV keeps libav's log messages to itself unless `av.logging.set_level` is called, so nothing is
set here: the level is global to the process and belongs to the application.
"""

from __future__ import annotations

import os

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from vlmvid.errors import ConfigError, DecodeError


def open_container(path: str) -> InputContainer:
    """Open a local media file; raises DecodeError (``missing_file``, ``empty_file``, ``unreadable``, ...)."""
    try:
        size = os.stat(path).st_size
        if size == 0:
            raise DecodeError(f"{path} is empty (0 bytes); copy or download it again", reason_code="empty_file")
        # The scheme keeps FFmpeg from reading a colon in the file name as a protocol.
        return av.open(f"file:{path}", metadata_errors="replace")
    except (OSError, av.error.FFmpegError) as error:
        raise as_decode_error(error, path, "open") from error


def select_stream(container: InputContainer, path: str, stream_index: int | None) -> VideoStream:
    """The video stream with that number, or FFmpeg's best one when it is None.

    Raises ConfigError when `stream_index` names no video stream, DecodeError (``no_video_stream``,
    ``unreadable``) when there is nothing to decode.
    """
    videos = list(container.streams.video)
    if stream_index is not None:
        chosen = next((stream for stream in videos if stream.index == stream_index), None)
        if chosen is None:
            known = ", ".join(str(stream.index) for stream in videos) or "none"
            raise ConfigError(f"stream_index={stream_index} is no video stream of {path}; video streams: {known}")
    else:
        best = container.streams.best("video")
        chosen = best if isinstance(best, VideoStream) else None
    # The cover picture of a song is stored as a video stream, but it is no video.
    if chosen is None or (stream_index is None and chosen.disposition & Disposition.attached_pic):
        raise DecodeError(f"{path} has no video stream; remove it from the dataset", reason_code="no_video_stream")
    if chosen.codec_context is None or not chosen.width or not chosen.height:
        raise DecodeError(
            f"{path}: FFmpeg finds no picture size or no decoder for its video stream; the header is damaged or the "
            "codec is unknown; encode the file again",
            reason_code="unreadable",
        )
    return chosen


def as_decode_error(error: Exception, path: str, action: str) -> DecodeError:
    """The DecodeError that tells what `error` means for this file, with its reason code."""
    if isinstance(error, FileNotFoundError):
        return DecodeError(f"{path} does not exist; check the path in the manifest", reason_code="missing_file")
    if isinstance(error, (IsADirectoryError, PermissionError, NotADirectoryError)):
        return DecodeError(
            f"cannot {action} {path}: {error.strerror}; give a file that may be read", reason_code="unreadable"
        )
    if isinstance(error, OSError) and not isinstance(error, EOFError):
        return DecodeError(
            f"cannot {action} {path}: {error.strerror}; the storage may be down for a moment, try again",
            reason_code="read_error",
            transient=True,
        )
    if action == "open":
        return DecodeError(
            f"{path} is not a media file that FFmpeg can open ({error}); it is of another type, or it was cut off "
            "before its index was written; copy or encode it again",
            reason_code="unreadable",
        )
    return DecodeError(
        f"cannot {action} {path}: {error}; the file is damaged; copy or encode it again", reason_code="decode_error"
    )
