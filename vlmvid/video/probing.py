"""What a video file holds and what is wrong with it, for listing and checking folders of videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from vlmvid.artifacts.digests import sha256_file
from vlmvid.errors import DecodeError
from vlmvid.video.fingerprint import frame_hashes, hash_text, is_textured
from vlmvid.video.gop.frame_source import FrameSource
from vlmvid.video.gop.packet_index import PacketIndex
from vlmvid.video.measuring import SampledFrames, frames_at_middles, sample_thumbnails
from vlmvid.video.options import MAX_FRAME_PIXELS, ReaderOptions
from vlmvid.video.paths import check_file, path_error, printable
from vlmvid.video.pictures import Orientation

NUM_HASHED_FRAMES = 8
"""Sampled frames of a file's perceptual hash; 16 hex digits each."""

# Up to this much later than 0 is what reordered frames cost in some containers.
_USUAL_START_SECONDS = 0.1
# MPEG transport and program streams: their clocks may start anywhere.
_FREE_CLOCKS = ("mpegts", "mpeg")
# Intervals between frames differ by this much when a container rounds its times to milliseconds.
_ROUNDING_SECONDS = 0.002
_VFR_SHARE = 0.05
_DEGREES = {
    Orientation(): 0,
    Orientation(True, True, False): 90,
    Orientation(False, True, True): 180,
    Orientation(True, False, True): 270,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """The best video stream of a file.

    Attributes:
        codec: FFmpeg's name of the codec, e.g. ``h264``.
        profile: FFmpeg's name of the codec's profile, None when it has none.
        pixel_format: FFmpeg's name, e.g. ``yuv420p10le``.
        width: pixels of an upright frame.
        height: pixels of an upright frame.
        rotation: degrees clockwise by which a stored frame is turned upright: 0, 90, 180, 270.
        is_mirrored: the stored frame is mirrored, too.
        num_frames: whole frames in the file, counted.
        average_fps: mean frames per second as the container gives it.
        duration_seconds: from the first frame to the end of the last one.
        start_seconds: time of the first frame on the file's clock.
        keyframe_interval_median: frames from one keyframe to the next, or to the end; None without keyframes.
        keyframe_interval_max: the longest such interval.
        is_vfr: the time between frames varies by more than rounding explains.
        audio_codec: of the first audio stream, None when there is none.
        container: FFmpeg's names of the container format, e.g. ``matroska,webm``.
        bit_rate: bits per second of the whole file, None when FFmpeg cannot tell.
        is_truncated: the file ends before its last declared frame.
    """

    codec: str
    profile: str | None
    pixel_format: str | None
    width: int
    height: int
    rotation: int
    is_mirrored: bool
    num_frames: int
    average_fps: float
    duration_seconds: float
    start_seconds: float
    keyframe_interval_median: float | None
    keyframe_interval_max: int | None
    is_vfr: bool
    audio_codec: str | None
    container: str
    bit_rate: int | None
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class MediaDefect:
    """One thing that is wrong with a file: a short stable word, and the same in words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReport:
    """A file as `examine_media` found it; what could not be found is None.

    Attributes:
        file_size: bytes.
        sha256: of the bytes, in hex.
        info: its video stream.
        perceptual_hash: 16 hex digits for each of 8 frames; None when frames do not decode or have no texture.
        defects: what is wrong, in the order of discovery; empty for a sound file.
    """

    file_size: int | None = None
    sha256: str | None = None
    info: MediaInfo | None = None
    perceptual_hash: str | None = None
    defects: tuple[MediaDefect, ...] = ()


def probe_media(path: str | os.PathLike[str], *, max_frame_pixels: int = MAX_FRAME_PIXELS) -> MediaInfo:
    """Read the packet list of `path` and decode its first frame.

    Cheap: no other frame is decoded, unless the stream has no timestamps to count by.
    Raises DecodeError as `vlmvid.video.open_video` does, also when the first frame does not decode.
    """
    with closing(FrameSource(os.fspath(path), ReaderOptions(max_frame_pixels=max_frame_pixels))) as source:
        return _info(source, sample_thumbnails(source, [0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationJob:
    """One file whose length is wanted."""

    path: str

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """``duration_seconds`` as in `MediaInfo`. Raises DecodeError as `probe_media`."""
        return {"duration_seconds": probe_media(self.path, max_frame_pixels=max_frame_pixels).duration_seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamineJob:
    """One file to examine: a look at ten frames, or at `every_frame`."""

    path: str
    every_frame: bool = False

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """The fields of a `MediaReport`."""
        return asdict(examine_media(self, max_frame_pixels=max_frame_pixels))


def examine_media(job: ExamineJob, *, max_frame_pixels: int = MAX_FRAME_PIXELS) -> MediaReport:
    """Describe one file, whatever state it is in.

    Decoded are the first frame, the last one and eight in between, unless every frame is asked for. The
    codes of defects are the reason codes of `vlmvid.video.open_video`, and

    ====================  ===================================================================
    ``truncated``         the file ends before its last declared frame
    ``header_count_lies`` the header declares another number of frames than there are, and the file is whole
    ``no_timestamps``     packets lack timestamps or repeat them; frames are found by counting
    ``starts_late``       the first frame is shown more than 0.1 s after 0 (in MPEG streams,
                          whose clock starts anywhere: after the file's first timestamp)
    ``negative_start``    the first frame is shown before 0
    ``size_change``       the picture size changes within the stream
    ====================  ===================================================================
    """
    path = job.path
    try:
        report = MediaReport(file_size=check_file(path).st_size, sha256=sha256_file(Path(path)))
    except DecodeError as error:
        return MediaReport(defects=(_as_defect(error),))
    except OSError as error:
        return MediaReport(defects=(_as_defect(path_error(error, path, "read")),))
    try:
        source = FrameSource(path, ReaderOptions(max_frame_pixels=max_frame_pixels))
    except DecodeError as error:
        return replace(report, defects=(_as_defect(error),))
    with closing(source):
        return _examine(source, report, every_frame=job.every_frame)


def _examine(source: FrameSource, report: MediaReport, *, every_frame: bool) -> MediaReport:
    index = source.index
    hashed = frames_at_middles(index.seconds(index.pts), index.end_seconds, NUM_HASHED_FRAMES).tolist()
    wanted = range(len(index)) if every_frame else [0, *hashed, len(index) - 1]
    sampled = SampledFrames()
    defects: list[MediaDefect] = []
    sound: SampledFrames | None = sampled
    try:
        sample_thumbnails(source, wanted, into=sampled)
    except DecodeError as error:
        defects.append(_as_defect(error))
        sound = None
    info = _info(source, sampled)
    named = {defect.code for defect in defects}
    defects += [d for d in (*_index_defects(source, info), *_size_defects(sampled)) if d.code not in named]
    return replace(report, info=info, perceptual_hash=_hash(source, hashed, sound), defects=tuple(defects))


def _hash(source: FrameSource, numbers: list[int], sampled: SampledFrames | None) -> str | None:
    """The perceptual hash over the frames `numbers`; None where one is damaged or all are flat.

    They are decoded once more where `sampled` is None, because something else may have been damaged.
    """
    try:
        thumbnails = (sampled or sample_thumbnails(source, numbers)).stack(numbers)
    except DecodeError:
        return None
    return hash_text(frame_hashes(thumbnails)) if is_textured(thumbnails) else None


def _info(source: FrameSource, sampled: SampledFrames) -> MediaInfo:
    """What is known of a file; its size and rotation as the header says where frame 0 did not decode."""
    index, stream, container = source.index, source.stream, _container(source)
    width, height = sampled.sizes.get(0, (stream.codec_context.width, stream.codec_context.height))
    orientation = sampled.orientations.get(0, Orientation())
    duration = float((index.end_pts - int(index.pts[0])) * index.time_base)
    rate = stream.average_rate or stream.guessed_rate
    gaps = _keyframe_gaps(index)
    audio = [s.codec_context.name for s in container.streams.audio if s.codec_context is not None]
    return MediaInfo(
        codec=stream.codec_context.name,
        profile=stream.codec_context.profile,
        pixel_format=stream.codec_context.pix_fmt,
        width=width,
        height=height,
        rotation=_degrees(orientation),
        is_mirrored=not orientation.is_rotation,
        num_frames=len(index),
        average_fps=float(rate) if rate else len(index) / duration,
        duration_seconds=duration,
        start_seconds=float(index.seconds(index.pts[:1])[0]),
        keyframe_interval_median=float(np.median(gaps)) if gaps.size else None,
        keyframe_interval_max=int(gaps.max()) if gaps.size else None,
        is_vfr=_is_vfr(index.seconds(index.pts)),
        audio_codec=audio[0] if audio else None,
        container=source.container_format,
        bit_rate=container.bit_rate or None,
        is_truncated=index.is_truncated,
    )


def _container(source: FrameSource) -> InputContainer:
    return cast(InputContainer, source.stream.container)


def _degrees(orientation: Orientation) -> int:
    """The turn that is left once a mirrored picture is mirrored back, left to right."""
    if not orientation.is_rotation:
        orientation = replace(orientation, mirrored_left_right=not orientation.mirrored_left_right)
    return _DEGREES[orientation]


def _keyframe_gaps(index: PacketIndex) -> NDArray[np.int64]:
    """Frames from each keyframe to the next one, or to the end."""
    keys = np.flatnonzero(np.isin(index.pts, index.key_pts))
    return np.diff(np.append(keys, len(index))).astype(np.int64) if keys.size else keys


def _is_vfr(pts_seconds: NDArray[np.float64]) -> bool:
    gaps = np.diff(pts_seconds)
    if gaps.size < 2:
        return False
    usual = float(np.median(gaps))
    return bool((np.abs(gaps - usual) > max(_ROUNDING_SECONDS, _VFR_SHARE * usual)).any())


def _index_defects(source: FrameSource, info: MediaInfo) -> Iterator[MediaDefect]:
    """What the packets tell."""
    index, name = source.index, printable(source.path)
    declared = source.stream.frames
    if index.is_truncated:
        count = f"{len(index)} frames, {declared} declared" if declared else f"{len(index)} frames"
        words = f"{name} is cut off after {info.duration_seconds:.3f} s ({count}); copy it again"
        yield MediaDefect("truncated", words)
    # When there are fewer frames because the file is cut off, its header need not be wrong.
    if declared and not index.is_truncated and declared not in _frame_counts(source):
        words = f"{name} declares {declared} frames, but has {len(index)}; write its header again (remux it)"
        yield MediaDefect("header_count_lies", words)
    if index.counted:
        words = f"{name} has packets without timestamps, or with repeated ones; its frames are found by counting"
        yield MediaDefect("no_timestamps", words)
    start = info.start_seconds
    container = _container(source)
    if info.container in _FREE_CLOCKS and container.start_time is not None:
        start -= container.start_time / av.time_base
    if start > _USUAL_START_SECONDS or start < 0:
        code = "starts_late" if start > 0 else "negative_start"
        words = f"{name}: the first frame is shown at {start:.3f} s; times of clips count from the first frame"
        yield MediaDefect(code, words)


def _frame_counts(source: FrameSource) -> Iterator[int]:
    """The numbers of frames that an honest header may declare."""
    yield len(source.index)
    yield source.index.packet_sizes.size  # with those that are decoded but not shown
    if "mp4" in source.container_format.split(","):
        # With those that an edit list cuts out.
        with av.open(f"file:{source.path}", format="mov", options={"ignore_editlist": "1"}) as container:
            yield sum(packet.size > 0 for packet in container.demux(video=_video_number(source)))


def _video_number(source: FrameSource) -> int:
    """Which of the file's video streams is read."""
    numbers = [stream.index for stream in _container(source).streams.video]
    return numbers.index(source.stream.index)


def _size_defects(sampled: SampledFrames) -> Iterator[MediaDefect]:
    numbers = sorted(sampled.sizes)
    for before, number in pairwise(numbers):
        (width, height), (new_width, new_height) = sampled.sizes[before], sampled.sizes[number]
        if (width, height) != (new_width, new_height):
            words = (
                f"the picture size changes from {width} x {height} to {new_width} x {new_height} pixels between frames "
                f"{before} and {number}; encode the file again with one size"
            )
            yield MediaDefect("size_change", words)
            return


def _as_defect(error: DecodeError) -> MediaDefect:
    return MediaDefect(error.reason_code, str(error))
