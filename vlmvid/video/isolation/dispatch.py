"""Who decodes what: one thread that hands clips to worker processes and watches over them."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmvid.config.schema import DecodeConfig
from vlmvid.errors import ConfigError, DecodeError, StageError
from vlmvid.video.isolation.batch import Batch, Outcome
from vlmvid.video.isolation.process import WorkerProcess, crash_error, timeout_error
from vlmvid.video.isolation.protocol import Job, WorkerJob, error_from
from vlmvid.video.options import DecodeLimits

logger = logging.getLogger(__name__)

WAITING_PER_WORKER = 2
"""So many clips per worker are decoded ahead of the consumer, those in work included."""

_CLOSED = "the decode pool was closed while it decoded; keep it open"
_START_SECONDS = 180.0
_MOST_START_FAILURES = 3
_MOST_TRIES = 2
_WORN_SHARE = 0.25
_REAP_SECONDS = 0.05
_RESTART_SECONDS = 0.2
_EXIT_SECONDS = 5.0
# Sleeping this much longer than asked for, and never asking for more, tells that this process was stopped.
_NAP_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker with what it is doing; `deadline` is on the monotonic clock."""

    worker: WorkerProcess
    deadline: float | None
    is_ready: bool = False
    batch: Batch | None = None
    number: int = -1

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.batch is None

    @property
    def path(self) -> str:
        return self.batch.jobs[self.number].path if self.batch is not None else ""


