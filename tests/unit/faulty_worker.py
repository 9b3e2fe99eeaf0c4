"""A decode worker that does what damaged files do to decoders; the file's name says what.

Run as ``python -m tests.unit.faulty_worker``. Names without a fault are decoded as ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.worker import do_job, main


@dataclass(frozen=True)
class CountBytes:
    """A job that is no clip: write `data` to a file and count it."""

    path: str
    data: bytes | None

    def run(self, *, max_frame_pixels: int) -> dict[str, Any]:
        with open(self.path, "wb") as file:
            file.write(self.data)  # type: ignore[arg-type]
        return {"sizes": (os.stat(self.path).st_size,), "limit": max_frame_pixels, "nan": None}


def work_on(job: Any, config: Any, *, num_threads: int, max_frame_pixels: int) -> FrameBatch | dict[str, Any]:
    fault, _, argument = Path(job.path).name.partition(":")
    if fault in FAULTS:
        done.append(fault)
        return FAULTS[fault](argument, num_threads)
    return do_job(job, config, num_threads=num_threads, max_frame_pixels=max_frame_pixels)


done: list[str] = []
leaked: list[object] = []


def batch_of(values: object) -> FrameBatch:
    """A batch that carries numbers as its timestamps."""
    seconds = np.array(values, dtype=np.float64).reshape(-1)
    return FrameBatch(np.zeros((seconds.size, 3, 4, 4), np.uint8), seconds)


def hang(_: str, __: int) -> FrameBatch:
    """Sleep for a day with the interpreter held, so that no Python code runs in this process."""
    ctypes.PyDLL(None).sleep(86_400)
    return batch_of([])


def segfault(_: str, __: int) -> FrameBatch:
    ctypes.string_at(0)
    return batch_of([])


def abort(words: str, _: int) -> FrameBatch:
    os.write(2, f"first line\n{words}\n".encode())
    os.abort()


def leave(status: str, _: int) -> FrameBatch:
    os._exit(int(status))


def killed(name: str, _: int) -> FrameBatch:
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(60)
    return batch_of([])


def allocate(gigabytes: str, _: int) -> FrameBatch:
    return batch_of(np.ones(int(gigabytes) << 30, np.uint8).sum())


def fill(_: str, __: int) -> FrameBatch:
    """Allocate small pieces without end."""
    pieces = []
    while True:
        pieces.append(bytearray(2**20))


def c_malloc(_: str, __: int) -> FrameBatch:
    """What FFmpeg's allocations get from the C library, in bytes: malloc, then calloc."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.calloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.calloc.argtypes = (ctypes.c_size_t,), (ctypes.c_size_t, ctypes.c_size_t)
    return batch_of([bool(libc.malloc(8 << 30)), bool(libc.calloc(8 << 30, 1)), bool(libc.malloc(8 << 20))])


def chatter(amount: str, _: int) -> FrameBatch:
    for _number in range(int(amount)):
        print('{"kind": "error"}', flush=True)
        os.write(1, b"{\n")
        os.write(2, b"h264: error while decoding\n")
    return batch_of([1, int(sys.stdin.read() == "")])


def modules(_: str, __: int) -> FrameBatch:
    heavy = ("torch", "prefect", "mlflow", "transformers", "timm", "pyarrow")
    return batch_of([name in sys.modules for name in heavy])


def process(_: str, num_threads: int) -> FrameBatch:
    import resource

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    return batch_of([os.getpid(), num_threads, ignored, core, os.environ["OMP_NUM_THREADS"] == "1"])


def started(path: str, _: int) -> FrameBatch:
    """Leave a mark of having been decoded."""
    with open(path.replace("|", "/"), "a", encoding="utf-8") as marks:
        marks.write("x")
    return batch_of([1])


def slow(seconds: str, _: int) -> FrameBatch:
    time.sleep(float(seconds))
    return batch_of([float(seconds)])


def work(seconds: str, _: int) -> FrameBatch:
    """Sleep in small pieces, so that a pause from outside makes it longer."""
    for _piece in range(round(float(seconds) / 0.01)):
        time.sleep(0.01)
    return batch_of([float(seconds)])


def worn(_: str, __: int) -> FrameBatch:
    """Crash only where another clip was before."""
    return batch_of([1]) if len(done) == 1 else segfault("", 1)


def leak(megabytes: str, _: int) -> FrameBatch:
    leaked.append(np.ones(int(megabytes) << 20, np.uint8))
    return batch_of([1])


def big(num_frames: str, _: int) -> FrameBatch:
    count = int(num_frames)
    return FrameBatch(np.full((count, 3, 8, 8), count % 251, np.uint8), np.arange(count, dtype=np.float64))


def raise_error(kind: str, _: int) -> FrameBatch:
    if kind == "decode":
        raise DecodeError("a \udcff name\n" + "long " * 40_000, reason_code="strange_reason", transient=True)
    if kind == "config":
        raise ConfigError("image_size=\udcfe is wrong")
    if kind == "storage":
        raise OSError(5, "Input/output error")
    if kind == "hidden_memory":
        try:
            raise MemoryError
        except MemoryError as error:
            raise DecodeError("cannot decode", reason_code="decode_error") from error
    raise KeyError("a bug")


def nonsense(_: str, __: int) -> FrameBatch:
    """Write into the parent's pipe, whatever its number is now."""
    for fd in range(3, 32):
        try:
            os.write(fd, b"no json\n")
        except OSError:
            continue
    time.sleep(60)
    return batch_of([])


FAULTS = {
    "hang": hang, "segfault": segfault, "abort": abort, "leave": leave, "killed": killed, "allocate": allocate,
    "fill": fill, "c_malloc": c_malloc, "chatter": chatter, "modules": modules, "process": process,
    "started": started, "slow": slow, "big": big, "raise": raise_error, "nonsense": nonsense,
    "worn": worn, "leak": leak, "work": work,
}  # fmt: skip

if __name__ == "__main__":
    main(work_on)
