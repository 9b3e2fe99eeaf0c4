"""What the frames of the zoo show, and the tracks that hold them, by codec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tests.zoo.codes import Code
from tests.zoo.makers import B_FRAMES, FPS, NUM_FRAMES, Track, codes, hidden_colours, write

CODES = codes()
LATE = codes(start_ms=1400)
"""Decoding times must not be negative in MPEG-TS, so its frames start late."""
VFR = [Code(i, sum(17 + 53 * (j * j % 7) for j in range(i))) for i in range(NUM_FRAMES)]
NEVER_SHOWN = 4000
"""Frames with numbers from here on must not be seen."""
FRAME_TIME = Fraction(1, FPS)

_X265 = "log-level=none:keyint=12:min-keyint=12:bframes=3:pools=none:frame-threads=1"
CLOSED = {"preset": "ultrafast", "crf": "18", "x265-params": _X265 + ":open-gop=0"}
OPEN = {"preset": "ultrafast", "crf": "18", "x265-params": _X265 + ":open-gop=1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "1M"}
VP9_HIDDEN = {"deadline": "good", "cpu-used": "5", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}
VP8 = {"deadline": "realtime", "cpu-used": "-5", "b": "4M", "g": "12"}
VP8_HIDDEN = {"deadline": "good", "cpu-used": "5", "b": "4M", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"}
AV1 = {"preset": "8", "g": "12", "svtav1-params": "lp=1", "crf": "8"}
MPEG = {"g": "12", "qmin": "2", "qmax": "2"}
MPEG_B = {**MPEG, "bf": "2"}
JPEG = {"qmin": "2", "qmax": "4"}
COPY_TIMES = {"mpegts_copyts": "1"}

Make = Callable[[Path], Sequence[Code]]
"""Writes a file and returns what its frames say, in order of presentation."""


def plain(track: Track, *others: Track, with_audio: bool = False, **container_options: str) -> Make:
    def make(path: Path) -> Sequence[Code]:
        write(path, track, *others, with_audio=with_audio, container_options=container_options)
        return track.codes

    return make


def h264(shown: Sequence[Code] = CODES, **options: str) -> Track:
    return Track(codes=shown, codec_options={**B_FRAMES, **options})


def tick(codec: str, codec_options: dict[str, str], pix_fmt: str = "yuv420p", shown: Sequence[Code] = CODES) -> Track:
    """A track whose codec or container knows a fixed rate only."""
    return Track(codes=shown, codec=codec, codec_options=codec_options, time_base=FRAME_TIME, pix_fmt=pix_fmt)


def free(codec: str, codec_options: dict[str, str], pix_fmt: str = "yuv420p", shown: Sequence[Code] = CODES) -> Track:
    return Track(codes=shown, codec=codec, codec_options=codec_options, pix_fmt=pix_fmt)


def sized(track: Track, height: int, width: int, pix_fmt: str = "yuv420p") -> Track:
    return replace(track, height=height, width=width, pix_fmt=pix_fmt)


def hidden(codec: str, codec_options: dict[str, str], pix_fmt: str) -> Track:
    """A track whose transparent pixels hide the contrary of what is seen over white."""
    return Track(codes=CODES, codec=codec, codec_options=codec_options, pix_fmt=pix_fmt, picture=hidden_colours)
