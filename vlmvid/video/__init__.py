"""Video files to frames: index maths, exact readers, resizing, writing and probing.

Importing this package loads neither PyAV nor decord; `open_video` loads the reader it needs.
"""

from __future__ import annotations

from vlmvid.video.readers.reader import READERS, VideoReader, open_video

__all__ = ["READERS", "VideoReader", "open_video"]
