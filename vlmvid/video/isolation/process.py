"""The parent's side of one decode worker: starting it, hearing it, ending it, telling how it died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.protocol import FrameMemory, WorkerJob, WorkerSetup, open_frame_memory, pack
from vlmvid.video.options import DecodeLimits
from vlmvid.video.paths import printable

_CHUNK_BYTES = 65_536
_LONGEST_LINE_BYTES = 2**20
_LAST_WORDS_BYTES = 4096
# Nobody but a person, a batch system or the kernel's out-of-memory killer sends these.
_FROM_OUTSIDE = {"SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"}


class WorkerProcess:
    """One running worker with its pipes and its memory for frames.

    Raises OSError when the process cannot be started. It must be started by a thread that lives as
    long as the worker should: the kernel ends the worker with that thread.
    """

    def __init__(self, command: Sequence[str], config: DecodeConfig | None, limits: DecodeLimits) -> None:
        self._memory = FrameMemory(open_frame_memory())
        self._heard = bytearray()
        self._last_words = bytearray()
        self._num_given = 0
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                pass_fds=(self._memory.fd,),
                # Of its own, so that neither Ctrl-C nor Ctrl-Z in the terminal reaches it.
                process_group=0,
            )
        except BaseException:
            self._memory.close()
            raise
        assert self._process.stdin and self._process.stdout and self._process.stderr  # all three are PIPE
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self.answers_fd, False)
        os.set_blocking(self.chatter_fd, False)
        self._send(WorkerSetup(config, limits, self._memory.fd))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def answers_fd(self) -> int:
        """Readable when the worker has answered, and at its end."""
        return self._stdout.fileno()

    @property
    def chatter_fd(self) -> int:
        """Readable when a library has printed something."""
        return self._stderr.fileno()

    @property
    def has_begun(self) -> bool:
        """Whether the job that was given last has been begun."""
        return self._memory.num_begun == self._num_given

    @property
    def num_given(self) -> int:
        """How many jobs this worker has got."""
        return self._num_given

    def give(self, job: WorkerJob) -> None:
        """Send one job; a worker that is gone shows at the next `hear`."""
        self._num_given += 1
        self._send(job)

    def hear(self) -> tuple[list[dict[str, Any]], bool]:
        """The whole answers that have come, and whether the worker has ended; raises ValueError for nonsense."""
        has_ended = _drain(self.answers_fd, self._heard)
        *lines, rest = bytes(self._heard).split(b"\n")
        self._heard[:] = rest
        if len(rest) > _LONGEST_LINE_BYTES:
            raise ValueError(f"an answer of more than {_LONGEST_LINE_BYTES} bytes")
        answers = [json.loads(line) for line in lines]
        if not all(isinstance(answer, dict) for answer in answers):
            raise ValueError("an answer that is no object")
        return answers, has_ended

    def drop_chatter(self) -> bool:
        """Take what libraries printed, and forget all but its end; True when no more can come."""
        is_over = _drain(self.chatter_fd, self._last_words)
        del self._last_words[:-_LAST_WORDS_BYTES]
        return is_over

    def frames(self, answer: dict[str, Any]) -> FrameBatch:
        """A copy of the frames that `answer` announces; raises ValueError when they are not there."""
        return self._memory.read(answer)

    def end(self) -> subprocess.Popen[bytes]:
        """Kill the worker and release all but the process, which the caller polls until it is gone."""
        self._process.kill()
        self.drop_chatter()
        for pipe in (self._stdin, self._stdout, self._stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        self._memory.close()
        return self._process

    def wait(self, seconds: float) -> int | None:
        """The exit status of a worker that has closed its pipe; None when it has not ended in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last line that was printed, for messages; empty when there was none."""
        self.drop_chatter()
        lines = self._last_words.decode("utf-8", errors="replace").split("\n")
        return next((line.strip()[-200:] for line in reversed(lines) if line.strip()), "")

    def _send(self, message: WorkerSetup | WorkerJob) -> None:
        view = memoryview(pack(message))
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[self._stdin.write(view) :]


def crash_error(path: str, status: int | None, last_words: str, limits: DecodeLimits) -> DecodeError:
    """What the death of a worker while it decoded `path` means.

    ``memory_limit`` when a library says that memory ran out. Else ``crashed``: transient when the
    signal came from outside, because the file need not be the cause; permanent for a crash of its own.
    """
    said = f"; its last words: {last_words!r}" if last_words else ""
    if "bad_alloc" in last_words or "MemoryError" in last_words:
        return DecodeError(
            f"{printable(path)}: reading it needs more memory than the limit of {limits.memory_bytes / 2**20:.0f} MiB, "
            f"and the library ended its process{said}; leave the file out, or raise the limit",
            reason_code="memory_limit",
        )
    if status is None:
        how = "closed its pipe or sent nonsense, and was ended"
    elif status >= 0:
        how = f"ended with exit status {status}"
    else:
        how = f"died of {_signal_name(-status)}"
    if status is not None and status < 0 and _signal_name(-status) in _FROM_OUTSIDE:
        return DecodeError(
            f"{printable(path)}: the process that read it {how}, sent from outside, most often by the kernel when the "
            f"machine's memory runs out{said}; use fewer workers or a lower memory limit, and try again",
            reason_code="crashed",
            transient=True,
        )
    return DecodeError(
        f"{printable(path)}: the process that read it {how}{said}; the file makes the decoder crash: leave it out, or "
        "encode it again",
        reason_code="crashed",
    )


def timeout_error(path: str, limits: DecodeLimits) -> DecodeError:
    """The DecodeError of a clip that took too long; permanent, because a hang hangs again."""
    return DecodeError(
        f"{printable(path)}: reading it took more than the limit of {limits.seconds:g} s and was stopped; leave the "
        "file out, or raise the limit if the clip is meant to be that long",
        reason_code="timeout",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _drain(fd: int, into: bytearray) -> bool:
    """Append to `into` what one read gives; True at the end of `fd`."""
    try:
        data = os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    into += data
    return not data


def _environment() -> dict[str, str]:
    """This process's, with its module path, without the folder it runs in, and one thread for numpy.

    Decoding threads are the readers' own; idle BLAS threads would only slow the start.
    """
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if isinstance(entry, str))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
