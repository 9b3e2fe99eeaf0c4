"""Decoding in worker processes that may hang, crash or eat memory without harming the run.

A file can make a decoder hang with the interpreter held, crash it, or ask for more memory than
there is. So clips are decoded, and files examined, in processes of their own, each under a
wall-clock limit, a memory limit and a frame-pixel limit; a file that breaks one costs one
`DecodeError`, and a fresh worker takes the lost one's place. A file is called the cause of a crash, or of
a lack of memory, only when a worker that did nothing before ends so, too. Beside the reason
codes of `decode_clip` there are:

==================  =========================================================================
``timeout``         it took more than `DecodeLimits.seconds`; its worker was killed
``memory_limit``    it asked for more than `DecodeLimits.memory_bytes` beyond an idle worker
``crashed``         its worker died. Transient when the signal came from outside (the kernel's
                    out-of-memory killer, a person): then the file need not be the cause
``read_error``      the storage failed; transient
``internal_error``  the reader raised what vlmvid does not know
==================  =========================================================================

All but the two transient ones are permanent: the same file ends the same way again. Workers need
a POSIX system; the memory limit, and the end of a hanging worker when its parent is killed, need Linux.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeVar, cast

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError
from vlmvid.types import FrameBatch
from vlmvid.video.isolation.batch import Batch, Outcome
from vlmvid.video.isolation.dispatch import Dispatcher
from vlmvid.video.isolation.protocol import FileJob, Job
from vlmvid.video.isolation.worker import attempt
from vlmvid.video.options import ClipJob, DecodeLimits

T = TypeVar("T")


class DecodePool(AbstractContextManager["DecodePool"]):
    """Decodes clips, and runs other work on files; the outcomes come in the order of the jobs.

    Workers start when there is work (0.3 s each) and stay until `close`, the end of the program, or
    until nobody holds the pool. Several threads may use one pool at a time: their clips take turns.
    A forked copy of the process gets workers of its own.

    Args:
        config: what is decoded, the same for all clips; None for a pool that only runs other jobs.
        limits: what one clip may cost.
        num_workers: processes. 0 decodes in this process, without isolation and without the limits of
            time and memory: for debugging, and where no processes can be started.
        worker_command: how a worker is started; None runs `vlmvid.video.isolation.worker` with this interpreter.

    Raises:
        ConfigError: a number out of range, or workers on a system that is not POSIX.
    """

    def __init__(
        self,
        config: DecodeConfig | None,
        limits: DecodeLimits,
        *,
        num_workers: int,
        worker_command: Sequence[str] | None = None,
    ) -> None:
        for name, value, least in (("num_workers", num_workers, 0), ("memory_bytes", limits.memory_bytes, 1)):
            if value < least:
                raise ConfigError(f"{name}={value} must be at least {least}")
        if not limits.seconds > 0:
            raise ConfigError(f"seconds={limits.seconds} must be more than 0")
        if num_workers and os.name != "posix":
            raise ConfigError(f"num_workers={num_workers}: decode workers need a POSIX system; set num_workers=0")
        self.config = config
        self.limits = limits
        self.num_workers = num_workers
        self.is_closed = False
        self._command = worker_command or (sys.executable, "-m", "vlmvid.video.isolation.worker")
        self._dispatcher: Dispatcher | None = None
        self._starting = threading.Lock()

    def decode(self, jobs: Sequence[ClipJob]) -> Outcomes[FrameBatch | DecodeError]:
        """Frames, or what went wrong, one per job and in their order.

        Up to two clips per worker are decoded ahead of the consumer, no more. With fewer jobs than
        workers each clip gets several decoding threads. Closing the iterator early, from any thread, ends
        the workers that are busy with it; the pool stays usable.

        Raises:
            ConfigError: the recipe is wrong, e.g. a clip's bounds; or the pool is closed.
            StageError: workers do not start, or the pool was closed meanwhile.
        """
        return Outcomes(self, jobs)

    def run(self, jobs: Sequence[FileJob]) -> Outcomes[dict[str, Any] | DecodeError]:
        """What other jobs than clips found, as JSON values, or what went wrong; else as `decode`.

        A job's class must be importable by its name, because it pickles to the worker.
        """
        return Outcomes(self, jobs)

    def worker_pids(self) -> list[int]:
        """The numbers of the worker processes that run now."""
        return self._dispatcher.worker_pids() if self._dispatcher is not None else []

    def close(self) -> None:
        """End the workers; the pool cannot be used afterwards."""
        self.is_closed = True
        if self._dispatcher is not None:
            self._dispatcher.close()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _running(self) -> Dispatcher:
        with self._starting:
            running = self._dispatcher
            # Threads and pipes of another process are no use to its forked copy.
            if running is None or running.has_ended or running.pid != os.getpid():
                self._dispatcher = running = Dispatcher(self.config, self.limits, self.num_workers, self._command)
                weakref.finalize(self, running.request_close)
            return running


class Outcomes(Generic[T]):
    """What becomes of the jobs of one call to a pool: an iterator for one thread, closed from any.

    The work starts when the first outcome is asked for. After `close` there are no more outcomes; a
    thread that waits for one goes on at once. Without workers the job in work is finished first,
    because nothing can stop it. Forgetting the iterator closes it, and so does an error that it raises.
    """

    def __init__(self, pool: DecodePool, jobs: Sequence[Job]) -> None:
        self._lock = threading.Lock()  # never held while waiting for an outcome
        self._is_closed = False
        self._started: tuple[Dispatcher, Batch] | None = None
        self._pool = pool  # also keeps its workers running
        self._jobs = tuple(jobs)
        self._number = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return self._next()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop what is left and end the workers that are busy with it; safe from any thread and twice."""
        with self._lock:
            self._is_closed = True
            started, self._started = self._started, None
        if started is not None:
            dispatcher, batch = started
            dispatcher.cancel(batch)

    def __del__(self) -> None:
        self.close()

    def _next(self) -> T:
        pool = self._pool
        with self._lock:
            if self._is_closed or self._number == len(self._jobs):
                raise StopIteration
            if not self._number and pool.is_closed:
                raise ConfigError("this decode pool is closed; make another one")
            if pool.num_workers and self._started is None:
                dispatcher = pool._running()
                self._started = dispatcher, dispatcher.submit(self._jobs)
            started, number = self._started, self._number
            self._number += 1
        outcome: Outcome | None
        if started is None:
            outcome = attempt(self._jobs[number], pool.config, pool.limits)
        else:
            dispatcher, batch = started
            outcome = dispatcher.take(batch, number)
        if outcome is None:
            raise StopIteration
        return cast(T, outcome)


