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
from vlmvid.video.paths import ALLOWED_PROTOCOLS, local_path, open_regular, path_error, playlist_kind, printable

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_START = b"\xff\xd8\xff"
_READ_BYTES = 1 << 20


def open_container(path: str, *, trusts_header: bool = False) -> InputContainer:
    """Open a local media file and nothing else: what FFmpeg reads stands in this one file.

    FFmpeg is given an open file and no protocol but the one that reads it, so that neither a name
    (``a%03d.jpg`` is a pattern to it, ``http:a.mp4`` an address) nor a playlist can lead it elsewhere.

    FFmpeg decodes pictures to learn what headers may leave out, which takes as long as a keyframe. With
    `trusts_header` it does not for MP4 whose header says all that decoding needs (`_header_suffices`).

    Raises DecodeError (``missing_file``, ``empty_file``, ``not_a_file``, ``symlink_loop``, ``unreadable``,
    ``protocol_not_allowed``, ``read_error``).
    """
    place = local_path(path)
    descriptor = open_regular(place)
    try:
        start = os.read(descriptor, 12)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if place.lower().endswith(_JPEG_SUFFIXES) and start.startswith(_JPEG_START):
            # One picture, whatever previews follow it in the file; FFmpeg opens it by its name, taken literally.
            only = {"protocol_whitelist": "file", "pattern_type": "none"}
            return av.open(f"file:{place}", format="image2", container_options=only, metadata_errors="replace")
        only = {"protocol_whitelist": "fd", "fd": str(descriptor)}
        if trusts_header and start[4:8] == b"ftyp":
            quick = av.open("fd:", options={"skip_frame": "all"}, container_options=only, metadata_errors="replace")
            if _header_suffices(quick):
                return quick
            quick.close()
            os.lseek(descriptor, 0, os.SEEK_SET)  # FFmpeg's copy shares the place in the file
        return av.open("fd:", container_options=only, metadata_errors="replace")
    except (OSError, av.error.FFmpegError) as error:
        kind = playlist_kind(descriptor)
        if kind is None:
            raise as_decode_error(error, path, "open") from error
        raise DecodeError(
            f"{printable(path)} is {kind}, which names other files or addresses; only the file itself is read "
            f"(allowed: {', '.join(ALLOWED_PROTOCOLS)}); put the videos that it names into the dataset",
            reason_code="protocol_not_allowed",
        ) from error
    finally:
        os.close(descriptor)  # FFmpeg has made a copy of its own


def _header_suffices(container: InputContainer) -> bool:
    """Whether every video stream is one whose decoder knows sizes and reordering from the header alone."""
    contexts = [stream.codec_context for stream in container.streams.video]
    return bool(contexts) and all(
        context is not None
        and context.name in ("h264", "hevc")
        and context.extradata
        and context.width
        and context.height
        and context.reorder_depth
        for context in contexts
    )


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
            raise ConfigError(
                f"stream_index={stream_index} is no video stream of {printable(path)}; video streams: {known}"
            )
    else:
        best = container.streams.best("video")
        chosen = best if isinstance(best, VideoStream) else None
    # The cover picture of a song is stored as a video stream, but it is no video.
    if chosen is None or (stream_index is None and chosen.disposition & Disposition.attached_pic):
        raise DecodeError(
            f"{printable(path)} has no video stream; remove it from the dataset", reason_code="no_video_stream"
        )
    if chosen.codec_context is None:
        raise DecodeError(
            f"{printable(path)}: PyAV's FFmpeg has no decoder for its video stream; encode the file again with a "
            "common codec, e.g. H.264",
            reason_code="unsupported",
        )
    if not chosen.width or not chosen.height:
        raise DecodeError(
            f"{printable(path)}: FFmpeg finds no picture size for its video stream; the header is damaged; encode the "
            "file again",
            reason_code="unreadable",
        )
    return chosen


def as_decode_error(error: Exception, path: str, action: str) -> DecodeError:
    """The DecodeError that tells what `error` means for this file, with its reason code.

    FFmpeg gives errors of the operating system for damaged files, too; the file is read once to its
    end to tell which it is, because only a failing storage is worth another attempt.
    """
    words = printable(path)
    if isinstance(error, OSError) and not isinstance(error, EOFError):
        storage_error = _storage_error(path) if isinstance(error, av.error.FFmpegError) else error
        if storage_error is not None:
            return path_error(storage_error, path, action)
    why = error.strerror if isinstance(error, av.error.FFmpegError) else error
    if action == "open":
        return DecodeError(
            f"{words} is not a media file that FFmpeg can open ({why}); it is of another type, or it was cut off "
            "before its index was written; copy or encode it again",
            reason_code="unreadable",
        )
    return DecodeError(
        f"cannot {action} {words}: {why}; the file is damaged; copy or encode it again", reason_code="decode_error"
    )


def _storage_error(path: str) -> OSError | None:
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
    except OSError as error:
        return error
    return None
