"""Writing, copying and damaging small video files whose frames say their number and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from tests.zoo.codes import Code, draw

FPS = 25
STEP_MS = 1000 // FPS
NUM_FRAMES = 48
GOP = 12
HEIGHT, WIDTH = 64, 96
MILLISECOND = Fraction(1, 1000)

X264 = {"preset": "ultrafast", "crf": "18", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}
B_FRAMES = {**X264, "bf": "2", "b_adapt": "0"}

Draw = Callable[[Code, int, int], NDArray[np.uint8]]


def codes(count: int = NUM_FRAMES, *, first: int = 0, start_ms: int = 0, step_ms: int = STEP_MS) -> list[Code]:
    """Frames at an even rate."""
    return [Code(first + i, start_ms + step_ms * i) for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Track:
    """One video stream to be written.

    `height` and `width` are those of the upright picture. `rotation` is FFmpeg's: degrees counterclockwise
    by which a player turns what is stored. `picture` draws a frame, (H, W, 3) or (H, W, 4). `shift_ms` is
    what writing adds to the times: it is taken off those that the encoder gets.
    """

    codes: Sequence[Code]
    codec: str = "libx264"
    codec_options: dict[str, str] = field(default_factory=lambda: dict(B_FRAMES))
    pix_fmt: str = "yuv420p"
    height: int = HEIGHT
    width: int = WIDTH
    time_base: Fraction = MILLISECOND
    rotation: int = 0
    picture: Draw = draw
    shift_ms: int = 0
    disposition: Disposition | None = None


def write(
    path: Path,
    *tracks: Track,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    with_audio: bool = False,
) -> Path:
    """Encode `tracks` into one file, interleaved by time; `with_audio` adds a track of silence before them."""
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as container:
        silence: Any = container.add_stream("aac", rate=16_000) if with_audio else None
        streams = [_add_stream(container, track) for track in tracks]
        if silence is not None:
            times = [code.milliseconds for track in tracks for code in track.codes]
            _encode_silence(container, silence, min(times), max(times))
        for place in range(max(len(track.codes) for track in tracks)):
            for track, stream in zip(tracks, streams, strict=True):
                if place < len(track.codes):
                    container.mux(stream.encode(_frame(track, track.codes[place])))
        for stream in streams:
            container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A second of silence without a picture."""
    with av.open(str(path), "w") as container:
        _encode_silence(container, container.add_stream("aac", rate=16_000), 0, 1000)
    return path


def _add_stream(container: Any, track: Track) -> Any:
    stream = container.add_stream(track.codec, rate=FPS, options=dict(track.codec_options))
    turned = track.rotation % 180 != 0
    stream.height, stream.width = (track.width, track.height) if turned else (track.height, track.width)
    stream.pix_fmt = track.pix_fmt
    stream.codec_context.thread_count = 1  # the same bytes on every machine, and no spinning threads on a busy one
    stream.time_base = stream.codec_context.time_base = track.time_base
    if track.disposition is not None:
        stream.disposition = track.disposition
    if track.rotation:
        stream.set_display_rotation(track.rotation)
    return stream


def _frame(track: Track, code: Code) -> av.VideoFrame:
    pixels = np.ascontiguousarray(np.rot90(track.picture(code, track.height, track.width), -track.rotation // 90))
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[2] == 4 else "rgb24")
    ticks = (code.milliseconds - track.shift_ms) * MILLISECOND / track.time_base
    if ticks.denominator != 1:
        raise ValueError(f"{code.milliseconds} ms is no whole number of ticks of {track.time_base} s")
    frame.pts, frame.time_base = int(ticks), track.time_base
    return frame


def _encode_silence(container: Any, stream: Any, start_ms: int, end_ms: int) -> None:
    for place in range(1 + (end_ms - start_ms) * 16 // 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, start_ms * 16 + place * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def hidden_colours(code: Code, height: int, width: int) -> NDArray[np.uint8]:
    """`draw` with its white cells made fully transparent and black beneath: only over white it reads right."""
    picture = draw(code, height, width)
    white = (picture == 235).all(axis=2)
    alpha = np.where(white, 0, 255).astype(np.uint8)
    picture[white] = 20
    return np.dstack([picture, alpha])


def remux(
    source: Path,
    path: Path,
    edit: Callable[[int, av.Packet], Sequence[av.Packet]] | None = None,
    *,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Copy the first video stream packet by packet; `edit` gets each packet's place and itself, and may change it."""
    with (
        av.open(str(source)) as shown,
        av.open(str(path), "w", format=container_format, options=container_options or {}) as container,
    ):
        stream = container.add_stream_from_template(shown.streams.video[0])
        whole = [packet for packet in shown.demux(video=0) if packet.size]
        for place, packet in enumerate(whole):
            for copy in edit(place, packet) if edit else (packet,):
                copy.stream = stream
                container.mux(copy)
    return path


def copy_packet(packet: av.Packet, data: bytes | None = None) -> av.Packet:
    """A packet with the same times and other bytes."""
    copy = av.Packet(bytes(packet) if data is None else data)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
    return copy
