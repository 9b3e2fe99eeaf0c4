"""What a video reader offers, the readers known by name, and `open_video`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.registry import Registry
from vlmvid.types import FrameBatch
from vlmvid.video.options import MAX_FRAME_PIXELS, ReaderOptions
from vlmvid.video.paths import local_path, printable


class VideoReader(AbstractContextManager["VideoReader"], Protocol):
    """One open video file whose frames are numbered in presentation order.

    All times are on the file's own clock: `pts_seconds[0]` is not 0 when the stream starts late.
    Frames are upright (the file's rotation and mirroring are applied); they keep their full size,
    unless `ReaderOptions.image_size` asks for squares.
    A reader belongs to one thread and one process: open it where it is used.
    """

    @property
    def name(self) -> str:
        """Registered name of the reader, e.g. ``pyav``; with ``auto``, the one that was chosen."""

    chosen_because: str
    """Why this reader reads the file: it was asked for by name, or what made ``auto`` take it."""

    @property
    def num_frames(self) -> int:
        """Number of frames that the file really holds; a header that says more is not believed."""

    @property
    def average_fps(self) -> float:
        """Mean frames per second as the container gives it."""

    @property
    def duration_seconds(self) -> float:
        """From the first frame's timestamp to the end of the last frame."""

    @property
    def width(self) -> int:
        """Width in pixels of the frames that `frames_at` gives."""

    @property
    def height(self) -> int:
        """Height in pixels of the frames that `frames_at` gives."""

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Presentation time of every frame, float64 (num_frames,), strictly increasing."""

    @property
    def is_key(self) -> NDArray[np.bool_]:
        """Which frames are keyframes, bool (num_frames,)."""

    @property
    def is_truncated(self) -> bool:
        """True when the file ends before the frames that its index declares."""

    def frames_at(self, indices: Sequence[int] | NDArray[np.int64]) -> FrameBatch:
        """The frames at `indices`, in that order; repeats are allowed.

        Raises ConfigError for an index outside [0, num_frames), DecodeError when a frame cannot be decoded.
        """

    def frames_at_seconds(self, seconds: Sequence[float] | NDArray[np.float64]) -> FrameBatch:
        """The frames on screen at these times, on the clock of `pts_seconds`.

        Raises ConfigError for a time before the first frame or after the end of the last one.
        """

    def close(self) -> None:
        """Release the file; the reader cannot be used afterwards."""


OpenReader = Callable[[str, ReaderOptions], VideoReader]


# Imports stand inside the functions so that listing the readers loads neither library.
def _open_pyav(path: str, options: ReaderOptions) -> VideoReader:
    from vlmvid.video.readers.pyav import PyAVReader

    return PyAVReader(path, options)


def _open_decord(path: str, options: ReaderOptions) -> VideoReader:
    from vlmvid.video.readers.decord import DecordReader

    return DecordReader(path, options)


def _open_torchcodec(path: str, options: ReaderOptions) -> VideoReader:
    from vlmvid.video.readers.torchcodec import TorchcodecReader

    return TorchcodecReader(path, options)


AUTO_ORDER = ("pyav", "torchcodec", "decord")
"""The readers that ``auto`` tries, best first; a package that is missing is a reason, too."""


def _open_auto(path: str, options: ReaderOptions) -> VideoReader:
    """PyAV, else the first other reader that reads the file exactly.

    Only a file that PyAV refuses as ``unsupported`` gets another one: what is damaged is damaged for all.
    The others check themselves against PyAV's frames, so with the readers of today that is no file yet; a
    reader that needs no PyAV would serve here.
    """
    reasons: list[str] = []
    for name in AUTO_ORDER:
        try:
            reader = READERS.get(name)(path, options)
        except (DecodeError, ConfigError) as error:
            if not reasons and getattr(error, "reason_code", None) != "unsupported":
                raise
            reasons.append(f"{name}: {error}")
        else:
            reader.chosen_because = "; ".join(reasons) or "PyAV is exact for every file that it has a decoder for"
            return reader
    raise DecodeError(f"no reader reads {printable(path)}; {'; '.join(reasons)}", reason_code="unsupported")


READERS: Registry[OpenReader] = Registry("video reader")
"""Readers by name; each entry is called as ``(path, options)``."""

READERS.register("pyav", _open_pyav)
READERS.register("decord", _open_decord)
READERS.register("torchcodec", _open_torchcodec)


def open_video(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    reader: str = "auto",
    stream_index: int | None = None,
    *,
    num_threads: int = 1,
    image_size: int | None = None,
    max_frame_pixels: int = MAX_FRAME_PIXELS,
    index_path: str | None = None,
) -> VideoReader:
    """Open a local video file for exact random access; use it as a context manager.

    Args:
        path: a local file, also as ``file:`` address; no other protocol is opened, see `vlmvid.video.paths`.
            Bytes are the name as the file system holds it.
        reader: ``auto``, ``pyav``, ``torchcodec`` or ``decord``. ``auto`` is PyAV, and another one only
            for a file that PyAV has no decoder for: PyAV is exact for every container, stops where the
            file stops, and has wheels for every platform. The other two need packages that may be
            missing, and refuse the files that they would read wrongly (`vlmvid.video.readers.refusals`).
        stream_index: number of the stream in the container; None takes the best video stream, as
            FFmpeg defines it.
        num_threads: decoding threads. One is best where many files are decoded side by side.
        image_size: None for frames of full size, else squares; see `ReaderOptions`.
        max_frame_pixels: a stream with larger frames is refused.
        index_path: where the packet index of this content is kept between openings.

    Raises:
        ConfigError: unknown reader, a package that does not load, `stream_index` is no video stream, or a
            number below 1.
        DecodeError: the file cannot be read; reason codes are ``missing_file``, ``empty_file``,
            ``not_a_file``, ``symlink_loop``, ``protocol_not_allowed``, ``unreadable``,
            ``no_video_stream``, ``truncated``, ``too_short``, ``decode_error``, ``false_timestamps``,
            ``frame_too_large``, ``unsupported`` and ``read_error`` (transient).
    """
    for name, value in (
        ("num_threads", num_threads),
        ("image_size", image_size),
        ("max_frame_pixels", max_frame_pixels),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be at least 1")
    options = ReaderOptions(
        stream_index=stream_index,
        num_threads=num_threads,
        image_size=image_size,
        max_frame_pixels=max_frame_pixels,
        index_path=index_path,
    )
    place = local_path(os.fsdecode(path))
    if reader == "auto":
        return _open_auto(place, options)
    return READERS.get(reader)(place, options)
