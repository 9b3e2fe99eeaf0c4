"""Frames of another library, behind PyAV's frame table and behind checks that keep them right."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from vlmvid.errors import DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.options import ReaderOptions
from vlmvid.video.paths import printable
from vlmvid.video.pictures import FrameConverter, Orientation, orientation_of
from vlmvid.video.readers.pyav import PyAVReader
from vlmvid.video.readers.refusals import FileTraits, refusal
from vlmvid.video.sampling import checked_indices
from vlmvid.video.transforms import resize_center_crop

# Full frames that are held at once where they are to be scaled down.
_CHUNK = 16
# Frames are compared as means of blocks: libraries interpolate colours between pixels differently.
_BLOCK, _MAX_DEPARTURE, _MAX_DEPARTURE_OF_A_BLOCK = 8, 8.0, 64.0


class CheckedReader(PyAVReader):
    """A reader whose pixels another library decodes; everything else is PyAV's.

    So all readers agree on which frame an index means. A file that the library would read wrongly is
    refused on opening with reason ``unsupported``: by `vlmvid.video.readers.refusals`, or because its first
    frame is another picture than PyAV's. Neither library tells a damaged frame from a sound one, or notices
    that it counts wrongly behind a damaged one, so PyAV decodes the wanted frames too: damaged ones are
    refused, and so are those of which the library gives another picture.

    Pixels equal PyAV's, except that stored colours of more than 8 bits are interpolated in another way and
    greys of theirs may be 2 levels darker. `ReaderOptions.image_size` is applied by Pillow after the
    conversion to RGB: these libraries scale with other filters, up to 3 grey levels away on average.
    """

    _errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, IndexError, OSError)
    """What the library raises when it cannot open or decode a file."""

    def __init__(self, path: str, options: ReaderOptions) -> None:
        super().__init__(path, options)
        self._library: Any = None
        try:
            self._refuse_unsupported()
        except BaseException:
            self.close()
            raise

    def frames_at(self, indices: Sequence[int] | NDArray[np.int64]) -> FrameBatch:
        """The frames at `indices`, uint8 (T, 3, H, W), in that order; see `VideoReader.frames_at`."""
        wanted = checked_indices(indices, self.num_frames, printable(self.path))
        if not wanted.size:
            return FrameBatch(np.empty((0, 3, self.height, self.width), dtype=np.uint8), np.empty(0))
        # Each frame once and in order: both libraries seek backwards for a frame that they have just given.
        unique, slots = np.unique(wanted, return_inverse=True)
        ours: dict[int, NDArray[np.float64]] = {}

        def keep(number: int, frame: VideoFrame) -> None:
            self._require_same_kind(number, frame)
            ours[number] = _blocks(FrameConverter(self.path)(frame))

        self._decode(unique.tolist(), keep)
        chunks = []
        for chunk in np.split(unique, range(_CHUNK, unique.size, _CHUNK)):
            frames = self._read(chunk)
            for number, picture in zip(chunk.tolist(), frames, strict=True):
                if _depart(_blocks(picture), ours[number]):
                    raise self._unsupported(f"has another frame {number} for {self.name} than for PyAV")
            chunks.append(self._scaled(frames))
        return FrameBatch(np.concatenate(chunks)[slots], self.pts_seconds[wanted])

    def close(self) -> None:
        """Release the file; the reader cannot be used afterwards."""
        self._library = None
        super().close()

    @abstractmethod
    def _open_library(self) -> Any:
        """The library's own reader of the file."""

    @abstractmethod
    def _read_with(self, library: Any, indices: list[int]) -> NDArray[np.uint8]:
        """The upright frames of full size at increasing `indices`, uint8 (T, H, W, 3)."""

    def _read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        try:
            if self._library is None:
                self._library = self._open_library()
            return self._read_with(self._library, [int(number) for number in indices])
        except self._errors as error:
            self._library = None  # where it stands in the file after an error is not known
            words = (str(error).splitlines() or [type(error).__name__])[0]
            # PyAV has decoded these frames, so the file is sound.
            raise self._unsupported(f"is not read by {self.name} ({words})") from error

    def _scaled(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        upright = frames.transpose(0, 3, 1, 2)
        size = self.options.image_size
        return upright if size is None else resize_center_crop(upright, size)

    def _refuse_unsupported(self) -> None:
        if self.is_truncated:
            raise DecodeError(
                f"{printable(self.path)} ends before its last declared frame, and {self.name} believes what is "
                "declared; read what is left with reader='pyav', or copy the file again",
                reason_code="truncated",
            )
        frames: list[VideoFrame] = []
        self._decode([0], lambda _, frame: frames.append(frame))
        self._kind = _kind_of(frames[0])
        found = refusal(self.name, self._traits(frames[0]))
        if found is not None:
            raise self._unsupported(f"has {found}, which {self.name} does not read exactly")
        if departs(self._read([0])[0], FrameConverter(self.path)(frames[0])):
            raise self._unsupported(f"has another first frame for {self.name} than for PyAV")

    def _require_same_kind(self, number: int, frame: VideoFrame) -> None:
        if _kind_of(frame) != self._kind:
            raise DecodeError(
                f"{printable(self.path)}: pictures change from {self._kind} to {_kind_of(frame)} at frame {number}; "
                "encode the file again",
                reason_code="decode_error",
            )

    def _traits(self, first: VideoFrame) -> FileTraits:
        index, stream = self.index, self._source.stream
        orientation = orientation_of(first, self.path)
        num_packets, container_ticks = index.packet_sizes.size, cast(InputContainer, stream.container).duration or 0
        return FileTraits(
            container=self.container_format,
            codec=stream.codec_context.codec.canonical_name,
            is_counted=index.counted,
            has_open_groups=not index.has_closed_gops,
            has_unclean_keys=not index.keys_refresh,
            has_other_keys=sum(entry.is_keyframe for entry in stream.index_entries) > index.key_pts.size,
            starts_without_key=not index.key_pts.size or bool(index.pts[0] < index.key_pts[0]),
            hides_packets=num_packets != len(index),
            overstates=stream.frames > num_packets or container_ticks / av.time_base > 10 * self._end_or_one_second,
            is_turned=orientation != Orientation(),
            is_mirrored=not orientation.is_rotation,
            is_turned_by_message=index.has_orientation_message,
            is_transparent=stream.metadata.get("alpha_mode") == "1" or _may_be_transparent(first),
            is_interlaced=first.interlaced_frame,
            bits_per_colour=max(part.bits for part in first.format.components),
            num_video_streams=len(stream.container.streams.video),
            has_plain_name=printable(self.path) == self.path,
        )

    @property
    def _end_or_one_second(self) -> float:
        return max(1.0, self.index.end_seconds)

    def _unsupported(self, what: str) -> DecodeError:
        return DecodeError(f"{printable(self.path)} {what}; use reader='pyav'", reason_code="unsupported")


def departs(theirs: NDArray[np.uint8], ours: NDArray[np.uint8]) -> bool:
    """True when two pictures, uint8 (H, W, 3), differ by more than how colours are interpolated between pixels."""
    return theirs.shape != ours.shape or _depart(_blocks(theirs), _blocks(ours))


def _depart(theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> bool:
    if theirs.shape != ours.shape:
        return True
    apart = np.abs(theirs - ours)
    return bool(apart.mean() > _MAX_DEPARTURE or apart.max() > _MAX_DEPARTURE_OF_A_BLOCK)


def _blocks(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    side = min(_BLOCK, *pixels.shape[:2])
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    whole = pixels[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return np.asarray(whole.mean((1, 3), dtype=np.float64))


def _kind_of(frame: VideoFrame) -> tuple[object, ...]:
    return (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)


def _may_be_transparent(frame: VideoFrame) -> bool:
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
