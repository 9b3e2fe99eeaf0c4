"""Exact random access to video frames with PyAV (FFmpeg).

Timestamps of all packets are read once, and kept if asked. Wanted frames are grouped by the keyframe
that leads to them, and each group is decoded once (`vlmvid.video.gop.plan`). A frame is taken by its timestamp,
never by its place after a seek: where a seek lands is up to the container, and the first frame
decoded there is the keyframe, not the wanted one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.gop.decoder import Keep, refuse_too_large
from vlmvid.video.gop.frame_source import FrameSource
from vlmvid.video.gop.packet_index import PacketIndex
from vlmvid.video.options import ReaderOptions
from vlmvid.video.paths import check_file, printable
from vlmvid.video.pictures import FrameConverter, Orientation, orientation_of
from vlmvid.video.sampling import checked_indices, indices_at_seconds


class PyAVReader(AbstractContextManager["PyAVReader"]):
    """`VideoReader` on PyAV; see `vlmvid.video.readers.reader.open_video` for arguments and errors."""

    name = "pyav"
    chosen_because = "asked for by name"

    def __init__(self, path: str, options: ReaderOptions = ReaderOptions()) -> None:  # noqa: B008 - a frozen value
        self.path = path
        self.options = options
        self._identity = self._identity_now()  # before the file is opened, so that no change is missed
        self._source = FrameSource(path, options)
        self._is_closed = False
        self._local = threading.local()

    @property
    def index(self) -> PacketIndex:
        """The frame table."""
        return self._source.index

    @property
    def num_frames(self) -> int:
        """Number of whole frames in the file."""
        return len(self.index)

    @property
    def average_fps(self) -> float:
        """Mean frames per second as the container gives it, else num_frames / duration_seconds."""
        rate = self._source.stream.average_rate or self._source.stream.guessed_rate
        return float(rate) if rate else self.num_frames / self.duration_seconds

    @property
    def duration_seconds(self) -> float:
        """From the first frame's timestamp to the end of the last frame."""
        return float((self.index.end_pts - int(self.index.pts[0])) * self.index.time_base)

    @property
    def width(self) -> int:
        """Width of an upright frame in pixels; the first frame is decoded to know it."""
        return self._size[1]

    @property
    def height(self) -> int:
        """Height of an upright frame in pixels; the first frame is decoded to know it."""
        return self._size[0]

    @cached_property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Presentation time of every frame, float64 (num_frames,)."""
        return self.index.seconds(self.index.pts)

    @cached_property
    def is_key(self) -> NDArray[np.bool_]:
        """Which frames are keyframes, bool (num_frames,)."""
        return np.isin(self.index.pts, self.index.key_pts)

    @property
    def is_truncated(self) -> bool:
        """True when the file ends before the frames that its index declares."""
        return self.index.is_truncated

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the codec, e.g. ``h264``."""
        return self._source.stream.codec_context.name

    @property
    def container_format(self) -> str:
        """FFmpeg's names of the container format, e.g. ``matroska,webm``."""
        return self._source.container_format

    @cached_property
    def orientation(self) -> Orientation:
        """How stored frames are turned upright, as the first frame says."""
        found: list[Orientation] = []
        self._decode([0], lambda _, frame: found.append(orientation_of(frame, self.path)))
        return found[0]

    def frames_at(self, indices: Sequence[int] | NDArray[np.int64]) -> FrameBatch:
        """The frames at `indices`, uint8 (T, 3, H, W), in that order; see `VideoReader.frames_at`."""
        wanted = checked_indices(indices, self.num_frames, printable(self.path))
        if not wanted.size:
            return FrameBatch(np.empty((0, 3, self.height, self.width), dtype=np.uint8), np.empty(0))
        _ = self._orientation_of_all  # decodes the first frame, so not from within a decoding thread
        batch: list[NDArray[np.uint8]] = []
        lock = threading.Lock()

        def keep(number: int, frame: VideoFrame) -> None:
            refuse_too_large(frame.width, frame.height, self.options.max_frame_pixels, self.path)
            picture = self._converter(frame)
            with lock:
                if not batch:
                    batch.append(np.empty((wanted.size, *picture.shape), dtype=np.uint8))
            if picture.shape != batch[0].shape[1:]:
                raise DecodeError(
                    f"{printable(self.path)}: the picture size changes from {batch[0].shape[1:3]} to "
                    f"{picture.shape[:2]} at frame {number}; encode the file again with one size",
                    reason_code="decode_error",
                )
            batch[0][wanted == number] = picture

        self._decode(np.unique(wanted).tolist(), keep)
        # A view: the memory stays (T, H, W, 3), as the converter wrote it.
        return FrameBatch(batch[0].transpose(0, 3, 1, 2), self.pts_seconds[wanted])

    def frames_at_seconds(self, seconds: Sequence[float] | NDArray[np.float64]) -> FrameBatch:
        """The frames on screen at these times; see `VideoReader.frames_at_seconds`."""
        words = printable(self.path)
        return self.frames_at(indices_at_seconds(seconds, self.pts_seconds, self.index.end_seconds, words))

    def close(self) -> None:
        """Release the file; the reader cannot be used afterwards."""
        self._is_closed = True
        self._source.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _decode(self, wanted: list[int], keep: Keep) -> None:
        """`FrameSource.decode`, of the file as it was opened.

        Raises DecodeError (``read_error``, transient) for a file that was written since: its index says nothing
        of the new content, and decoders that start over would read that. ConfigError when the reader is closed.
        """
        if self._is_closed:
            raise ConfigError(f"the reader of {printable(self.path)} is closed; open the video again")
        self._require_unchanged()
        try:
            self._source.decode(wanted, keep)
        except DecodeError:
            self._require_unchanged()
            raise
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if self._identity_now() != self._identity:
            raise DecodeError(
                f"{printable(self.path)} was written while it was read; open it again when that is done",
                reason_code="read_error",
                transient=True,
            )

    def _identity_now(self) -> tuple[int, ...]:
        status = check_file(self.path)
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @cached_property
    def _orientation_of_all(self) -> Orientation | None:
        return self.orientation if self.index.has_orientation_message else None

    @property
    def _converter(self) -> FrameConverter:
        # Several threads decode for one request, and each needs a converter of its own.
        if not hasattr(self._local, "converter"):
            self._local.converter = FrameConverter(self.path, self.options.image_size, self._orientation_of_all)
        return cast(FrameConverter, self._local.converter)

    @cached_property
    def _size(self) -> tuple[int, int]:
        _, _, height, width = self.frames_at([0]).frames.shape
        return height, width
