"""The process that decodes clips for a `DecodePool`, and may die of them.

Started as ``python -m vlmvid.video.isolation.worker``. It reads jobs from its standard input and answers on
its standard output, which it first moves out of the way of libraries that print. It ends with its
parent, and it never loads torch, Prefect or MLflow.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.clip_decoder import decode_clip
from vlmvid.video.isolation.protocol import (
    FrameMemory,
    Job,
    WorkerJob,
    WorkerSetup,
    answer_line,
    error_fields,
    receive,
)
from vlmvid.video.options import ClipJob, DecodeLimits
from vlmvid.video.paths import printable

_PR_SET_PDEATHSIG = 1

Result = FrameBatch | dict[str, Any]
"""The frames of a `ClipJob`, or what another job found."""


class Work(Protocol):
    """What a worker runs per job: `do_job`, or a test's stand-in."""

    def __call__(self, job: Any, config: Any, *, num_threads: int, max_frame_pixels: int) -> Result:
        """The job's result; raises as `decode_clip`."""


def do_job(job: Job, config: DecodeConfig | None, *, num_threads: int, max_frame_pixels: int) -> Result:
    """Decode a clip as `config` says, or let another job do its own work."""
    if not isinstance(job, ClipJob):
        # There and back, so that a result is the same with and without a worker between.
        found: dict[str, Any] = json.loads(json.dumps(job.run(max_frame_pixels=max_frame_pixels)))
        return found
    if config is None:
        raise ConfigError(
            f"{printable(job.path)}: a pool made with config=None decodes no clips; give it a DecodeConfig"
        )
    return decode_clip(job, config, num_threads=num_threads, max_frame_pixels=max_frame_pixels)


def attempt(
    job: Job, config: DecodeConfig | None, limits: DecodeLimits, *, num_threads: int = 1, work: Work = do_job
) -> Result | DecodeError:
    """Do one job; whatever the file provokes becomes its DecodeError.

    Reason codes beside those of `decode_clip`: ``memory_limit`` when memory runs out, ``read_error``
    (transient) when the storage fails, ``internal_error`` for an exception that nobody foresaw.
    Raises ConfigError: that is a matter of the recipe, not of the file.
    """
    try:
        return work(job, config, num_threads=num_threads, max_frame_pixels=limits.max_frame_pixels)
    except ConfigError:
        raise
    except Exception as error:
        return _as_decode_error(error, printable(job.path), limits)


def _as_decode_error(error: Exception, path: str, limits: DecodeLimits) -> DecodeError:
    if any(isinstance(cause, MemoryError) or getattr(cause, "errno", None) == errno.ENOMEM for cause in _causes(error)):
        return DecodeError(
            f"{path}: reading it needs more memory than the limit of {limits.memory_bytes / 2**20:.0f} MiB; leave the "
            "file out, or raise the limit if its frames are meant to be that large",
            reason_code="memory_limit",
        )
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, OSError):
        return DecodeError(
            f"{path} could not be read: {error}; the storage may be down for a moment, try again",
            reason_code="read_error",
            transient=True,
        )
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "?"
    return DecodeError(
        f"{path}: reading it raised {type(error).__name__}: {error} (at {where}), which vlmvid should have named; "
        "leave the file out, and report it",
        reason_code="internal_error",
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def main(work: Work = do_job) -> None:
    """Serve one parent until it closes the pipe; ends the process."""
    requests, answers = _take_over_pipes()
    _tie_to_parent()
    with contextlib.suppress(BrokenPipeError):  # the parent is gone: nothing is left to do
        _serve(requests, answers, work)
    # Nothing is open here but what the kernel closes; destructors of media libraries may hang.
    os._exit(0)


def _serve(requests: BinaryIO, answers: int, work: Work) -> None:
    setup: WorkerSetup | None = receive(requests)
    if setup is None:
        return
    _load_readers()
    start_bytes = _data_bytes()
    _limit_memory(start_bytes + setup.limits.memory_bytes)
    memory = FrameMemory(setup.frames_fd)
    _send(answers, answer_line("ready"))
    request: WorkerJob | None
    while (request := receive(requests)) is not None:
        memory.count_begun()
        kind, fields = _answer(request, setup, memory, work)
        _send(answers, answer_line(kind, grown_bytes=_data_bytes() - start_bytes, **fields))


def _answer(request: WorkerJob, setup: WorkerSetup, memory: FrameMemory, work: Work) -> tuple[str, dict[str, Any]]:
    try:
        outcome = attempt(request.job, setup.config, setup.limits, num_threads=request.num_threads, work=work)
    except ConfigError as error:
        return "config_error", {"message": str(error)}
    if isinstance(outcome, DecodeError):
        return "error", error_fields(outcome)
    if isinstance(outcome, dict):
        return "value", {"value": outcome}
    try:
        return "frames", memory.write(outcome)
    except (OSError, MemoryError) as error:
        return "error", error_fields(_as_decode_error(error, request.job.path, setup.limits))


def _take_over_pipes() -> tuple[BinaryIO, int]:
    """The parent's pipes under other numbers; libraries read nothing and print to standard error."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), answers


def _send(answers: int, line: bytes) -> None:
    view = memoryview(line)
    while view:
        view = view[os.write(answers, view) :]


def _tie_to_parent() -> None:
    # An interrupt from the keyboard is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # The end of the pipe reaches only a worker that reads it; this reaches one that hangs in C code.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        # When the machine's memory runs out, a worker goes rather than the run.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _load_readers() -> None:
    """Import what every clip needs before the clock and the memory limit count it."""
    import vlmvid.video.readers.pyav  # noqa: F401


def _data_bytes() -> int:
    """Private writable memory of this process, filled or not; 0 where there is no /proc (macOS)."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(data_bytes: int) -> None:
    """Refuse this process more private writable memory than that, where Linux runs; and leave no core files.

    RLIMIT_AS would also count what threads and libraries only reserve, 72 MiB per decoding thread.
    """
    import resource

    limits = [(resource.RLIMIT_CORE, 0)]
    if sys.platform == "linux":
        limits.append((resource.RLIMIT_DATA, data_bytes))
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    main()
