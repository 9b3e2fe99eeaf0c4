"""Pictures of clips for people: a few frames each, from worker processes, and strips of them for pages."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmvid.config.schema import DecodeConfig, SamplingConfig
from vlmvid.errors import DecodeError
from vlmvid.video.isolation.pool import DecodePool
from vlmvid.video.options import ClipJob, DecodeLimits

_LIMITS = DecodeLimits(seconds=30.0)  # nobody waits longer for a picture
_MOST_WORKERS = 4
_JPEG_QUALITY = 80
_GAP = 2  # pixels between the frames of a strip


def clip_frames(clips: Sequence[ClipJob], num_frames: int, image_size: int) -> list[NDArray[np.uint8] | DecodeError]:
    """`num_frames` evenly spaced frames of each clip, uint8 (num_frames, 3, image_size, image_size), or why not.

    Files are read in worker processes with limits of time and memory, so a hostile one costs its own pictures alone.
    """
    config = DecodeConfig(sampling=SamplingConfig(num_frames=num_frames), image_size=image_size)
    num_workers = min(_MOST_WORKERS, os.cpu_count() or 1, len(clips)) if os.name == "posix" else 0
    with DecodePool(config, _LIMITS, num_workers=num_workers) as pool:
        return [found if isinstance(found, DecodeError) else found.frames for found in pool.decode(clips)]


def strip_uri(frames: NDArray[np.uint8]) -> str:
    """Frames uint8 (T, 3, S, S) side by side as one JPEG in a ``data:`` address, which needs no file beside a page."""
    size = frames.shape[-1]
    strip = Image.new("RGB", (len(frames) * (size + _GAP) - _GAP, size), "white")
    for place, frame in enumerate(frames):
        strip.paste(Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))), (place * (size + _GAP), 0))
    made = io.BytesIO()
    strip.save(made, "JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(made.getvalue()).decode('ascii')}"