class Dispatcher:
    """The workers of one pool and the thread that runs them.

    Consumers call `submit`, `take`, `cancel` and `close` from any thread. All else happens in the
    dispatcher's own thread, so the workers need no lock, and they live as long as that thread: Linux
    ties a process to the thread that started it, and a consumer's thread may end between two shards.
    """

    def __init__(
        self, config: DecodeConfig | None, limits: DecodeLimits, num_workers: int, command: Sequence[str]
    ) -> None:
        self.config = config
        self.limits = limits
        self.num_workers = num_workers
        self.command = list(command)
        self.pid = os.getpid()
        self._changed = threading.Condition()  # guards the batches
        self._batches: deque[Batch] = deque()
        self._is_closing = False
        self._seats: list[_Seat] = []
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._start_failures: list[str] = []
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ear, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="vlmvid-decode", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True once it takes no more work, because it was closed or failed."""
        return self._is_closing

    def worker_pids(self) -> list[int]:
        """The numbers of the processes that run now."""
        return [seat.worker.pid for seat in list(self._seats)]

    def submit(self, jobs: Sequence[Job]) -> Batch:
        """Queue the jobs; few of them get several decoding threads each."""
        threads = max(1, self.num_workers // len(jobs)) if jobs else 1
        batch = Batch(jobs, threads, ahead=WAITING_PER_WORKER * self.num_workers)
        with self._changed:
            self._batches.append(batch)
        self._ring()
        return batch

    def take(self, batch: Batch, number: int) -> Outcome | None:
        """Wait for what becomes of clip `number`: nothing once the batch is cancelled.

        The clips of a batch are taken in order.
        """
        with self._changed:
            while number not in batch.outcomes:
                if batch.failure is not None:
                    raise StageError(batch.failure)
                if batch.is_cancelled:
                    return None
                if self._is_closing:
                    raise StageError(_CLOSED)
                self._changed.wait()
            outcome = batch.outcomes.pop(number)
            was_full = not batch.num_startable
            batch.num_taken += 1
        if was_full:
            self._ring()
        if isinstance(outcome, ConfigError):
            raise outcome
        return outcome

    def cancel(self, batch: Batch) -> None:
        """Drop what is left of the batch; workers that are at it are ended, and who waits for it goes on."""
        with self._changed:
            batch.is_cancelled = True
            if batch in self._batches:
                self._batches.remove(batch)
            self._changed.notify_all()
        self._ring()

    def request_close(self) -> None:
        """Have the workers ended soon; safe in a finalizer. In a forked copy of the process it does nothing."""
        if os.getpid() == self.pid:
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()
            self._ring()

    def close(self) -> None:
        """End the workers and wait until they are gone."""
        self.request_close()
        if os.getpid() == self.pid and threading.current_thread() is not self._thread:
            self._thread.join()

    def _ring(self) -> None:
        # A full buffer rings already; a closed one has nobody behind it.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def _run(self) -> None:
        failure = _CLOSED
        try:
            while not self._is_closing:
                self._assign()
                self._wait()
        except BaseException as error:
            failure = f"the decode pool failed: {type(error).__name__}: {error}; report it"
            logger.exception("the decode pool failed")
        finally:
            self._end_all(failure)

    def _end_all(self, failure: str) -> None:
        with self._changed:
            self._is_closing = True
            for batch in self._batches:
                batch.failure = failure
            self._changed.notify_all()
        for seat in list(self._seats):
            self._dismiss(seat)
        give_up = time.monotonic() + _EXIT_SECONDS
        while self._leaving and time.monotonic() < give_up:
            self._leaving = [process for process in self._leaving if process.poll() is None]
            if self._leaving:
                time.sleep(_REAP_SECONDS / 10)
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def _assign(self) -> None:
        """Give idle workers the clips that may start, and start the workers that are missing."""
        for seat in list(self._seats):
            if seat.batch is not None and seat.batch.is_cancelled:
                self._dismiss(seat)
        for seat in self._seats:
            if seat.is_idle:
                self._employ(seat)
        with self._changed:
            wanted = sum(batch.num_startable for batch in self._batches)
        num_starting = sum(not seat.is_ready for seat in self._seats)
        for _ in range(min(wanted - num_starting, self.num_workers - len(self._seats))):
            self._start()

    def _employ(self, seat: _Seat) -> None:
        """Give the worker the next clip, if there is one; batches take turns."""
        is_fresh = not seat.worker.num_given
        with self._changed:
            for batch in sorted(self._batches, key=lambda batch: not batch.again):
                number = batch.next_number(is_fresh=is_fresh)
                if number is not None:
                    self._batches.remove(batch)
                    self._batches.append(batch)
                    break
            else:
                return
        seat.batch, seat.number = batch, number
        seat.deadline = time.monotonic() + self.limits.seconds
        seat.worker.give(WorkerJob(batch.jobs[number], batch.num_threads))

    def _start(self) -> None:
        try:
            worker = WorkerProcess(self.command, self.config, self.limits)
        except OSError as error:
            self._start_failed(str(error))
            return
        seat = _Seat(worker, time.monotonic() + _START_SECONDS)
        self._seats.append(seat)
        self._selector.register(worker.answers_fd, selectors.EVENT_READ, (seat, self._hear))
        self._selector.register(worker.chatter_fd, selectors.EVENT_READ, (seat, self._drop_chatter))

    def _start_failed(self, reason: str) -> None:
        self._start_failures.append(reason or "no message")
        if len(self._start_failures) < _MOST_START_FAILURES:
            return
        failure = (
            f"decode workers do not start ({' '.join(self.command)}): {self._start_failures[-1]}; see that this "
            "command runs on this machine, or decode without isolation with num_workers=0"
        )
        self._start_failures.clear()
        with self._changed:
            for batch in self._batches:
                batch.failure = failure
                batch.is_cancelled = True
            self._batches.clear()
            self._changed.notify_all()

    def _wait(self) -> None:
        """Sleep until something happens, and deal with it."""
        now = time.monotonic()
        timeout = self._seconds_to_sleep(now)
        events = self._selector.select(timeout)
        slept = time.monotonic() - now
        was_stopped = timeout is not None and slept > timeout + _NAP_SECONDS
        for key, _ in events:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
            else:
                seat, handle = key.data
                if seat in self._seats:
                    handle(seat)
        if self._leaving:
            self._leaving = [process for process in self._leaving if process.poll() is None]
        self._stop_the_late(slept if was_stopped else 0.0)

    def _seconds_to_sleep(self, now: float) -> float | None:
        waits = [min(_NAP_SECONDS, max(0.0, seat.deadline - now)) for seat in self._seats if seat.deadline is not None]
        if self._leaving:
            waits.append(_REAP_SECONDS)
        with self._changed:
            if self._start_failures and any(batch.num_startable for batch in self._batches):
                waits.append(_RESTART_SECONDS)
        return min(waits, default=None)

    def _stop_the_late(self, seconds_stopped: float) -> None:
        now = time.monotonic()
        for seat in list(self._seats):
            if seat.deadline is None:
                continue
            # A machine or a container that stands still stops the workers, too.
            seat.deadline += seconds_stopped
            if now < seat.deadline:
                continue
            if not seat.is_ready:
                self._start_failed(f"no answer within {_START_SECONDS:g} s; {seat.worker.last_words()}")
            else:
                self._give_up(seat, timeout_error(seat.path, self.limits))
            self._dismiss(seat)

    def _hear(self, seat: _Seat) -> None:
        try:
            answers, has_ended = seat.worker.hear()
            for answer in answers:
                if seat in self._seats:
                    self._understand(seat, answer)
        except (KeyError, TypeError, ValueError):
            self._bury(seat, status=None)
        else:
            if has_ended and seat in self._seats:
                self._bury(seat, status=seat.worker.wait(_EXIT_SECONDS))

    def _understand(self, seat: _Seat, answer: dict[str, Any]) -> None:
        """Act on one answer; raises ValueError, KeyError or TypeError for nonsense."""
        kind = answer["kind"]
        if kind == "ready" and not seat.is_ready:
            seat.is_ready, seat.deadline = True, None
            self._start_failures.clear()
            return
        # What a clip leaves behind, leaked or in pieces, is not to be missing from the next one's share.
        is_worn = int(answer["grown_bytes"]) > self.limits.memory_bytes * _WORN_SHARE
        if seat.batch is None:
            raise ValueError(f"{kind!r} at the wrong time")
        elif kind == "frames":
            self._settle(seat, seat.worker.frames(answer))
        elif kind == "value":
            self._settle(seat, dict(answer["value"]))
        elif kind == "config_error":
            self._settle(seat, ConfigError(str(answer["message"])))
        elif kind == "error":
            error = error_from(answer)
            self._give_up(seat, error)
            is_worn |= error.reason_code == "memory_limit"
        else:
            raise ValueError(f"unknown answer {kind!r}")
        if is_worn:
            self._dismiss(seat)

    def _bury(self, seat: _Seat, status: int | None) -> None:
        """The worker has ended on its own, or talks nonsense (status None) and must be ended."""
        words = seat.worker.last_words()
        if not seat.is_ready:
            self._start_failed(f"exit status {status}; {words}" if words else f"exit status {status}")
        elif seat.batch is None:
            logger.warning("an idle decode worker ended with status %s; another one takes its place", status)
        else:
            self._give_up(seat, crash_error(seat.path, status, words, self.limits))
        self._dismiss(seat)

    def _give_up(self, seat: _Seat, error: DecodeError) -> None:
        """A clip failed: settle it, or have a fresh worker try it once more.

        It is tried again when its worker was lost before it began, which is not the clip's fault; and when
        it crashed or ran out of memory in a worker that earlier clips may have left in a bad state.
        """
        batch, worker = seat.batch, seat.worker
        assert batch is not None
        is_doubtful = error.reason_code in ("crashed", "memory_limit") and not error.transient and worker.num_given > 1
        if batch.tries[seat.number] < _MOST_TRIES and (is_doubtful or not worker.has_begun):
            logger.warning("%s; a fresh worker tries it once more", error)
            with self._changed:
                batch.again.append(seat.number)
            seat.batch, seat.deadline = None, None
        else:
            self._settle(seat, error)

    def _settle(self, seat: _Seat, outcome: Outcome | ConfigError) -> None:
        batch = seat.batch
        assert batch is not None
        seat.batch, seat.deadline = None, None
        with self._changed:
            batch.outcomes[seat.number] = outcome
            batch.tries.pop(seat.number)
            self._changed.notify_all()

    def _drop_chatter(self, seat: _Seat) -> None:
        if seat.worker.drop_chatter():
            self._selector.unregister(seat.worker.chatter_fd)

    def _dismiss(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        for fd in (seat.worker.answers_fd, seat.worker.chatter_fd):
            with contextlib.suppress(KeyError):  # the chatter may have ended before
                self._selector.unregister(fd)
        process = seat.worker.end()
        if process.poll() is None:
            self._leaving.append(process)
