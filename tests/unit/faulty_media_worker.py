"""A media worker that does what damaged files do to decoders; the file's name says what.

Run as ``python -m tests.unit.faulty_media_worker``.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from vlmvid.video.isolation.worker import main
from vlmvid.video.probing import ExamineJob


def run(job: ExamineJob, config: None, *, num_threads: int, max_frame_pixels: int) -> dict[str, Any]:
    name = Path(job.path).name
    if name == "hang.mp4":
        # With the interpreter held, so that no Python code runs in this process.
        ctypes.PyDLL(None).sleep(86_400)
    if name == "crash.mp4":
        os.abort()
    return job.run(max_frame_pixels=max_frame_pixels)


if __name__ == "__main__":
    main(run)
