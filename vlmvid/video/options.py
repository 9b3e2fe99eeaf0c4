"""What may be asked of a reader and of the decoding of one clip; plain values that pickle."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FRAME_PIXELS = 8192 * 8192
"""Default limit of width times height: above 8k UHD, far below what would fill the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderOptions:
    """How a file is opened.

    Attributes:
        stream_index: number of the stream in the container; None takes FFmpeg's best video stream.
        num_threads: decoding threads, at least 1.
        image_size: None gives upright frames of full size; else every frame is scaled so that its
            short side is `image_size` while it is converted to RGB, and its centre is cut out: (S, S).
        max_frame_pixels: a stream whose frames have more pixels is refused (``frame_too_large``).
        index_path: where the packet index of this very content is kept; read if it is there, written
            if not. None reads the packets at every opening.
    """

    stream_index: int | None = None
    num_threads: int = 1
    image_size: int | None = None
    max_frame_pixels: int = MAX_FRAME_PIXELS
    index_path: str | None = None


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One clip of one file.

    Attributes:
        path: a local video or picture file.
        start_seconds: first time of the clip, counted from the file's first frame.
        end_seconds: the clip is [start_seconds, end_seconds); None means the end of the file.
        identity: seeds the policies that draw at random: the same identity gives the same frames.
        index_path: as `ReaderOptions.index_path`.
    """

    path: str
    start_seconds: float = 0.0
    end_seconds: float | None = None
    identity: str = ""
    index_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one file may cost before it is given up.

    Attributes:
        seconds: wall-clock limit per clip.
        memory_bytes: limit of a worker's memory.
        max_frame_pixels: as `ReaderOptions.max_frame_pixels`.
    """

    seconds: float = 300.0
    memory_bytes: int = 4 * 2**30
    max_frame_pixels: int = MAX_FRAME_PIXELS
