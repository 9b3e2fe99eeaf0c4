"""Threads that a server need not wait for when it ends: what they are at may take long, or never come back."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Work = tuple[Future[Any], Callable[[], None]]
_ENDING_SECONDS = 0.5


class DaemonThreads(Executor):
    """As `ThreadPoolExecutor`, whose threads Python waits for at its end, whatever they are at; these it leaves.

    Args:
        num_threads: they start with the first work.
        name: what their names begin with.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._num_threads = num_threads
        self._name = name
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._has_ended = False

    @property
    def num_waiting(self) -> int:
        """What was submitted and no thread has begun."""
        return self._work.qsize()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a thread call it, after what was submitted before; raises RuntimeError after `shutdown`."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # who waits for it gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._has_ended:
                raise RuntimeError(f"{self._name}: work was submitted after the end")
            while len(self._threads) < self._num_threads:
                name = f"{self._name}-{len(self._threads)}"
                self._threads.append(_Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()
            self._work.put((future, work))
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """End the threads once they are idle; what no thread has begun is dropped unless `cancel_futures` is False."""
        with self._lock:
            self._has_ended = True
            while cancel_futures:
                try:
                    dropped = self._work.get_nowait()
                except Empty:
                    break
                if dropped is not None:
                    dropped[0].cancel()
            for _ in self._threads:
                self._work.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _serve(self) -> None:
        while (given := self._work.get()) is not None:
            given[1]()
            del given  # which holds on to its result


class _Thread(threading.Thread):
    """One of `DaemonThreads`."""


def end_without_busy_threads() -> None:
    """Leave the process at once if a thread of `DaemonThreads` is still at something. For `atexit`, as the last.

    Python would take the thread down while it is in PyTorch, which aborts the process, or wait for a file system that
    hangs.
    """
    busy = [thread for thread in threading.enumerate() if isinstance(thread, _Thread)]
    for thread in busy:
        thread.join(_ENDING_SECONDS / len(busy))
    if any(thread.is_alive() for thread in busy):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)
