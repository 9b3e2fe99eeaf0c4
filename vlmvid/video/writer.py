"""Frames to MP4 files: H.264 by PyAV, the same bytes for the same input.

One thread, fixed x264 parameters and no version string in the stream (x264 writes its version and
options into a side message, which is dropped), so that bytes depend on frames, rate and the
libraries' coding decisions alone. The file appears under its name only when it is complete.
"""

from __future__ import annotations

import math
import os
import secrets
from fractions import Fraction
from pathlib import Path

import av
import av.bitstream
import numpy as np
from numpy.typing import NDArray

from vlmvid.artifacts.files import fsync_file
from vlmvid.errors import ConfigError

_GOP_SIZE = 12
# Enough for 30000/1001, the rate of NTSC.
_MAX_DENOMINATOR = 1001
_X264_PARAMS = "threads=1:lookahead-threads=1:sliced-threads=0:bframes=0:ref=1:scenecut=0:rc-lookahead=0:mbtree=0"
# H.264 side messages (supplemental enhancement information) are NAL units of type 6.
_DROP_SIDE_MESSAGES = "filter_units=remove_types=6"


def write_mp4(path: Path | str, frames: NDArray[np.uint8], *, fps: float, lossless: bool = False) -> None:
    """Write `frames` as an H.264 MP4 (yuv420p) with a constant rate.

    Args:
        path: where the file goes; its folder is made. An existing file is replaced atomically.
        frames: uint8 (T, 3, H, W), RGB, [0, 255]; H and W even, T at least 1.
        fps: frames per second, at least 1/1001.
        lossless: code without loss (after the conversion to yuv420p), so that equal frames decode to equal
            frames wherever they stand in a clip.

    Raises:
        ConfigError: frames of another type or shape, odd sides, or a rate that is not positive.
    """
    _check(frames, fps)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        _encode(temporary, frames, fps=fps, lossless=lossless)
        fsync_file(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check(frames: NDArray[np.uint8], fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[0] < 1:
        raise ConfigError(
            f"frames must be uint8 (T, 3, H, W) with T >= 1; got {frames.dtype} {frames.shape}; "
            "transpose channel-last frames with frames.transpose(0, 3, 1, 2)"
        )
    height, width = frames.shape[2:]
    if height % 2 or width % 2 or not height or not width:
        raise ConfigError(f"H.264 with yuv420p needs even sides; got {width}x{height}; pad or crop by one pixel")
    if not (fps > 0 and math.isfinite(fps)) or not Fraction(fps).limit_denominator(_MAX_DENOMINATOR):
        raise ConfigError(f"fps must be greater than 0 and finite, and at least 1/{_MAX_DENOMINATOR}; got {fps}")


def _encode(path: Path, frames: NDArray[np.uint8], *, fps: float, lossless: bool) -> None:
    rate = Fraction(fps).limit_denominator(_MAX_DENOMINATOR)
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = _GOP_SIZE
        stream.thread_count = 1
        quality = {"qp": "0"} if lossless else {"crf": "18"}
        stream.options = {"preset": "veryfast", "flags": "+bitexact", "x264-params": _X264_PARAMS, **quality}
        clean = av.bitstream.BitStreamFilterContext(_DROP_SIDE_MESSAGES, stream)
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(clean.filter(packet))
        for packet in stream.encode(None):
            container.mux(clean.filter(packet))
        container.mux(clean.filter(None))
