"""One frame of a video as a small JPEG, for pages; a decode worker makes it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from vlmvid.video.readers.reader import open_video

_QUALITY = 80
_TOLERANCE_SECONDS = 6e-4  # addresses give milliseconds, so that 0.333 s finds the frame stored at 1/3 s


@dataclass(frozen=True, slots=True, kw_only=True)
class ThumbnailJob:
    """The frame on screen at a time, for `DecodePool.run`; seconds count from the file's first frame.

    Attributes:
        path: a local video or picture file.
        start_seconds: of the clip.
        end_seconds: of the clip; None means the end of the file.
        seconds: the time; later than the file's end means its last frame. None takes the middle of the clip.
        side: the longer side of the JPEG has at most so many pixels.
    """

    path: str
    start_seconds: float = 0.0
    end_seconds: float | None = None
    seconds: float | None = None
    side: int

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """``jpeg``: the picture as base64. Raises DecodeError as `vlmvid.video.open_video`."""
        with open_video(self.path, max_frame_pixels=max_frame_pixels) as reader:
            from_first = reader.pts_seconds - reader.pts_seconds[0] - _TOLERANCE_SECONDS
            seconds = self.seconds
            if seconds is None:
                end = reader.duration_seconds if self.end_seconds is None else self.end_seconds
                seconds = (self.start_seconds + end) / 2
            number = int(np.searchsorted(from_first, seconds, side="right")) - 1
            frame = reader.frames_at([max(0, number)]).frames[0]
        picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        picture.thumbnail((self.side, self.side))
        made = io.BytesIO()
        picture.save(made, "JPEG", quality=_QUALITY)
        return {"jpeg": base64.b64encode(made.getvalue()).decode("ascii")}