class _Shared:
    """The pool that this process keeps between stages."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pool: DecodePool | None = None
        self.is_registered = False

    def get(self, config: DecodeConfig, limits: DecodeLimits, num_workers: int) -> DecodePool:
        with self.lock:
            if not self.is_registered:
                atexit.register(self.close)
                if hasattr(os, "register_at_fork"):
                    os.register_at_fork(after_in_child=self.forget)
                self.is_registered = True
            pool = self.pool
            if (
                pool is None
                or pool.is_closed
                or (pool.config, pool.limits, pool.num_workers) != (config, limits, num_workers)
            ):
                # The old one ends when its last user lets go of it.
                self.pool = pool = DecodePool(config, limits, num_workers=num_workers)
            return pool

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()

    def forget(self) -> None:
        # In a forked copy nobody may be left to release the lock, and the workers are the parent's.
        self.lock, self.pool = threading.Lock(), None


_shared = _Shared()


def shared_pool(config: DecodeConfig, limits: DecodeLimits, num_workers: int) -> DecodePool:
    """The pool of this process, whose workers stay between shards and stages.

    The same pool as long as the arguments are the same, else a new one; a pool still in use then ends
    with its last user. Safe from any thread and after a fork. It is closed when the program ends, so
    callers do not close it.
    """
    return _shared.get(config, limits, num_workers)
