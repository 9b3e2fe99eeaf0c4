"""An ending that waits until an update is whole: then its state is saved, and nothing of it is learnt twice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from vlmvid.training.distributed import num_ranks

# Prefect and most batch systems give a process 30 s between SIGTERM and SIGKILL.
LONGEST_WAIT_SECONDS = 15.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class HeldSignals:
    """Holds SIGTERM and Ctrl-C back while it is entered, until `deliver_if_arrived` or the end of the ``with`` block.

    A loop asks `arrived` where its state is whole, saves it, and calls `deliver_if_arrived`: the handlers of before
    then act as if the signal came there. A second signal, or `longest_wait_seconds` after the first, acts at once:
    then only what was saved earlier is kept.

    It does nothing in other threads than the main one, where Python has no signals, nor among several processes of
    torchrun, which would stop at different updates: there the periodic checkpoints count.
    """

    def __init__(self, *, longest_wait_seconds: float = LONGEST_WAIT_SECONDS) -> None:
        self._longest_wait_seconds = longest_wait_seconds
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._arrived: int | None = None
        self._timer: threading.Timer | None = None

    @property
    def arrived(self) -> bool:
        """Whether a signal waits."""
        return self._arrived is not None

    def deliver_if_arrived(self) -> None:
        """Let the handlers of before act on the signal that waits; from here on they act at once."""
        if self.arrived:
            self._deliver()

    def _deliver(self) -> None:
        if self._timer is not None:  # first: the handlers of before are not to be told of one signal twice
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            signal.raise_signal(arrived)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and num_ranks() == 1:
            # What is ignored stays so; None is a handler that was not set by Python and cannot be put back.
            held = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._before = {number: signal.signal(number, self._hold) for number in held}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deliver()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._arrived is not None:
            self._deliver()
            return
        self._arrived = number
        self._timer = threading.Timer(self._longest_wait_seconds, os.kill, (os.getpid(), number))
        self._timer.daemon = True
        self._timer.start()
