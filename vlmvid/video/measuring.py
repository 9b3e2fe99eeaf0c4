"""Sampled frames of a video as thumbnails, and what curation measures on them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from vlmvid.video.clip_window import clip_window
from vlmvid.video.fingerprint import (
    THUMBNAIL_SIDE,
    ClipMeasures,
    black_fraction,
    frame_hashes,
    is_textured,
    motion,
)
from vlmvid.video.gop.frame_source import FrameSource
from vlmvid.video.options import MAX_FRAME_PIXELS, ClipJob, ReaderOptions
from vlmvid.video.pictures import FrameConverter, Orientation, orientation_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureJob:
    """One clip to measure on `num_frames` sampled frames."""

    clip: ClipJob
    num_frames: int

    @property
    def path(self) -> str:
        """The file."""
        return self.clip.path

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """The fields of `ClipMeasures`, hashes as a list."""
        measures = measure_clip(self, max_frame_pixels=max_frame_pixels)
        return {**asdict(measures), "hashes": measures.hashes.tolist()}


def measure_clip(job: MeasureJob, *, max_frame_pixels: int = MAX_FRAME_PIXELS) -> ClipMeasures:
    """Measure the window of a clip; it is decoded only as far as the sampled frames need.

    Raises ConfigError and DecodeError as `vlmvid.video.clip_decoder.decode_clip`.
    """
    options = ReaderOptions(max_frame_pixels=max_frame_pixels, index_path=job.clip.index_path)
    with closing(FrameSource(job.clip.path, options)) as source:
        index = source.index
        pts_seconds = index.seconds(index.pts)
        window = clip_window(job.clip, pts_seconds, index.end_seconds, is_truncated=index.is_truncated)
        shown = pts_seconds[window.frames]
        numbers = window.first + frames_at_middles(shown, window.end_seconds, job.num_frames)
        sampled = sample_thumbnails(source, numbers.tolist())
    thumbnails = sampled.stack(numbers.tolist())
    width, height = sampled.sizes[int(numbers[0])]
    duration = window.end_seconds - float(shown[0])
    span = float(shown[-1] - shown[0])
    # To the microsecond, so that a clip of 2 s is not shorter than 2 s by a rounding error.
    return ClipMeasures(
        duration_seconds=round(duration, 6),
        num_frames=window.num_frames,
        average_fps=round((window.num_frames - 1) / span if span else 1 / duration, 6),
        width=width,
        height=height,
        motion=motion(thumbnails),
        black_fraction=black_fraction(thumbnails),
        is_textured=is_textured(thumbnails),
        hashes=frame_hashes(thumbnails),
    )


def frames_at_middles(pts_seconds: NDArray[np.float64], end_seconds: float, num_frames: int) -> NDArray[np.int64]:
    """The frames on screen at the middles of `num_frames` equal spans of time, int64 (num_frames,).

    Times, not frame numbers, so that a copy with another frame rate gives the same pictures. They do
    not decrease; a short clip gives some frames more than once.

    Args:
        pts_seconds: float64 (N,), increasing; N at least 1.
        end_seconds: when the last frame leaves the screen, after pts_seconds[-1].
        num_frames: at least 1.
    """
    start = float(pts_seconds[0])
    middles = start + (np.arange(num_frames) + 0.5) / num_frames * (end_seconds - start)
    return (np.searchsorted(pts_seconds, middles, side="right") - 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class SampledFrames:
    """What was kept of decoded frames, by frame number; of a damaged frame nothing, or a wrong picture.

    Attributes:
        thumbnails: uint8 (32, 32), full-range luma of the whole upright frame.
        sizes: width and height in pixels of the upright frame.
        orientations: how the stored frame is turned upright.
    """

    thumbnails: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    orientations: dict[int, Orientation] = field(default_factory=dict)

    def stack(self, numbers: Iterable[int]) -> NDArray[np.uint8]:
        """The thumbnails of these frames, uint8 (T, 32, 32); repeats are allowed."""
        return np.stack([self.thumbnails[number] for number in numbers])


def sample_thumbnails(source: FrameSource, numbers: Iterable[int], into: SampledFrames | None = None) -> SampledFrames:
    """Decode the frames `numbers` and keep a thumbnail and the size of each.

    One full frame is in memory at a time. Raises DecodeError when one does not decode or is damaged; `into`
    then holds what came out: the sound ones, and maybe wrong pictures of damaged ones.
    """
    sampled = into if into is not None else SampledFrames()
    whole_file = _orientation(source) if source.index.has_orientation_message else None
    convert = FrameConverter(source.path, orientation=whole_file)

    def keep(number: int, frame: VideoFrame) -> None:
        picture = Image.fromarray(np.ascontiguousarray(convert(frame)))
        sampled.orientations[number] = whole_file or orientation_of(frame, source.path)
        sampled.sizes[number] = picture.size
        # Pillow's box filter averages any number of pixels; swscale refuses to shrink an 8k frame this far.
        cells = picture.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
        sampled.thumbnails[number] = np.asarray(cells)

    source.decode(sorted(set(numbers)), keep)
    return sampled


def _orientation(source: FrameSource) -> Orientation:
    """What the first frame says, where not every frame says it again."""
    found: list[Orientation] = []
    source.decode([0], lambda _, frame: found.append(orientation_of(frame, source.path)))
    return found[0]
