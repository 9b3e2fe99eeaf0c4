"""Reading every frame of a file that may hang or crash the process, in a child process with a time limit."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tests.zoo.codes import Code, read
from vlmvid.errors import DecodeError
from vlmvid.video import VideoReader, open_video

MOST_FRAMES = 400
"""A damaged table may name millions of frames: no more than this many are read."""


@dataclass(frozen=True)
class Seen:
    """One frame that was returned: what is drawn in it, when it is shown, and a digest of its pixels."""

    code: Code | None
    seconds: float
    digest: str


@dataclass(frozen=True)
class Report:
    """What became of one file.

    `reason` is the reason code when the file does not open (``hang`` and ``crash`` when the child did not
    answer or died), else None; `frames` holds a frame or its reason code per index. `disagreement` tells
    how frames read alone and at once differ, if they do. `grown_bytes` is the rise of the peak memory.
    """

    reason: str | None = None
    message: str = ""
    transient: bool = False
    is_truncated: bool = False
    num_frames: int = 0
    frames: dict[int, Seen | str] = field(default_factory=dict)
    disagreement: str = ""
    grown_bytes: int = 0

    def seen(self) -> dict[int, Seen]:
        """The frames that were returned."""
        return {index: frame for index, frame in self.frames.items() if isinstance(frame, Seen)}

    def reasons(self) -> set[str]:
        """All reason codes, of opening and of frames."""
        return {frame for frame in self.frames.values() if isinstance(frame, str)} | {self.reason or ""} - {""}


@dataclass(frozen=True)
class Job:
    """A file to read with one reader."""

    path: Path
    reader: str
    num_threads: int = 1
    stream_index: int | None = None


def inspect(job: Job) -> Report:
    """Read single frames in a shuffled order, then all that could be read at once."""
    before = _peak_bytes()
    try:
        video = open_video(job.path, job.reader, job.stream_index, num_threads=job.num_threads)
    except DecodeError as error:
        return Report(error.reason_code, str(error), error.transient, grown_bytes=_peak_bytes() - before)
    frames: dict[int, Seen | str] = {}
    message, transient = "", False
    with video:
        for index in np.random.default_rng(0).permutation(min(video.num_frames, MOST_FRAMES)).tolist():
            try:
                batch = video.frames_at([index])
            except DecodeError as error:
                frames[index], message, transient = error.reason_code, str(error), transient or error.transient
            else:
                frames[index] = _seen(batch.frames[0], float(batch.pts_seconds[0]))
        return Report(
            message=message,
            transient=transient,
            is_truncated=video.is_truncated,
            num_frames=video.num_frames,
            frames=dict(sorted(frames.items())),
            disagreement=_disagreement(video, frames),
            grown_bytes=_peak_bytes() - before,
        )


def look(job: Job) -> Report:
    """As `inspect`, but only the first and the last frame are read."""
    frames: dict[int, Seen | str] = {}
    try:
        with open_video(job.path, job.reader, job.stream_index, num_threads=job.num_threads) as video:
            for index in (video.num_frames - 1, 0):
                try:
                    batch = video.frames_at([index])
                except DecodeError as error:
                    frames[index] = error.reason_code
                else:
                    frames[index] = _seen(batch.frames[0], float(batch.pts_seconds[0]))
            return Report(
                is_truncated=video.is_truncated, num_frames=video.num_frames, frames=dict(sorted(frames.items()))
            )
    except DecodeError as error:
        return Report(error.reason_code, str(error), error.transient)


def _disagreement(video: VideoReader, frames: dict[int, Seen | str]) -> str:
    """How frames that were read one by one differ from the same read at once; "" when they do not."""
    indices = [index for index, frame in frames.items() if isinstance(frame, Seen)]
    if not indices:
        return ""
    try:
        batch = video.frames_at(indices)
    except DecodeError as error:
        # Frames of several sizes cannot be stacked.
        return "" if "picture size changes" in str(error) else f"read together: {error}"
    together = [_seen(pixels, float(seconds)) for pixels, seconds in zip(batch.frames, batch.pts_seconds, strict=True)]
    differing = [index for index, seen in zip(indices, together, strict=True) if frames[index] != seen]
    return f"frames {sorted(differing)} differ when they are read together" if differing else ""


def _seen(pixels: np.ndarray, seconds: float) -> Seen:
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
    return Seen(read(pixels), seconds, digest)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hang(job: Job) -> Report:
    """Stands in for a reader that never returns."""
    time.sleep(3600)
    return Report()


def crash(job: Job) -> Report:
    """Stands in for a reader that ends the process."""
    os.abort()


class Inspector:
    """Runs `inspect` in one child process; a file that hangs or kills it costs its report, not the run."""

    def __init__(self, seconds: float = 20.0) -> None:
        self._seconds = seconds
        self._pool = self._start()
        self._reports: dict[tuple[Job, str], Report] = {}

    def remembered(self, job: Job, function: Callable[[Job], Report] = inspect) -> Report:
        """The report of an earlier call, where there was one."""
        key = (job, function.__name__)
        if key not in self._reports:
            self._reports[key] = self(job, function)
        return self._reports[key]

    def __call__(self, job: Job, function: Callable[[Job], Report] = inspect) -> Report:
        future: Future[Report] = self._pool.submit(function, job)
        try:
            return future.result(self._seconds)
        except BrokenProcessPool:
            self._pool = self._start()
            return Report("crash")
        except TimeoutError:
            self.close()
            self._pool = self._start()
            return Report("hang")

    def close(self) -> None:
        """End the child, at work or not."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
