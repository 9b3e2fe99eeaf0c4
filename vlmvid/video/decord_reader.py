"""Random access to video frames with decord, behind checks that keep it right.

decord 0.6.0 numbers frames by their order in the packet stream and believes the container. It
loops without end, holding the interpreter, when the container declares more frames than it holds
(dmlc/decord#373); it gives wrong frames for MPEG-TS, AVI, intra refresh and open groups of pictures (HEVC
by default); and it puts the last good frame in place of a damaged one. So PyAV reads the exact frame
table first, and a file outside what decord reads rightly is refused with reason ``unsupported``.

``DECORD_EOF_RETRY_MAX`` stays as it is: small values make decord give up on sound files, because
it counts polls of its decoding thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.options import ReaderOptions
from vlmvid.video.pyav_reader import PyAVReader
from vlmvid.video.sampling import checked_indices, indices_at_seconds
from vlmvid.video.transforms import resize_center_crop

_CONTAINERS = ("mp4", "matroska")
_CODECS = ("h264", "vp9")


class DecordReader:
    """`VideoReader` on decord; see `vlmvid.video.reader.open_video` for arguments and errors.

    The frame table (`num_frames`, `pts_seconds`, ...) is PyAV's, so both readers agree on which
    frame an index means.
    """

    name = "decord"

    def __init__(self, path: str, options: ReaderOptions) -> None:
        self.path = path
        self.options = options
        self._decord = _import_decord()
        self._table = PyAVReader(path, replace(options, num_threads=1))
        try:
            self._refuse_unsupported(options.stream_index)
            self._frames = self._open_decord(options.num_threads)
        except BaseException:
            self._table.close()
            raise

    @property
    def num_frames(self) -> int:
        """Number of whole frames in the file."""
        return self._table.num_frames

    @property
    def average_fps(self) -> float:
        """Mean frames per second as the container gives it."""
        return self._table.average_fps

    @property
    def duration_seconds(self) -> float:
        """From the first frame's timestamp to the end of the last frame."""
        return self._table.duration_seconds

    @property
    def width(self) -> int:
        """Width of an upright frame in pixels."""
        return self._table.width

    @property
    def height(self) -> int:
        """Height of an upright frame in pixels."""
        return self._table.height

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Presentation time of every frame, float64 (num_frames,)."""
        return self._table.pts_seconds

    @property
    def is_key(self) -> NDArray[np.bool_]:
        """Which frames are keyframes, bool (num_frames,)."""
        return self._table.is_key

    @property
    def is_truncated(self) -> bool:
        """Always False: truncated files are refused."""
        return self._table.is_truncated

    def frames_at(self, indices: Sequence[int] | NDArray[np.int64]) -> FrameBatch:
        """The frames at `indices`, uint8 (T, 3, H, W), in that order; see `VideoReader.frames_at`."""
        wanted = checked_indices(indices, self.num_frames, self.path)
        if not wanted.size:
            return FrameBatch(np.empty((0, 3, self.height, self.width), dtype=np.uint8), np.empty(0))
        # decord seeks twice at each change of the group of pictures, so it gets each frame once and in order.
        unique, slots = np.unique(wanted, return_inverse=True)
        try:
            frames = self._frames.get_batch(unique.tolist()).asnumpy()
        except self._decord.DECORDError as error:
            raise self._as_decode_error(error) from error
        upright = frames.transpose(0, 3, 1, 2)
        if self.options.image_size is not None:
            upright = resize_center_crop(upright, self.options.image_size)
        return FrameBatch(upright[slots], self.pts_seconds[wanted])

    def frames_at_seconds(self, seconds: Sequence[float] | NDArray[np.float64]) -> FrameBatch:
        """The frames on screen at these times; see `VideoReader.frames_at_seconds`."""
        end_seconds = self._table.index.end_seconds
        return self.frames_at(indices_at_seconds(seconds, self.pts_seconds, end_seconds, self.path))

    def close(self) -> None:
        """Release the file; the reader cannot be used afterwards."""
        self._frames = None
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_unsupported(self, stream_index: int | None) -> None:
        table = self._table
        if table.is_truncated:
            raise DecodeError(
                f"{self.path} ends before its last declared frame, which makes decord loop without end; read what is "
                "left with reader='pyav', or copy the file again",
                reason_code="truncated",
            )
        found = ""
        if not any(name in table.container_format.split(",") for name in _CONTAINERS):
            found = f"the container {table.container_format}"
        elif table.codec_name not in _CODECS:
            found = f"the codec {table.codec_name}"
        elif table.index.counted or not (table.index.has_closed_gops and table.index.keys_refresh):
            found = "keyframes that are no clean start, or no timestamps"
        elif not table.orientation.is_rotation:
            found = "a mirrored picture"
        elif stream_index is not None:
            found = "a chosen stream_index"
        if found:
            raise DecodeError(
                f"{self.path} has {found}, where decord returns wrong frames; use reader='pyav'",
                reason_code="unsupported",
            )

    def _open_decord(self, num_threads: int) -> Any:
        self._decord.logging.set_level(self._decord.logging.QUIET)
        try:
            # A positive fault tolerance below 1 / num_frames raises at the first replaced frame.
            frames = self._decord.VideoReader(self.path, num_threads=num_threads, fault_tol=0.5 / self.num_frames)
        except (self._decord.DECORDError, RuntimeError) as error:
            raise self._as_decode_error(error) from error
        if len(frames) != self.num_frames:
            raise DecodeError(
                f"{self.path}: decord reports {len(frames)} frames where the file holds {self.num_frames}; "
                "use reader='pyav'",
                reason_code="unsupported",
            )
        return frames

    def _as_decode_error(self, error: Exception) -> DecodeError:
        return DecodeError(
            f"decord cannot decode {self.path}: {str(error).splitlines()[0]}; copy or encode the file again, or use "
            "reader='pyav'",
            reason_code="decode_error",
        )


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise ConfigError(
            "reader='decord' needs the package decord, which is not installed; install it (it has wheels for x86-64 "
            "Linux, x86-64 macOS and Windows only) or use reader='pyav'"
        ) from error
    return decord
