"""What a decode worker and its parent say to each other.

The parent sends pickles: one `WorkerSetup`, then one `WorkerJob` at a time. The worker answers with
lines of JSON, because it has read files that nobody vouches for, and its parent must not run what
comes from there. Frames travel through anonymous memory that both have mapped and that vanishes
with the last of them, whatever kills it; copying them in and out costs 0.1 ms for 16 x 224 x 224
frames, where a pipe takes 0.5 ms and a Unix socket 0.25 ms (measured on a 2-core machine).
"""

from __future__ import annotations

import json
import math
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.options import ClipJob, DecodeLimits

_LENGTH_BYTES = 4
_WORD_BYTES = 8  # a float64 or int64


class FileJob(Protocol):
    """Work on one file that may be broken; a value that pickles."""

    @property
    def path(self) -> str:
        """The file, for messages."""

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        """What was found, as JSON values; raises DecodeError, and whatever the file provokes."""


Job = ClipJob | FileJob


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """First message to a worker; `frames_fd` is the number of the inherited memory for frames."""

    config: DecodeConfig | None
    limits: DecodeLimits
    frames_fd: int


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One job, to do with that many threads."""

    job: Job
    num_threads: int


def pack(message: WorkerSetup | WorkerJob) -> bytes:
    """The message with its length in front, as `receive` reads it."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def receive(stream: BinaryIO) -> Any:
    """The next message, or None when the sender is gone."""
    head = stream.read(_LENGTH_BYTES)
    size = int.from_bytes(head, "little")
    body = stream.read(size) if len(head) == _LENGTH_BYTES else b""
    # Only the parent process holds the other end of this pipe.
    return pickle.loads(body) if body and len(body) == size else None  # noqa: S301  # nosec B301


def answer_line(kind: str, **fields: Any) -> bytes:
    """One answer of a worker; JSON's escapes carry any text, also file names that are no UTF-8."""
    return json.dumps({"kind": kind, **fields}).encode("ascii") + b"\n"


def error_fields(error: DecodeError) -> dict[str, Any]:
    """What of a DecodeError travels."""
    return {"message": str(error), "reason_code": error.reason_code, "transient": error.transient}


def error_from(answer: dict[str, Any]) -> DecodeError:
    """The DecodeError of an answer made with `error_fields`."""
    return DecodeError(
        str(answer["message"]), reason_code=str(answer["reason_code"]), transient=bool(answer["transient"])
    )


def open_frame_memory() -> int:
    """A file descriptor of anonymous memory; where the system has none, of an unlinked temporary file."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    import fcntl

    fd = os.memfd_create("vlmvid-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    # A worker that shrank the memory would end its parent with SIGBUS at the next read.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


class FrameMemory:
    """The memory behind `fd`: a count, timestamps, and frames, as one side writes and the other reads them."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        if os.fstat(fd).st_size < _WORD_BYTES:
            os.ftruncate(fd, _WORD_BYTES)
        self._map = mmap.mmap(fd, _WORD_BYTES)

    @property
    def num_begun(self) -> int:
        """How many jobs the worker has begun: it tells whether a job had a part in the worker's death."""
        return int(self._count()[0])

    def count_begun(self) -> None:
        """Count one job more; it costs the parent no waking up, which a message would."""
        self._count()[0] += 1

    def write(self, batch: FrameBatch) -> dict[str, Any]:
        """Store `batch` and return what `read` needs to know; raises OSError when there is no room."""
        # The converters write (T, H, W, C), and `frames` is a view of that; turning it round would
        # cost more than the trip.
        pixels = batch.frames.transpose(0, 2, 3, 1)
        is_channels_last = pixels.flags.c_contiguous
        if not is_channels_last:
            pixels = batch.frames
        times, frames = self._views(pixels.shape, grow=True)
        np.copyto(times, batch.pts_seconds)
        np.copyto(frames, pixels)
        return {"shape": list(pixels.shape), "is_channels_last": is_channels_last}

    def read(self, answer: dict[str, Any]) -> FrameBatch:
        """A copy of what `write` stored; raises ValueError for an answer that does not fit the memory."""
        shape = tuple(answer["shape"])
        if len(shape) != 4 or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"expected four sizes, got {shape}")
        times, frames = self._views(shape, grow=False)
        pixels = frames.copy()
        return FrameBatch(pixels.transpose(0, 3, 1, 2) if answer["is_channels_last"] else pixels, times.copy())

    def close(self) -> None:
        """Give the memory up."""
        self._map.close()
        os.close(self.fd)

    def _views(self, shape: tuple[int, ...], *, grow: bool) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        frames_offset = _WORD_BYTES * (1 + shape[0])
        memory = self._mapped(frames_offset + math.prod(shape), grow=grow)
        times = np.frombuffer(memory, np.float64, count=shape[0], offset=_WORD_BYTES)
        frames = np.frombuffer(memory, np.uint8, count=math.prod(shape), offset=frames_offset)
        return times, frames.reshape(shape)

    def _count(self) -> NDArray[np.int64]:
        return np.frombuffer(self._map, np.int64, count=1)

    def _mapped(self, size: int, *, grow: bool) -> mmap.mmap:
        if len(self._map) < size:
            there = os.fstat(self.fd).st_size
            if there < size:
                if not grow:
                    raise ValueError(f"the frames need {size} bytes, the memory has {there}")
                os.ftruncate(self.fd, size)
            grown = mmap.mmap(self.fd, size)
            self._map.close()
            self._map = grown
        return self._map
